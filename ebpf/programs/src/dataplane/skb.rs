//! A socket buffer as the logic sees it: direct access to its linear part.

use core::arch::asm;
use core::ptr::read_volatile;

use aya_ebpf::bindings::{__sk_buff, BPF_F_PSEUDO_HDR, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_redirect, bpf_redirect_peer, bpf_skb_change_type, bpf_skb_get_tunnel_key,
    bpf_skb_pull_data, bpf_skb_set_tunnel_key,
};
use diolkos_abi::config::features;
use diolkos_datapath::{Covered, Packet};

use crate::maps::config;

/// Hop limit of the outer header.
const TUNNEL_TTL: u8 = 64;
/// `PACKET_HOST` of linux/if_packet.h: for this host.
const PACKET_HOST: u32 = 0;
/// Bytes of one word.
const WORD: usize = size_of::<u32>();

pub(crate) struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// The address of `length` bytes at `at`, checked against the end of the linear part.
    ///
    /// The bounds are read each time: a helper may have moved the packet. The checked and the used pointer must be
    /// one register to the verifier, so the compiler is not told how it was computed.
    #[inline(always)]
    fn at(&self, at: usize, length: usize) -> Option<usize> {
        // SAFETY: the context is the one the kernel passed in.
        let (data, end) = unsafe {
            (
                read_volatile(&raw const (*self.skb).data) as usize,
                read_volatile(&raw const (*self.skb).data_end) as usize,
            )
        };
        let start: usize;
        // SAFETY: a move from one register to another.
        unsafe {
            asm!("{to} = {from}", to = out(reg) start, from = in(reg) data + at,
                options(pure, nomem, nostack, preserves_flags));
        }
        (start + length <= end).then_some(start)
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn pull(&mut self, length: usize) {
        if self.at(0, length).is_some() {
            return;
        }
        // SAFETY: the context is the one the kernel passed in. A failure shows at the next load.
        unsafe {
            let whole = read_volatile(&raw const (*self.skb).len);
            let length = if whole < length as u32 { whole } else { length as u32 };
            bpf_skb_pull_data(self.skb, length);
        }
    }

    #[inline(always)]
    fn load<const W: usize>(&self, at: usize) -> Option<[u32; W]> {
        let start = self.at(at, W * WORD)?;
        let mut words = [0; W];
        let mut i = 0;
        while i < W {
            let value: u64;
            // SAFETY: in bounds. The packet's words are not aligned, which Rust's own loads would have to pay for.
            unsafe {
                asm!(
                    "{value} = *(u32 *)({start} + 0)",
                    value = out(reg) value,
                    start = in(reg) start + i * WORD,
                    options(readonly, nostack, preserves_flags)
                );
            }
            words[i] = value as u32;
            i += 1;
        }
        Some(words)
    }

    #[inline(always)]
    fn store<const W: usize>(&mut self, at: usize, words: [u32; W]) -> Option<()> {
        let start = self.at(at, W * WORD)?;
        let mut i = 0;
        while i < W {
            // SAFETY: in bounds, unaligned as for `load`.
            unsafe {
                asm!(
                    "*(u32 *)({start} + 0) = {value}",
                    value = in(reg) words[i] as u64,
                    start = in(reg) start + i * WORD,
                    options(nostack, preserves_flags)
                );
            }
            i += 1;
        }
        Some(())
    }

    #[inline(always)]
    fn fix_checksum(&mut self, at: usize, from: u32, to: u32, covered: Covered) -> Option<()> {
        let flags = match covered {
            Covered::Pseudo => BPF_F_PSEUDO_HDR as u64 | WORD as u64,
            Covered::Segment => WORD as u64,
        };
        // SAFETY: the context is the one the kernel passed in.
        (unsafe { bpf_l4_csum_replace(self.skb, at as u32, from as u64, to as u64, flags) } == 0).then_some(())
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).ingress_ifindex }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).mark }
    }

    #[inline(always)]
    fn set_mark(&mut self, mark: u32) {
        // SAFETY: as above.
        unsafe { (*self.skb).mark = mark };
    }

    #[inline(always)]
    fn tunnel_vni(&mut self) -> Option<u32> {
        // SAFETY: an integer struct, all of whose bit patterns are values.
        let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
        // SAFETY: the size is that of the struct.
        let result = unsafe { bpf_skb_get_tunnel_key(self.skb, &mut key, size_of::<bpf_tunnel_key>() as u32, 0) };
        (result == 0).then_some(key.tunnel_id)
    }

    #[inline(always)]
    fn set_tunnel(&mut self, vni: u32, remote: [u8; 4]) -> Option<()> {
        // SAFETY: as for `tunnel_vni`.
        let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
        key.tunnel_id = vni;
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(remote);
        key.tunnel_ttl = TUNNEL_TTL;
        // SAFETY: as for `tunnel_vni`.
        let result = unsafe {
            bpf_skb_set_tunnel_key(self.skb, &mut key, size_of::<bpf_tunnel_key>() as u32, BPF_F_ZERO_CSUM_TX.into())
        };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn redirect_to_pod(&mut self, ifindex: u32) {
        // SAFETY: helpers that take integers. They only note the target; the hook's code makes it happen.
        unsafe {
            if config().features & features::REDIRECT_PEER != 0 {
                bpf_redirect_peer(ifindex, 0);
            } else {
                bpf_redirect(ifindex, 0);
            }
        }
    }

    #[inline(always)]
    fn redirect(&mut self, ifindex: u32) {
        // SAFETY: as above.
        unsafe { bpf_redirect(ifindex, 0) };
    }

    #[inline(always)]
    fn accept(&mut self) {
        // SAFETY: the context is the one the kernel passed in.
        unsafe {
            if (*self.skb).pkt_type != PACKET_HOST {
                bpf_skb_change_type(self.skb, PACKET_HOST);
            }
        }
    }
}
