//! The extension headers of IPv6 (RFC 8200, section 4).

use diolkos_abi::counter::DropReason;

use crate::headers::{ETHERNET, Fragment, IPV6, OFFSETS, Part};
use crate::packet::Packet;

/// How many are looked through.
pub(crate) const MOST: usize = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

const _: () = assert!(ETHERNET + IPV6 + MOST * 256 * 8 <= OFFSETS);

/// What the headers say.
#[derive(Clone, Copy)]
pub(crate) struct Walked {
    /// What follows them.
    pub(crate) protocol: u8,
    /// Offset of what follows them.
    pub(crate) at: usize,
    pub(crate) fragment: Fragment,
}

/// Whether another header follows one like this. Encrypted payload (50) and "nothing follows" (59) end the walk.
#[inline(always)]
pub(crate) fn is_one(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

/// Steps over the headers, of which the first is of type `walked.protocol`. Behind the fragment header of a later fragment comes
/// data, whatever its type says.
///
/// A BPF subprogram: few packets have extension headers. It returns no `Result` with content, whose layout the kernel
/// might refuse in the type information.
#[inline(never)]
pub(crate) fn walk<P: Packet>(packet: &mut P, walked: &mut Walked) -> Result<(), DropReason> {
    let mut headers = 0;
    while headers < MOST && is_one(walked.protocol) && walked.fragment.kind != Part::Later {
        step(packet, walked)?;
        headers += 1;
    }
    if is_one(walked.protocol) && walked.fragment.kind != Part::Later {
        return Err(DropReason::TooManyHeaders);
    }
    Ok(())
}

/// Steps over one header.
#[inline(always)]
fn step<P: Packet>(packet: &mut P, walked: &mut Walked) -> Result<(), DropReason> {
    packet.pull(walked.at + 8);
    let [head, identification] = packet.load(walked.at).ok_or(DropReason::Truncated)?;
    let [next, length, third, fourth] = head.to_ne_bytes();
    let (unit, more) = match walked.protocol {
        FRAGMENT => {
            // A fragment of a fragment: nothing sends that.
            if walked.fragment.kind != Part::Whole {
                return Err(DropReason::TooManyHeaders);
            }
            let kind = match (third, fourth & 0xf8, fourth & 1) {
                // All of the packet is in it (RFC 6946).
                (0, 0, 0) => Part::Whole,
                (0, 0, _) => Part::First,
                _ => Part::Later,
            };
            walked.fragment = Fragment { kind, identification };
            (0, 8)
        }
        AUTHENTICATION => (4, 8),
        // With hops left to take, the destination is not where the packet ends.
        ROUTING if fourth != 0 => return Err(DropReason::TooManyHeaders),
        _ => (8, 8),
    };
    walked.protocol = next;
    walked.at = (walked.at + length as usize * unit + more) & OFFSETS;
    Ok(())
}
