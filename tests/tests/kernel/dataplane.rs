//! The loaded dataplane, and its maps filled from a scenario's world. The suite and the benchmark each use a part.
#![allow(dead_code)]

use std::collections::HashMap as Map;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map as AnyMap, MapData, PerCpuArray, PerCpuValues, SkStorage};
use aya::programs::{CgroupSockAddr, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use diolkos_abi::config::{self, Config, features};
use diolkos_abi::conntrack::{
    ConnectedUdp, Flow, Fragment, FragmentKey, KnownLine, MARKS_PER_LINE, Peer, PeerKey, SocketFlow, Tuple,
    known_index, mark, udp_index,
};
use diolkos_abi::counter::COUNTERS;
use diolkos_abi::event::Answers;
use diolkos_abi::pod::{Endpoint, NODES, Netns, Node, Route, RouteKey, SOURCES, Source, cookie_tag, hint_index};
use diolkos_abi::service::{
    Affinity, AffinityKey, BACKENDS, Backend, FrontendKey, MemberKey, SERVICES, SLOTS, SLOTS_PER_LINE, Service,
    SlotLine,
};
use diolkos_agent::dataplane::kernel::{Facts, elements};
use nix::time::{ClockId, clock_gettime};

use crate::scenarios::world::World;

/// Where an object file is: in the directory of DIOLKOS_EBPF_OBJECT, or where the build leaves it.
fn object(name: &str) -> PathBuf {
    match std::env::var_os("DIOLKOS_EBPF_OBJECT") {
        Some(dataplane) if name == "dataplane.o" => dataplane.into(),
        Some(dataplane) => Path::new(&dataplane).with_file_name(name),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf").join(name),
    }
}

/// Reads an object file. Says what is missing.
pub fn read(name: &str) -> Vec<u8> {
    assert!(nix::unistd::geteuid().is_root(), "loading eBPF programs needs root: run the suite as root");
    let path = object(name);
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}: build it with `cargo xtask build`", path.display()))
}

/// The dataplane with all its programs loaded and attached to nothing.
pub struct Dataplane {
    pub ebpf: Ebpf,
    /// CPU time of this thread for loading the programs, the verifier's for the most part.
    pub loading: Duration,
    /// Of all maps, by name.
    ids: Map<String, u32>,
    frontend: HashMap<MapData, FrontendKey, u64>,
    service: Array<MapData, Service>,
    slot: Array<MapData, SlotLine>,
    backend: Array<MapData, Backend>,
    conntrack: HashMap<MapData, Tuple, Flow>,
    known: Array<MapData, KnownLine>,
    endpoint: HashMap<MapData, [u8; 16], Endpoint>,
    source: Array<MapData, Source>,
    hint: Array<MapData, u32>,
    fragment: HashMap<MapData, FragmentKey, Fragment>,
    node: Array<MapData, Node>,
    route: HashMap<MapData, RouteKey, Route>,
    netns: HashMap<MapData, u64, Netns>,
    counter: PerCpuArray<MapData, u64>,
    answer: PerCpuArray<MapData, Answers>,
    member: HashMap<MapData, MemberKey, u64>,
    pub affinity: HashMap<MapData, AffinityKey, Affinity>,
    pub peer: HashMap<MapData, PeerKey, Peer>,
    udp: Array<MapData, ConnectedUdp>,
    pub socket: SkStorage<MapData, SocketFlow>,
}

/// The options that this kernel has, as the agent finds out.
pub fn possible() -> u32 {
    static POSSIBLE: LazyLock<u32> =
        LazyLock::new(|| if Facts::of_kernel().set_retval { u32::MAX } else { !features::SET_RETVAL });
    *POSSIBLE
}

macro_rules! take {
    ($ebpf:expr, $name:literal) => {
        $ebpf.take_map($name).expect(concat!("the object has no map ", $name)).try_into().expect($name)
    };
}

impl Dataplane {
    /// `flows` is the capacity of conntrack.
    pub fn load(config: &Config, flows: u32) -> Self {
        Self::load_some(config, flows, |_| true)
    }

