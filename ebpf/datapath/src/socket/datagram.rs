//! Datagrams of sockets that name their destination with each: most talk to one service, which then stands in the
//! socket's storage. Each service keeps its backend as conntrack would keep it, and answers carry the address dialled.

use diolkos_abi::address::{Address, protocol};
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{self, PeerKey, SocketFlow, peer_side};
use diolkos_abi::counter::{DropReason, Verdict};
use diolkos_abi::service::RETIRED_ROW;

use super::{Peer, choose, same};
use crate::tables::Tables;
use crate::{balance, lookup};

/// A datagram is sent (cgroup sendmsg4, sendmsg6). The peer is changed when the verdict is [`Verdict::Translated`].
#[inline(always)]
pub fn sendmsg<T: Tables>(config: &Config, peer: &mut Peer, tables: &mut T) -> Result<Verdict, DropReason> {
    if peer.protocol != protocol::UDP {
        return Ok(Verdict::Untouched);
    }
    let first = tables.socket();
    match &first {
        Some(flow) if lasts(tables, flow.backend, flow.service) => {
            if peer.is_dialled_of(flow) {
                if flow.direct != 0 {
                    tables.remember_socket(&SocketFlow { direct: 0, ..*flow }).ok_or(DropReason::RewriteFailed)?;
                }
                peer.reach(flow);
                return Ok(Verdict::Translated);
            }
            let known = if flow.more == 0 { None } else { further(peer, tables) };
            let next = match known {
                Some(known) => known,
                None => match choose(config, peer, true, tables)? {
                    Some(next) => next,
                    None => {
                        ask_directly(peer, flow, tables);
                        return Ok(Verdict::Untouched);
                    }
                },
            };
            remember_next(flow, &next, tables).ok_or(DropReason::RewriteFailed)?;
            peer.reach(&next);
        }
        _ => {
            let is_known = first.is_some();
            let Some(next) = choose(config, peer, is_known, tables)? else {
                if let Some(flow) = &first {
                    ask_directly(peer, flow, tables);
                }
                return Ok(Verdict::Untouched);
            };
            let more = first.map_or(0, |flow| flow.more);
            tables.remember_socket(&SocketFlow { more, ..next }).ok_or(DropReason::RewriteFailed)?;
            peer.reach(&next);
        }
    }
    Ok(Verdict::Translated)
}

/// A datagram was received (cgroup recvmsg4, recvmsg6): its source becomes what was dialled to reach it.
#[inline(always)]
pub fn recvmsg<T: Tables>(_config: &Config, peer: &mut Peer, tables: &mut T) -> Result<Verdict, DropReason> {
    let Some(flow) = tables.socket() else { return Ok(Verdict::Untouched) };
    if peer.is_backend_of(&flow) {
        if flow.direct != 0 {
            return Ok(Verdict::Untouched);
        }
        peer.pretend(&flow);
        return Ok(Verdict::Translated);
    }
    if flow.more == 0 {
        return Ok(Verdict::Untouched);
    }
    let key = key(peer, peer_side::BACKEND, tables);
    let Some(dialled) = lookup::peer(tables, &key) else { return Ok(Verdict::Untouched) };
    if dialled.service == 0 {
        return Ok(Verdict::Untouched);
    }
    peer.address = dialled.address;
    peer.port = dialled.port;
    Ok(Verdict::Translated)
}

/// A socket that talks to services sends a datagram past them. When it goes to a backend of one, that is who answers, until
/// the socket asks the service again. A connected socket has one peer, which the kernel may name here once more.
#[inline(always)]
fn ask_directly<T: Tables>(peer: &Peer, first: &SocketFlow, tables: &mut T) {
    // Without room answers seem to come from the service.
    if peer.is_backend_of(first) {
        if first.recorded | first.direct == 0 {
            let _ = tables.remember_socket(&SocketFlow { direct: 1, ..*first });
        }
    } else if first.more != 0 {
        let key = key(peer, peer_side::BACKEND, tables);
        if let Some(known) = lookup::peer(tables, &key)
            && known.service != 0
        {
            let _ = tables.remember_peer(&key, &conntrack::Peer { service: 0, ..known });
        }
    }
}

/// Whether what a socket chose still serves it: the backend lives, and the service was not deleted.
#[inline(always)]
fn lasts<T: Tables>(tables: &mut T, backend: u64, service: u32) -> bool {
    balance::current(tables, backend).is_some() && tables.row(service) != Some(RETIRED_ROW)
}

/// What the socket remembers of this one of its further services.
#[inline(always)]
fn further<T: Tables>(peer: &Peer, tables: &mut T) -> Option<SocketFlow> {
    let key = key(peer, peer_side::DIALLED, tables);
    let known = lookup::peer(tables, &key)?;
    lasts(tables, known.backend, known.service).then_some(SocketFlow {
        address: peer.address,
        backend_address: known.address,
        backend: known.backend,
        service: known.service,
        port: peer.port,
        backend_port: known.port,
        protocol: peer.protocol,
        more: 1,
        recorded: 0,
        direct: 0,
        pad: [0; 4],
    })
}

/// Remembers the service that a socket talks to beside its `first` one. Of two services with one backend the socket
/// remembers the last: its answers could not be told apart.
#[inline(always)]
fn remember_next<T: Tables>(first: &SocketFlow, next: &SocketFlow, tables: &mut T) -> Option<()> {
    if next.backend == first.backend {
        return tables.remember_socket(&SocketFlow { more: first.more, ..*next });
    }
    let cookie = tables.socket_cookie();
    // The two entries are forgotten apart from each other, and without this one answers come from a stranger.
    let (address, port) = (next.backend_address, next.backend_port);
    remember_peer(cookie, peer_side::BACKEND, (address, port), (next.address, next.port), next, tables)?;
    if next.more != 0 {
        return Some(());
    }
    remember_peer(cookie, peer_side::DIALLED, (next.address, next.port), (address, port), next, tables)?;
    if first.more == 0 {
        tables.remember_socket(&SocketFlow { more: 1, ..*first })?;
    }
    Some(())
}

/// Remembers one end of a translation under the other, unless that is what stands there.
#[inline(always)]
fn remember_peer<T: Tables>(
    cookie: u64,
    side: u8,
    (address, port): (Address, [u8; 2]),
    (value, value_port): (Address, [u8; 2]),
    flow: &SocketFlow,
    tables: &mut T,
) -> Option<()> {
    let key = PeerKey { cookie, address, port, side, pad: [0; 5] };
    let tag = key.tag();
    let value = conntrack::Peer {
        backend: flow.backend,
        address: value,
        tag,
        service: flow.service,
        port: value_port,
        pad: [0; 6],
    };
    match tables.peer(&key) {
        Some(known)
            if known.tag == tag
                && known.service == value.service
                && known.backend == value.backend
                && known.port == value.port
                && same(&known.address, &value.address) =>
        {
            Some(())
        }
        _ => tables.remember_peer(&key, &value),
    }
}

#[inline(always)]
fn key<T: Tables>(peer: &Peer, side: u8, tables: &mut T) -> PeerKey {
    PeerKey { cookie: tables.socket_cookie(), address: peer.address, port: peer.port, side, pad: [0; 5] }
}
