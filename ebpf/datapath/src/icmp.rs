//! ICMP errors about translated flows (RFC 5508): whoever receives one must recognise the packet that it quotes.
//!
//! A packet of a flow was seen with one tuple and an error about it travels the other way, as packets with the reversed
//! tuple do. So the entry of the reversed tuple says how the error is translated: its outer addresses as such a packet's,
//! and the quote the other way round.

use diolkos_abi::address::{address_words, from_words, protocol};
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{Tuple, direction, flow_flags};
use diolkos_abi::counter::{DropReason, Verdict};

use crate::balance;
use crate::checksum::{first_half, second_half, with_first_half, with_second_half};
use crate::family::{Words, equal, mapped};
use crate::headers::{self, IPV4, IPV6, Ip, OFFSETS, Part, halves, hop_word_at};
use crate::lookup;
use crate::packet::{Change, Packet};
use crate::rewrite::{self, Ends, adjust, both};
use crate::tables::{Scratch, Tables};

/// Length of the header of an ICMP error; the quote follows it.
const HEADER: usize = 8;
/// Offset of the word with the identifier in an ICMP echo message.
const IDENTIFIER: usize = 4;
/// Bytes of a quote that are looked at: an IPv4 header with all its options and a TCP header, or an IPv6 header with a
/// fragment header and a TCP header.
const MOST: usize = 80;

/// Whether the packet is an ICMP error; `ip.protocol` is that of ICMP of its family.
#[inline(always)]
pub(crate) fn is_error<P: Packet>(packet: &P, ip: &Ip) -> bool {
    let Some([head]) = packet.load(ip.l4 & OFFSETS) else { return false };
    let [kind, ..] = u32::to_ne_bytes(head);
    match ip.protocol {
        protocol::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        protocol::ICMPV6 => kind < 128,
        _ => false,
    }
}

/// The part of an error's quote that tells the flow.
struct Quote {
    source: Words,
    destination: Words,
    /// Source and destination port, as they stand in the quote; of an echo message as [`echo_ports`].
    ports: u32,
    /// [`protocol`].
    protocol: u8,
    /// Offset of the quoted transport header.
    l4: usize,
}

/// The packet is one of ICMP, as far as the IP header tells: an error behind extension headers is not looked at.
#[inline(always)]
pub(crate) fn is_next<const V6: bool, P: Packet>(packet: &P) -> bool {
    let Some([word]) = packet.load(hop_word_at::<V6>()) else { return false };
    let [_, v4, v6, _] = u32::to_ne_bytes(word);
    if V6 { v6 == protocol::ICMPV6 } else { v4 == protocol::ICMP }
}

/// [`crate::to_container`] of ICMP.
#[inline(always)]
pub(crate) fn answered<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let mut scratch = tables.scratch().ok_or(DropReason::ConntrackFull)?;
    read::<V6, P>(packet, &mut scratch)?;
    scratch.verdict = Verdict::Untouched;
    translate::<V6, P, T>(config, packet, tables, &mut scratch, direction::WIRE)?;
    Ok(scratch.verdict)
}

/// Reads the headers into the scratch.
#[inline(never)]
pub(crate) fn read<const V6: bool, P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Result<(), DropReason> {
    let ip = headers::parse::<V6, P>(packet)?;
    scratch.ip = ip;
    scratch.ends = Ends::of(&ip);
    Ok(())
}

/// Translates the packet in the scratch when it is an error about a translated flow: its quote at once, and then its
/// addresses, which become those of the scratch. Leaves anything else alone.
///
/// An error is never answered, so that it need not stay as it came for a refusal.
///
/// The flow is looked up as it is seen from `direction`.
///
/// A function of its own, and so a BPF subprogram with a stack of its own: errors are few.
#[inline(never)]
pub(crate) fn translate<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
    direction: u8,
) -> Result<(), DropReason> {
    let ip = &mut scratch.ip;
    if ip.fragment.kind != Part::Whole || !is_error(packet, ip) {
        return Ok(());
    }
    let Some(quote) = quote::<V6, P>(packet, ip) else { return Ok(()) };
    // An error comes to whom the packet came from.
    if !equal(&quote.source, &ip.destination) {
        return Ok(());
    }
    let Some(ends) = ends(config, tables, &quote, direction) else { return Ok(()) };
    replace::<V6, P>(packet, ip, &quote, &ends).ok_or(DropReason::RewriteFailed)?;
    // A router that speaks keeps its address; the flow's own end has the one that the other end knows.
    let source = if equal(&quote.destination, &ip.source) { ends.source } else { ip.source };
    let outer = Ends { source, destination: ends.destination, ports: 0 };
    let change =
        Change { from: both::<V6>(&ip.source, &ip.destination), to: both::<V6>(&outer.source, &outer.destination) };
    rewrite::addresses::<V6, P>(packet, ip, &outer, change)?;
    (ip.source, ip.destination) = (outer.source, outer.destination);
    scratch.ends = outer;
    scratch.verdict = Verdict::Translated;
    Ok(())
}

