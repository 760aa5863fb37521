//! A dataplane in memory, with the limits of the real one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use diolkos_abi::address::Address;
use diolkos_abi::conntrack::{Flow, Tuple};
use diolkos_abi::counter::COUNTERS;
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, address_tag, cookie_tag};
use diolkos_abi::service::{Affinity, AffinityKey, Backend, FrontendKey, MemberKey};

use super::{Adopted, Capacities, Dataplane, Error, Operation, Page, Partial, Place, Result, checks, map};

/// The model. Cloning it is a snapshot.
#[derive(Clone, Debug)]
pub struct Model {
    capacities: Capacities,
    frontends: HashMap<FrontendKey, u64>,
    rows: BTreeMap<u32, u64>,
    lifetimes: BTreeMap<u32, u32>,
    members: HashMap<MemberKey, u64>,
    flows: HashMap<Tuple, Flow>,
    affinities: HashMap<AffinityKey, Affinity>,
    /// What [`Dataplane::now`] says.
    now: u32,
    slots: BTreeMap<u32, u32>,
    backends: BTreeMap<u32, Backend>,
    nodes: BTreeMap<u32, Node>,
    routes: HashMap<RouteKey, Route>,
    endpoints: BTreeMap<Address, Endpoint>,
    netnses: BTreeMap<u64, Netns>,
    /// Interface name to interface index.
    pods: BTreeMap<String, u32>,
    netdevs: BTreeMap<String, u32>,
    in_place: bool,
    /// Network devices that exist; nothing when all do.
    devices: Option<BTreeSet<(String, u32)>>,
}

impl Model {
    /// An empty dataplane in which every network device exists.
    pub fn new(capacities: Capacities) -> Self {
        Self {
            capacities,
            frontends: HashMap::new(),
            rows: BTreeMap::new(),
            lifetimes: BTreeMap::new(),
            members: HashMap::new(),
            flows: HashMap::new(),
            affinities: HashMap::new(),
            now: 0,
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            nodes: BTreeMap::new(),
            routes: HashMap::new(),
            endpoints: BTreeMap::new(),
            netnses: BTreeMap::new(),
            pods: BTreeMap::new(),
            netdevs: BTreeMap::new(),
            in_place: false,
            devices: None,
        }
    }

    /// The same with only these network devices.
    pub fn with_devices(mut self, devices: impl IntoIterator<Item = (String, u32)>) -> Self {
        self.devices = Some(devices.into_iter().collect());
        self
    }

    /// What `frontend` holds for a key.
    pub fn frontend(&self, key: &FrontendKey) -> Option<u64> {
        self.frontends.get(key).copied()
    }

    fn device(&self, program: &'static str, ifname: &str, ifindex: u32) -> Result<()> {
        checks::ifname(ifname)?;
        let exists = self.devices.as_ref().is_none_or(|all| all.contains(&(ifname.to_owned(), ifindex)));
        if exists {
            return Ok(());
        }
        let source = io::Error::from_raw_os_error(libc::ENODEV).into();
        Err(Error::Attach { program, target: ifname.to_owned(), source })
    }

    /// The row of a service; zero when it has none.
    pub fn row(&self, service: u32) -> u64 {
        self.rows.get(&service).copied().unwrap_or_default()
    }

    /// The backend id in a slot.
    pub fn slot(&self, slot: u32) -> u32 {
        self.slots.get(&slot).copied().unwrap_or_default()
    }

    /// Sets the time, in the unit of [`Flow::seen`].
    pub fn set_now(&mut self, now: u32) {
        self.now = now;
    }

    /// What the programs do with a packet of a new connection.
    pub fn insert_flow(&mut self, key: Tuple, flow: Flow) {
        self.flows.insert(key, flow);
    }

    /// What the programs do with a client of a service with affinity.
    pub fn insert_affinity(&mut self, key: AffinityKey, affinity: Affinity) {
        self.affinities.insert(key, affinity);
    }

    /// Whether [`Dataplane::put_in_place`] was called.
    pub fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// A backend; all zeros when the id is free.
    pub fn backend(&self, id: u32) -> Backend {
        self.backends.get(&id).copied().unwrap_or_default()
    }
}

impl Dataplane for Model {
    fn capacities(&self) -> Capacities {
        self.capacities
    }

