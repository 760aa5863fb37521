//! Addresses of this node's pods: a pure allocator over the podCIDRs, a pool for each family.
//!
//! An address rests before it is given out again, so that connection tracking, affinity and caches elsewhere forget the
//! pod that had it. The search goes round the range instead of taking the lowest, which makes the rest as long as it
//! can be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// How long an address rests.
pub const REST: Duration = Duration::from_secs(30);

/// The addresses of one node.
#[derive(Clone, Debug)]
pub struct Ipam {
    v4: Pool,
    v6: Pool,
}

/// A pod's addresses: at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("this node has no podCIDR yet")]
    NoRange,
    #[error("all {capacity} pod addresses of {range} are in use")]
    Full { range: IpNetwork, capacity: u32 },
    #[error("the free pod addresses of {range} ({resting}) rest; the next is ready in {} s", ready_in.as_secs() + 1)]
    Resting { range: IpNetwork, resting: usize, ready_in: Duration },
}

impl Ipam {
    pub fn new(rest: Duration) -> Self {
        Self { v4: Pool::new(rest), v6: Pool::new(rest) }
    }

    /// Gives out addresses of these ranges from now on; those of others stay with their pods. A family without a range
    /// is not given out.
    pub fn set_ranges(&mut self, v4: Option<Ipv4Network>, v6: Option<Ipv6Network>) {
        self.v4.set_range(v4.map(IpNetwork::V4));
        self.v6.set_range(v6.map(IpNetwork::V6));
    }

    /// Takes an address that a pod has already; false when another pod has it.
    pub fn adopt(&mut self, address: IpAddr) -> bool {
        let pool = self.pool(address);
        pool.resting.remove(&address);
        pool.used.insert(address)
    }

    /// Lets an address rest that was released before a restart. A time ahead of the clock counts as now, so that a
    /// clock set back cannot hold an address for ever.
    pub fn adopt_resting(&mut self, address: IpAddr, released: SystemTime, now: SystemTime) {
        let pool = self.pool(address);
        if !pool.used.contains(&address) {
            pool.resting.insert(address, released.min(now));
        }
    }

    /// An address of each family that has a range: all or none.
    pub fn allocate(&mut self, now: SystemTime) -> Result<Addresses, IpamError> {
        if self.v4.range.is_none() && self.v6.range.is_none() {
            return Err(IpamError::NoRange);
        }
        let mut given = Addresses { v4: None, v6: None };
        if self.v4.range.is_some() {
            given.v4 = v4_of(self.v4.allocate(now)?);
        }
        if self.v6.range.is_some() {
            match self.v6.allocate(now) {
                Ok(address) => given.v6 = v6_of(address),
                Err(error) => {
                    given.iter().for_each(|address| self.cancel(address));
                    return Err(error);
                }
            }
        }
        Ok(given)
    }

    /// Gives an address back; it rests from `now` on. One that is not in use is left alone.
    pub fn release(&mut self, address: IpAddr, now: SystemTime) {
        let pool = self.pool(address);
        if pool.used.remove(&address) {
            pool.resting.insert(address, now);
        }
    }

    /// Gives an address back that no pod and no packet ever saw.
    pub fn cancel(&mut self, address: IpAddr) {
        self.pool(address).used.remove(&address);
    }

