//! Addresses of this node's pods: a pure allocator over the podCIDR.
//!
//! An address rests before it is given out again, so that connection tracking, affinity and caches elsewhere forget the
//! pod that had it. The search goes round the range instead of taking the lowest, which makes the rest as long as it
//! can be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use ipnetwork::Ipv4Network;

/// How long an address rests.
pub const REST: Duration = Duration::from_secs(30);

/// The addresses of one node.
#[derive(Clone, Debug)]
pub struct Ipam {
    range: Option<Ipv4Network>,
    used: BTreeSet<Ipv4Addr>,
    /// Address -> when it was released (wall clock, since it must outlive a restart).
    resting: BTreeMap<Ipv4Addr, SystemTime>,
    rest: Duration,
    /// Where the next search begins, as an offset into the range.
    next: u32,
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("this node has no podCIDR yet")]
    NoRange,
    #[error("all {capacity} pod addresses of {range} are in use: delete pods or give the node a larger podCIDR")]
    Full { range: Ipv4Network, capacity: u32 },
    #[error("the free pod addresses of {range} ({resting}) rest; the next is ready in {} s", ready_in.as_secs() + 1)]
    Resting { range: Ipv4Network, resting: usize, ready_in: Duration },
}

impl Ipam {
    pub fn new(rest: Duration) -> Self {
        Self { range: None, used: BTreeSet::new(), resting: BTreeMap::new(), rest, next: 0 }
    }

    /// Gives out addresses of this range from now on; those of another one stay with their pods.
    pub fn set_range(&mut self, range: Ipv4Network) {
        if self.range != Some(range) {
            self.range = Some(range);
            self.next = 0;
        }
    }

    /// Takes an address that a pod has already; false when another pod has it.
    pub fn adopt(&mut self, address: Ipv4Addr) -> bool {
        self.resting.remove(&address);
        self.used.insert(address)
    }

    /// Lets an address rest that was released before a restart. A time ahead of the clock counts as now, so that a
    /// clock set back cannot hold an address for ever.
    pub fn adopt_resting(&mut self, address: Ipv4Addr, released: SystemTime, now: SystemTime) {
        if !self.used.contains(&address) {
            self.resting.insert(address, released.min(now));
        }
    }

    pub fn allocate(&mut self, now: SystemTime) -> Result<Ipv4Addr, IpamError> {
        let range = self.range.ok_or(IpamError::NoRange)?;
        let capacity = capacity(range);
        let mut resting = 0;
        let mut ready_in = Duration::MAX;
        for step in 0..capacity {
            let offset = (self.next + step) % capacity;
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

    /// Gives an address back; it rests from `now` on. One that is not in use is left alone.
    pub fn release(&mut self, address: Ipv4Addr, now: SystemTime) {
        if self.used.remove(&address) {
            self.resting.insert(address, now);
        }
    }

    /// Gives an address back that no pod and no packet ever saw.
    pub fn cancel(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }

    fn rest_left(&self, address: Ipv4Addr, now: SystemTime) -> Duration {
        match self.resting.get(&address) {
            None => Duration::ZERO,
            // A clock set back makes the rest longer, never shorter, and at most by one rest.
            Some(released) => self.rest.saturating_sub(now.duration_since(*released).unwrap_or_default()),
        }
    }
}

/// Addresses for pods: all but the network's, the gateway's and the broadcast address.
fn capacity(range: Ipv4Network) -> u32 {
    u32::try_from((1u64 << (32 - range.prefix())).saturating_sub(3)).unwrap_or(u32::MAX)
}

fn nth(range: Ipv4Network, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()) + 2 + offset)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn ipam(range: &str) -> Ipam {
        let mut ipam = Ipam::new(Duration::from_secs(10));
        ipam.set_range(range.parse().unwrap());
        ipam
    }

    #[test]
    fn network_gateway_and_broadcast_addresses_are_never_given_out() {
        let mut ipam = ipam("10.244.1.0/29");
        let given: Vec<String> = (0..5).map(|_| ipam.allocate(at(0)).unwrap().to_string()).collect();
        assert_eq!(given, ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"]);
        let full = ipam.allocate(at(0)).unwrap_err();
        assert_eq!(full, IpamError::Full { range: "10.244.1.0/29".parse().unwrap(), capacity: 5 });
    }

    #[test]
    fn a_released_address_rests_before_it_is_given_out_again() {
        let mut ipam = ipam("10.244.1.0/30");
        let only = ipam.allocate(at(100)).unwrap();
        ipam.release(only, at(101));
        let waiting = ipam.allocate(at(110)).unwrap_err();
        assert!(waiting.to_string().contains("ready in 2 s"), "{waiting}");
        assert_eq!(ipam.allocate(at(111)).unwrap(), only);
    }

    #[test]
    fn a_cancelled_address_does_not_rest() {
        let mut ipam = ipam("10.244.1.0/30");
        let only = ipam.allocate(at(0)).unwrap();
        ipam.cancel(only);
        assert_eq!(ipam.allocate(at(0)).unwrap(), only);
    }

    #[test]
    fn a_clock_set_back_holds_an_address_no_longer_than_one_rest() {
        let mut ipam = ipam("10.244.1.0/30");
        ipam.adopt_resting(Ipv4Addr::new(10, 244, 1, 2), at(1_000_000), at(50));
        assert!(ipam.allocate(at(59)).is_err());
        assert!(ipam.allocate(at(60)).is_ok());
    }

    #[test]
    fn without_a_podcidr_there_is_a_clear_error() {
        assert_eq!(Ipam::new(REST).allocate(at(0)), Err(IpamError::NoRange));
    }

    #[test]
    fn a_new_range_leaves_the_addresses_of_the_old_one_with_their_pods() {
        let mut ipam = ipam("10.244.1.0/29");
        let old = ipam.allocate(at(0)).unwrap();
        ipam.set_range("10.244.7.0/29".parse().unwrap());
        assert_eq!(ipam.allocate(at(0)).unwrap(), Ipv4Addr::new(10, 244, 7, 2));
        assert!(!ipam.adopt(old), "still in use");
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
        /// The model: who holds which address, and when each was released last.
        #[test]
        fn an_address_never_has_two_pods_and_always_rests(steps in prop::collection::vec(step(), 1..200)) {
            let mut ipam = ipam("10.244.1.0/28");
            let mut now = 1000;
            let mut held: Vec<Ipv4Addr> = Vec::new();
            let mut released: BTreeMap<Ipv4Addr, u64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Allocate => match ipam.allocate(at(now)) {
                        Ok(address) => {
                            prop_assert!(!held.contains(&address), "{address} has two pods");
                            let last = released.get(&address).copied().unwrap_or(0);
                            prop_assert!(now >= last + 10, "{address} did not rest");
                            held.push(address);
                        }
                        Err(IpamError::Full { .. }) => prop_assert_eq!(held.len(), 13),
                        Err(error) => {
                            let resting = released.iter().filter(|(a, t)| !held.contains(a) && now < **t + 10);
                            prop_assert_eq!(resting.count() + held.len(), 13, "{}", error);
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
                        again.set_range("10.244.1.0/28".parse().unwrap());
                        held.iter().for_each(|address| assert!(again.adopt(*address)));
                        for (address, time) in &released {
                            again.adopt_resting(*address, at(*time), at(now));
                        }
                        ipam = again;
                    }
                }
            }
        }
    }
}
