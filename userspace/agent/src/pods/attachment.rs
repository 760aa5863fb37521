//! An attachment: one interface of one pod, with everything that is needed to check, repair and remove it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use diolkos_abi::address::{Address, v4_mapped};
use diolkos_abi::pod::{Endpoint, Netns, cookie_tag, netns_flags};
use serde::{Deserialize, Serialize};

use super::ipam::Addresses;
use super::protocol::Key;
use crate::overlay::ALIAS;
use crate::overlay::netlink::Link;

/// The next hops of every pod. Nobody has them: the permanent neighbour in the pod leads to the host's end of the veth.
pub const NEXT_HOP_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub const NEXT_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The next hop for packets to an address.
pub(super) fn next_hop(to: IpAddr) -> IpAddr {
    if to.is_ipv4() { NEXT_HOP_V4.into() } else { NEXT_HOP_V6.into() }
}

/// What is kept on disk of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    pub container_id: String,
    pub ifname: String,
    /// Name of the CNI network: GC looks at its own only.
    pub network: String,
    /// Path of the network namespace at ADD.
    pub netns: String,
    /// The kernel's cookie of the namespace; none before 5.14.
    #[serde(default)]
    pub netns_cookie: Option<u64>,
    /// The pod's addresses: at least one. Records from before IPv6 have this one alone.
    #[serde(rename = "address", default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    #[serde(rename = "addressV6", default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
    pub host_ifname: String,
    pub host_mac: [u8; 6],
    pub pod_mac: [u8; 6],
    pub mtu: u32,
    /// The pod, its namespace or its configuration asks for services to be translated on the packet path only.
    #[serde(default)]
    pub socket_lb_off: bool,
    /// Nobody could say yet whether the pod or its namespace asks for it.
    #[serde(default)]
    pub socket_lb_unknown: bool,
    /// A virtual machine's device was seen in the pod's network namespace: its packets never meet a socket of ours.
    #[serde(default)]
    pub tap: bool,
    /// `namespace/name` of the pod, for people.
    #[serde(default)]
    pub pod: String,
}

impl Attachment {
    pub fn key(&self) -> Key {
        Key { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }

    pub fn addresses(&self) -> Addresses {
        Addresses { v4: self.v4, v6: self.v6 }
    }

    /// The pod's addresses, for people.
    pub(super) fn shown(&self) -> String {
        self.addresses().iter().map(|address| address.to_string()).collect::<Vec<_>>().join(" and ")
    }

    /// The keys of the pod in the map of endpoints.
    pub(super) fn endpoint_addresses(&self) -> impl Iterator<Item = Address> + use<> {
        self.addresses().iter().map(|address| match address {
            IpAddr::V4(address) => v4_mapped(address.octets()),
            IpAddr::V6(address) => address.octets(),
        })
    }

    /// The tag is filled in by the dataplane.
    pub(super) fn endpoint(&self, ifindex: u32) -> Endpoint {
        let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
        Endpoint { ifindex, mac: self.pod_mac, host_mac: self.host_mac, mtu, ..Endpoint::default() }
    }

    pub(super) fn netns_entry(&self, cookie: u64) -> Netns {
        let v4 = self.v4.map_or([0; 4], |address| address.octets());
        let v6 = self.v6.map_or([0; 16], |address| address.octets());
        let mut flags = 0;
        if self.socket_lb_off {
            flags |= netns_flags::OPT_OUT;
        }
        if self.tap {
            flags |= netns_flags::OPT_OUT | netns_flags::TAP;
        }
        Netns { v4, v6, flags, tag: cookie_tag(cookie) }
    }

    /// Whether a device of the host's name is the host's end. The MAC tells it before the alias is written.
    pub(super) fn owns(&self, link: &Link) -> bool {
        link.veth && link.name == self.host_ifname && (link.alias == ALIAS || link.mac == self.host_mac)
    }
}

/// The names that follow from a key, the same at every try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// `di` and 11 hex digits: 13 of the 15 characters a device name may have.
    pub host_ifname: String,
    pub host_mac: [u8; 6],
    pub pod_mac: [u8; 6],
}

impl Names {
    pub fn of(key: &Key) -> Self {
        let hash = hash(format!("{}/{}", key.container_id, key.ifname).as_bytes());
        let [.., a, b, c, d] = hash.to_be_bytes();
        Self {
            host_ifname: format!("{HOST_PREFIX}{:011x}", hash >> 20),
            // Locally administered, unicast, and apart from the overlay devices' 0a:d1.
            host_mac: [0x0a, 0xd2, a, b, c, d],
            pod_mac: [0x0a, 0xd3, a, b, c, d],
        }
    }
}

/// How the host's ends of our veths begin.
pub const HOST_PREFIX: &str = "di";

/// FNV-1a, 64 bits, with MurmurHash3's finaliser so that the upper bits depend on all input. Stable for ever: names on
/// disk and in the kernel come from it.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut h =
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_stable_and_fit_a_device() {
        let names = Names::of(&Key::new("c1", "eth0").unwrap());
        assert_eq!(names, Names::of(&Key::new("c1", "eth0").unwrap()));
        assert_eq!(names.host_ifname.len(), 13);
        assert!(names.host_ifname.starts_with("di"));
        assert_eq!(names.host_mac[0] & 0b11, 0b10, "locally administered, unicast");
        assert_ne!(names, Names::of(&Key::new("c1", "eth1").unwrap()));
    }

    #[test]
    fn names_of_ten_thousand_containers_are_all_different() {
        let key = |i: u32| Key::new(&format!("container-{i}"), "eth0").unwrap();
        let names: BTreeSet<String> = (0..10_000).map(|i| Names::of(&key(i)).host_ifname).collect();
        assert_eq!(names.len(), 10_000);
    }
}
