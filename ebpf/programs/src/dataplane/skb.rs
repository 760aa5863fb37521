//! A socket buffer as the logic sees it: direct access to its linear part.

use core::arch::asm;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh, bpf_tunnel_key,
};
use aya_ebpf::helpers::{
    bpf_get_smp_processor_id, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
    bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_get_tunnel_key, bpf_skb_pull_data,
    bpf_skb_set_tunnel_key,
};
use diolkos_abi::address::{Address, address_words, from_words, is_v4, v4_mapped, v4_of};
use diolkos_abi::config::features;
use diolkos_abi::counter::DropReason;
use diolkos_datapath::rewrite::adjust;
use diolkos_datapath::{Change, Checksum, Packet, Tunnel};

use crate::maps::config;

/// Hop limit of the outer header.
const TUNNEL_TTL: u8 = 64;
/// Size of `struct bpf_tunnel_key` before Linux 6.0 added our own address to it: every kernel takes it.
const TUNNEL_KEY: u32 = 28;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
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

    /// The same reason, but as a value that the verifier knows nothing of: it would check the whole making of an answer
    /// once more for each place that refuses.
    #[inline(always)]
    pub(crate) fn forget(&mut self, reason: DropReason) -> DropReason {
        // SAFETY: the context is the one the kernel passed in; what is read was just written.
        unsafe {
            let field = &raw mut (*self.skb).cb[1];
            write_volatile(field, reason as u32);
            core::mem::transmute::<u32, DropReason>(read_volatile(field))
        }
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

    /// Whom the tunnel of the packet came from, if it is one of this family.
    #[inline(always)]
    fn tunnel_of(&mut self, flags: u64) -> Option<bpf_tunnel_key> {
        // SAFETY: an integer struct, all of whose bit patterns are values.
        let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
        // SAFETY: the size is below that of the struct.
        (unsafe { bpf_skb_get_tunnel_key(self.skb, &mut key, TUNNEL_KEY, flags) } == 0).then_some(key)
    }
}

