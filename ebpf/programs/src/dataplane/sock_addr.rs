//! The socket hooks' context and codes.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::bpf_set_retval;
use aya_ebpf::programs::SockAddrContext;
use diolkos_abi::config::{Config, features};
use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};
use diolkos_datapath::Peer;

use crate::maps::{Kernel, config, count};

/// The system call goes on.
const ALLOW: i32 = 1;
/// The system call fails, with EPERM unless `bpf_set_retval` said otherwise.
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// Runs a socket hook, counts the outcome, and tells the kernel.
#[inline(always)]
pub(crate) fn run(
    hook: Hook,
    ctx: SockAddrContext,
    run: impl FnOnce(&Config, &mut Peer, &mut Kernel) -> Result<Verdict, DropReason>,
) -> i32 {
    let sock_addr = ctx.sock_addr;
    // SAFETY: the context is the one the kernel passed in; its fields are read one whole word at a time.
    let mut peer = unsafe {
        let port = read_volatile(&raw const (*sock_addr).user_port) as u16;
        Peer {
            address: read_volatile(&raw const (*sock_addr).user_ip4).to_ne_bytes(),
            port: port.to_ne_bytes(),
            protocol: read_volatile(&raw const (*sock_addr).protocol) as u8,
        }
    };
    match run(config(), &mut peer, &mut Kernel::of_socket(ctx)) {
        Ok(verdict) => {
            count(verdict_index(hook, verdict));
            if verdict == Verdict::Translated {
                // SAFETY: as above; ports stand in the low half of their word, in network order.
                unsafe {
                    write_volatile(&raw mut (*sock_addr).user_ip4, u32::from_ne_bytes(peer.address));
                    write_volatile(&raw mut (*sock_addr).user_port, u16::from_ne_bytes(peer.port).into());
                }
            }
            ALLOW
        }
        Err(reason) => {
            count(drop_index(hook, reason));
            refuse(hook)
        }
    }
}

/// Fails connect() with ECONNREFUSED where the kernel can say so. getpeername() never fails.
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
