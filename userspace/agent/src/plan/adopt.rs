//! Taking over the maps of an earlier agent: ids stay, free ids and slots are found again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use diolkos_abi::address::protocol;
use diolkos_abi::service::{
    Backend, FrontendKey, MemberKey, SLOTS_PER_SERVICE, backend_state, frontend_parts, row_parts,
};

use super::backends::{BackendRecord, Backends, Generations};
use super::ids::{Extent, Extents, Ids};
use super::services::Row;
use super::{Leftovers, ORPHAN_LIFE, Operation, Planner, RETIRED_ROW, Step, is_marker, marker_word, ordered, removal};
use crate::dataplane::{Adopted, Capacities};
use crate::desired::BackendKey;

impl Planner {
    /// A planner over maps in the state of `found`. Everything in them is a leftover until a desired object claims it;
    /// whatever is free but was in use rests for one quarantine first.
    pub fn adopt(capacities: Capacities, quarantine: Duration, found: &Adopted, now: Duration) -> Self {
        let until = now + quarantine;
        let mut backends = adopt_backends(capacities.backends, found, now, quarantine);
        let alive: HashMap<u32, BackendKey> = backends.records.iter().map(|(key, record)| (record.id, *key)).collect();
        let rows = adopt_rows(capacities, found, &alive);
        for id in rows.values().flatten().flat_map(|row| &row.ids) {
            if let Some(key) = alive.get(id) {
                backends.name(*key);
            }
        }
        let mut used: Vec<Extent> = rows.values().flatten().map(|row| row.extent).filter(|e| e.count > 0).collect();
        used.sort_unstable();
        let (frontends, markers, stray) = adopt_frontends(found, &rows);
        let mut members: HashMap<u32, BTreeMap<u32, u64>> = HashMap::new();
        for (key, word) in &found.members {
            members.entry(key.service).or_default().insert(key.backend, *word);
        }
        let nodes: BTreeMap<u32, _> = found.nodes.iter().copied().filter(|(id, _)| *id > 0).collect();
        let row_ids = found.rows.iter().map(|(id, _)| *id).chain(rows.keys().copied());
        Self {
            capacities,
            quarantine,
            service_ids: Ids::adopt(capacities.services, row_ids, &rows.keys().copied().collect(), until),
            extents: Extents::adopt(capacities.slots, &used, found.slots.len() as u32, until),
            services: BTreeMap::new(),
            frontends: HashMap::new(),
            members: 0,
            backends,
            node_ids: Ids::adopt(capacities.nodes, nodes.keys().copied(), &nodes.keys().copied().collect(), until),
            nodes: BTreeMap::new(),
            routes: found.routes.iter().map(|(key, route)| (*key, route.node)).collect(),
            leftovers: Leftovers {
                rows,
                frontends,
                markers,
                stray,
                affinities: found.affinities.iter().copied().collect(),
                members,
                backends: alive,
                nodes,
            },
        }
    }

    /// Removes what no object has claimed. To be called once every desired service has been planned.
    pub fn finish_adoption(&mut self, now: Duration) -> Vec<Step> {
        let left = std::mem::take(&mut self.leftovers);
        let frontends = left.frontends.into_keys().chain(left.markers).chain(left.stray);
        let mut steps: Vec<Step> = frontends.map(|key| Step::housekeeping(removal(key))).collect();
        for (service, members) in left.members {
            let keys = members.into_keys().map(|backend| MemberKey { service, backend });
            steps.extend(keys.map(|key| Step::housekeeping(Operation::RemoveMember { key })));
        }
        let until = now + self.quarantine;
        for (service, row) in left.rows {
            steps.push(Step::housekeeping(Operation::RetireRow { service }));
            self.service_ids.release(service, until);
            let Some(row) = row else { continue };
            self.extents.rest(row.extent, until);
            for key in row.ids.iter().filter_map(|id| left.backends.get(id)) {
                self.backends.unname(*key, false, now);
            }
        }
        // The slices ceased to name them while nobody looked.
        self.backends.end_orphans(|key| key.protocol != protocol::TCP, now);
        ordered(steps)
    }
}

