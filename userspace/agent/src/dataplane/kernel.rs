//! The eBPF programs and their maps.
//!
//! Everything is pinned under `<bpffs>/diolkos/<node>/v<LAYOUT>/{maps,links}`, so packets and sockets are served while
//! no agent runs. A new agent adopts the maps and replaces the programs in their links one by one, without a gap. What
//! an agent of another layout left goes on until the new maps are filled; then its links are taken over.

mod clsact;
mod layouts;
mod links;
mod machine;
mod object;
mod syscall;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use aya::maps::{MapData, PerCpuArray};
use diolkos_abi::address::Address;
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{Flow, Tuple};
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, address_tag, cookie_tag};
use diolkos_abi::service::{Affinity, AffinityKey, Backend, FrontendKey, MemberKey, SLOTS_PER_LINE, Service, SlotLine};

use super::{Adopted, Capacities, Dataplane, Error, Operation, PAGE, Page, Partial, Place, Result, checks, map};
use crate::clock::Clock;
use layouts::Layouts;
use links::{Links, Owner};
use object::Programs;
use syscall::Mapped;

pub(crate) use machine::node_directory;
pub use machine::{Facts, OLDEST, remove};

/// Where the dataplane lives and what the programs must know.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// A mounted bpf file system.
    pub bpffs: PathBuf,
    /// The node's name: several nodes can share a machine.
    pub node: String,
    /// A cgroup2 directory: sockets of the processes below it are translated.
    pub cgroup: PathBuf,
    /// The load-time constants. What the running kernel has is added to [`Config::features`] here.
    pub config: Config,
}

/// The loaded, pinned and attached programs of one node.
pub struct Kernel {
    /// Devices that get their programs when those are put in place.
    deferred: Vec<(Owner, String, u32)>,
    in_place: bool,
    programs: Programs,
    links: Links,
    clock: Clock,
    frontend: OwnedFd,
    member: OwnedFd,
    affinity: OwnedFd,
    conntrack: OwnedFd,
    endpoint: OwnedFd,
    node: OwnedFd,
    route: OwnedFd,
    netns: OwnedFd,
    counter: PerCpuArray<MapData, u64>,
    service: Mapped,
    slot: Mapped,
    backend: Mapped,
}

/// 8-byte words of an element of the mapped arrays.
const SERVICE_WORDS: usize = size_of::<Service>() / 8;
const BACKEND_WORDS: usize = size_of::<Backend>() / 8;
const _: () = assert!(size_of::<SlotLine>() == 4 * SLOTS_PER_LINE as usize);

impl Kernel {
    /// Loads the embedded programs over the pinned maps, or new ones. Where programs over these maps run already, the
    /// new ones are put in their place at once; otherwise [`Dataplane::put_in_place`] does that.
    ///
    /// Nothing is attached unless everything loads. Fails with [`Error::Unsupported`] when the machine lacks something.
    pub fn open(options: &KernelOptions) -> Result<Self> {
        let machine = machine::probe(options)?;
        let pins = machine::Pins::create(options)?;
        let chosen = options.config.features & !machine::PROBED;
        let config = Config { features: chosen | machine.features, ..options.config };
        let (programs, mut maps) = object::load(&pins.maps, &config)?;
        let mapped = |name: &'static str, fd: BorrowedFd<'_>, entries: u32, size: usize| {
            let failed = |source| Error::Map { map: name, operation: Operation::Read, key: "mmap".into(), source };
            Mapped::new(fd, entries, size).map_err(failed)
        };
        let lines = diolkos_abi::service::SLOTS / SLOTS_PER_LINE;
        let capacities = Capacities::ABI;
        let others = Layouts::beside(&pins.layout)?;
        let overlay = options.config.overlay_ifindex;
        let links = Links::open(pins.links, others, &options.cgroup, overlay, machine.mechanism)?;
        let kernel = Self {
            service: mapped(map::SERVICE, maps.fd(map::SERVICE)?.as_fd(), capacities.services, size_of::<Service>())?,
            slot: mapped(map::SLOT, maps.fd(map::SLOT)?.as_fd(), lines, size_of::<SlotLine>())?,
            backend: mapped(map::BACKEND, maps.fd(map::BACKEND)?.as_fd(), capacities.backends, size_of::<Backend>())?,
            clock: Clock::calibrate(),
            frontend: maps.fd(map::FRONTEND)?,
            member: maps.fd(map::MEMBER)?,
            affinity: maps.fd(map::AFFINITY)?,
            conntrack: maps.fd(map::CONNTRACK)?,
            endpoint: maps.fd(map::ENDPOINT)?,
            node: maps.fd(map::NODE)?,
            route: maps.fd(map::ROUTE)?,
            netns: maps.fd(map::NETNS)?,
            counter: maps.counters()?,
            in_place: links.in_place()?,
            deferred: Vec::new(),
            links,
            programs,
        };
        if kernel.in_place {
            kernel.links.put_in_place(&kernel.programs)?;
        }
        Ok(kernel)
    }

