//! The programs of the dataplane: attach points, and the one place where an outcome becomes a code of the kernel.
#![no_std]
#![no_main]
#![allow(unsafe_code, unreachable_pub)]
#![feature(asm_experimental_arch)]

#[path = "dataplane/event.rs"]
mod event;
#[path = "dataplane/maps.rs"]
mod maps;
#[path = "dataplane/skb.rs"]
mod skb;
#[path = "dataplane/sock_addr.rs"]
mod sock_addr;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::{cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use diolkos_abi::config::Config;
use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};

use maps::{Kernel, config, count};
use skb::Skb;

#[classifier]
pub fn from_container(ctx: TcContext) -> i32 {
    classify(Hook::FromContainer, ctx, diolkos_datapath::from_container)
}

#[classifier]
pub fn to_container(ctx: TcContext) -> i32 {
    classify(Hook::ToContainer, ctx, diolkos_datapath::to_container)
}

#[classifier]
pub fn from_overlay(ctx: TcContext) -> i32 {
    classify(Hook::FromOverlay, ctx, diolkos_datapath::from_overlay)
}

#[classifier]
pub fn to_overlay(ctx: TcContext) -> i32 {
    classify(Hook::ToOverlay, ctx, diolkos_datapath::to_overlay)
}

#[classifier]
pub fn from_netdev(ctx: TcContext) -> i32 {
    classify(Hook::FromNetdev, ctx, diolkos_datapath::from_netdev)
}

#[classifier]
pub fn to_netdev(ctx: TcContext) -> i32 {
    classify(Hook::ToNetdev, ctx, diolkos_datapath::to_netdev)
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    sock_addr::run::<false>(Hook::Connect, ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    sock_addr::run::<true>(Hook::Connect, ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sock_addr::run::<false>(Hook::SendMsg, ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sock_addr::run::<true>(Hook::SendMsg, ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    sock_addr::run::<false>(Hook::RecvMsg, ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    sock_addr::run::<true>(Hook::RecvMsg, ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    sock_addr::run::<false>(Hook::GetPeerName, ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    sock_addr::run::<true>(Hook::GetPeerName, ctx)
}

/// Runs a packet hook, counts the outcome, and tells the kernel.
#[inline(always)]
fn classify(
    hook: Hook,
    ctx: TcContext,
    run: impl FnOnce(&Config, &mut Skb, &mut Kernel) -> Result<Verdict, DropReason>,
) -> i32 {
    let skb = ctx.skb.skb;
    match run(config(), &mut Skb::new(skb), &mut Kernel::of_packet()) {
        Ok(verdict) => {
            let index = verdict_index(hook, verdict);
            count(index);
            if event::flow_is_watched() {
                event::tell_packet(skb, index);
            }
            match verdict {
                // The next program of the chain, then the host's stack or the device.
                Verdict::Untouched
                | Verdict::Stack
                | Verdict::Encapsulated
                | Verdict::Translated
                | Verdict::Masqueraded => TC_ACT_UNSPEC,
                Verdict::Pod | Verdict::Overlay | Verdict::Neighbour | Verdict::Answered => TC_ACT_REDIRECT as i32,
            }
        }
        Err(reason) => refuse(hook, reason, skb),
    }
}

/// Counts a refusal, and answers the packet where its sender is to be told.
#[inline(always)]
fn refuse(hook: Hook, reason: DropReason, skb: *mut __sk_buff) -> i32 {
    let index = drop_index(hook, reason);
    count(index);
    if event::drops_are_watched() {
        event::tell_packet(skb, index);
    }
    let mut packet = Skb::new(skb);
    let reason = packet.forget(reason);
    let answer = diolkos_datapath::answer(hook, reason, config(), &mut packet, &mut Kernel::of_packet());
    let Some(verdict) = answer else { return TC_ACT_SHOT as i32 };
    let index = verdict_index(hook, verdict);
    count(index);
    if event::drops_are_watched() {
        event::tell_packet(skb, index);
    }
    TC_ACT_REDIRECT as i32
}

/// Both licences of the source, in the form the kernel knows.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