/// Reads the quote. `None` when it is cut off before the ports, or of a packet that has none and is no echo message.
#[inline(always)]
fn quote<const V6: bool, P: Packet>(packet: &mut P, ip: &Ip) -> Option<Quote> {
    let at = (ip.l4 & OFFSETS) + HEADER;
    packet.pull(at + MOST);
    let (source, destination, protocol, l4) = if V6 { quoted_v6(packet, at)? } else { quoted_v4(packet, at)? };
    let [first] = packet.load(l4)?;
    let ports = match protocol {
        protocol::TCP | protocol::UDP => first,
        _ => {
            let is_reply = is_echo_reply(protocol, first)?;
            let [message] = packet.load(l4 + IDENTIFIER)?;
            echo_ports(is_reply, halves(message)[0])
        }
    };
    Some(Quote { source, destination, ports, protocol, l4 })
}

/// Whether an ICMP message that begins with this word answers an echo message; `None` when it neither answers nor is one.
#[inline(always)]
pub(crate) fn is_echo_reply(protocol: u8, first: u32) -> Option<bool> {
    let (request, reply) = match protocol {
        protocol::ICMP => (8, 0),
        protocol::ICMPV6 => (128, 129),
        _ => return None,
    };
    let [kind, ..] = first.to_ne_bytes();
    if kind == request || kind == reply { Some(kind == reply) } else { None }
}

/// The ports of an ICMP echo message: its identifier stands for that of who asks.
#[inline(always)]
pub(crate) fn echo_ports(is_reply: bool, identifier: [u8; 2]) -> u32 {
    if is_reply { headers::ports([0; 2], identifier) } else { headers::ports(identifier, [0; 2]) }
}

#[inline(always)]
fn quoted_v4<P: Packet>(packet: &P, at: usize) -> Option<(Words, Words, u8, usize)> {
    let [first, fragment, hop_word, source, destination] = packet.load(at)?;
    let [version_length, ..] = first.to_ne_bytes();
    let [_, _, high, low] = fragment.to_ne_bytes();
    let [_, protocol, _, _] = hop_word.to_ne_bytes();
    let header = (version_length & 0x0f) as usize * 4;
    if version_length >> 4 != 4 || header < IPV4 || (high & 0x1f) | low != 0 {
        return None;
    }
    Some((mapped(source), mapped(destination), protocol, at + header))
}

#[inline(always)]
fn quoted_v6<P: Packet>(packet: &P, at: usize) -> Option<(Words, Words, u8, usize)> {
    const FRAGMENT: u8 = 44;
    let [first, hop_word] = packet.load(at)?;
    let [a, b, c, d, e, f, g, h] = packet.load(at + 8)?;
    let [_, _, next, _] = hop_word.to_ne_bytes();
    if first.to_ne_bytes()[0] >> 4 != 6 {
        return None;
    }
    let (source, destination) = ([a, b, c, d], [e, f, g, h]);
    if next != FRAGMENT {
        return Some((source, destination, next, at + IPV6));
    }
    // The only extension header that a sender adds when it learns of a smaller MTU.
    let [head] = packet.load(at + IPV6)?;
    let [next, _, high, low] = head.to_ne_bytes();
    (high | low & 0xf8 == 0).then_some((source, destination, next, at + IPV6 + 8))
}