    /// A device that has programs keeps them until all are put in place: those know the maps that are filled.
    fn attach(&mut self, owner: Owner, ifname: &str, ifindex: u32) -> Result<()> {
        checks::ifname(ifname)?;
        if !self.in_place && self.links.has_device(owner, ifname)? {
            self.deferred.push((owner, ifname.to_owned(), ifindex));
            return Ok(());
        }
        self.links.attach_device(owner, ifname, ifindex, &self.programs)
    }

    fn detach(&mut self, owner: Owner, ifname: &str) -> Result<()> {
        checks::ifname(ifname)?;
        self.deferred.retain(|(other, name, _)| (*other, name.as_str()) != (owner, ifname));
        self.links.detach_device(owner, ifname)
    }

    fn element(&self, map: &'static str, operation: Operation, key: String, result: io::Result<()>) -> Result<()> {
        let Err(source) = result else { return Ok(()) };
        let capacities = self.capacities();
        let capacity = match map {
            map::FRONTEND => capacities.frontends,
            map::MEMBER => capacities.members,
            map::ENDPOINT => capacities.endpoints,
            map::ROUTE => capacities.routes,
            map::NETNS => capacities.netnses,
            _ => capacities.nodes,
        };
        match (operation, source.raw_os_error()) {
            (Operation::Insert, Some(libc::E2BIG | libc::ENOSPC)) => Err(checks::full(map, key, capacity)),
            (Operation::Remove, Some(libc::ENOENT)) => Ok(()),
            _ => Err(Error::Map { map, operation, key, source }),
        }
    }

    /// Removes an element; false when there was none.
    fn remove<K: aya::Pod>(&self, map: &'static str, fd: &OwnedFd, key: &K, named: String) -> Result<bool> {
        let result = syscall::delete(fd.as_fd(), key);
        let was_there = result.is_ok();
        self.element(map, Operation::Remove, named, result).map(|()| was_there)
    }

    /// Inserts elements by one system call.
    fn insert_all<K: aya::Pod, V: aya::Pod>(
        &self,
        map: &'static str,
        fd: &OwnedFd,
        entries: &[(K, V)],
        named: fn(&K) -> String,
    ) -> std::result::Result<(), Partial> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
        let Err((done, source)) = syscall::update_batch(fd.as_fd(), &keys, &values) else { return Ok(()) };
        let key = keys.get(done).map(named).unwrap_or_default();
        self.element(map, Operation::Insert, key, Err(source)).map_err(|error| Partial { done, error })
    }

    /// Removes elements by one system call, and one more for each that is absent.
    fn remove_all<K: aya::Pod>(
        &self,
        map: &'static str,
        fd: &OwnedFd,
        keys: &[K],
        named: fn(&K) -> String,
    ) -> std::result::Result<(), Partial> {
        let mut done = 0;
        while let Err((removed, source)) = syscall::delete_batch(fd.as_fd(), &keys[done..]) {
            done = (done + removed).min(keys.len());
            let key = keys.get(done).map(named).unwrap_or_default();
            let absent = self.element(map, Operation::Remove, key, Err(source));
            absent.map_err(|error| Partial { done, error })?;
            // An absent key stops the batch; it goes on after it.
            done += 1;
            if done >= keys.len() {
                break;
            }
        }
        Ok(())
    }

    fn backend(&self, id: usize) -> Backend {
        let words: [[u8; 8]; BACKEND_WORDS] =
            std::array::from_fn(|word| self.backend.load64(id * BACKEND_WORDS + word).to_ne_bytes());
        let [first, second, third, fourth] = words;
        let mut address = Address::default();
        address[..8].copy_from_slice(&first);
        address[8..].copy_from_slice(&second);
        let [port0, port1, state, zone, generation @ ..] = third;
        let [a, b, c, d, protocol, pad @ ..] = fourth;
        Backend {
            address,
            port: [port0, port1],
            state,
            zone,
            generation: u32::from_ne_bytes(generation),
            node: u32::from_ne_bytes([a, b, c, d]),
            protocol,
            pad,
        }
    }
}

