//! The hooks of system calls: a connection to a service becomes one to its backend before a packet exists.
//!
//! One source for both families: a peer's address has the form of the maps, in which IPv4 is v4-mapped. So an IPv6
//! socket that dials `::ffff:a.b.c.d` reaches the IPv4 service, and its backend in the same form.

mod datagram;

use diolkos_abi::address::{Address, address_words, from_words, is_v4, protocol, v4_mapped};
use diolkos_abi::config::{Config, features};
use diolkos_abi::conntrack::{ConnectedUdp, SocketFlow, backend_word};
use diolkos_abi::counter::{DropReason, Verdict};
use diolkos_abi::pod::{Netns, netns_flags};
use diolkos_abi::service::{FrontendKey, scope};

use crate::affinity;
use crate::balance::{Candidates, Choice};
use crate::lookup;
use crate::tables::Tables;

pub use datagram::{recvmsg, sendmsg};

/// The other end of a socket, as a system call names it. Aligned, so that its address is compared by words.
#[repr(align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// In its v4-mapped form for IPv4.
    pub address: Address,
    pub port: [u8; 2],
    /// [`diolkos_abi::address::protocol`] of the socket.
    pub protocol: u8,
}

/// A socket connects (cgroup connect4, connect6). The peer is changed when the verdict is [`Verdict::Translated`].
#[inline(always)]
pub fn connect<T: Tables>(config: &Config, peer: &mut Peer, tables: &mut T) -> Result<Verdict, DropReason> {
    if peer.protocol != protocol::TCP && peer.protocol != protocol::UDP {
        return Ok(Verdict::Untouched);
    }
    let before = tables.socket();
    let recorded = before.as_ref().map_or(0, |flow| if flow.recorded != 0 { flow.backend } else { 0 });
    let is_known = before.is_some();
    match choose(config, peer, is_known, tables) {
        Ok(Some(flow)) => {
            let is_udp = flow.protocol == protocol::UDP;
            tables.remember_socket(&SocketFlow { recorded: is_udp.into(), ..flow }).ok_or(DropReason::RewriteFailed)?;
            if is_udp && recorded != flow.backend {
                let (cookie, netns) = (tables.socket_cookie(), tables.netns_cookie());
                tables.remember_udp(&ConnectedUdp::new(cookie, flow.backend, netns));
            }
            peer.reach(&flow);
            Ok(Verdict::Translated)
        }
        // The same socket may have been connected to a service before.
        outcome => {
            if recorded != 0 {
                let cookie = tables.socket_cookie();
                tables.forget_udp(cookie);
            }
            if is_known {
                tables.forget_socket();
            }
            outcome.map(|_| Verdict::Untouched)
        }
    }
}

/// A program asks whom its socket is connected to (cgroup getpeername4, getpeername6): the address it dialled.
#[inline(always)]
pub fn getpeername<T: Tables>(_config: &Config, peer: &mut Peer, tables: &mut T) -> Result<Verdict, DropReason> {
    match tables.socket() {
        Some(flow) if peer.is_backend_of(&flow) => {
            peer.pretend(&flow);
            Ok(Verdict::Translated)
        }
        _ => Ok(Verdict::Untouched),
    }
}

impl Peer {
    /// Becomes the backend.
    #[inline(always)]
    fn reach(&mut self, flow: &SocketFlow) {
        self.address = flow.backend_address;
        self.port = flow.backend_port;
    }

    /// Becomes what was dialled.
    #[inline(always)]
    fn pretend(&mut self, flow: &SocketFlow) {
        self.address = flow.address;
        self.port = flow.port;
    }

    #[inline(always)]
    fn is_backend_of(&self, flow: &SocketFlow) -> bool {
        self.protocol == flow.protocol && self.port == flow.backend_port && same(&self.address, &flow.backend_address)
    }

