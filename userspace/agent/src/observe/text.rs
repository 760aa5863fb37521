//! How tables, addresses and times are printed.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use diolkos_abi::address::{Address, protocol};

/// Columns as wide as their widest cell; the last one is not filled up.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// An address as people write it.
pub(crate) fn address(address: &Address) -> IpAddr {
    Ipv6Addr::from(*address).to_canonical()
}

/// `10.0.0.1:80` or `[fd00::1]:80`.
pub(crate) fn end(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "TCP".into(),
        protocol::UDP => "UDP".into(),
        protocol::SCTP => "SCTP".into(),
        protocol::ICMP => "ICMP".into(),
        protocol::ICMPV6 => "ICMPv6".into(),
        other => other.to_string(),
    }
}

/// About how long, in its two largest units.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["A".into(), "BB".into()], vec!["long".into(), "x".into()], vec![String::new(), "y".into()]];
        assert_eq!(columns(&rows), "A     BB\nlong  x\n      y\n");
    }

    #[test]
    fn durations_have_two_units() {
        let shown = [59, 61, 3 * 3600 + 120, 90_000].map(|seconds| duration(Duration::from_secs(seconds)));
        assert_eq!(shown, ["59s", "1m1s", "3h2m", "1d1h"]);
    }
}