/// The 4-byte word of a service's [`Service::affinity`] in the mapped array.
fn affinity_word(service: u32) -> usize {
    (service as usize * size_of::<Service>() + std::mem::offset_of!(Service, affinity)) / 4
}

/// A backend as it stands in memory.
fn backend_words(backend: &Backend) -> [u64; BACKEND_WORDS] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = backend.address;
    let [g0, g1, g2, g3] = backend.generation.to_ne_bytes();
    let [n0, n1, n2, n3] = backend.node.to_ne_bytes();
    let [port0, port1] = backend.port;
    let [p0, p1, p2] = backend.pad;
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes(rest),
        u64::from_ne_bytes([port0, port1, backend.state, backend.zone, g0, g1, g2, g3]),
        u64::from_ne_bytes([n0, n1, n2, n3, backend.protocol, p0, p1, p2]),
    ]
}

impl Dataplane for Kernel {
    fn capacities(&self) -> Capacities {
        Capacities::ABI
    }

    fn adopt(&mut self) -> Result<Adopted> {
        let capacities = self.capacities();
        let rows = 0..capacities.services as usize;
        let rows = rows.map(|id| (id as u32, self.service.load64(id * SERVICE_WORDS))).filter(|(_, row)| *row != 0);
        let affinities = (0..capacities.services).map(|id| (id, self.service.load32(affinity_word(id))));
        let affinities = affinities.filter(|(_, ticks)| *ticks != 0);
        let used = (0..capacities.slots as usize).rev().find(|slot| self.slot.load32(*slot) != 0);
        let backends = (0..capacities.backends).map(|id| (id, self.backend(id as usize)));
        let nodes = dump::<u32, Node>(map::NODE, &self.node)?;
        let mut nodes: Vec<_> = nodes.into_iter().filter(|(_, node)| *node != Node::default()).collect();
        nodes.sort_unstable_by_key(|(id, _)| *id);
        Ok(Adopted {
            frontends: dump(map::FRONTEND, &self.frontend)?,
            rows: rows.collect(),
            affinities: affinities.collect(),
            members: dump(map::MEMBER, &self.member)?,
            slots: (0..used.map_or(0, |last| last + 1)).map(|slot| self.slot.load32(slot)).collect(),
            backends: backends.filter(|(_, backend)| *backend != Backend::default()).collect(),
            nodes,
            routes: dump(map::ROUTE, &self.route)?,
        })
    }

    fn set_backend(&mut self, id: u32, backend: &Backend) -> Result<()> {
        checks::id(map::BACKEND, Operation::Write, id, self.capacities().backends)?;
        let [first, second, third, fourth] = backend_words(backend);
        let base = id as usize * BACKEND_WORDS;
        // The word with state and generation comes last: whoever sees the new one sees the rest.
        for (word, value) in [(0, first), (1, second), (3, fourth)] {
            self.backend.store64(base + word, value, Ordering::Relaxed);
        }
        self.backend.store64(base + 2, third, Ordering::Release);
        Ok(())
    }

    fn write_slots(&mut self, base: u32, backends: &[u32]) -> Result<()> {
        checks::extent(base, backends.len(), self.capacities().slots)?;
        for (slot, id) in (base as usize..).zip(backends) {
            self.slot.store32(slot, *id);
        }
        Ok(())
    }

    fn set_row(&mut self, service: u32, row: u64) -> Result<()> {
        checks::id(map::SERVICE, Operation::Write, service, self.capacities().services)?;
        self.service.store64(service as usize * SERVICE_WORDS, row, Ordering::Release);
        Ok(())
    }

