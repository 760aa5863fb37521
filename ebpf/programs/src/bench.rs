//! Programs around the dataplane for benchmarks and tests, never shipped: what a packet program costs at least, and
//! wrappers that prepare a packet and then tail-call the program under test.
#![no_std]
#![no_main]
#![allow(unsafe_code, unreachable_pub)]
#![feature(asm_experimental_arch)]

use core::arch::asm;
use core::ptr::read_volatile;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS};
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_NO_PREALLOC, BPF_F_ZERO_CSUM_TX, TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_tunnel_key,
};
use aya_ebpf::helpers::{bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_set_tunnel_key};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use diolkos_abi::address::{Address, protocol, v4_mapped};

/// Words of the headers that are put back before each run: Ethernet, IPv4 and TCP without options, and two bytes; of
/// IPv6 up to the checksum of TCP.
const WORDS: usize = 14;
const WORDS_V6: usize = 18;
const HEADERS: usize = 54;
/// Offset of the source port.
const SOURCE_PORT: usize = 34;
const SOURCE_PORT_V6: usize = 54;

/// What element 1 of `TEMPLATE` says, by word: how many flows there are less one, a power of two less one; whether the
/// packet is IPv6; its mark; the IPv4 address it came from through a tunnel, 0 for none; the network identifier; its length
/// where the program under test changes it, 0 otherwise; how many bytes that puts in front of the network header.
mod setting {
    pub(super) const FLOWS: usize = 0;
    pub(super) const V6: usize = 1;
    pub(super) const MARK: usize = 2;
    pub(super) const TUNNEL: usize = 3;
    pub(super) const VNI: usize = 4;
    pub(super) const LENGTH: usize = 5;
    pub(super) const FRONT: usize = 6;
}

/// Size of `struct bpf_tunnel_key` before Linux 6.0, where a test run cannot say whom a packet came from.
const TUNNEL_KEY: u32 = 28;

/// The program under test, one for each type of program.
#[map]
static XDP_UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static TC_UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Element 0: the headers; element 1: [`setting`].
#[map]
static TEMPLATE: Array<[u32; WORDS_V6]> = Array::with_max_entries(2, 0);
/// The number of the next run.
#[map]
static RUN: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
/// What the baselines look up, by destination address.
#[map]
static TABLE: HashMap<Address, u64> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);
#[map]
static HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// R0 of the benchmarks.
#[xdp]
pub fn xdp_pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// R1: parses Ethernet, IPv4 and TCP, looks one key up and counts.
#[xdp]
pub fn xdp_parse_lookup(ctx: XdpContext) -> u32 {
    parse_lookup(ctx.data(), ctx.data_end());
    XDP_PASS
}

