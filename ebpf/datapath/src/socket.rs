//! The hooks of system calls: a connection to a service becomes one to its backend before a packet exists.

use diolkos_abi::address::{Address, protocol, v4_mapped, v4_of};
use diolkos_abi::config::{Config, features};
use diolkos_abi::conntrack::{SocketFlow, backend_word};
use diolkos_abi::counter::{DropReason, Verdict};
use diolkos_abi::pod::{Netns, netns_flags};
use diolkos_abi::service::{FrontendKey, scope};

use crate::affinity;
use crate::balance::{Candidates, Choice};
use crate::lookup;
use crate::tables::Tables;

/// The other end of a socket, as a system call names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: [u8; 4],
    pub port: [u8; 2],
    /// [`diolkos_abi::address::protocol`] of the socket.
    pub protocol: u8,
}

/// A socket connects (cgroup connect4). The peer is changed when the verdict is [`Verdict::Translated`].
#[inline(always)]
pub fn connect4<T: Tables>(config: &Config, peer: &mut Peer, tables: &mut T) -> Result<Verdict, DropReason> {
    if peer.protocol != protocol::TCP {
        return Ok(Verdict::Untouched);
    }
    let key = FrontendKey::new(v4_mapped(peer.address), peer.port, protocol::TCP, scope::CLUSTER);
    let service = lookup::service(tables, &key);
    let netns = if service.is_some() { lookup::netns(tables).unwrap_or_default() } else { Netns::default() };
    let service = match service {
        Some(service) if !opted_out(&netns) => service,
        _ => {
            // The same socket may have been connected to a service before.
            tables.forget_socket();
            return Ok(Verdict::Untouched);
        }
    };
    match choose(tables, &key, service, client(config, &netns)) {
        Ok((address, port)) => {
            peer.address = address;
            peer.port = port;
            Ok(Verdict::Translated)
        }
        Err(reason) => {
            tables.forget_socket();
            // A kernel that can only say EPERM leaves the refusal to the packet path.
            if config.features & features::SET_RETVAL == 0 { Ok(Verdict::Untouched) } else { Err(reason) }
        }
    }
}

/// A program asks whom its socket is connected to (cgroup getpeername4): the address it dialled.
#[inline(always)]
pub fn getpeername4<T: Tables>(_config: &Config, peer: &mut Peer, tables: &mut T) -> Result<Verdict, DropReason> {
    match tables.socket() {
        Some(flow) if flow.protocol == peer.protocol => {
            peer.address = v4_of(&flow.address);
            peer.port = flow.port;
            Ok(Verdict::Translated)
        }
        _ => Ok(Verdict::Untouched),
    }
}

/// A backend's address and port, remembered in the socket.
#[inline(always)]
fn choose<T: Tables>(
    tables: &mut T,
    key: &FrontendKey,
    service: u32,
    client: Address,
) -> Result<([u8; 4], [u8; 2]), DropReason> {
    let choice = backend(tables, service, &client)?;
    let flow = SocketFlow {
        address: key.address,
        backend_address: v4_mapped(choice.address),
        backend: backend_word(choice.id, choice.generation),
        service,
        port: key.port,
        backend_port: choice.port,
        protocol: key.protocol,
        pad: [0; 7],
    };
    tables.remember_socket(&flow).ok_or(DropReason::RewriteFailed)?;
    Ok((choice.address, choice.port))
}

/// The backend the client keeps, or any one.
#[inline(always)]
fn backend<T: Tables>(tables: &mut T, service: u32, client: &Address) -> Result<Choice, DropReason> {
    let lifetime = tables.affinity_lifetime(service);
    let keeps = lifetime != 0 && *client != [0; 16];
    if keeps && let Some(choice) = affinity::preferred(tables, service, lifetime, client) {
        affinity::remember(tables, service, client, &choice);
        return Ok(choice);
    }
    let hash = tables.random();
    let choice = Candidates::of(tables, service, hash)?.next(tables)?.ok_or(DropReason::NoEndpoints)?;
    if keeps {
        affinity::remember(tables, service, client, &choice);
    }
    Ok(choice)
}

/// The pod of the socket wants its services translated on the packet path only.
#[inline(always)]
fn opted_out(netns: &Netns) -> bool {
    netns.flags & netns_flags::OPT_OUT != 0
}

/// The address under which the packet path knows the socket's packets; zero when its namespace is not known.
#[inline(always)]
fn client(config: &Config, netns: &Netns) -> Address {
    let v4 = if netns.flags & netns_flags::HOST != 0 { config.node_v4 } else { netns.v4 };
    if v4 == [0; 4] { [0; 16] } else { v4_mapped(v4) }
}
