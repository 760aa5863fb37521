//! ICMP echo messages as flows: their identifier stands for the port of who asks.

use diolkos_abi::address::protocol;
use diolkos_abi::counter::DropReason;

use crate::headers::{Ip, OFFSETS, Part, Transport, halves, ports};
use crate::icmp;
use crate::packet::{Change, Packet};
use crate::rewrite;
use crate::tables::Scratch;

/// What an echo message has beside its ends.
#[derive(Clone, Copy)]
pub(super) struct Echo {
    is_reply: bool,
    sequence: [u8; 2],
}

/// Gives an ICMP echo message ports, so that it is a flow like all others.
#[inline(always)]
pub(super) fn as_flow<P: Packet>(packet: &P, ip: &mut Ip) -> Echo {
    if !matches!(ip.protocol, protocol::ICMP | protocol::ICMPV6) || ip.fragment.kind != Part::Whole {
        return Echo::NONE;
    }
    let at = ip.l4 & OFFSETS;
    let Some([first, second]) = packet.load(at) else { return Echo::NONE };
    let Some(is_reply) = icmp::is_echo_reply(ip.protocol, first) else { return Echo::NONE };
    let [identifier, sequence] = halves(second);
    ip.transport = Transport::of_datagram(at, icmp::echo_ports(is_reply, identifier));
    Echo { is_reply, sequence }
}

impl Echo {
    const NONE: Self = Self { is_reply: false, sequence: [0; 2] };

    #[inline(always)]
    fn identifier(self, transport: &Transport) -> [u8; 2] {
        if self.is_reply { transport.destination_port() } else { transport.source_port() }
    }
}

/// The packet in the scratch is an echo message, and a flow since [`as_flow`].
#[inline(always)]
pub(super) fn is_one(scratch: &Scratch) -> bool {
    matches!(scratch.ip.protocol, protocol::ICMP | protocol::ICMPV6) && scratch.ip.transport.known
}

/// Gives the echo message in the scratch its new ends; afterwards they are those of the packet.
#[inline(never)]
pub(super) fn replace<const V6: bool, P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Result<(), DropReason> {
    let Scratch { ip, ends, .. } = scratch;
    let echo = as_flow(packet, ip);
    let (from, to) = (echo.identifier(&ip.transport), echo.identifier(&ip.transport.with_ports(ends.ports)));
    let message = Change { from: ports(from, echo.sequence), to: ports(to, echo.sequence) };
    rewrite::echo::<V6, P>(packet, ip, ends, message)?;
    (ip.source, ip.destination) = (ends.source, ends.destination);
    ip.transport = Transport::remembered(ends.ports);
    Ok(())
}
