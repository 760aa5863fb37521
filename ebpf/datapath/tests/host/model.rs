//! The model of a packet and of the maps: what the kernel gives, without a kernel.

use std::collections::HashMap;

use diolkos_abi::conntrack::{ConnectedUdp, Flow, Peer, PeerKey, SocketFlow, Tuple};
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, SOURCES, Source, cookie_tag};
use diolkos_abi::service::{Affinity, AffinityKey, BACKENDS, Backend, FrontendKey, MemberKey, SERVICES, SLOTS};
use diolkos_datapath::{Address, Change, Insert, InsertError, Packet, Tables};

use crate::scenarios::world::{NOW, World};
use crate::scenarios::{Fault, Input, Redirect};

/// The network namespace of every socket.
const COOKIE: u64 = 5;

/// A packet of which at first only some bytes can be reached, as with a socket buffer in pieces.
pub struct ModelPacket {
    pub bytes: Vec<u8>,
    linear: usize,
    ingress_ifindex: u32,
    pub mark: u32,
    vni: Option<u32>,
    pub tunnel: Option<(u32, [u8; 4])>,
    pub redirect: Option<Redirect>,
    fault: Option<Fault>,
}

impl ModelPacket {
    pub fn new(input: &Input, linear: usize, fault: Option<Fault>) -> Self {
        Self {
            bytes: input.bytes.clone(),
            linear: linear.min(input.bytes.len()),
            ingress_ifindex: input.ingress_ifindex,
            mark: input.mark,
            vni: input.vni,
            tunnel: None,
            redirect: None,
            fault,
        }
    }
}

impl Packet for ModelPacket {
    fn pull(&mut self, length: usize) {
        self.linear = self.linear.max(length.min(self.bytes.len()));
    }

    fn load<const W: usize>(&self, at: usize) -> Option<[u32; W]> {
        let bytes = self.bytes[..self.linear].get(at..at + W * 4)?;
        let mut words = [0; W];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        Some(words)
    }

    fn store<const W: usize>(&mut self, at: usize, words: [u32; W]) -> Option<()> {
        let bytes = self.bytes[..self.linear].get_mut(at..at + W * 4)?;
        for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Some(())
    }

    /// As the kernel does it for a packet whose checksum is complete: the new words are added, the old ones taken off.
    fn fix_checksum(&mut self, at: usize, address: Change, ports: Change) -> Option<()> {
        if self.fault == Some(Fault::Checksum) {
            return None;
        }
        let field = self.bytes.get_mut(at..at + 2)?;
        let mut sum = u64::from(!u16::from_be_bytes([field[0], field[1]]));
        for Change { from, to } in [address, ports] {
            for pair in to.to_ne_bytes().chunks_exact(2) {
                sum += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
            }
            for pair in from.to_ne_bytes().chunks_exact(2) {
                sum += u64::from(!u16::from_be_bytes([pair[0], pair[1]]));
            }
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        field.copy_from_slice(&(!(sum as u16)).to_be_bytes());
        Some(())
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ingress_ifindex
    }

    fn mark(&self) -> u32 {
        self.mark
    }

    fn set_mark(&mut self, mark: u32) {
        self.mark = mark;
    }

    fn tunnel_vni(&mut self) -> Option<u32> {
        self.vni
    }

    fn set_tunnel(&mut self, vni: u32, remote: [u8; 4]) -> Option<()> {
        if self.fault == Some(Fault::Tunnel) {
            return None;
        }
        self.tunnel = Some((vni, remote));
        Some(())
    }

    fn redirect_to_pod(&mut self, ifindex: u32) {
        self.redirect = Some(Redirect::Pod(ifindex));
    }

    fn redirect(&mut self, ifindex: u32) {
        self.redirect = Some(Redirect::Device(ifindex));
    }

    fn accept(&mut self) {}
}

/// The maps of a [`World`].
pub struct ModelTables {
    pub world: World,
    pub flows: HashMap<Tuple, Flow>,
    pub socket: Option<SocketFlow>,
    pub socket_cookie: u64,
    pub affinities: HashMap<AffinityKey, Affinity>,
    pub peers: HashMap<PeerKey, Peer>,
    /// UDP sockets connected to a backend.
    pub udp: HashMap<u64, ConnectedUdp>,
    /// The clock.
    pub now: u32,
    random: u32,
    /// What the programs remember of devices.
    pub sources: HashMap<u32, Source>,
    fault: Option<Fault>,
    /// Answer the first lookup of each element with another key's value, as a reader meets it whose element the
    /// kernel reuses at that moment.
    stumbling: bool,
    stumbled: bool,
}

impl ModelTables {
    pub fn new(world: &World, fault: Option<Fault>, stumbling: bool) -> Self {
        let flows = world.flows.iter().copied().collect();
        Self {
            world: world.clone(),
            flows,
            socket: None,
            socket_cookie: 1,
            affinities: HashMap::new(),
            peers: HashMap::new(),
            udp: HashMap::new(),
            now: NOW,
            random: 0,
            sources: HashMap::new(),
            fault,
            stumbling,
            stumbled: false,
        }
    }