    fn set_affinity(&mut self, service: u32, ticks: u32) -> Result<()> {
        checks::id(map::SERVICE, Operation::Write, service, self.capacities().services)?;
        self.service.store32(affinity_word(service), ticks);
        Ok(())
    }

    fn insert_members(&mut self, entries: &[(MemberKey, u64)]) -> std::result::Result<(), Partial> {
        self.insert_all(map::MEMBER, &self.member, entries, checks::member)
    }

    fn remove_members(&mut self, keys: &[MemberKey]) -> std::result::Result<(), Partial> {
        self.remove_all(map::MEMBER, &self.member, keys, checks::member)
    }

    fn insert_frontends(&mut self, entries: &[(FrontendKey, u64)]) -> std::result::Result<(), Partial> {
        self.insert_all(map::FRONTEND, &self.frontend, entries, checks::frontend)
    }

    fn remove_frontends(&mut self, keys: &[FrontendKey]) -> std::result::Result<(), Partial> {
        self.remove_all(map::FRONTEND, &self.frontend, keys, checks::frontend)
    }

    fn upsert_node(&mut self, id: u32, node: &Node) -> Result<()> {
        checks::id(map::NODE, Operation::Write, id, self.capacities().nodes)?;
        self.element(map::NODE, Operation::Write, format!("id {id}"), syscall::update(self.node.as_fd(), &id, node))
    }

    fn remove_node(&mut self, id: u32) -> Result<()> {
        self.upsert_node(id, &Node::default())
    }

    fn upsert_route(&mut self, key: RouteKey, route: Route) -> Result<()> {
        let route = Route { tag: address_tag(&key.prefix), ..route };
        let result = syscall::update(self.route.as_fd(), &key, &route);
        self.element(map::ROUTE, Operation::Insert, checks::address(&key.prefix), result)
    }

    fn remove_route(&mut self, key: &RouteKey) -> Result<()> {
        self.remove(map::ROUTE, &self.route, key, checks::address(&key.prefix)).map(drop)
    }

    fn upsert_endpoint(&mut self, address: Address, endpoint: Endpoint) -> Result<()> {
        let endpoint = Endpoint { tag: address_tag(&address), ..endpoint };
        let result = syscall::update(self.endpoint.as_fd(), &address, &endpoint);
        self.element(map::ENDPOINT, Operation::Insert, checks::address(&address), result)
    }

    fn remove_endpoint(&mut self, address: &Address) -> Result<bool> {
        self.remove(map::ENDPOINT, &self.endpoint, address, checks::address(address))
    }

    fn endpoints(&self) -> Result<Vec<(Address, Endpoint)>> {
        dump(map::ENDPOINT, &self.endpoint)
    }

    fn set_netns(&mut self, cookie: u64, netns: Netns) -> Result<()> {
        let netns = Netns { tag: cookie_tag(cookie), ..netns };
        let result = syscall::update(self.netns.as_fd(), &cookie, &netns);
        self.element(map::NETNS, Operation::Insert, format!("cookie {cookie}"), result)
    }

    fn remove_netns(&mut self, cookie: u64) -> Result<bool> {
        self.remove(map::NETNS, &self.netns, &cookie, format!("cookie {cookie}"))
    }

    fn netnses(&self) -> Result<Vec<(u64, Netns)>> {
        dump(map::NETNS, &self.netns)
    }

    fn now(&self) -> Result<u32> {
        Ok(self.clock.now())
    }

    fn read_backend(&self, id: u32) -> Result<Backend> {
        Ok(if id < self.capacities().backends { self.backend(id as usize) } else { Backend::default() })
    }

    fn read_affinity(&self, service: u32) -> Result<u32> {
        Ok(if service < self.capacities().services { self.service.load32(affinity_word(service)) } else { 0 })
    }

    fn flows(&self, from: Option<Place>) -> Result<Page<Tuple, Flow>> {
        page(map::CONNTRACK, &self.conntrack, from)
    }

    fn flow(&self, key: &Tuple) -> Result<Option<Flow>> {
        let failed =
            |source| Error::Map { map: map::CONNTRACK, operation: Operation::Read, key: checks::tuple(key), source };
        syscall::lookup(self.conntrack.as_fd(), key).map_err(failed)
    }