/// T0.
#[classifier]
pub fn tc_pass(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// T1.
#[classifier]
pub fn tc_parse_lookup(ctx: TcContext) -> i32 {
    parse_lookup(ctx.data(), ctx.data_end());
    TC_ACT_UNSPEC
}

/// Leaves the headers of a TCP segment over IPv4 and nothing else, as a RST is made: beside [`tc_restore`] it shows what that
/// takes to put the length back.
#[classifier]
pub fn tc_cut(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one the kernel passed in.
    let cut = unsafe { bpf_skb_change_tail(ctx.skb.skb, HEADERS as u32, 0) };
    if cut == 0 { TC_ACT_UNSPEC } else { TC_ACT_SHOT as i32 }
}

/// Puts the headers back, gives them the source port of the next flow, and runs the program under test.
#[xdp]
pub fn xdp_restore(ctx: XdpContext) -> u32 {
    // SAFETY: the context is the one the kernel passed in.
    let (data, end) = unsafe { (read_volatile(&(*ctx.ctx).data), read_volatile(&(*ctx.ctx).data_end)) };
    restore(data as usize, end as usize);
    // SAFETY: the array holds XDP programs only.
    unsafe { XDP_UNDER_TEST.tail_call(&ctx, 0) };
    XDP_ABORTED
}

/// [`xdp_restore`] for tc.
#[classifier]
pub fn tc_restore(ctx: TcContext) -> i32 {
    if let Some(settings) = TEMPLATE.get_ptr(1) {
        let settings = settings.cast::<u32>();
        // SAFETY: elements of arrays live as long as the program; the context is the one the kernel passed in.
        unsafe {
            let (length, front) =
                (read_volatile(settings.add(setting::LENGTH)), read_volatile(settings.add(setting::FRONT)));
            resize(ctx.skb.skb, length, front);
        }
    }
    // SAFETY: the context is the one the kernel passed in.
    let (data, end) = unsafe { (read_volatile(&(*ctx.skb.skb).data), read_volatile(&(*ctx.skb.skb).data_end)) };
    restore(data as usize, end as usize);
    if let Some(settings) = TEMPLATE.get_ptr(1) {
        let settings = settings.cast::<u32>();
        // SAFETY: elements of arrays live as long as the program; the context is the one the kernel passed in.
        unsafe {
            (*ctx.skb.skb).mark = read_volatile(settings.add(setting::MARK));
            let from = read_volatile(settings.add(setting::TUNNEL));
            if from != 0 {
                arrive(ctx.skb.skb, from, read_volatile(settings.add(setting::VNI)));
            }
        }
    }
    // SAFETY: the array holds tc programs only.
    unsafe { TC_UNDER_TEST.tail_call(&ctx, 0) };
    TC_ACT_SHOT as i32
}

/// Makes of the packet of a test run what only a device brings, and runs the program under test. `cb[0]` of 1: it came
/// through a tunnel, with the network identifier in `cb[1]`, from the IPv4 address in `cb[3]`. `cb[2]` above 0: it ends
/// after so many bytes.
#[classifier]
pub fn tc_prepare(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one the kernel passed in.
    unsafe {
        let skb = ctx.skb.skb;
        if (*skb).cb[0] == 1 {
            arrive(skb, (*skb).cb[3], (*skb).cb[1]);
        }
        if (*skb).cb[2] != 0 && bpf_skb_change_tail(skb, (*skb).cb[2], 0) != 0 {
            return TC_ACT_OK as i32;
        }
        TC_UNDER_TEST.tail_call(&ctx, 0);
    }
    TC_ACT_OK as i32
}

/// Makes the packet as long as it was, without what was put in front of its network header; a length of 0 leaves it alone.
///
/// # Safety
///
/// `skb` must be the context that the kernel passed in.
#[inline(always)]
unsafe fn resize(skb: *mut __sk_buff, length: u32, front: u32) {
    // SAFETY: the caller's.
    unsafe {
        let present = read_volatile(&raw const (*skb).len);
        // A failure shows: the program under test meets another packet.
        if length != 0 && present != length {
            if front != 0 {
                bpf_skb_adjust_room(skb, -(front as i32), BPF_ADJ_ROOM_MAC, 0);
            }
            bpf_skb_change_tail(skb, length, 0);
        }
    }
}

/// Makes the packet one that came through a tunnel from an IPv4 address.
///
/// # Safety
///
/// `skb` must be the context that the kernel passed in.
#[inline(always)]
unsafe fn arrive(skb: *mut __sk_buff, from: u32, vni: u32) {
    // SAFETY: an integer struct, all of whose bit patterns are values.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = vni;
    key.tunnel_ttl = 64;
    // What is sent from is what came from, once the packet is taken for one that arrived.
    key.__bindgen_anon_3.local_ipv4 = from;
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the caller's; the sizes are that of the struct, or below it.
    unsafe {
        if bpf_skb_set_tunnel_key(skb, &mut key, size, BPF_F_ZERO_CSUM_TX.into()) != 0 {
            bpf_skb_set_tunnel_key(skb, &mut key, TUNNEL_KEY, BPF_F_ZERO_CSUM_TX.into());
        }
    }
}

#[inline(always)]
fn parse_lookup(data: usize, end: usize) {
    if data + HEADERS > end {
        return;
    }
    // An EtherType of IPv4, a header without options, TCP.
    let (kind, hop) = (load(data + 12), load(data + 22));
    if kind & 0x00ff_ffff != u32::from_ne_bytes([0x08, 0x00, 0x45, 0]) || hop.to_ne_bytes()[1] != protocol::TCP {
        return;
    }
    let key = v4_mapped(load(data + 30).to_ne_bytes());
    // SAFETY: the value is not used.
    let hit = unsafe { TABLE.get(&key) }.is_some();
    if let Some(counter) = HITS.get_ptr_mut(hit as u32) {
        // SAFETY: the element is this core's own.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
fn restore(data: usize, end: usize) {
    let (Some(words), Some(settings), Some(run)) = (TEMPLATE.get_ptr(0), TEMPLATE.get_ptr(1), RUN.get_ptr_mut(0))
    else {
        return;
    };
    let (words, settings) = (words.cast::<u32>(), settings.cast::<u32>());
    if data + WORDS * 4 > end {
        return;
    }
    // SAFETY: elements of arrays live as long as the program; the packet was just measured.
    unsafe {
        put_words::<0, WORDS>(data, words);
        let flows = read_volatile(settings.add(setting::FLOWS));
        *run = (*run).wrapping_add(1);
        let port = ((*run & flows) as u16).to_be() as u64;
        if read_volatile(settings.add(setting::V6)) == 0 {
            if flows != 0 {
                asm!("*(u16 *)({to} + 0) = {port}", to = in(reg) data + SOURCE_PORT, port = in(reg) port, options(nostack));
            }
            return;
        }
        if data + WORDS_V6 * 4 > end {
            return;
        }
        put_words::<WORDS, WORDS_V6>(data, words);
        if flows != 0 {
            asm!("*(u16 *)({to} + 0) = {port}", to = in(reg) data + SOURCE_PORT_V6, port = in(reg) port, options(nostack));
        }
    }
}

/// Writes some words of the template.
///
/// # Safety
///
/// The packet goes on up to the last of them, and `words` are the template's.
#[inline(always)]
unsafe fn put_words<const FIRST: usize, const END: usize>(data: usize, words: *const u32) {
    let mut i = FIRST;
    while i < END {
        // SAFETY: the caller's.
        unsafe {
            let word = read_volatile(words.add(i));
            asm!("*(u32 *)({to} + 0) = {word}", to = in(reg) data + i * 4, word = in(reg) word as u64, options(nostack));
        }
        i += 1;
    }
}

/// An unaligned word of the packet, which the caller has measured.
#[inline(always)]
fn load(at: usize) -> u32 {
    let value: u64;
    // SAFETY: in bounds.
    unsafe { asm!("{value} = *(u32 *)({at} + 0)", value = out(reg) value, at = in(reg) at, options(nostack)) };
    value as u32
}

/// Both licences of the source, in the form the kernel knows.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
