//! A pod sends only from its own address.

use diolkos_abi::address::{address_words, from_words};
use diolkos_abi::counter::DropReason;
use diolkos_abi::pod::Source;

use crate::family::{Words, equal};
use crate::headers::Ip;
use crate::lookup;
use crate::packet::Packet;
use crate::tables::Tables;

/// Compares the source of a pod's packet with what is remembered of its device, or with the pod itself.
#[inline(always)]
pub(crate) fn check<const V6: bool, P: Packet, T: Tables>(
    packet: &P,
    tables: &mut T,
    ip: &Ip,
) -> Result<(), DropReason> {
    let ifindex = packet.ingress_ifindex();
    if let Some(source) = tables.source(ifindex)
        && source.ifindex == ifindex
        && if V6 { equal(&address_words(&source.v6), &ip.source) } else { source.v4 == ip.source[3] }
    {
        return Ok(());
    }
    learn::<V6, T>(tables, ifindex, &ip.source)
}

/// Remembers what the pod of a device may send from.
///
/// A BPF subprogram: it is the path of a device's first packet only.
#[inline(never)]
fn learn<const V6: bool, T: Tables>(tables: &mut T, ifindex: u32, address: &Words) -> Result<(), DropReason> {
    let pod =
        lookup::endpoint(tables, address).filter(|pod| pod.ifindex == ifindex).ok_or(DropReason::SpoofedSource)?;
    let known = tables.source(ifindex).filter(|source| source.ifindex == ifindex).unwrap_or_default();
    let learned = if V6 {
        Source { ifindex, v6: from_words(*address), mac: pod.mac, ..known }
    } else {
        Source { ifindex, v4: address[3], mac: pod.mac, ..known }
    };
    tables.remember_source(&learned);
    Ok(())
}