    fn remove_flows(&mut self, keys: &[Tuple]) -> std::result::Result<(), Partial> {
        self.remove_all(map::CONNTRACK, &self.conntrack, keys, checks::tuple)
    }

    fn affinities(&self, from: Option<Place>) -> Result<Page<AffinityKey, Affinity>> {
        page(map::AFFINITY, &self.affinity, from)
    }

    fn remove_affinities(&mut self, keys: &[AffinityKey]) -> std::result::Result<(), Partial> {
        self.remove_all(map::AFFINITY, &self.affinity, keys, checks::client)
    }

    fn put_in_place(&mut self) -> Result<()> {
        if self.in_place {
            return Ok(());
        }
        self.links.put_in_place(&self.programs)?;
        self.in_place = true;
        for (owner, ifname, ifindex) in std::mem::take(&mut self.deferred) {
            self.attach(owner, &ifname, ifindex)?;
        }
        Ok(())
    }

    fn attach_netdev(&mut self, ifname: &str, ifindex: u32) -> Result<()> {
        self.attach(Owner::Node, ifname, ifindex)
    }

    fn detach_netdev(&mut self, ifname: &str) -> Result<()> {
        self.detach(Owner::Node, ifname)
    }

    fn attached_netdevs(&self) -> Result<Vec<String>> {
        self.links.devices(Owner::Node)
    }

    fn attach_pod(&mut self, host_ifname: &str, ifindex: u32) -> Result<()> {
        self.attach(Owner::Pod, host_ifname, ifindex)
    }

    fn detach_pod(&mut self, host_ifname: &str) -> Result<()> {
        self.detach(Owner::Pod, host_ifname)
    }

    fn attached_pods(&self) -> Result<Vec<String>> {
        self.links.devices(Owner::Pod)
    }

    fn counters(&self) -> Result<Vec<u64>> {
        let read = |source: aya::maps::MapError| Error::Map {
            map: map::COUNTER,
            operation: Operation::Read,
            key: "all".into(),
            source: io::Error::other(source),
        };
        self.counter.iter().map(|cores| cores.map(|cores| cores.iter().sum()).map_err(read)).collect()
    }
}

fn dump<K: aya::Pod, V: aya::Pod>(map: &'static str, fd: &OwnedFd) -> Result<Vec<(K, V)>> {
    let failed = |source| Error::Map { map, operation: Operation::Read, key: "all".into(), source };
    syscall::dump(fd.as_fd()).map_err(failed)
}

fn page<K: aya::Pod, V: aya::Pod>(map: &'static str, fd: &OwnedFd, from: Option<Place>) -> Result<Page<K, V>> {
    let failed = |source| Error::Map { map, operation: Operation::Read, key: "some".into(), source };
    let (entries, next) = syscall::page(fd.as_fd(), from.map(|place| place.0), PAGE).map_err(failed)?;
    Ok(Page { entries, next: next.map(Place) })
}

/// Shows all elements of a hash or array whose sizes are those of `K` and `V`, some thousand at a time.
pub fn elements<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, mut each: impl FnMut(K, V)) -> io::Result<()> {
    let mut from = None;
    loop {
        let (entries, next) = syscall::page(map, from, PAGE)?;
        entries.into_iter().for_each(|(key, value)| each(key, value));
        let Some(next) = next else { return Ok(()) };
        from = Some(next);
    }
}

/// All elements of a pinned hash or array.
pub(crate) fn dump_pinned<K: aya::Pod, V: aya::Pod>(path: &Path) -> io::Result<Vec<(K, V)>> {
    syscall::dump(syscall::object_get(path)?.as_fd())
}

/// The embedded eBPF object; empty in a build without it.
pub(crate) fn object() -> &'static [u8] {
    object::OBJECT
}

/// The id of a pinned program, or of a pinned link's program; 0 when its device is gone.
pub(crate) fn pinned_program(path: &Path) -> io::Result<u32> {
    let pinned = syscall::object_get(path)?;
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pinned.as_raw_fd()))?;
    let id = told.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
    Ok(id.unwrap_or_default())
}
