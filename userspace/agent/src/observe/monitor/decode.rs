//! The headers of a packet's first bytes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use diolkos_abi::address::protocol;

const ETHERNET: usize = 14;
const TAG: usize = 4;
/// IPv6 extension headers that say where the next one begins: hop-by-hop, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT: u8 = 44;
/// Extension headers that are looked through.
const DEEPEST: usize = 8;

/// What the first bytes of a packet say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Ip(Ip),
    /// Neither IPv4 nor IPv6: the EtherType.
    Other(u16),
    /// The bytes end inside a header.
    Short,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// Source and destination; none of fragments but the first, nor of protocols without ports.
    pub(super) ports: Option<(u16, u16)>,
    /// TCP flags, or ICMP type and code, in words.
    pub(super) detail: String,
}

/// A packet from its Ethernet header on.
pub(super) fn packet(bytes: &[u8]) -> Decoded {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (mut kind, mut at) = (word(ETHERNET - 2), ETHERNET);
    if matches!(kind, Some(0x8100 | 0x88a8)) {
        (kind, at) = (word(at + 2), at + TAG);
    }
    let decoded = match kind {
        Some(0x0800) => v4(bytes, at),
        Some(0x86dd) => v6(bytes, at),
        Some(other) => return Decoded::Other(other),
        None => None,
    };
    decoded.map_or(Decoded::Short, Decoded::Ip)
}

fn v4(bytes: &[u8], at: usize) -> Option<Ip> {
    let header = bytes.get(at..)?.first_chunk::<20>()?;
    let address = |from: usize| Some(Ipv4Addr::from(*header.get(from..)?.first_chunk::<4>()?).into());
    let length = usize::from(header[0] & 0x0f) * 4;
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    Some(transport(bytes, at + length, offset, address(12)?, address(16)?, header[9]))
}

fn v6(bytes: &[u8], at: usize) -> Option<Ip> {
    let header = bytes.get(at..)?.first_chunk::<40>()?;
    let address = |from: usize| Some(Ipv6Addr::from(*header.get(from..)?.first_chunk::<16>()?).into());
    let (mut next, mut at, mut offset) = (header[6], at + 40, 0);
    for _ in 0..DEEPEST {
        let Some(extension) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) else { break };
        if next == FRAGMENT {
            offset = u16::from_be_bytes([extension[2], extension[3]]) >> 3;
            (next, at) = (extension[0], at + 8);
        } else if EXTENSIONS.contains(&next) {
            (next, at) = (extension[0], at + 8 + usize::from(extension[1]) * 8);
        } else {
            break;
        }
    }
    Some(transport(bytes, at, offset, address(8)?, address(24)?, next))
}

fn transport(bytes: &[u8], at: usize, offset: u16, source: IpAddr, destination: IpAddr, number: u8) -> Ip {
    let mut ip = Ip { source, destination, protocol: number, ports: None, detail: String::new() };
    if offset != 0 {
        ip.detail = format!("fragment at {}", u32::from(offset) * 8);
        return ip;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    match (number, rest) {
        (protocol::TCP | protocol::UDP | protocol::SCTP, [a, b, c, d, ..]) => {
            ip.ports = Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
            if let (protocol::TCP, Some(flags)) = (number, rest.get(13)) {
                ip.detail = tcp_flags(*flags);
            }
        }
        (protocol::ICMP | protocol::ICMPV6, [kind, code, ..]) => {
            // Writing to a string does not fail.
            let _ = write!(ip.detail, "type {kind} code {code}");
        }
        _ => {}
    }
    ip
}

fn tcp_flags(flags: u8) -> String {
    const NAMES: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    let set = NAMES.iter().enumerate().filter(|(bit, _)| flags & (1 << bit) != 0).map(|(_, name)| *name);
    set.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn frame(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        bytes.extend(kind.to_be_bytes());
        parts.iter().for_each(|part| bytes.extend(*part));
        bytes
    }

    fn v4_header(protocol: u8, offset: u16) -> Vec<u8> {
        let [high, low] = offset.to_be_bytes();
        vec![0x45, 0, 0, 40, 0, 0, high, low, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
    }

    const TCP: [u8; 20] = [0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12, 0, 0, 0, 0, 0, 0];

    #[test]
    fn a_segment_has_ports_and_flags_with_and_without_a_tag() {
        let plain = packet(&frame(0x0800, &[&v4_header(6, 0), &TCP]));
        let tagged = packet(&frame(0x8100, &[&[0, 7, 8, 0], &v4_header(6, 0), &TCP]));
        let Decoded::Ip(ip) = &plain else { panic!("{plain:?}") };
        assert_eq!((ip.ports, ip.detail.as_str()), (Some((40_000, 80)), "SYN,ACK"));
        assert_eq!(ip.destination.to_string(), "10.0.0.2");
        assert_eq!(plain, tagged);
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let Decoded::Ip(ip) = packet(&frame(0x0800, &[&v4_header(17, 0x2003), &TCP])) else { panic!("not IP") };
        assert_eq!((ip.ports, ip.detail.as_str()), (None, "fragment at 24"));
    }

    #[test]
    fn extension_headers_are_looked_through() {
        let mut header = vec![0x60, 0, 0, 0, 0, 28, 0, 64];
        header.extend([0xfd; 16]);
        header.extend([0xfe; 16]);
        let Decoded::Ip(ip) = packet(&frame(0x86dd, &[&header, &[6, 0, 0, 0, 0, 0, 0, 0], &TCP])) else {
            panic!("not IP")
        };
        assert_eq!((ip.protocol, ip.ports), (6, Some((40_000, 80))));
    }

    #[test]
    fn what_is_cut_short_or_no_ip_is_said() {
        assert_eq!(packet(&[0; 13]), Decoded::Short);
        assert_eq!(packet(&frame(0x0800, &[&[0x45, 0]])), Decoded::Short);
        assert_eq!(packet(&frame(0x0806, &[])), Decoded::Other(0x0806));
        let Decoded::Ip(ip) = packet(&frame(0x0800, &[&v4_header(1, 0), &[3, 4]])) else { panic!("not IP") };
        assert_eq!(ip.detail, "type 3 code 4");
    }
}
