//! What both dataplanes check before they touch anything, and how they name keys in errors.

use std::net::Ipv6Addr;

use diolkos_abi::address::Address;
use diolkos_abi::conntrack::Tuple;
use diolkos_abi::service::{AffinityKey, FrontendKey, MemberKey};

use super::{Error, Operation, Result, map};

/// An id of an array: not 0, and inside.
pub(super) fn id(map: &'static str, operation: Operation, id: u32, capacity: u32) -> Result<()> {
    if id == 0 || id >= capacity {
        return Err(Error::OutOfRange { map, operation, key: format!("id {id}"), capacity });
    }
    Ok(())
}

/// A run of slots inside the map.
pub(super) fn extent(base: u32, count: usize, capacity: u32) -> Result<()> {
    if base as usize + count > capacity as usize {
        let key = format!("slots {base}..{}", base as usize + count);
        return Err(Error::OutOfRange { map: map::SLOT, operation: Operation::Write, key, capacity });
    }
    Ok(())
}

/// A name a network device can have and a pin can carry; a pin's name has no dot, so a dot is refused here.
pub(super) fn ifname(name: &str) -> Result<()> {
    let fits = !name.is_empty() && name.len() < libc::IFNAMSIZ;
    if fits && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':') {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("network device name {name:?}"),
        advice: "devices have names of 1 to 15 visible characters without '/' and ':'",
    })
}

/// The error of a map without room, with what helps for that map.
pub(super) fn full(map: &'static str, key: String, capacity: u32) -> Error {
    let advice = match map {
        map::FRONTEND => "remove Services or ports",
        map::MEMBER => "remove Services with sessionAffinity, or endpoints of them",
        map::ENDPOINT | map::NETNS => "remove pods from this node",
        _ => "remove nodes from the cluster",
    };
    Error::Full { map, operation: Operation::Insert, key, capacity, advice }
}

pub(super) fn frontend(key: &FrontendKey) -> String {
    let port = u16::from_be_bytes(key.port);
    format!("{} port {port} protocol {} scope {} zone {}", address(&key.address), key.protocol, key.scope, key.zone)
}

pub(super) fn member(key: &MemberKey) -> String {
    format!("service {} backend {}", key.service, key.backend)
}

pub(super) fn tuple(key: &Tuple) -> String {
    let (source, destination) = (address(&key.source), address(&key.destination));
    let (from, to) = (u16::from_be_bytes(key.source_port), u16::from_be_bytes(key.destination_port));
    format!("{source} port {from} to {destination} port {to} protocol {}", key.protocol)
}

pub(super) fn client(key: &AffinityKey) -> String {
    format!("client {} service {}", address(&key.client), key.service)
}

pub(super) fn address(address: &Address) -> String {
    Ipv6Addr::from(*address).to_canonical().to_string()
}