    #[inline(always)]
    fn is_dialled_of(&self, flow: &SocketFlow) -> bool {
        self.protocol == flow.protocol && self.port == flow.port && same(&self.address, &flow.address)
    }
}

/// A backend for what is dialled, `None` when that is none of ours. A kernel that can only say EPERM leaves refusing to
/// the packet path, and so does a pod that opted out; not that of a socket that is known, which was translated before.
/// Of UDP an unknown port is left to the packet path, too: a server may answer a client there that has met it under the
/// service's address, as it meets itself or a process of its node, and the entry of that flow is known there.
#[inline(always)]
fn choose<T: Tables>(
    config: &Config,
    peer: &Peer,
    is_known: bool,
    tables: &mut T,
) -> Result<Option<SocketFlow>, DropReason> {
    let key = FrontendKey::new(peer.address, peer.port, peer.protocol, scope::CLUSTER);
    // 0 for none: a gap in an `Option` would leave a register without a value, which the verifier minds.
    let service = lookup::service(tables, &key).unwrap_or_default();
    let is_udp = peer.protocol == protocol::UDP;
    if service == 0 && (is_udp || !lookup::is_service_address(config, tables, &peer.address)) {
        return Ok(None);
    }
    let lifetime = tables.affinity_lifetime(service);
    let netns = if is_known && lifetime == 0 { Netns::default() } else { lookup::netns(tables).unwrap_or_default() };
    if netns.flags & netns_flags::OPT_OUT != 0 {
        return Ok(None);
    }
    let choice = match service {
        1.. => {
            let client = client(config, &netns, &peer.address);
            backend(tables, service, lifetime, &client).map(|choice| flow(peer, service, &choice))
        }
        0 => Err(DropReason::UnknownPort),
    };
    match choice {
        Ok(flow) if is_v4(&flow.backend_address) == is_v4(&flow.address) => Ok(Some(flow)),
        Ok(_) => Err(DropReason::BadBackend),
        Err(_) if config.features & features::SET_RETVAL == 0 => Ok(None),
        Err(reason) => Err(reason),
    }
}

/// The backend the client keeps, or any one.
#[inline(always)]
fn backend<T: Tables>(tables: &mut T, service: u32, lifetime: u32, client: &Address) -> Result<Choice, DropReason> {
    let keeps = lifetime != 0 && *client != [0; 16];
    if keeps && let Some(choice) = affinity::preferred(tables, service, lifetime, client) {
        affinity::remember(tables, service, client, backend_word(choice.id, choice.generation));
        return Ok(choice);
    }
    let hash = tables.random();
    let choice = Candidates::of(tables, service, hash)?.next(tables)?.ok_or(DropReason::NoEndpoints)?;
    if keeps {
        affinity::remember(tables, service, client, backend_word(choice.id, choice.generation));
    }
    Ok(choice)
}

#[inline(always)]
fn flow(dialled: &Peer, service: u32, choice: &Choice) -> SocketFlow {
    SocketFlow {
        address: dialled.address,
        backend_address: from_words(choice.address),
        backend: backend_word(choice.id, choice.generation),
        service,
        port: dialled.port,
        backend_port: choice.port,
        protocol: dialled.protocol,
        more: 0,
        recorded: 0,
        direct: 0,
        pad: [0; 4],
    }
}

/// The address under which the packet path knows what the socket sends to `dialled`; zero when its namespace is not
/// known.
#[inline(always)]
fn client(config: &Config, netns: &Netns, dialled: &Address) -> Address {
    let host = netns.flags & netns_flags::HOST != 0;
    if !is_v4(dialled) {
        return if host { config.node_v6 } else { netns.v6 };
    }
    let v4 = if host { config.node_v4 } else { netns.v4 };
    if v4 == [0; 4] { [0; 16] } else { v4_mapped(v4) }
}

/// Compared by words: the compiler does not join bytes.
#[inline(always)]
fn same(a: &Address, b: &Address) -> bool {
    address_words(a) == address_words(b)
}
