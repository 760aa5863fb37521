//! Services: a changed row gets a fresh extent, written completely, then one store.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;
use std::time::Duration;

use diolkos_abi::address::Address;
use diolkos_abi::service::{FrontendKey, MemberKey, frontend_word, member_word, row_word};

use super::ids::Extent;
use super::sorted::Sorted;
use super::{NoRoom, Operation, Owner, Planner, ServiceChange, Step, marker, ordered, removal};
use crate::dataplane::map;
use crate::desired::{BackendKey, DesiredPort, DesiredService, PortKey, ServiceName};

/// A service as the maps hold it.
#[derive(Debug, Default)]
pub(super) struct ServiceRecord {
    pub(super) ports: Sorted<PortKey, PortRecord>,
    /// The addresses whose markers it has.
    pub(super) addresses: Vec<Address>,
}

/// A service port as the maps hold it.
#[derive(Debug)]
pub(super) struct PortRecord {
    pub(super) id: u32,
    /// Nothing when the map's row is not known or not to be trusted: it is then written anew.
    pub(super) row: Option<Row>,
    pub(super) frontends: Vec<FrontendKey>,
    pub(super) affinity: u32,
    /// Backend id to [`diolkos_abi::service::member_word`]; only with affinity.
    pub(super) members: BTreeMap<u32, u64>,
    /// All backends the port names, and whether their pods are terminating.
    named: BTreeMap<BackendKey, bool>,
}

/// A row: where, and the backend ids in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) extent: Extent,
    pub(super) ids: Vec<u32>,
}

impl PortRecord {
    fn new(id: u32) -> Self {
        let (frontends, members, named) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { id, row: None, frontends, affinity: 0, members, named }
    }
}

impl Row {
    pub(super) fn word(&self) -> u64 {
        row_word(self.extent.base, self.extent.count)
    }
}

/// What a plan gathers on its way.
struct Work {
    now: Duration,
    steps: Vec<Step>,
    /// Frontends their service does not want any more: another may claim them in the same plan.
    released: HashMap<FrontendKey, ServiceName>,
    /// Backends a port names no more, and whether their pods were terminating.
    unnamed: Vec<(BackendKey, bool)>,
    /// Members that leave at the end of the plan: until then they take room.
    leaving: usize,
}

/// All a service needs, set aside before anything of it is planned.
#[derive(Default)]
struct Reservation {
    ports: Vec<PortReservation>,
    backends: BTreeMap<BackendKey, u32>,
}

struct PortReservation {
    key: PortKey,
    id: u32,
    is_new: bool,
    /// The row to write; nothing when it stands already.
    row: Option<Row>,
    frontends: Vec<FrontendKey>,
    /// Members that are not in the map yet.
    new_members: usize,
}