    fn adopt(&mut self) -> Result<Adopted> {
        let last = self.slots.iter().rev().find(|(_, id)| **id != 0).map_or(0, |(slot, _)| slot + 1);
        Ok(Adopted {
            frontends: self.frontends.iter().map(|(key, word)| (*key, *word)).collect(),
            rows: self.rows.iter().map(|(id, row)| (*id, *row)).filter(|(_, row)| *row != 0).collect(),
            affinities: pairs(&self.lifetimes).into_iter().filter(|(_, ticks)| *ticks != 0).collect(),
            members: self.members.iter().map(|(key, word)| (*key, *word)).collect(),
            slots: (0..last).map(|slot| self.slot(slot)).collect(),
            backends: pairs(&self.backends).into_iter().filter(|(_, b)| *b != Backend::default()).collect(),
            nodes: pairs(&self.nodes),
            routes: self.routes.iter().map(|(key, route)| (*key, *route)).collect(),
        })
    }

    fn set_backend(&mut self, id: u32, backend: &Backend) -> Result<()> {
        checks::id(map::BACKEND, Operation::Write, id, self.capacities.backends)?;
        self.backends.insert(id, *backend);
        Ok(())
    }

    fn write_slots(&mut self, base: u32, backends: &[u32]) -> Result<()> {
        checks::extent(base, backends.len(), self.capacities.slots)?;
        self.slots.extend((base..).zip(backends.iter().copied()));
        Ok(())
    }

    fn set_row(&mut self, service: u32, row: u64) -> Result<()> {
        checks::id(map::SERVICE, Operation::Write, service, self.capacities.services)?;
        self.rows.insert(service, row);
        Ok(())
    }

    fn set_affinity(&mut self, service: u32, ticks: u32) -> Result<()> {
        checks::id(map::SERVICE, Operation::Write, service, self.capacities.services)?;
        self.lifetimes.insert(service, ticks);
        Ok(())
    }

    fn insert_members(&mut self, entries: &[(MemberKey, u64)]) -> std::result::Result<(), Partial> {
        for (done, (key, word)) in entries.iter().enumerate() {
            let is_new = !self.members.contains_key(key);
            room(map::MEMBER, self.members.len(), is_new, self.capacities.members, || checks::member(key))
                .map_err(|error| Partial { done, error })?;
            self.members.insert(*key, *word);
        }
        Ok(())
    }

    fn remove_members(&mut self, keys: &[MemberKey]) -> std::result::Result<(), Partial> {
        for key in keys {
            self.members.remove(key);
        }
        Ok(())
    }

    fn insert_frontends(&mut self, entries: &[(FrontendKey, u64)]) -> std::result::Result<(), Partial> {
        for (done, (key, word)) in entries.iter().enumerate() {
            let is_new = !self.frontends.contains_key(key);
            room(map::FRONTEND, self.frontends.len(), is_new, self.capacities.frontends, || checks::frontend(key))
                .map_err(|error| Partial { done, error })?;
            self.frontends.insert(*key, *word);
        }
        Ok(())
    }

    fn remove_frontends(&mut self, keys: &[FrontendKey]) -> std::result::Result<(), Partial> {
        for key in keys {
            self.frontends.remove(key);
        }
        Ok(())
    }

    fn upsert_node(&mut self, id: u32, node: &Node) -> Result<()> {
        checks::id(map::NODE, Operation::Write, id, self.capacities.nodes)?;
        self.nodes.insert(id, *node);
        Ok(())
    }

    fn remove_node(&mut self, id: u32) -> Result<()> {
        checks::id(map::NODE, Operation::Remove, id, self.capacities.nodes)?;
        self.nodes.remove(&id);
        Ok(())
    }

    fn upsert_route(&mut self, key: RouteKey, route: Route) -> Result<()> {
        let is_new = !self.routes.contains_key(&key);
        room(map::ROUTE, self.routes.len(), is_new, self.capacities.routes, || checks::address(&key.prefix))?;
        self.routes.insert(key, Route { tag: address_tag(&key.prefix), ..route });
        Ok(())
    }

    fn remove_route(&mut self, key: &RouteKey) -> Result<()> {
        self.routes.remove(key);
        Ok(())
    }

    fn upsert_endpoint(&mut self, address: Address, endpoint: Endpoint) -> Result<()> {
        let is_new = !self.endpoints.contains_key(&address);
        room(map::ENDPOINT, self.endpoints.len(), is_new, self.capacities.endpoints, || checks::address(&address))?;
        self.endpoints.insert(address, Endpoint { tag: address_tag(&address), ..endpoint });
        Ok(())
    }

    fn remove_endpoint(&mut self, address: &Address) -> Result<bool> {
        Ok(self.endpoints.remove(address).is_some())
    }

    fn endpoints(&self) -> Result<Vec<(Address, Endpoint)>> {
        Ok(pairs(&self.endpoints))
    }

