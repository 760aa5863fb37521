//! What the monitor is told. Nobody watching costs one array read and a branch.

use core::ptr::read_volatile;

use aya_ebpf::bindings::{__sk_buff, BPF_F_MMAPABLE};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_skb_load_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use diolkos_abi::address::address_words;
use diolkos_abi::counter::OUTCOMES;
use diolkos_abi::event::{CONTROLS, Control, EVENT_BYTES, EVENT_PACKET, Event, watch};
use diolkos_datapath::Peer;

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(CONTROLS, BPF_F_MMAPABLE);
#[map]
static EVENT: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);

/// Whether somebody wants to know of a drop, a refusal or an answer.
#[inline(always)]
pub(crate) fn drops_are_watched() -> bool {
    control(|control| control.watch & watch::DROPS != 0)
}

/// Whether somebody wants to know of this packet or call, which goes on.
#[inline(always)]
pub(crate) fn flow_is_watched() -> bool {
    control(|control| {
        // SAFETY: a helper without arguments.
        control.watch & watch::FLOWS != 0 && unsafe { bpf_get_prandom_u32() } & control.sample == 0
    })
}

#[inline(always)]
fn control(test: impl FnOnce(Control) -> bool) -> bool {
    let Some(control) = CONTROL.get_ptr(0) else { return false };
    // SAFETY: an array element never moves; the operator's commands write each word by one store.
    let watch = unsafe { read_volatile(&raw const (*control).watch) };
    // SAFETY: as above.
    watch != 0 && test(Control { watch, sample: unsafe { read_volatile(&raw const (*control).sample) } })
}

/// Tells of a packet as it is now. `index` is the counter's. An event for which the ring has no room is lost; the
/// counters are not.
#[inline(never)]
pub(crate) fn tell_packet(skb: *mut __sk_buff, index: u32) {
    // SAFETY: the context is the one the kernel passed in.
    let (length, ifindex) = unsafe { (read_volatile(&raw const (*skb).len), read_volatile(&raw const (*skb).ifindex)) };
    let Some(mut entry) = EVENT.reserve::<Event>(0) else { return };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry has the size and alignment of an event; the helper writes within its packet field.
    unsafe {
        put_head(event, index, if length > u16::MAX as u32 { u16::MAX } else { length as u16 }, ifindex);
        let packet = (&raw mut (*event).packet).cast();
        const { assert!(EVENT_PACKET.is_power_of_two()) };
        if length >= EVENT_PACKET as u32 {
            bpf_skb_load_bytes(skb.cast(), 0, packet, EVENT_PACKET as u32);
        } else {
            // The mask shows the verifiers of Linux 5.10 and 6.1 that the length is not 0: no packet's is.
            bpf_skb_load_bytes(skb.cast(), 0, packet, (length.wrapping_sub(1) & (EVENT_PACKET as u32 - 1)) + 1);
        }
    }
    entry.submit(0);
}

/// Tells of a system call and the peer it names, as it is now.
#[inline(never)]
pub(crate) fn tell_call(peer: &Peer, index: u32) {
    let Some(mut entry) = EVENT.reserve::<Event>(0) else { return };
    let event = entry.as_mut_ptr();
    // SAFETY: as for `tell_packet`.
    unsafe {
        put_head(event, index, 0, 0);
        let [a, b, c, d] = address_words(&peer.address);
        let [high, low] = peer.port;
        let rest = u32::from_ne_bytes([high, low, peer.protocol, 0]);
        (&raw mut (*event).packet).cast::<[u32; 5]>().write([a, b, c, d, rest]);
    }
    entry.submit(0);
}

/// Writes everything before the packet, and zeroes over the packet.
///
/// # Safety
///
/// `event` must point to the memory of an event.
#[inline(always)]
unsafe fn put_head(event: *mut Event, index: u32, length: u16, ifindex: u32) {
    // SAFETY: the caller's; the fields are written one by one.
    unsafe {
        (&raw mut (*event).time).write(bpf_ktime_get_ns());
        (&raw mut (*event).hook).write((index / OUTCOMES) as u8);
        (&raw mut (*event).outcome).write((index % OUTCOMES) as u8);
        (&raw mut (*event).length).write(length);
        (&raw mut (*event).ifindex).write(ifindex);
        (&raw mut (*event).packet).cast::<[u64; EVENT_PACKET / 8]>().write([0; EVENT_PACKET / 8]);
    }
}