impl Planner {
    /// Plans changes of services: only what differs. A service without room is left as it is, and named.
    pub fn plan(&mut self, changes: &[ServiceChange<'_>], now: Duration) -> (Vec<Step>, Vec<(ServiceName, NoRoom)>) {
        let mut work = Work { now, steps: Vec::new(), released: HashMap::new(), unnamed: Vec::new(), leaving: 0 };
        let mut refused = Vec::new();
        for (name, desired) in changes {
            self.shrink(name, *desired, &mut work);
        }
        for (name, desired) in changes {
            let Some(desired) = desired else { continue };
            match self.reserve(name, desired, &work) {
                Ok(reservation) => self.commit(name, desired, reservation, &mut work),
                Err(error) => refused.push(((*name).clone(), error)),
            }
        }
        for (key, name) in work.released {
            work.steps.push(Step { owner: Owner::Service(name), operation: removal(key) });
        }
        for (key, terminating) in work.unnamed {
            self.backends.unname(key, terminating, now);
        }
        (ordered(work.steps), refused)
    }

    /// What is left to do when an insertion of a service's frontends failed: the frontends this plan put in are taken
    /// out again, so that the service is not served by half. `done` says which were put in.
    pub fn retract(&mut self, name: &ServiceName, keys: &[FrontendKey], done: &[FrontendKey]) -> Vec<Step> {
        for key in keys {
            self.frontends.remove(key);
        }
        if let Some(service) = self.services.get_mut(name) {
            service.addresses.retain(|address| !keys.contains(&marker(*address)));
            for record in service.ports.values_mut() {
                record.frontends.retain(|key| !keys.contains(key));
            }
        }
        let owner = || Owner::Service(name.clone());
        ordered(done.iter().map(|key| Step { owner: owner(), operation: removal(*key) }).collect())
    }

    /// The addresses of backends that no service names and that live only for the connections they have.
    pub fn orphan_addresses(&self) -> impl Iterator<Item = &Address> {
        self.backends.orphan_addresses()
    }

    /// Says which of those addresses have no pod any more: the next housekeeping ends their backends.
    pub fn end_orphans(&mut self, is_gone: impl Fn(&Address) -> bool, now: Duration) {
        self.backends.end_orphans(|key| is_gone(&key.address), now);
    }

    /// Ends what is due. To be carried out before the next plan.
    pub fn housekeeping(&mut self, now: Duration) -> Vec<Step> {
        ordered(self.backends.expire(now, self.quarantine))
    }

    /// When [`Planner::housekeeping`] has something to do next.
    pub fn deadline(&self) -> Option<Duration> {
        self.backends.deadline()
    }

    /// Removals need no room, so they are never refused.
    fn shrink(&mut self, name: &ServiceName, desired: Option<&DesiredService>, work: &mut Work) {
        let Some(service) = self.services.get_mut(name) else { return };
        let wanted = |key: &PortKey| desired.and_then(|desired| desired.ports.get(key));
        let mut gone = Vec::new();
        let mut released: Vec<FrontendKey> = Vec::new();
        service.ports.retain(|key, record| {
            let Some(port) = wanted(key) else {
                work.unnamed.extend(std::mem::take(&mut record.named));
                released.append(&mut record.frontends);
                gone.push((record.id, record.row.take(), std::mem::take(&mut record.members)));
                return false;
            };
            released.extend(record.frontends.extract_if(.., |key| !port.frontends.contains(key)));
            true
        });
        service.addresses.retain(|address| {
            let stays = desired.is_some_and(|desired| desired.addresses.contains(address));
            if !stays {
                released.push(marker(*address));
            }
            stays
        });
        if service.ports.is_empty() && service.addresses.is_empty() {
            self.services.remove(name);
        }
        for key in released {
            self.frontends.remove(&key);
            work.released.insert(key, name.clone());
        }
        let owner = Owner::Service(name.clone());
        for (service, row, members) in gone {
            work.steps.push(Step { owner: owner.clone(), operation: Operation::RetireRow { service } });
            let keys = members.into_keys().map(|backend| MemberKey { service, backend });
            let removals = keys.map(|key| Step { owner: owner.clone(), operation: Operation::RemoveMember { key } });
            let before = work.steps.len();
            work.steps.extend(removals);
            self.members -= work.steps.len() - before;
            work.leaving += work.steps.len() - before;
            self.service_ids.release(service, work.now + self.quarantine);
            self.rest(row, work.now);
        }
    }

    /// Sets aside all that a service needs, or nothing.
    fn reserve(&mut self, name: &ServiceName, desired: &DesiredService, work: &Work) -> Result<Reservation, NoRoom> {
        let mut reservation = Reservation::default();
        // All ports before any can be refused: what an earlier agent served of the service stays its own.
        self.claim_addresses(name, desired);
        for (key, port) in &desired.ports {
            if self.services.get(name).is_none_or(|service| !service.ports.contains_key(key)) {
                self.claim(name, *key, port);
            }
        }
        let taken = |address: &&Address| self.frontends.get(&marker(**address)).is_some_and(|by| by != name);
        if let Some(address) = desired.addresses.iter().find(taken) {
            let by = self.frontends.get(&marker(*address)).cloned();
            let address = Ipv6Addr::from(*address).to_canonical();
            return Err(NoRoom::Taken { address, by: by.unwrap_or_else(|| name.clone()) });
        }
        for (key, port) in &desired.ports {
            if let Err(error) = self.reserve_port(name, *key, port, desired.affinity, &mut reservation, work) {
                self.undo(reservation);
                return Err(error);
            }
        }
        if let Err(error) = self.has_room(name, desired, &reservation, work) {
            self.undo(reservation);
            return Err(error);
        }
        Ok(reservation)
    }

    /// Whether the hashes take the entries of a service beside all that is, and all that leaves at the end of the plan.
    fn has_room(
        &self,
        name: &ServiceName,
        desired: &DesiredService,
        reservation: &Reservation,
        work: &Work,
    ) -> Result<(), NoRoom> {
        let left = &self.leftovers;
        let frontends = reservation.ports.iter().flat_map(|port| &port.frontends).copied();
        let record = self.services.get(name);
        let has = |address: &&Address| record.is_some_and(|record| record.addresses.contains(*address));
        let markers = desired.addresses.iter().filter(|address| !has(address)).map(|address| marker(*address));
        let new = frontends.chain(markers).filter(|key| !self.is_in_map(key, work)).count();
        let leftovers = left.frontends.len() + left.markers.len() + left.stray.len();
        let peak = self.frontends.len() + work.released.len() + leftovers + new;
        if peak > self.capacities.frontends as usize {
            return Err(NoRoom::Full { map: map::FRONTEND, capacity: self.capacities.frontends });
        }
        let new: usize = reservation.ports.iter().map(|port| port.new_members).sum();
        // Counting what an earlier agent left takes long, and there is nothing to count for most services.
        let leftovers = || left.members.values().map(BTreeMap::len).sum::<usize>();
        if new > 0 && self.members + work.leaving + leftovers() + new > self.capacities.members as usize {
            return Err(NoRoom::Full { map: map::MEMBER, capacity: self.capacities.members });
        }
        Ok(())
    }

    fn reserve_port(
        &mut self,
        name: &ServiceName,
        key: PortKey,
        port: &DesiredPort,
        affinity: u32,
        reservation: &mut Reservation,
        work: &Work,
    ) -> Result<(), NoRoom> {
        let record = self.services.get(name).and_then(|service| service.ports.get(&key));
        let known = record.map(|record| (record.id, record.row.clone()));
        let has = |frontend: &FrontendKey| record.is_some_and(|record| record.frontends.contains(frontend));
        let frontends: Vec<FrontendKey> = port.frontends.iter().filter(|key| !has(key)).copied().collect();
        let mut ids = Vec::with_capacity(port.row.len());
        for key in port.row.keys() {
            let reserved = || reservation.backends.get(key).copied();
            ids.push(match self.backends.id(key).or_else(reserved) {
                Some(id) => id,
                None => {
                    let full = NoRoom::Full { map: map::BACKEND, capacity: self.capacities.backends };
                    let id = self.backends.reserve(work.now).ok_or(full)?;
                    reservation.backends.insert(*key, id);
                    id
                }
            });
        }
        ids.sort_unstable();
        let is_member = |id: &&u32| record.is_some_and(|record| record.members.contains_key(*id));
        let new_members = if affinity == 0 { 0 } else { ids.iter().filter(|id| !is_member(id)).count() };
        let is_new = known.is_none();
        let (id, old) = match known {
            Some((id, row)) => (id, row),
            None => {
                let full = NoRoom::Full { map: map::SERVICE, capacity: self.capacities.services };
                (self.service_ids.take(work.now).ok_or(full)?, None)
            }
        };
        // Pushed before the extent is taken, so that undoing finds the id.
        reservation.ports.push(PortReservation { key, id, is_new, row: None, frontends, new_members });
        if old.is_none_or(|old| old.ids != ids) {
            let row = self.fresh_row(ids, work.now)?;
            if let Some(port) = reservation.ports.last_mut() {
                port.row = Some(row);
            }
        }
        Ok(())
    }

    /// Takes over the markers an earlier agent wrote for this service's addresses.
    fn claim_addresses(&mut self, name: &ServiceName, desired: &DesiredService) {
        let markers = &mut self.leftovers.markers;
        let claimed = desired.addresses.iter().filter(|address| markers.remove(&marker(**address)));
        for address in claimed {
            self.frontends.insert(marker(*address), name.clone());
            self.services.entry(name.clone()).or_default().addresses.push(*address);
        }
    }

    /// Takes over the id an earlier agent gave to this port, known by its frontends.
    fn claim(&mut self, name: &ServiceName, key: PortKey, port: &DesiredPort) {
        let leftovers = &mut self.leftovers;
        let mut ids = port.frontends.iter().filter_map(|frontend| leftovers.frontends.get(frontend).copied());
        let Some(id) = ids.find(|id| leftovers.rows.contains_key(id)) else { return };
        let row = leftovers.rows.remove(&id).flatten();
        let keys = row.iter().flat_map(|row| &row.ids).filter_map(|id| leftovers.backends.get(id));
        let named = keys.map(|key| (*key, false)).collect();
        let is_claimed = |frontend: &&FrontendKey| leftovers.frontends.get(*frontend) == Some(&id);
        let frontends: Vec<FrontendKey> = port.frontends.iter().filter(is_claimed).copied().collect();
        for frontend in &frontends {
            leftovers.frontends.remove(frontend);
            self.frontends.insert(*frontend, name.clone());
        }
        let affinity = leftovers.affinities.remove(&id).unwrap_or_default();
        let members = leftovers.members.remove(&id).unwrap_or_default();
        self.members += members.len();
        let record = PortRecord { id, row, frontends, affinity, members, named };
        self.services.entry(name.clone()).or_default().ports.insert(key, record);
    }

    pub(super) fn fresh_row(&mut self, ids: Vec<u32>, now: Duration) -> Result<Row, NoRoom> {
        let count = ids.len() as u32;
        let extent = match count {
            0 => Extent { base: 0, count: 0 },
            _ => {
                let full = NoRoom::Full { map: map::SLOT, capacity: self.capacities.slots };
                self.extents.take(count, now).ok_or(full)?
            }
        };
        Ok(Row { extent, ids })
    }

    /// Whether the map has a key already, though its owner changes.
    fn is_in_map(&self, key: &FrontendKey, work: &Work) -> bool {
        let left = &self.leftovers;
        let is_left = left.frontends.contains_key(key) || left.markers.contains(key) || left.stray.contains(key);
        is_left || work.released.contains_key(key)
    }

    fn undo(&mut self, reservation: Reservation) {
        for id in reservation.backends.into_values() {
            self.backends.ids.give_back(id);
        }
        for port in reservation.ports {
            if port.is_new {
                self.service_ids.give_back(port.id);
            }
            if let Some(row) = port.row.filter(|row| row.extent.count > 0) {
                self.extents.give_back(row.extent);
            }
        }
    }

    /// Plans a service for which everything is set aside: from here on nothing fails.
    fn commit(&mut self, name: &ServiceName, desired: &DesiredService, reservation: Reservation, work: &mut Work) {
        let owner = Owner::Service(name.clone());
        let mut operations = self.commit_backends(desired, &reservation.backends);
        let mut service = self.services.remove(name).unwrap_or_default();
        for address in desired.addresses.iter().filter(|address| !service.addresses.contains(address)) {
            let key = marker(*address);
            self.leftovers.stray.remove(&key);
            self.frontends.insert(key, name.clone());
            // All markers of an address are equal: one that another service gave up is as good.
            if work.released.remove(&key).is_none() {
                operations.push(Operation::InsertAddress { address: *address });
            }
        }
        service.addresses = desired.addresses.iter().copied().collect();
        for port in reservation.ports {
            let Some(wanted) = desired.ports.get(&port.key) else { continue };
            let record = service.ports.get_or_insert_with(port.key, || PortRecord::new(port.id));
            if let Some(row) = port.row {
                if !row.ids.is_empty() {
                    operations.push(Operation::WriteSlots { base: row.extent.base, backends: row.ids.clone() });
                }
                operations.push(Operation::SetRow { service: port.id, row: row.word() });
                let old = record.row.replace(row);
                self.rest(old, work.now);
            }
            record.frontends.reserve_exact(port.frontends.len());
            record.frontends.extend(&port.frontends);
            self.commit_members(record, desired.affinity, &mut operations, work);
            self.rename(record, wanted, work);
            for key in port.frontends {
                work.released.remove(&key);
                self.leftovers.frontends.remove(&key);
                self.leftovers.stray.remove(&key);
                self.frontends.insert(key, name.clone());
                operations.push(Operation::InsertFrontend { key, word: frontend_word(port.id, key.tag(), 0) });
            }
        }
        self.services.insert(name.clone(), service);
        work.steps.extend(operations.into_iter().map(|operation| Step { owner: owner.clone(), operation }));
    }

    /// The backends of a port's row are its members, while it has affinity.
    fn commit_members(
        &mut self,
        record: &mut PortRecord,
        affinity: u32,
        operations: &mut Vec<Operation>,
        work: &mut Work,
    ) {
        if record.affinity != affinity {
            operations.push(Operation::SetAffinity { service: record.id, ticks: affinity });
            record.affinity = affinity;
        }
        if affinity == 0 && record.members.is_empty() {
            return;
        }
        let key = |backend| MemberKey { service: record.id, backend };
        let generation = |id: &u32| self.backends.generations.of(*id);
        let ids = record.row.iter().flat_map(|row| &row.ids).filter(|_| affinity != 0);
        let wanted: BTreeMap<u32, u64> = ids.map(|id| (*id, member_word(generation(id), key(*id).tag()))).collect();
        let news = wanted.iter().filter(|(id, word)| record.members.get(id) != Some(word));
        operations.extend(news.map(|(id, word)| Operation::InsertMember { key: key(*id), word: *word }));
        let gone: Vec<u32> = record.members.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        work.leaving += gone.len();
        operations.extend(gone.into_iter().map(|id| Operation::RemoveMember { key: key(id) }));
        self.members += wanted.len();
        self.members -= record.members.len();
        record.members = wanted;
    }

    /// Which backends a port names from now on, in its row or as draining.
    fn rename(&mut self, record: &mut PortRecord, wanted: &DesiredPort, work: &mut Work) {
        let serving = wanted.row.keys().map(|key| (*key, wanted.terminating.contains(key)));
        let named = serving.chain(wanted.draining.iter().map(|(key, ending)| (*key, *ending))).collect();
        let old = std::mem::replace(&mut record.named, named);
        for key in record.named.keys().filter(|key| !old.contains_key(key)) {
            self.backends.name(*key);
        }
        work.unnamed.extend(old.into_iter().filter(|(key, _)| !record.named.contains_key(key)));
    }

    fn commit_backends(&mut self, desired: &DesiredService, new: &BTreeMap<BackendKey, u32>) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (key, node_name) in desired.ports.values().flat_map(|port| &port.row) {
            let node = self.node_id(node_name.as_deref());
            operations.extend(match new.get(key) {
                Some(id) if self.backends.id(key).is_none() => {
                    Some(self.backends.publish(*key, *id, node_name.clone(), node))
                }
                _ => self.backends.locate(key, node_name, node),
            });
        }
        operations
    }

    fn rest(&mut self, row: Option<Row>, now: Duration) {
        if let Some(row) = row {
            self.extents.rest(row.extent, now + self.quarantine);
        }
    }
}