/// A UDP checksum is never written as 0, which means that there is none.
#[inline(always)]
fn written(checksum: u16, udp: bool) -> u16 {
    if udp && checksum == 0 { u16::MAX } else { checksum }
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
    fn length(&self) -> u32 {
        // SAFETY: the context is the one the kernel passed in.
        unsafe { read_volatile(&raw const (*self.skb).len) }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.skb).gso_size) }
    }

    #[inline(always)]
    fn resize(&mut self, length: u32) -> Option<()> {
        // SAFETY: as above.
        (unsafe { bpf_skb_change_tail(self.skb, length, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn make_room(&mut self, bytes: u32) -> Option<()> {
        // SAFETY: as above.
        (unsafe { bpf_skb_adjust_room(self.skb, bytes as i32, BPF_ADJ_ROOM_MAC, 0) } == 0).then_some(())
    }

    /// A change outside the pseudo header is the kernel's to make only while the checksum is complete. Any two bytes
    /// serve to see whether it makes one.
    #[inline(always)]
    fn checksum_pending(&mut self) -> bool {
        let Some(before) = self.checksum(0) else { return false };
        let touched = self.replace_checksum(0, Change { from: 0, to: 1 }, 0).is_some();
        let pending = touched && self.checksum(0) == Some(before);
        // The packet is as long as it was.
        let _ = self.set_checksum(0, before);
        pending
    }

    /// The kernel alone knows whether the checksum is complete or still the device's to compute; then the field holds
    /// the sum of the pseudo header only, and the segment's words do not concern it. What the first helper made of the
    /// field tells which, and spares the second one, unless both ways lead to the same value.
    ///
    /// Of IPv6 the kernel must not be told that addresses change: it would take them off the sum of the whole packet,
    /// to which they still belong (`BPF_F_IPV6`, which says so, is of Linux 6.16). Without that flag it leaves a field
    /// alone that the device is to complete, and that is what tells.
    #[inline(always)]
    fn fix_checksum(&mut self, at: usize, addresses: Change, words: Change, checksum: Checksum) -> Option<()> {
        let before = self.checksum(at)?;
        if checksum.udp && !checksum.v6 && before == 0 {
            return Some(());
        }
        let mangled = if checksum.udp { BPF_F_MARK_MANGLED_0.into() } else { 0 };
        let complete = written(adjust(before, addresses.from, addresses.to), checksum.udp);
        let pending = if checksum.v6 { before } else { !adjust(!before, addresses.from, addresses.to) };
        if complete == pending {
            if !checksum.v6 {
                self.replace_checksum(at, addresses, mangled | u64::from(BPF_F_PSEUDO_HDR))?;
            }
            return self.replace_checksum(at, words, mangled);
        }
        let pseudo = if checksum.v6 { 0 } else { u64::from(BPF_F_PSEUDO_HDR) };
        self.replace_checksum(at, addresses, mangled | pseudo)?;
        if self.checksum(at)? == complete {
            let after = adjust(complete, words.from, words.to);
            return self.set_checksum(at, written(after, checksum.udp));
        }
        if checksum.v6 {
            return self.set_checksum(at, !adjust(!before, addresses.from, addresses.to));
        }
        Some(())
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.skb).ifindex) }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).ingress_ifindex }
    }

    #[inline(always)]
    fn tagged(&self) -> bool {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.skb).vlan_present) != 0 }
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
    fn note(&mut self, value: u32) {
        // SAFETY: as above.
        unsafe { write_volatile(&raw mut (*self.skb).cb[0], value) };
    }

    #[inline(always)]
    fn noted(&self) -> u32 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.skb).cb[0]) }
    }

    #[inline(always)]
    fn tunnel(&mut self) -> Option<Tunnel> {
        // SAFETY: both fields of the union are plain integers, and the helper filled the one of its family.
        unsafe {
            if let Some(key) = self.tunnel_of(0) {
                let remote = v4_mapped(key.__bindgen_anon_1.remote_ipv4.to_be_bytes());
                return Some(Tunnel { vni: key.tunnel_id, remote });
            }
            let key = self.tunnel_of(BPF_F_TUNINFO_IPV6.into())?;
            Some(Tunnel { vni: key.tunnel_id, remote: from_words(key.__bindgen_anon_1.remote_ipv6) })
        }
    }

    /// The outer UDP checksum is left out over IPv4, where that is allowed (RFC 7348).
    ///
    /// The tunnel begins at the node's own address, by which its peers know it; left alone, the kernel may choose any
    /// other of the device. Before Linux 6.0 it cannot be told, and refuses the longer key.
    #[inline(always)]
    fn set_tunnel(&mut self, vni: u32, remote: &Address) -> Option<()> {
        // SAFETY: an integer struct, all of whose bit patterns are values.
        let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
        key.tunnel_id = vni;
        key.tunnel_ttl = TUNNEL_TTL;
        let flags = if is_v4(remote) {
            key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(v4_of(remote));
            key.__bindgen_anon_3.local_ipv4 = u32::from_be_bytes(config().node_v4);
            BPF_F_ZERO_CSUM_TX
        } else {
            key.__bindgen_anon_1.remote_ipv6 = address_words(remote);
            key.__bindgen_anon_3.local_ipv6 = address_words(&config().node_v6);
            BPF_F_TUNINFO_IPV6
        };
        // SAFETY: the sizes are that of the struct, or below it.
        unsafe {
            if bpf_skb_set_tunnel_key(self.skb, &mut key, size_of::<bpf_tunnel_key>() as u32, flags.into()) == 0 {
                return Some(());
            }
            (bpf_skb_set_tunnel_key(self.skb, &mut key, TUNNEL_KEY, flags.into()) == 0).then_some(())
        }
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
    fn redirect_routed(&mut self, ifindex: u32) {
        // SAFETY: without a next hop the kernel looks the destination up in its routes.
        unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) };
    }

    #[inline(always)]
    fn redirect_neighbour(&mut self, ifindex: u32, next_hop: &Address, v6: bool) {
        // SAFETY: an integer struct, all of whose bit patterns are values.
        let mut target: bpf_redir_neigh = unsafe { core::mem::zeroed() };
        if v6 {
            target.nh_family = AF_INET6;
            target.__bindgen_anon_1.ipv6_nh = address_words(next_hop);
        } else {
            target.nh_family = AF_INET;
            target.__bindgen_anon_1.ipv4_nh = u32::from_ne_bytes(v4_of(next_hop));
        }
        // SAFETY: the size is that of the struct; as above.
        unsafe { bpf_redirect_neigh(ifindex, &mut target, size_of::<bpf_redir_neigh>() as i32, 0) };
    }

    #[inline(always)]
    fn redirect_ingress(&mut self, ifindex: u32) {
        // SAFETY: as above.
        unsafe { bpf_redirect(ifindex, BPF_F_INGRESS.into()) };
    }

    #[inline(always)]
    fn core(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_smp_processor_id() as u32 }
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