    fn set_netns(&mut self, cookie: u64, netns: Netns) -> Result<()> {
        let is_new = !self.netnses.contains_key(&cookie);
        room(map::NETNS, self.netnses.len(), is_new, self.capacities.netnses, || cookie.to_string())?;
        self.netnses.insert(cookie, Netns { tag: cookie_tag(cookie), ..netns });
        Ok(())
    }

    fn remove_netns(&mut self, cookie: u64) -> Result<bool> {
        Ok(self.netnses.remove(&cookie).is_some())
    }

    fn netnses(&self) -> Result<Vec<(u64, Netns)>> {
        Ok(pairs(&self.netnses))
    }

    fn now(&self) -> Result<u32> {
        Ok(self.now)
    }

    fn read_backend(&self, id: u32) -> Result<Backend> {
        Ok(self.backend(id))
    }

    fn read_affinity(&self, service: u32) -> Result<u32> {
        Ok(self.lifetimes.get(&service).copied().unwrap_or_default())
    }

    fn flows(&self, from: Option<Place>) -> Result<Page<Tuple, Flow>> {
        Ok(page(&self.flows, Tuple::hash, from))
    }

    fn flow(&self, key: &Tuple) -> Result<Option<Flow>> {
        Ok(self.flows.get(key).copied())
    }

    fn remove_flows(&mut self, keys: &[Tuple]) -> std::result::Result<(), Partial> {
        for key in keys {
            self.flows.remove(key);
        }
        Ok(())
    }

    fn affinities(&self, from: Option<Place>) -> Result<Page<AffinityKey, Affinity>> {
        Ok(page(&self.affinities, AffinityKey::tag, from))
    }

    fn remove_affinities(&mut self, keys: &[AffinityKey]) -> std::result::Result<(), Partial> {
        for key in keys {
            self.affinities.remove(key);
        }
        Ok(())
    }

    fn put_in_place(&mut self) -> Result<()> {
        self.in_place = true;
        Ok(())
    }

    fn attach_netdev(&mut self, ifname: &str, ifindex: u32) -> Result<()> {
        self.device("from_netdev", ifname, ifindex)?;
        self.netdevs.insert(ifname.to_owned(), ifindex);
        Ok(())
    }

    fn detach_netdev(&mut self, ifname: &str) -> Result<()> {
        checks::ifname(ifname)?;
        self.netdevs.remove(ifname);
        Ok(())
    }

    fn attached_netdevs(&self) -> Result<Vec<String>> {
        Ok(self.netdevs.keys().cloned().collect())
    }

    fn attach_pod(&mut self, host_ifname: &str, ifindex: u32) -> Result<()> {
        self.device("from_container", host_ifname, ifindex)?;
        self.pods.insert(host_ifname.to_owned(), ifindex);
        Ok(())
    }

    fn detach_pod(&mut self, host_ifname: &str) -> Result<()> {
        checks::ifname(host_ifname)?;
        self.pods.remove(host_ifname);
        Ok(())
    }

    fn attached_pods(&self) -> Result<Vec<String>> {
        Ok(self.pods.keys().cloned().collect())
    }

    fn counters(&self) -> Result<Vec<u64>> {
        Ok(vec![0; COUNTERS as usize])
    }
}

fn pairs<K: Copy, V: Copy>(map: &BTreeMap<K, V>) -> Vec<(K, V)> {
    map.iter().map(|(key, value)| (*key, *value)).collect()
}

/// Buckets of the model's big tables: a page is one of them.
const BUCKETS: u32 = 4;

fn page<K: Copy, V: Copy>(table: &HashMap<K, V>, hash: fn(&K) -> u32, from: Option<Place>) -> Page<K, V> {
    let bucket = from.map_or(0, |place| place.0);
    let entries = table.iter().filter(|(key, _)| hash(key) % BUCKETS == bucket);
    let next = (bucket + 1 < BUCKETS).then_some(Place(bucket + 1));
    Page { entries: entries.map(|(key, value)| (*key, *value)).collect(), next }
}

fn room(map: &'static str, len: usize, is_new: bool, capacity: u32, key: impl Fn() -> String) -> Result<()> {
    if is_new && len >= capacity as usize {
        return Err(checks::full(map, key(), capacity));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::conformance::{self, Device};

    const SMALL: Capacities = Capacities {
        frontends: 64,
        services: 16,
        slots: 128,
        backends: 32,
        members: 16,
        nodes: 8,
        routes: 8,
        endpoints: 8,
        netnses: 8,
    };

    #[test]
    fn the_model_passes_the_conformance_suite() {
        let device = Device { name: "dif00".into(), ifindex: 7 };
        for (name, case) in conformance::CASES {
            let mut model = Model::new(SMALL).with_devices([(device.name.clone(), device.ifindex)]);
            conformance::run(name, *case, &mut model, &device).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