/// How a packet is translated that travels with the error: against the direction of the quoted one.
#[inline(always)]
fn ends<T: Tables>(config: &Config, tables: &mut T, quote: &Quote, direction: u8) -> Option<Ends> {
    let [source, destination] = halves(quote.ports);
    let key = Tuple {
        source: from_words(quote.destination),
        destination: from_words(quote.source),
        source_port: destination,
        destination_port: source,
        protocol: quote.protocol,
        direction,
        zone: 0,
    };
    let flow = lookup::flow(config, tables, &key, key.hash(), 0)?;
    let mut ends = Ends { source: quote.destination, destination: quote.source, ports: 0 };
    let (mut from, mut to) = (key.source_port, key.destination_port);
    if flow.flags & flow_flags::SOURCE != 0 {
        (ends.source, from) = (address_words(&flow.source), flow.source_port);
    }
    if flow.flags & flow_flags::DESTINATION != 0 {
        (ends.destination, to) = (address_words(&flow.destination), flow.destination_port);
    } else if flow.flags & (flow_flags::REVERSE | flow_flags::MASQUERADE) == 0 {
        let choice = balance::current(tables, flow.backend)?;
        (ends.destination, to) = (choice.address, choice.port);
    }
    ends.ports = headers::ports(from, to);
    Some(ends)
}

/// Writes the ends into the quote, the other way round, and all checksums of the error but the outer IP header's.
#[inline(always)]
fn replace<const V6: bool, P: Packet>(packet: &mut P, ip: &Ip, quote: &Quote, ends: &Ends) -> Option<()> {
    // The bound is for the verifier, which loses it when the offset comes from memory.
    let l4 = ip.l4 & OFFSETS;
    let at = l4 + HEADER;
    let ports = Change { from: quote.ports, to: ends.ports.rotate_left(16) };
    let addresses =
        Change { from: both::<V6>(&quote.source, &quote.destination), to: both::<V6>(&ends.destination, &ends.source) };
    let [head] = packet.load(l4)?;
    let mut checksum = second_half(head);
    checksum = adjust(adjust(checksum, addresses.from, addresses.to), ports.from, ports.to);
    let inner = quoted_checksum::<V6, P>(packet, quote, addresses, ports);
    if let Some((_, change)) = inner {
        checksum = adjust(checksum, change.from, change.to);
    }
    let [a, b, c, d] = ends.destination;
    let [e, f, g, h] = ends.source;
    if V6 {
        // The pseudo header: the outer addresses change as well.
        let source = if equal(&quote.destination, &ip.source) { &ends.source } else { &ip.source };
        let from = both::<V6>(&ip.source, &ip.destination);
        checksum = adjust(checksum, from, both::<V6>(source, &ends.destination));
        packet.store(at + 8, [a, b, c, d, e, f, g, h])?;
    } else {
        let [hop_word] = packet.load(at + 8)?;
        let quoted = adjust(second_half(hop_word), addresses.from, addresses.to);
        let hops = Change { from: hop_word, to: with_second_half(hop_word, quoted) };
        checksum = adjust(checksum, hops.from, hops.to);
        packet.store(at + 8, [hops.to, d, h])?;
    }
    if matches!(quote.protocol, protocol::TCP | protocol::UDP) {
        packet.store(quote.l4, [ports.to])?;
    } else {
        // Of an echo message one of the ports is 0.
        let [message] = packet.load(quote.l4 + IDENTIFIER)?;
        let identifier = first_half(ports.to) | second_half(ports.to);
        packet.store(quote.l4 + IDENTIFIER, [with_first_half(message, identifier)])?;
    }
    if let Some((at, change)) = inner {
        packet.store(at, [change.to])?;
    }
    packet.store(l4, [with_second_half(head, checksum)])
}

/// The word with the quoted transport checksum: where it is, and how it changes. `None` when the quote ends before it, or
/// there is none.
#[inline(always)]
fn quoted_checksum<const V6: bool, P: Packet>(
    packet: &P,
    quote: &Quote,
    addresses: Change,
    ports: Change,
) -> Option<(usize, Change)> {
    let changed = |checksum| adjust(adjust(checksum, addresses.from, addresses.to), ports.from, ports.to);
    if !matches!(quote.protocol, protocol::TCP | protocol::UDP) {
        let [from] = packet.load(quote.l4)?;
        // The checksum of ICMP knows nothing of addresses, that of ICMPv6 does.
        let before = second_half(from);
        let checksum = if V6 { changed(before) } else { adjust(before, ports.from, ports.to) };
        return Some((quote.l4, Change { from, to: with_second_half(from, checksum) }));
    }
    if quote.protocol == protocol::TCP {
        let at = quote.l4 + 16;
        let [from] = packet.load(at)?;
        return Some((at, Change { from, to: with_first_half(from, changed(first_half(from))) }));
    }
    let at = quote.l4 + 4;
    let [from] = packet.load(at)?;
    if second_half(from) == 0 {
        return None;
    }
    let checksum = changed(second_half(from));
    Some((at, Change { from, to: with_second_half(from, if checksum == 0 { 0xffff } else { checksum }) }))
}
