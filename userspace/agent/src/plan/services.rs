//! Services: a changed row gets a fresh extent, written completely, then one store.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;
use std::time::Duration;

use diolkos_abi::address::Address;
use diolkos_abi::service::{FrontendKey, frontend_word, row_word};

use super::ids::Extent;
use super::{NoRoom, Operation, Owner, Planner, ServiceChange, Step, ordered};
use crate::dataplane::map;
use crate::desired::{BackendKey, DesiredPort, DesiredService, PortKey, ServiceName};

/// A service port as the maps hold it.
#[derive(Debug)]
pub(super) struct PortRecord {
    pub(super) id: u32,
    /// Nothing when the map's row is not known or not to be trusted: it is then written anew.
    pub(super) row: Option<Row>,
    pub(super) frontends: Vec<FrontendKey>,
    /// All backends the port names, and whether their pods are terminating.
    named: BTreeMap<BackendKey, bool>,
}

/// A row: where, and the backend ids in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) extent: Extent,
    pub(super) ids: Vec<u32>,
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
}

impl Planner {
    /// Plans changes of services: only what differs. A service without room is left as it is, and named.
    pub fn plan(&mut self, changes: &[ServiceChange<'_>], now: Duration) -> (Vec<Step>, Vec<(ServiceName, NoRoom)>) {
        let mut work = Work { now, steps: Vec::new(), released: HashMap::new(), unnamed: Vec::new() };
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
            let operation = Operation::RemoveFrontend { key };
            work.steps.push(Step { owner: Owner::Service(name), operation });
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
        for record in self.services.get_mut(name).into_iter().flat_map(BTreeMap::values_mut) {
            record.frontends.retain(|key| !keys.contains(key));
        }
        let owner = || Owner::Service(name.clone());
        done.iter().map(|key| Step { owner: owner(), operation: Operation::RemoveFrontend { key: *key } }).collect()
    }

    /// The addresses of backends that no service names and that live only for the connections they have.
    pub fn orphan_addresses(&self) -> impl Iterator<Item = &Address> {
        self.backends.orphan_addresses()
    }

    /// Says which of those addresses have no pod any more: the next housekeeping ends their backends.
    pub fn end_orphans(&mut self, is_gone: impl Fn(&Address) -> bool, now: Duration) {
        self.backends.end_orphans(is_gone, now);
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
        let Some(ports) = self.services.get_mut(name) else { return };
        let wanted = |key: &PortKey| desired.and_then(|desired| desired.ports.get(key));
        let mut gone = Vec::new();
        let mut released = Vec::new();
        ports.retain(|key, record| {
            let Some(port) = wanted(key) else {
                gone.push((record.id, record.row.take()));
                work.unnamed.extend(std::mem::take(&mut record.named));
                released.append(&mut record.frontends);
                return false;
            };
            released.extend(record.frontends.extract_if(.., |key| !port.frontends.contains(key)));
            true
        });
        if ports.is_empty() {
            self.services.remove(name);
        }
        for key in released {
            self.frontends.remove(&key);
            work.released.insert(key, name.clone());
        }
        for (service, row) in gone {
            let operation = Operation::RetireRow { service };
            work.steps.push(Step { owner: Owner::Service(name.clone()), operation });
            self.service_ids.release(service, work.now + self.quarantine);
            self.rest(row, work.now);
        }
    }

    /// Sets aside all that a service needs, or nothing.
    fn reserve(&mut self, name: &ServiceName, desired: &DesiredService, work: &Work) -> Result<Reservation, NoRoom> {
        let mut reservation = Reservation::default();
        // All ports before any can be refused: what an earlier agent served of the service stays its own.
        for (key, port) in &desired.ports {
            if self.services.get(name).is_none_or(|ports| !ports.contains_key(key)) {
                self.claim(name, *key, port);
            }
        }
        for (key, port) in &desired.ports {
            if let Err(error) = self.reserve_port(name, *key, port, &mut reservation, work) {
                self.undo(reservation);
                return Err(error);
            }
        }
        let new: usize = reservation.ports.iter().map(|port| self.new_entries(&port.frontends, work)).sum();
        let leftovers = self.leftovers.frontends.len() + self.leftovers.stray.len();
        let peak = self.frontends.len() + work.released.len() + leftovers + new;
        if peak > self.capacities.frontends as usize {
            self.undo(reservation);
            return Err(NoRoom::Full { map: map::FRONTEND, capacity: self.capacities.frontends });
        }
        Ok(reservation)
    }

    fn reserve_port(
        &mut self,
        name: &ServiceName,
        key: PortKey,
        port: &DesiredPort,
        reservation: &mut Reservation,
        work: &Work,
    ) -> Result<(), NoRoom> {
        let record = self.services.get(name).and_then(|ports| ports.get(&key));
        let known = record.map(|record| (record.id, record.row.clone()));
        let has = |frontend: &FrontendKey| record.is_some_and(|record| record.frontends.contains(frontend));
        let frontends: Vec<FrontendKey> = port.frontends.iter().filter(|key| !has(key)).copied().collect();
        if let Some((frontend, by)) = frontends.iter().find_map(|key| Some((key, self.frontends.get(key)?))) {
            let port = u16::from_be_bytes(frontend.port);
            return Err(NoRoom::Taken { address: Ipv6Addr::from(frontend.address), port, by: by.clone() });
        }
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
        let is_new = known.is_none();
        let (id, old) = match known {
            Some((id, row)) => (id, row),
            None => {
                let full = NoRoom::Full { map: map::SERVICE, capacity: self.capacities.services };
                (self.service_ids.take(work.now).ok_or(full)?, None)
            }
        };
        // Pushed before the extent is taken, so that undoing finds the id.
        reservation.ports.push(PortReservation { key, id, is_new, row: None, frontends });
        if old.is_none_or(|old| old.ids != ids) {
            let row = self.fresh_row(ids, work.now)?;
            if let Some(port) = reservation.ports.last_mut() {
                port.row = Some(row);
            }
        }
        Ok(())
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
        let record = PortRecord { id, row, frontends, named };
        self.services.entry(name.clone()).or_default().insert(key, record);
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

    fn new_entries(&self, frontends: &[FrontendKey], work: &Work) -> usize {
        let left = &self.leftovers;
        let in_map = |key: &FrontendKey| {
            work.released.contains_key(key) || left.frontends.contains_key(key) || left.stray.contains(key)
        };
        frontends.iter().filter(|key| !in_map(key)).count()
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
        for port in reservation.ports {
            let Some(wanted) = desired.ports.get(&port.key) else { continue };
            let ports = self.services.entry(name.clone()).or_default();
            let empty = || PortRecord { id: port.id, row: None, frontends: Vec::new(), named: BTreeMap::new() };
            let record = ports.entry(port.key).or_insert_with(empty);
            let mut old_row = None;
            if let Some(row) = port.row {
                if !row.ids.is_empty() {
                    operations.push(Operation::WriteSlots { base: row.extent.base, backends: row.ids.clone() });
                }
                operations.push(Operation::SetRow { service: port.id, row: row.word() });
                old_row = record.row.replace(row);
            }
            record.frontends.extend(&port.frontends);
            let serving = wanted.row.keys().map(|key| (*key, wanted.terminating.contains(key)));
            let named = serving.chain(wanted.draining.iter().map(|(key, ending)| (*key, *ending))).collect();
            let old = std::mem::replace(&mut record.named, named);
            for key in record.named.keys().filter(|key| !old.contains_key(key)) {
                self.backends.name(*key);
            }
            work.unnamed.extend(old.into_iter().filter(|(key, _)| !record.named.contains_key(key)));
            self.rest(old_row, work.now);
            for key in port.frontends {
                work.released.remove(&key);
                self.leftovers.frontends.remove(&key);
                self.leftovers.stray.remove(&key);
                self.frontends.insert(key, name.clone());
                operations.push(Operation::InsertFrontend { key, word: frontend_word(port.id, key.tag(), 0) });
            }
        }
        work.steps.extend(operations.into_iter().map(|operation| Step { owner: owner.clone(), operation }));
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
