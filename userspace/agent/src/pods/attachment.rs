//! An attachment: one interface of one pod, with everything that is needed to check, repair and remove it.

use std::net::Ipv4Addr;

use diolkos_abi::address::{Address, v4_mapped};
use diolkos_abi::pod::{Endpoint, Netns, cookie_tag, netns_flags};
use serde::{Deserialize, Serialize};

use super::protocol::Key;
use crate::overlay::ALIAS;
use crate::overlay::netlink::Link;

/// The next hop of every pod. Nobody has it: the permanent neighbour in the pod leads to the host's end of the veth.
pub const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

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
    pub address: Ipv4Addr,
    pub host_ifname: String,
    pub host_mac: [u8; 6],
    pub pod_mac: [u8; 6],
    pub mtu: u32,
    /// Services are translated on the packet path only.
    #[serde(default)]
    pub socket_lb_off: bool,
    /// `namespace/name` of the pod, for people.
    #[serde(default)]
    pub pod: String,
}

impl Attachment {
    pub fn key(&self) -> Key {
        Key { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }

    pub(super) fn endpoint_address(&self) -> Address {
        v4_mapped(self.address.octets())
    }

    /// The tag is filled in by the dataplane.
    pub(super) fn endpoint(&self, ifindex: u32) -> Endpoint {
        Endpoint { ifindex, mac: self.pod_mac, host_mac: self.host_mac, ..Endpoint::default() }
    }

    pub(super) fn netns_entry(&self, cookie: u64) -> Netns {
        let flags = if self.socket_lb_off { netns_flags::OPT_OUT } else { 0 };
        Netns { v4: self.address.octets(), flags, tag: cookie_tag(cookie), ..Netns::default() }
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