    /// [`Self::load`] of the programs that are `wanted` by name: the verifier takes a while for each.
    pub fn load_some(config: &Config, flows: u32, wanted: impl Fn(&str) -> bool) -> Self {
        let config = Config { features: config.features & possible(), ..*config };
        let mut ebpf = EbpfLoader::new()
            .override_global(config::NAME, &config, true)
            .map_max_entries("CONNTRACK", flows)
            .load(&read("dataplane.o"))
            .unwrap_or_else(|error| panic!("dataplane.o does not load: {error:?}"));
        let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        let before = cpu_time();
        for name in names.into_iter().filter(|name| wanted(name)) {
            let program = ebpf.program_mut(&name).expect("the program was just listed");
            let loaded = if let Ok(program) = <&mut SchedClassifier>::try_from(&mut *program) {
                program.load()
            } else {
                <&mut CgroupSockAddr>::try_from(program).expect("tc or cgroup program").load()
            };
            loaded.unwrap_or_else(|error| panic!("{name}: {}", explain(&error)));
        }
        let loading = cpu_time() - before;
        let ids = ebpf.maps().map(|(name, map)| (name.to_owned(), id(map))).collect();
        Self {
            ids,
            loading,
            frontend: take!(ebpf, "FRONTEND"),
            service: take!(ebpf, "SERVICE"),
            slot: take!(ebpf, "SLOT"),
            backend: take!(ebpf, "BACKEND"),
            conntrack: take!(ebpf, "CONNTRACK"),
            known: take!(ebpf, "KNOWN"),
            endpoint: take!(ebpf, "ENDPOINT"),
            source: take!(ebpf, "SOURCE"),
            hint: take!(ebpf, "HINT"),
            fragment: take!(ebpf, "FRAGMENT"),
            node: take!(ebpf, "NODE"),
            route: take!(ebpf, "ROUTE"),
            netns: take!(ebpf, "NETNS"),
            counter: take!(ebpf, "COUNTER"),
            answer: take!(ebpf, "ANSWER"),
            member: take!(ebpf, "MEMBER"),
            affinity: take!(ebpf, "AFFINITY"),
            peer: take!(ebpf, "PEER"),
            udp: take!(ebpf, "UDP"),
            socket: take!(ebpf, "SOCKET"),
            ebpf,
        }
    }

