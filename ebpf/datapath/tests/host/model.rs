//! The model of a packet and of the maps: what the kernel gives, without a kernel.

use std::collections::HashMap;

use diolkos_abi::config::Lifetimes;
use diolkos_abi::conntrack::{ConnectedUdp, Flow, Fragment, FragmentKey, Peer, PeerKey, SocketFlow, Tuple};
use diolkos_abi::event::ANSWERS_PER_TICK;
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, SOURCES, Source, cookie_tag};
use diolkos_abi::service::{Affinity, AffinityKey, BACKENDS, Backend, FrontendKey, MemberKey, SERVICES, SLOTS};
use diolkos_datapath::{Address, Change, Checksum, Insert, InsertError, Packet, Scratch, Tables, Tunnel, expired};

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
    came_through: Option<Tunnel>,
    pub tunnel: Option<(u32, Address)>,
    note: u32,
    /// The checksum is left to the device.
    pub pending: bool,
    tagged: bool,
    gso_size: u32,
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
            came_through: input.tunnel,
            tunnel: None,
            note: 0,
            pending: false,
            tagged: input.tagged,
            gso_size: input.gso_size,
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

    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn gso_size(&self) -> u32 {
        self.gso_size
    }

    fn resize(&mut self, length: u32) -> Option<()> {
        self.linear = self.linear.min(length as usize);
        self.bytes.resize(length as usize, 0);
        Some(())
    }

    fn make_room(&mut self, bytes: u32) -> Option<()> {
        self.bytes.splice(14..14, std::iter::repeat_n(0xee, bytes as usize));
        self.linear = self.bytes.len();
        Some(())
    }

    fn checksum_pending(&mut self) -> bool {
        self.pending
    }

    /// As the kernel does it for a packet whose checksum is complete: the new words are added, the old ones taken off.
    fn fix_checksum(&mut self, at: usize, addresses: Change, words: Change, checksum: Checksum) -> Option<()> {
        if self.fault == Some(Fault::Checksum) {
            return None;
        }
        let field = self.bytes.get_mut(at..at + 2)?;
        if checksum.udp && !checksum.v6 && field == [0, 0] {
            return Some(());
        }
        let mut sum = u64::from(!u16::from_be_bytes([field[0], field[1]]));
        for Change { from, to } in [addresses, words] {
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
        let sum = if checksum.udp && sum == 0xffff { 0xffff } else { !(sum as u16) };
        field.copy_from_slice(&sum.to_be_bytes());
        Some(())
    }

    fn ifindex(&self) -> u32 {
        self.ingress_ifindex
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

    fn tagged(&self) -> bool {
        self.tagged
    }

    fn note(&mut self, value: u32) {
        self.note = value;
    }

    fn noted(&self) -> u32 {
        self.note
    }

    fn tunnel(&mut self) -> Option<Tunnel> {
        self.came_through
    }

    fn set_tunnel(&mut self, vni: u32, remote: &Address) -> Option<()> {
        if self.fault == Some(Fault::Tunnel) {
            return None;
        }
        self.tunnel = Some((vni, *remote));
        Some(())
    }

    fn redirect_to_pod(&mut self, ifindex: u32) {
        self.redirect = Some(Redirect::Pod(ifindex));
    }

    fn redirect(&mut self, ifindex: u32) {
        self.redirect = Some(Redirect::Device(ifindex));
    }

    fn redirect_routed(&mut self, ifindex: u32) {
        self.redirect = Some(Redirect::Routed(ifindex));
    }

    fn redirect_neighbour(&mut self, ifindex: u32, next_hop: &Address, _v6: bool) {
        self.redirect = Some(Redirect::Neighbour(ifindex, *next_hop));
    }

    fn redirect_ingress(&mut self, ifindex: u32) {
        self.redirect = Some(Redirect::Ingress(ifindex));
    }

    fn accept(&mut self) {}

    fn core(&self) -> u32 {
        0
    }
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
    /// What they remember of the way to pod CIDRs.
    pub hints: HashMap<u32, u32>,
    pub fragments: HashMap<FragmentKey, Fragment>,
    /// RSTs and ICMP errors made.
    pub answers: u32,
    scratch: Scratch,
    fault: Option<Fault>,
    /// Answer the first lookup of each element with another key's value, as a reader meets it whose element the
    /// kernel reuses at that moment.
    stumbling: bool,
    stumbled: bool,
}

impl ModelTables {
    pub fn new(world: &World, fault: Option<Fault>, stumbling: bool) -> Self {
        let flows = world.flows.iter().copied().collect();
        let fragments = world.fragments.iter().copied().collect();
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
            hints: HashMap::new(),
            fragments,
            answers: 0,
            scratch: Scratch::soiled(),
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

    fn flow(&mut self, key: &Tuple, tag: u32, flags: u16, lifetimes: &Lifetimes) -> Option<Flow> {
        // The kernel's side looks again by itself.
        let flow = self.flows.get_mut(key)?;
        let seen = flow.seen;
        if flow.tag != tag || expired(lifetimes, key.protocol, flow.flags, seen, self.now) {
            return None;
        }
        flow.seen = self.now;
        flow.flags |= flags;
        Some(Flow { seen, ..*flow })
    }

    /// Stricter than the kernel's, which may know of flows that are gone.
    fn may_have_flow(&mut self, tag: u32, _lifetimes: &Lifetimes) -> bool {
        self.flows.keys().any(|key| key.hash() == tag)
    }

    type Scratch = Box<Scratch>;

    /// As the last packet left it: nothing of it may matter.
    fn scratch(&mut self) -> Option<Box<Scratch>> {
        Some(Box::new(self.scratch))
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

    fn fragment(&mut self, key: &FragmentKey) -> Option<Fragment> {
        let fragment = self.fragments.get(key).copied()?;
        Some(if self.stumbles() { Fragment { tag: fragment.tag ^ 1, ports: !fragment.ports } } else { fragment })
    }

    fn remember_fragment(&mut self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.insert(*key, *fragment);
    }

    fn now(&mut self) -> u32 {
        self.now
    }

    fn endpoint(&mut self, address: &Address, tag: u32) -> Option<Endpoint> {
        find(&self.world.endpoints, address).filter(|endpoint| endpoint.tag == tag)
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

    fn hint(&mut self, index: u32) -> u32 {
        self.hints.get(&index).copied().unwrap_or_default()
    }

    fn remember_hint(&mut self, index: u32, node: u32) {
        self.hints.insert(index, node);
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

    fn remember_udp(&mut self, udp: &ConnectedUdp) {
        assert!(udp.is_whole());
        self.udp.insert(udp.cookie, *udp);
    }

    fn forget_udp(&mut self, cookie: u64) {
        self.udp.remove(&cookie);
    }

    fn answers(&mut self) -> bool {
        self.answers += 1;
        self.answers <= ANSWERS_PER_TICK
    }

    fn random(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(0x9e37_79b9).wrapping_add(0x9e37_79b9);
        self.random
    }
}
