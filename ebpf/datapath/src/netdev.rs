//! The hooks of the devices that hold an address of the node: pods and the outside, pods of other nodes without a tunnel,
//! and services for the packets of the node itself.
//!
//! Most of what passes here is not ours, and costs no lookup. What cannot be read is the host's to judge.

mod echo;
mod incoming;
mod outgoing;

use diolkos_abi::config::Config;
use diolkos_abi::counter::{DropReason, Verdict};

use crate::headers::{self, Kind};
use crate::packet::Packet;
use crate::tables::Tables;

/// The network sends to the node (tc ingress of a device that holds an address of the node).
#[inline(always)]
pub fn from_netdev<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    match headers::kind(packet) {
        Ok(Kind::V4) => incoming::received::<false, P, T>(config, packet, tables),
        Ok(Kind::V6) => incoming::received::<true, P, T>(config, packet, tables),
        Ok(Kind::Arp | Kind::Tagged | Kind::Other) | Err(_) => Ok(Verdict::Untouched),
    }
}

/// The node sends to the network (its tc egress), for itself or for its pods.
#[inline(always)]
pub fn to_netdev<P: Packet, T: Tables>(config: &Config, packet: &mut P, tables: &mut T) -> Result<Verdict, DropReason> {
    match headers::kind(packet) {
        Ok(Kind::V4) => outgoing::leaving::<false, P, T>(config, packet, tables),
        Ok(Kind::V6) => outgoing::leaving::<true, P, T>(config, packet, tables),
        Ok(Kind::Arp | Kind::Tagged | Kind::Other) | Err(_) => Ok(Verdict::Untouched),
    }
}