    fn pool(&mut self, address: IpAddr) -> &mut Pool {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

/// The addresses of one family.
#[derive(Clone, Debug)]
struct Pool {
    range: Option<IpNetwork>,
    used: BTreeSet<IpAddr>,
    /// Address -> when it was released (wall clock, since it must outlive a restart).
    resting: BTreeMap<IpAddr, SystemTime>,
    rest: Duration,
    /// Where the next search begins, as an offset into the range.
    next: u32,
}

impl Pool {
    fn new(rest: Duration) -> Self {
        Self { range: None, used: BTreeSet::new(), resting: BTreeMap::new(), rest, next: 0 }
    }

    fn set_range(&mut self, range: Option<IpNetwork>) {
        if self.range != range {
            self.range = range;
            self.next = 0;
        }
    }

    fn allocate(&mut self, now: SystemTime) -> Result<IpAddr, IpamError> {
        let range = self.range.ok_or(IpamError::NoRange)?;
        let capacity = capacity(range);
        let mut resting = 0;
        let mut ready_in = Duration::MAX;
        for step in 0..capacity {
            let offset = ((u64::from(self.next) + u64::from(step)) % u64::from(capacity)) as u32;
            let address = nth(range, offset);
            if self.used.contains(&address) {
                continue;
            }
            let left = self.rest_left(address, now);
            if left.is_zero() {
                self.resting.remove(&address);
                self.used.insert(address);
                self.next = (offset + 1) % capacity;
                return Ok(address);
            }
            resting += 1;
            ready_in = ready_in.min(left);
        }
        match resting {
            0 => Err(IpamError::Full { range, capacity }),
            _ => Err(IpamError::Resting { range, resting, ready_in }),
        }
    }

    fn rest_left(&self, address: IpAddr, now: SystemTime) -> Duration {
        match self.resting.get(&address) {
            None => Duration::ZERO,
            // A clock set back makes the rest longer, never shorter, and at most by one rest.
            Some(released) => self.rest.saturating_sub(now.duration_since(*released).unwrap_or_default()),
        }
    }
}

/// The most addresses of one range that are ever looked at: far more than a node has pods.
const MAX_CAPACITY: u64 = 1 << 24;

/// Addresses for pods: all but the network's, the gateway's and, of IPv4, the broadcast address.
fn capacity(range: IpNetwork) -> u32 {
    let (bits, reserved) = match range {
        IpNetwork::V4(_) => (32, 3),
        IpNetwork::V6(_) => (128, 2),
    };
    let all = 1u64.checked_shl(bits - u32::from(range.prefix())).unwrap_or(MAX_CAPACITY);
    u32::try_from(all.saturating_sub(reserved).min(MAX_CAPACITY)).unwrap_or(u32::MAX)
}

fn nth(range: IpNetwork, offset: u32) -> IpAddr {
    match range {
        IpNetwork::V4(range) => Ipv4Addr::from(u32::from(range.network()) + 2 + offset).into(),
        IpNetwork::V6(range) => Ipv6Addr::from(u128::from(range.network()) + 2 + u128::from(offset)).into(),
    }
}

fn v4_of(address: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(address) = address { Some(address) } else { None }
}

fn v6_of(address: IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(address) = address { Some(address) } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Of one family, or of both: ranges between spaces.
    fn ipam(ranges: &str) -> Ipam {
        let mut ipam = Ipam::new(Duration::from_secs(10));
        let (v4, v6) = parse(ranges);
        ipam.set_ranges(v4, v6);
        ipam
    }

    fn parse(ranges: &str) -> (Option<Ipv4Network>, Option<Ipv6Network>) {
        let mut all = ranges.split(' ');
        (all.clone().find_map(|range| range.parse().ok()), all.find_map(|range| range.parse().ok()))
    }

    /// What one allocation gives: the addresses between spaces.
    fn allocate(ipam: &mut Ipam, seconds: u64) -> Result<String, IpamError> {
        let given = ipam.allocate(at(seconds))?;
        Ok(given.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn network_gateway_and_broadcast_addresses_are_never_given_out() {
        let mut v4 = ipam("10.244.1.0/29");
        let given: Vec<String> = (0..5).map(|_| allocate(&mut v4, 0).unwrap()).collect();
        assert_eq!(given, ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"]);
        let full = v4.allocate(at(0)).unwrap_err();
        assert_eq!(full, IpamError::Full { range: "10.244.1.0/29".parse().unwrap(), capacity: 5 });

        let mut v6 = ipam("fd44:1::/126");
        assert_eq!([(); 2].map(|()| allocate(&mut v6, 0).unwrap()), ["fd44:1::2", "fd44:1::3"]);
        let full = v6.allocate(at(0)).unwrap_err();
        assert_eq!(full, IpamError::Full { range: "fd44:1::/126".parse().unwrap(), capacity: 2 });
    }

    #[test]
    fn with_two_ranges_a_pod_has_an_address_of_each_or_none_at_all() {
        let mut ipam = ipam("10.244.1.0/29 fd44:1::/126");
        assert_eq!(allocate(&mut ipam, 0).unwrap(), "10.244.1.2 fd44:1::2");
        assert_eq!(allocate(&mut ipam, 0).unwrap(), "10.244.1.3 fd44:1::3");
        assert!(matches!(ipam.allocate(at(0)), Err(IpamError::Full { range: IpNetwork::V6(_), .. })));
        ipam.release("fd44:1::2".parse().unwrap(), at(0));
        assert!(matches!(ipam.allocate(at(9)), Err(IpamError::Resting { range: IpNetwork::V6(_), .. })));
        let mut v4 = ipam.clone();
        v4.set_ranges(parse("10.244.1.0/29").0, None);
        let left: Vec<String> = (0..3).map(|_| allocate(&mut v4, 10).unwrap()).collect();
        assert_eq!(left.len(), 3, "what was taken in vain was given back");
    }

    #[test]
    fn a_range_as_large_as_they_come_serves_as_well() {
        assert_eq!(allocate(&mut ipam("fd44::/48"), 0).unwrap(), "fd44::2");
        assert_eq!(allocate(&mut ipam("fd44:1:2:3::/64"), 0).unwrap(), "fd44:1:2:3::2");
    }

    #[test]
    fn a_released_address_rests_before_it_is_given_out_again() {
        for range in ["10.244.1.0/30", "10.244.1.0/30 fd44:1::/120"] {
            let mut ipam = ipam(range);
            let only = ipam.allocate(at(100)).unwrap();
            only.iter().for_each(|address| ipam.release(address, at(101)));
            let waiting = ipam.allocate(at(110)).unwrap_err();
            assert!(waiting.to_string().contains("ready in 2 s"), "{waiting}");
            assert_eq!(ipam.allocate(at(111)).unwrap().v4, only.v4);
        }
    }

    #[test]
    fn a_cancelled_address_does_not_rest() {
        let mut ipam = ipam("10.244.1.0/30 fd44:1::/126");
        let first = ipam.allocate(at(0)).unwrap();
        first.iter().for_each(|address| ipam.cancel(address));
        assert_eq!(ipam.allocate(at(0)).unwrap().v4, first.v4);
    }

    #[test]
    fn a_clock_set_back_holds_an_address_no_longer_than_one_rest() {
        let mut ipam = ipam("10.244.1.0/30");
        ipam.adopt_resting("10.244.1.2".parse().unwrap(), at(1_000_000), at(50));
        assert!(ipam.allocate(at(59)).is_err());
        assert!(ipam.allocate(at(60)).is_ok());
    }

    #[test]
    fn without_a_podcidr_there_is_a_clear_error() {
        assert_eq!(Ipam::new(REST).allocate(at(0)), Err(IpamError::NoRange));
    }

    #[test]
    fn a_new_range_leaves_the_addresses_of_the_old_one_with_their_pods() {
        let mut ipam = ipam("10.244.1.0/29 fd44:1::/120");
        let old = ipam.allocate(at(0)).unwrap();
        let (v4, v6) = parse("10.244.7.0/29 fd44:7::/120");
        ipam.set_ranges(v4, v6);
        assert_eq!(allocate(&mut ipam, 0).unwrap(), "10.244.7.2 fd44:7::2");
        assert!(old.iter().all(|address| !ipam.adopt(address)), "still in use");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate,
        Release(prop::sample::Index),
        Wait(u64),
        /// The agent starts again and reads what is on disk.
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Allocate),
            3 => any::<prop::sample::Index>().prop_map(Step::Release),
            2 => (0u64..8).prop_map(Step::Wait),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #[test]
        fn an_address_never_has_two_pods_and_always_rests(steps in prop::collection::vec(step(), 1..200)) {
            follow("10.244.1.0/28", 13, &steps)?;
        }

        #[test]
        fn an_ipv6_address_never_has_two_pods_and_always_rests(steps in prop::collection::vec(step(), 1..200)) {
            follow("fd44:1::/124", 14, &steps)?;
        }
    }

    /// The model: who holds which address, and when each was released last.
    fn follow(range: &str, capacity: usize, steps: &[Step]) -> Result<(), TestCaseError> {
        let mut ipam = ipam(range);
        let mut now = 1000;
        let mut held: Vec<IpAddr> = Vec::new();
        let mut released: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Allocate => match ipam.allocate(at(now)).map(|given| given.iter().collect::<Vec<_>>()[0]) {
                    Ok(address) => {
                        prop_assert!(!held.contains(&address), "{address} has two pods");
                        let last = released.get(&address).copied().unwrap_or(0);
                        prop_assert!(now >= last + 10, "{address} did not rest");
                        held.push(address);
                    }
                    Err(IpamError::Full { .. }) => prop_assert_eq!(held.len(), capacity),
                    Err(error) => {
                        let resting = released.iter().filter(|(a, t)| !held.contains(a) && now < **t + 10);
                        prop_assert_eq!(resting.count() + held.len(), capacity, "{}", error);
                    }
                },
                Step::Release(index) if !held.is_empty() => {
                    let address = held.swap_remove(index.index(held.len()));
                    ipam.release(address, at(now));
                    released.insert(address, now);
                }
                Step::Release(_) => {}
                Step::Wait(seconds) => now += seconds,
                Step::Restart => {
                    let mut again = Ipam::new(Duration::from_secs(10));
                    let (v4, v6) = parse(range);
                    again.set_ranges(v4, v6);
                    held.iter().for_each(|address| assert!(again.adopt(*address)));
                    for (address, time) in &released {
                        again.adopt_resting(*address, at(*time), at(now));
                    }
                    ipam = again;
                }
            }
        }
        Ok(())
    }
}