    /// A map, once more.
    pub fn map(&self, name: &str) -> MapData {
        MapData::from_id(self.ids[name]).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn classifier(&self, name: &str) -> &SchedClassifier {
        let program = self.ebpf.program(name).unwrap_or_else(|| panic!("the object has no program {name}"));
        program.try_into().unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Writes a world into the maps. Ids outside their table cannot be written; they are there to be met.
    pub fn fill(&mut self, world: &World, netns_cookie: u64) {
        for (key, word) in &world.frontends {
            self.frontend.insert(key, word, 0).unwrap();
        }
        for (id, service) in world.services.iter().filter(|(id, _)| *id < SERVICES) {
            self.service.set(*id, service, 0).unwrap();
        }
        for (index, id) in world.slots.iter().filter(|(index, _)| *index < SLOTS) {
            self.set_slot(*index, *id);
        }
        for (id, backend) in world.backends.iter().filter(|(id, _)| *id < BACKENDS) {
            self.backend.set(*id, backend, 0).unwrap();
        }
        for (key, word) in &world.members {
            self.member.insert(key, word, 0).unwrap();
        }
        for (address, endpoint) in &world.endpoints {
            self.endpoint.insert(address, endpoint, 0).unwrap();
        }
        for (id, node) in world.nodes.iter().filter(|(id, _)| *id < NODES) {
            self.node.set(*id, node, 0).unwrap();
        }
        for (key, route) in &world.routes {
            self.route.insert(key, route, 0).unwrap();
        }
        if let Some(netns) = world.netns {
            self.netns.insert(netns_cookie, Netns { tag: cookie_tag(netns_cookie), ..netns }, 0).unwrap();
        }
        for (key, fragment) in &world.fragments {
            self.fragment.insert(key, fragment, 0).unwrap();
        }
        self.add_flows(&world.flows);
    }

    pub fn add_flows(&mut self, flows: &[(Tuple, Flow)]) {
        for (tuple, flow) in flows {
            self.conntrack.insert(tuple, flow, 0).unwrap();
            self.set_mark(tuple, mark(flow.seen));
        }
    }

    /// Writes the mark of a tuple's entry.
    fn set_mark(&mut self, tuple: &Tuple, mark: u8) {
        let index = known_index(tuple.hash());
        let mut line = self.known.get(&(index / MARKS_PER_LINE), 0).unwrap();
        line.0[(index % MARKS_PER_LINE) as usize] = mark;
        self.known.set(index / MARKS_PER_LINE, line, 0).unwrap();
    }

    /// Takes flows out of conntrack that may be there.
    pub fn forget(&mut self, flows: impl IntoIterator<Item = Tuple>) {
        for tuple in flows {
            let _ = self.conntrack.remove(&tuple);
        }
    }

    /// Takes a world out of the maps again, and with it all of conntrack.
    pub fn clear(&mut self, world: &World, netns_cookie: u64) {
        world.frontends.iter().for_each(|(key, _)| self.frontend.remove(key).unwrap());
        for (id, _) in world.services.iter().filter(|(id, _)| *id < SERVICES) {
            self.service.set(*id, Service::default(), 0).unwrap();
        }
        for (index, _) in world.slots.iter().filter(|(index, _)| *index < SLOTS) {
            self.set_slot(*index, 0);
        }
        for (id, _) in world.backends.iter().filter(|(id, _)| *id < BACKENDS) {
            self.backend.set(*id, Backend::default(), 0).unwrap();
        }
        world.members.iter().for_each(|(key, _)| self.member.remove(key).unwrap());
        for (address, endpoint) in &world.endpoints {
            self.endpoint.remove(address).unwrap();
            // Devices keep their address for life, but those of the next scenario have the same numbers.
            self.source.set(endpoint.ifindex % SOURCES, Source::default(), 0).unwrap();
        }
        for (id, _) in world.nodes.iter().filter(|(id, _)| *id < NODES) {
            self.node.set(*id, Node::default(), 0).unwrap();
        }
        for (key, _) in &world.routes {
            self.route.remove(key).unwrap();
            self.hint.set(hint_index(&key.prefix), 0, 0).unwrap();
        }
        if world.netns.is_some() {
            self.netns.remove(&netns_cookie).unwrap();
        }
        for tuple in self.flows().keys() {
            self.conntrack.remove(tuple).unwrap();
            self.set_mark(tuple, 0);
        }
        empty(&mut self.affinity);
        empty(&mut self.peer);
        for key in self.fragments().keys() {
            self.fragment.remove(key).unwrap();
        }
    }

    fn set_slot(&mut self, index: u32, id: u32) {
        let mut line = self.slot.get(&(index / SLOTS_PER_LINE), 0).unwrap();
        line.0[(index % SLOTS_PER_LINE) as usize] = id;
        self.slot.set(index / SLOTS_PER_LINE, line, 0).unwrap();
    }

    /// All of conntrack.
    pub fn flows(&self) -> Map<Tuple, Flow> {
        self.conntrack.iter().map(|entry| entry.expect("conntrack can be read")).collect()
    }

    /// The ports of all packets in fragments.
    pub fn fragments(&self) -> Map<FragmentKey, Fragment> {
        self.fragment.iter().map(|entry| entry.expect("the ports of fragments can be read")).collect()
    }

    /// Takes what stands at a UDP socket's place: the backend it is connected to.
    pub fn take_udp(&mut self, cookie: u64) -> Option<u64> {
        let found = self.udp.get(&udp_index(cookie), 0).unwrap();
        self.udp.set(udp_index(cookie), ConnectedUdp::default(), 0).unwrap();
        (found.is_whole() && found.cookie == cookie).then_some(found.backend)
    }

    /// The UDP sockets connected to a backend.
    pub fn connected_udps(&self) -> Vec<ConnectedUdp> {
        let mut found = Vec::new();
        let each = |_: u32, udp: ConnectedUdp| found.extend(udp.is_whole().then_some(udp));
        elements(self.map("UDP").fd().as_fd(), each).expect("the table of UDP sockets can be read");
        found
    }

    /// Every element of every table but the arrays, counted: what a cleared dataplane still holds.
    pub fn left_over(&self) -> usize {
        self.frontend.keys().count()
            + self.conntrack.keys().count()
            + self.fragment.keys().count()
            + self.endpoint.keys().count()
            + self.route.keys().count()
            + self.netns.keys().count()
            + self.member.keys().count()
            + self.affinity.keys().count()
            + self.peer.keys().count()
    }

    /// Forgets how many refusals each core has answered.
    pub fn allow_answers(&mut self) {
        let none = self.answer.get(&0, 0).unwrap().iter().map(|_| Answers::default()).collect::<Vec<_>>();
        self.answer.set(0, PerCpuValues::try_from(none).unwrap(), 0).unwrap();
    }

    /// Every counter, summed over the cores.
    pub fn counters(&self) -> Vec<u64> {
        (0..COUNTERS).map(|index| self.counter.get(&index, 0).unwrap().iter().sum()).collect()
    }

    /// What the kernel says each map takes, bytes, by name.
    pub fn memory(&self) -> Vec<(String, u64)> {
        let locked = |name: &String| {
            let map = self.map(name);
            let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            (name.clone(), line.and_then(|bytes| bytes.trim().parse().ok()).expect("the kernel says what a map takes"))
        };
        let mut memory: Vec<_> = self.ids.keys().map(locked).collect();
        memory.sort();
        memory
    }

    /// Verified instructions of each program, by name.
    pub fn sizes(&self) -> Vec<(String, u32)> {
        let size = |program: &aya::programs::Program| {
            program.info().ok().and_then(|info| info.verified_instruction_count()).unwrap_or_default()
        };
        let mut sizes: Vec<_> = self.ebpf.programs().map(|(name, program)| (name.to_owned(), size(program))).collect();
        sizes.sort();
        sizes
    }
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a clock").into()
}

fn id(map: &AnyMap) -> u32 {
    match map {
        AnyMap::Array(map)
        | AnyMap::HashMap(map)
        | AnyMap::LruHashMap(map)
        | AnyMap::PerCpuArray(map)
        | AnyMap::RingBuf(map)
        | AnyMap::SkStorage(map) => map.info().expect("the kernel knows its maps").id(),
        other => panic!("a map of a type that is not used: {other:?}"),
    }
}

fn empty<K: aya::Pod, V: aya::Pod>(map: &mut HashMap<MapData, K, V>) {
    let keys: Vec<K> = map.keys().map(|key| key.expect("the map can be read")).collect();
    keys.iter().for_each(|key| map.remove(key).unwrap());
}

/// The end of the verifier's log, where its reason stands.
pub fn explain(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            format!("{io_error}\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
        }
        other => other.to_string(),
    }
}