    /// True every other time it is asked, beginning with the first.
    fn stumbles(&mut self) -> bool {
        self.stumbled = self.stumbling && !self.stumbled;
        self.stumbled
    }
}

fn find<K: PartialEq, V: Copy>(list: &[(K, V)], key: &K) -> Option<V> {
    list.iter().find(|(known, _)| known == key).map(|(_, value)| *value)
}

/// An array's element: zeroes where nothing was written, nothing outside.
fn element<V: Copy + Default>(list: &[(u32, V)], index: u32, length: u32) -> Option<V> {
    (index < length).then(|| find(list, &index).unwrap_or_default())
}

impl Tables for ModelTables {
    fn frontend(&mut self, key: &FrontendKey) -> Option<u64> {
        let word = find(&self.world.frontends, key)?;
        Some(if self.stumbles() { word ^ (1 << 40) ^ 1 } else { word })
    }

    fn affinity_lifetime(&mut self, service: u32) -> u32 {
        element(&self.world.services, service, SERVICES).map_or(0, |service| service.affinity)
    }

    fn affinity(&mut self, key: &AffinityKey) -> Option<Affinity> {
        let affinity = *self.affinities.get(key)?;
        Some(if self.stumbles() { Affinity { tag: affinity.tag ^ 1, backend: u64::MAX, ..affinity } } else { affinity })
    }

    fn remember_affinity(&mut self, key: &AffinityKey, affinity: &Affinity) {
        self.affinities.insert(*key, *affinity);
    }

    fn member(&mut self, key: &MemberKey) -> Option<u64> {
        let word = find(&self.world.members, key)?;
        Some(if self.stumbles() { word ^ (1 << 40) ^ 1 } else { word })
    }

    fn row(&mut self, service: u32) -> Option<u64> {
        element(&self.world.services, service, SERVICES).map(|service| service.row)
    }

    fn slot(&mut self, index: u32) -> Option<u32> {
        element(&self.world.slots, index, SLOTS)
    }

    fn backend(&mut self, id: u32) -> Option<Backend> {
        element(&self.world.backends, id, BACKENDS)
    }

    fn flow(&mut self, key: &Tuple, tag: u32, flags: u16) -> Option<Flow> {
        let stumbles = self.flows.contains_key(key) && self.stumbles();
        let flow = self.flows.get_mut(key)?;
        if stumbles {
            return Some(Flow { tag: flow.tag ^ 1, backend: u64::MAX, source: [7; 16], ..*flow });
        }
        let seen = flow.seen;
        if flow.tag == tag {
            flow.seen = self.now;
            flow.flags |= flags;
        }
        Some(Flow { seen, ..*flow })
    }

    fn insert_flow(&mut self, key: &Tuple, flow: &Flow, insert: Insert) -> Result<(), InsertError> {
        if self.fault == Some(Fault::ConntrackFull) {
            return Err(InsertError::Full);
        }
        if insert == Insert::IfAbsent && self.flows.contains_key(key) {
            return Err(InsertError::Exists);
        }
        self.flows.insert(*key, *flow);
        Ok(())
    }

    fn remove_flow(&mut self, key: &Tuple) {
        self.flows.remove(key);
    }

    fn now(&mut self) -> u32 {
        self.now
    }

    fn endpoint(&mut self, address: &Address) -> Option<Endpoint> {
        let endpoint = find(&self.world.endpoints, address)?;
        Some(if self.stumbles() { Endpoint { tag: endpoint.tag ^ 1, ifindex: 0, ..endpoint } } else { endpoint })
    }

    fn source(&mut self, ifindex: u32) -> Option<Source> {
        self.sources.get(&(ifindex % SOURCES)).copied().or(Some(Source::default()))
    }

    fn remember_source(&mut self, source: &Source) {
        self.sources.insert(source.ifindex % SOURCES, *source);
    }

    fn route(&mut self, key: &RouteKey) -> Option<Route> {
        let route = find(&self.world.routes, key)?;
        Some(if self.stumbles() { Route { tag: route.tag ^ 1, node: 1, ..route } } else { route })
    }

    fn node(&mut self, id: u32) -> Option<Node> {
        element(&self.world.nodes, id, diolkos_abi::pod::NODES)
    }

    fn netns_cookie(&mut self) -> u64 {
        COOKIE
    }

    fn netns(&mut self, cookie: u64) -> Option<Netns> {
        let netns = Netns { tag: cookie_tag(cookie), ..self.world.netns? };
        Some(if self.stumbles() { Netns { tag: netns.tag ^ 1, flags: !netns.flags, ..netns } } else { netns })
    }

    fn socket(&mut self) -> Option<SocketFlow> {
        self.socket
    }

    fn remember_socket(&mut self, flow: &SocketFlow) -> Option<()> {
        self.socket = Some(*flow);
        Some(())
    }

    fn forget_socket(&mut self) {
        self.socket = None;
    }

    fn socket_cookie(&mut self) -> u64 {
        self.socket_cookie
    }

    fn peer(&mut self, key: &PeerKey) -> Option<Peer> {
        let peer = *self.peers.get(key)?;
        Some(if self.stumbles() { Peer { tag: peer.tag ^ 1, address: [7; 16], ..peer } } else { peer })
    }

    fn remember_peer(&mut self, key: &PeerKey, peer: &Peer) -> Option<()> {
        self.peers.insert(*key, *peer);
        Some(())
    }

    fn remember_udp(&mut self, cookie: u64, udp: &ConnectedUdp) {
        self.udp.insert(cookie, *udp);
    }

    fn forget_udp(&mut self, cookie: u64) {
        self.udp.remove(&cookie);
    }

    fn random(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(0x9e37_79b9).wrapping_add(0x9e37_79b9);
        self.random
    }
}