/// All living backends are orphans until a service names them.
fn adopt_backends(capacity: u32, found: &Adopted, now: Duration, quarantine: Duration) -> Backends {
    let mut records = HashMap::new();
    let mut orphans = BTreeSet::new();
    let mut orphan_until = HashMap::new();
    let mut dying = VecDeque::new();
    let mut generations = Generations::default();
    found.backends.iter().for_each(|(id, backend)| generations.set(*id, backend.generation));
    let mut used = BTreeSet::new();
    for (id, backend) in &found.backends {
        let key = backend_key(backend);
        if *id == 0 || backend.state == backend_state::FREE {
            continue;
        }
        used.insert(*id);
        if backend.state != backend_state::ALIVE || records.contains_key(&key) {
            dying.push_back((now + quarantine, *id));
            continue;
        }
        let until = now + ORPHAN_LIFE;
        orphans.insert((until, key));
        orphan_until.insert(key, until);
        let (generation, node) = (backend.generation, backend.node);
        let record = BackendRecord { id: *id, generation, node_name: None, node, named: 0 };
        records.insert(key, record);
    }
    Backends {
        ids: Ids::adopt(capacity, found.backends.iter().map(|(id, _)| *id), &used, now + quarantine),
        generations,
        records,
        named: HashMap::new(),
        orphans,
        orphan_until,
        dying,
    }
}

/// The rows by service id: nothing for one that is out of bounds, overlaps another, or names a backend that is not
/// alive. An id of which only frontends remain counts as known too, through its stored row.
fn adopt_rows(capacities: Capacities, found: &Adopted, alive: &HashMap<u32, BackendKey>) -> BTreeMap<u32, Option<Row>> {
    // An id with affinity or members counts as known, so that nothing of it meets the next service of that id.
    let with_affinity = found.affinities.iter().map(|(id, _)| *id);
    let with_members = found.members.iter().map(|(key, _)| key.service);
    let in_use = frontend_services(found).into_iter().chain(with_affinity).chain(with_members).filter(|id| *id > 0);
    let mut rows: BTreeMap<u32, Option<Row>> = BTreeMap::new();
    for (id, word) in found.rows.iter().filter(|(id, word)| *id > 0 && *word != RETIRED_ROW) {
        rows.insert(*id, read_row(*word, capacities.slots, &found.slots, alive));
    }
    // A service that never had endpoints has a row of zeros, which the dump leaves out.
    for id in in_use.filter(|id| *id < capacities.services) {
        rows.entry(id).or_insert_with(|| Some(Row { extent: Extent { base: 0, count: 0 }, ids: Vec::new() }));
    }
    let mut by_base: Vec<(Extent, u32)> =
        rows.iter().filter_map(|(id, row)| Some((row.as_ref()?.extent, *id))).filter(|(e, _)| e.count > 0).collect();
    by_base.sort_unstable();
    let mut end = 0;
    let mut last = 0;
    for (extent, id) in by_base {
        if extent.base < end {
            rows.insert(id, None);
            rows.insert(last, None);
        }
        if extent.base + extent.count > end {
            end = extent.base + extent.count;
            last = id;
        }
    }
    rows
}

fn read_row(word: u64, capacity: u32, slots: &[u32], alive: &HashMap<u32, BackendKey>) -> Option<Row> {
    let (base, count) = row_parts(word);
    let end = base.checked_add(count).filter(|end| *end <= capacity)?;
    if count > SLOTS_PER_SERVICE {
        return None;
    }
    if count == 0 {
        return Some(Row { extent: Extent { base: 0, count: 0 }, ids: Vec::new() });
    }
    let mut ids = slots.get(base as usize..end as usize)?.to_vec();
    if !ids.iter().all(|id| alive.contains_key(id)) {
        return None;
    }
    ids.sort_unstable();
    Some(Row { extent: Extent { base, count }, ids })
}

/// The frontends that point to a known service, the markers, and the frontends that point nowhere.
fn adopt_frontends(
    found: &Adopted,
    rows: &BTreeMap<u32, Option<Row>>,
) -> (HashMap<FrontendKey, u32>, HashSet<FrontendKey>, HashSet<FrontendKey>) {
    let mut known = HashMap::new();
    let mut markers = HashSet::new();
    let mut stray = HashSet::new();
    for (key, word) in &found.frontends {
        if is_marker(key) && *word == marker_word(key) {
            markers.insert(*key);
            continue;
        }
        match frontend_parts(*word) {
            (id, tag, 0) if !is_marker(key) && tag == key.tag() && rows.contains_key(&id) => {
                known.insert(*key, id);
            }
            _ => {
                stray.insert(*key);
            }
        }
    }
    (known, markers, stray)
}

/// The service ids frontends point to, if their row is not retired.
fn frontend_services(found: &Adopted) -> BTreeSet<u32> {
    let retired: HashSet<u32> = found.rows.iter().filter(|(_, word)| *word == RETIRED_ROW).map(|(id, _)| *id).collect();
    let ids = found.frontends.iter().map(|(_, word)| frontend_parts(*word).0);
    ids.filter(|id| *id > 0 && !retired.contains(id)).collect()
}

fn backend_key(backend: &Backend) -> BackendKey {
    BackendKey { address: backend.address, port: u16::from_be_bytes(backend.port), protocol: backend.protocol }
}
