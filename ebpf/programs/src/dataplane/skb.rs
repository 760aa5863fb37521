//! A socket buffer as the logic sees it: direct access to its linear part.

use core::arch::asm;
use core::ptr::read_volatile;

use aya_ebpf::bindings::{__sk_buff, BPF_F_PSEUDO_HDR, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_redirect, bpf_redirect_peer, bpf_skb_change_type, bpf_skb_get_tunnel_key,
    bpf_skb_pull_data, bpf_skb_set_tunnel_key,
};
use diolkos_abi::config::features;
use diolkos_datapath::rewrite::adjust;
use diolkos_datapath::{Change, Packet};

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

impl Skb {
    /// The checksum at `at`, as it stands in the packet.
    #[inline(always)]
    fn checksum(&self, at: usize) -> Option<u16> {
        let start = self.at(at, size_of::<u16>())?;
        let value: u64;
        // SAFETY: in bounds.
        unsafe {
            asm!("{value} = *(u16 *)({start} + 0)", value = out(reg) value, start = in(reg) start, options(readonly, nostack))
        };
        Some(value as u16)
    }

    #[inline(always)]
    fn set_checksum(&mut self, at: usize, checksum: u16) -> Option<()> {
        let start = self.at(at, size_of::<u16>())?;
        // SAFETY: in bounds.
        unsafe {
            asm!("*(u16 *)({start} + 0) = {value}", value = in(reg) checksum as u64, start = in(reg) start, options(nostack))
        };
        Some(())
    }

    #[inline(always)]
    fn replace_checksum(&mut self, at: usize, change: Change, flags: u64) -> Option<()> {
        let (from, to) = (change.from.into(), change.to.into());
        // SAFETY: the context is the one the kernel passed in.
        (unsafe { bpf_l4_csum_replace(self.skb, at as u32, from, to, flags | WORD as u64) } == 0).then_some(())
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

    /// The kernel alone knows whether the checksum is complete or still the device's to compute; then the field holds
    /// the sum of the pseudo header only, and ports do not concern it. What the first helper made of the field tells
    /// which, and spares the second one, unless both ways lead to the same value.
    #[inline(always)]
    fn fix_checksum(&mut self, at: usize, address: Change, ports: Change) -> Option<()> {
        let before = self.checksum(at)?;
        self.replace_checksum(at, address, BPF_F_PSEUDO_HDR.into())?;
        if ports.from == ports.to {
            return Some(());
        }
        let after = self.checksum(at)?;
        let complete = adjust(before, address.from, address.to);
        let pending = !adjust(!before, address.from, address.to);
        if complete == pending || (after != complete && after != pending) {
            return self.replace_checksum(at, ports, 0);
        }
        if after == complete {
            self.set_checksum(at, adjust(after, ports.from, ports.to))?;
        }
        Some(())
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
