//! The range of ClusterIPs of one address family: what it holds, and in which order its addresses are given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops;

use ipnetwork::IpNetwork;

/// Addresses of a range, counted from its base, that are given only to who asks for them: that of the `kubernetes`
/// service and that which clusters give to their DNS.
const RESERVED: [u128; 2] = [1, 10];
/// The lower part of the range is used when the rest is full, so that an address that somebody wants to choose is
/// likely free: 1/16 of the range within these bounds, as in Kubernetes.
const MIN_LOWER: u128 = 16;
const MAX_LOWER: u128 = 256;
/// Random addresses that are tried before the range is searched in order.
const RANDOM_TRIES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| family.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// The ClusterIPs of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range(IpNetwork);

impl Range {
    pub(crate) fn new(network: IpNetwork) -> anyhow::Result<Self> {
        let lengths = if network.is_ipv4() { 8..=30 } else { 64..=126 };
        anyhow::ensure!(
            lengths.contains(&network.prefix()),
            "the service CIDR {network} has to have a prefix length between {} and {}",
            lengths.start(),
            lengths.end()
        );
        Ok(Self(IpNetwork::new(network.network(), network.prefix())?))
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.0.ip())
    }

    /// The address of the `kubernetes` service.
    pub(crate) fn first(&self) -> IpAddr {
        self.address(1)
    }

    /// Whether the address may be a Service's.
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        self.0.contains(address) && self.hosts().contains(&(number(address) - number(self.0.network())))
    }

    /// All addresses to try for a Service that wants any: random ones first, then the upper part of the range in
    /// order, then the lower one.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = IpAddr> + Send + use<> {
        let (range, hosts) = (*self, self.hosts());
        let count = hosts.end - hosts.start;
        let lower_end = hosts.start + (count / 16).clamp(MIN_LOWER, MAX_LOWER).min(count);
        let (lower, upper) = (hosts.start..lower_end, lower_end..hosts.end);
        let tries = if upper.is_empty() { 0 } else { RANDOM_TRIES };
        let random = upper.clone();
        let random = (0..tries).map(move |_| rand::random_range(random.clone()));
        // In order, from a random place, so that writers who search at the same time do not meet at one address.
        let ordered = [upper, lower].into_iter().flat_map(|part| {
            let size = part.end - part.start;
            let shift = if size == 0 { 0 } else { rand::random_range(0..size) };
            (0..size).map(move |index| part.start + (index + shift) % size)
        });
        let given = random.chain(ordered).filter(|offset| !RESERVED.contains(offset));
        given.map(move |offset| range.address(offset))
    }

    /// Offsets of the addresses that may be given: not the network's and, of IPv4, not the broadcast address.
    fn hosts(&self) -> ops::Range<u128> {
        match self.0 {
            IpNetwork::V4(range) => 1..(1 << (32 - range.prefix())) - 1,
            IpNetwork::V6(range) => 1..1 << (128 - range.prefix()),
        }
    }

    fn address(&self, offset: u128) -> IpAddr {
        match self.0.network() {
            // An offset is less than the size of the range.
            IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits().wrapping_add(offset as u32)).into(),
            IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits().wrapping_add(offset)).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    fn range(cidr: &str) -> Range {
        Range::new(cidr.parse().unwrap()).unwrap()
    }

    #[test]
    fn every_address_is_given_but_those_kept_for_who_asks() {
        for (cidr, usable) in [("10.96.0.0/27", 28), ("fd00:96::/123", 29)] {
            let all: BTreeSet<IpAddr> = range(cidr).candidates().collect();
            assert_eq!(all.len(), usable, "{cidr}");
            assert!(all.iter().all(|address| range(cidr).holds(*address)));
            assert!(!all.contains(&range(cidr).first()) && range(cidr).holds(range(cidr).first()));
        }
    }

    #[test]
    fn the_network_and_the_broadcast_address_belong_to_nobody() {
        let v4 = range("10.96.0.0/16");
        let held = |range: Range, text: &str| range.holds(text.parse().unwrap());
        assert!(!held(v4, "10.96.0.0") && !held(v4, "10.96.255.255") && !held(v4, "10.97.0.1") && !held(v4, "fd00::1"));
        let v6 = range("fd00:96::/112");
        assert!(
            !held(v6, "fd00:96::") && held(v6, "fd00:96::ffff") && !held(v6, "fd00:96::1:0") && !held(v6, "10.96.0.1")
        );
    }

    #[test]
    fn a_range_as_large_as_a_network_is_searched_one_address_at_a_time() {
        let first: Vec<IpAddr> = range("fd00:96::/64").candidates().take(100).collect();
        assert_eq!(first.len(), 100);
        assert!(
            Range::new("fd00::/48".parse().unwrap()).is_err() && Range::new("10.0.0.0/31".parse().unwrap()).is_err()
        );
    }
}
