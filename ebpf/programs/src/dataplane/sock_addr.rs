//! The socket hooks' context and codes.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_set_retval;
use aya_ebpf::programs::SockAddrContext;
use diolkos_abi::address::{address_words, from_words, v4_mapped};
use diolkos_abi::config::{Config, features};
use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};
use diolkos_datapath::Peer;

use crate::event;
use crate::maps::{Kernel, config, count};

/// The system call goes on.
const ALLOW: i32 = 1;
/// The system call fails, with EPERM unless `bpf_set_retval` said otherwise.
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// Runs a socket hook, counts the outcome, and tells the kernel. `V6` is the family of the hook, and of the socket but
/// for one thing: an IPv6 socket may send to a v4-mapped address, and then meets the IPv4 hook of sendmsg.
#[inline(always)]
pub(crate) fn run<const V6: bool>(hook: Hook, ctx: SockAddrContext) -> i32 {
    let sock_addr = ctx.sock_addr;
    let mut peer = read::<V6>(sock_addr);
    match decide(hook, config(), &mut peer, &mut Kernel::of_socket(ctx)) {
        Ok(verdict) => {
            let index = verdict_index(hook, verdict);
            count(index);
            if event::flow_is_watched() {
                event::tell_call(&peer, index);
            }
            if verdict == Verdict::Translated {
                write::<V6>(sock_addr, &peer);
            }
            ALLOW
        }
        Err(reason) => {
            let index = drop_index(hook, reason);
            count(index);
            if event::drops_are_watched() {
                event::tell_call(&peer, index);
            }
            refuse(hook)
        }
    }
}

/// Calls the hook by its name: a function passed as a value would become a subprogram, which the verifier may refuse
/// for what it leaves in a register.
#[inline(always)]
fn decide(hook: Hook, config: &Config, peer: &mut Peer, tables: &mut Kernel) -> Result<Verdict, DropReason> {
    match hook {
        Hook::Connect => diolkos_datapath::connect(config, peer, tables),
        Hook::SendMsg => diolkos_datapath::sendmsg(config, peer, tables),
        Hook::RecvMsg => diolkos_datapath::recvmsg(config, peer, tables),
        Hook::GetPeerName => diolkos_datapath::getpeername(config, peer, tables),
        Hook::FromContainer
        | Hook::ToContainer
        | Hook::FromOverlay
        | Hook::ToOverlay
        | Hook::FromNetdev
        | Hook::ToNetdev => Ok(Verdict::Untouched),
    }
}

/// The other end, as the system call names it. Ports stand in the low half of their word, in network order.
#[inline(always)]
fn read<const V6: bool>(sock_addr: *const bpf_sock_addr) -> Peer {
    // SAFETY: the context is the one the kernel passed in; its fields are read one whole word at a time.
    unsafe {
        let address = if V6 {
            let words = &raw const (*sock_addr).user_ip6;
            let word = |at| read_volatile(words.cast::<u32>().add(at));
            from_words([word(0), word(1), word(2), word(3)])
        } else {
            v4_mapped(read_volatile(&raw const (*sock_addr).user_ip4).to_ne_bytes())
        };
        let port = read_volatile(&raw const (*sock_addr).user_port) as u16;
        let protocol = read_volatile(&raw const (*sock_addr).protocol) as u8;
        Peer { address, port: port.to_ne_bytes(), protocol }
    }
}

#[inline(always)]
fn write<const V6: bool>(sock_addr: *mut bpf_sock_addr, peer: &Peer) {
    let words = address_words(&peer.address);
    // SAFETY: as for `read`.
    unsafe {
        if V6 {
            let field = (&raw mut (*sock_addr).user_ip6).cast::<u32>();
            write_volatile(field, words[0]);
            write_volatile(field.add(1), words[1]);
            write_volatile(field.add(2), words[2]);
            write_volatile(field.add(3), words[3]);
        } else {
            write_volatile(&raw mut (*sock_addr).user_ip4, words[3]);
        }
        write_volatile(&raw mut (*sock_addr).user_port, u16::from_ne_bytes(peer.port).into());
    }
}

/// Fails connect() and sendmsg() with ECONNREFUSED where the kernel can say so. The others never fail.
#[inline(always)]
fn refuse(hook: Hook) -> i32 {
    match hook {
        Hook::Connect | Hook::SendMsg => {
            if config().features & features::SET_RETVAL != 0 {
                // SAFETY: a helper that takes an integer.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
            }
            REFUSE
        }
        Hook::GetPeerName
        | Hook::RecvMsg
        | Hook::FromContainer
        | Hook::ToContainer
        | Hook::FromOverlay
        | Hook::ToOverlay
        | Hook::FromNetdev
        | Hook::ToNetdev => ALLOW,
    }
}
