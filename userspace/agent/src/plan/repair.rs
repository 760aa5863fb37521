//! Repairing drift: whatever someone else changed in the maps is put right.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use diolkos_abi::service::{Backend, FrontendKey, MemberKey, backend_state, frontend_word, row_parts};

use super::nodes::set_route;
use super::services::Row;
use super::{Operation, Planner, RETIRED_ROW, Step, marker, marker_word, ordered, removal};
use crate::dataplane::Adopted;

impl Planner {
    /// The steps that make maps in the state of `found` what this planner believes them to be. None when they are. A
    /// row that finds no room is left to the next repair.
    pub fn repair(&mut self, found: &Adopted, now: Duration) -> Vec<Step> {
        let mut operations = self.repair_nodes(found);
        operations.extend(self.repair_backends(found));
        operations.extend(self.repair_rows(found, now));
        operations.extend(self.repair_affinity(found));
        operations.extend(self.repair_members(found));
        operations.extend(self.repair_frontends(found));
        ordered(operations.into_iter().map(Step::housekeeping).collect())
    }

    fn repair_nodes(&self, found: &Adopted) -> Vec<Operation> {
        let mut operations = Vec::new();
        let nodes: HashMap<u32, _> = found.nodes.iter().map(|(id, node)| (*id, node)).collect();
        for record in self.nodes.values().filter(|record| nodes.get(&record.id) != Some(&&record.node)) {
            operations.push(Operation::SetNode { id: record.id, node: record.node });
        }
        let ours: HashSet<u32> = self.nodes.values().map(|record| record.id).collect();
        operations.extend(nodes.into_keys().filter(|id| !ours.contains(id)).map(|id| Operation::RemoveNode { id }));
        let routes: HashMap<_, u32> = found.routes.iter().map(|(key, route)| (*key, route.node)).collect();
        for (key, node) in &self.routes {
            if routes.get(key) != Some(node) {
                operations.push(set_route(*key, *node));
            }
        }
        let foreign = routes.into_keys().filter(|key| !self.routes.contains_key(key));
        operations.extend(foreign.map(|key| Operation::RemoveRoute { key }));
        operations
    }

    fn repair_backends(&self, found: &Adopted) -> Vec<Operation> {
        let mut operations = Vec::new();
        let backends: HashMap<u32, &Backend> = found.backends.iter().map(|(id, backend)| (*id, backend)).collect();
        let mut ours: HashSet<u32> = self.backends.dying.iter().map(|(_, id)| *id).collect();
        for (key, record) in &self.backends.records {
            ours.insert(record.id);
            let backend = record.backend(key);
            if backends.get(&record.id) != Some(&&backend) {
                operations.push(Operation::SetBackend { id: record.id, backend });
            }
        }
        for (id, found) in backends {
            if !ours.contains(&id) && found.state != backend_state::FREE {
                let generation = self.backends.generations.of(id).max(found.generation);
                operations.push(Operation::EndBackend { id, backend: Backend { generation, ..Backend::default() } });
            }
        }
        operations
    }

    fn repair_rows(&mut self, found: &Adopted, now: Duration) -> Vec<Operation> {
        let rows: HashMap<u32, u64> = found.rows.iter().copied().collect();
        let mut ours = HashSet::new();
        let mut wrong = Vec::new();
        for (name, service) in &self.services {
            for (key, record) in service.ports.iter() {
                ours.insert(record.id);
                let word = rows.get(&record.id).copied().unwrap_or_default();
                if let Some(row) = record.row.as_ref().filter(|row| !stands(row, word, &found.slots)) {
                    wrong.push((name.clone(), *key, record.id, row.ids.clone()));
                }
            }
        }
        let mut operations = Vec::new();
        for (name, key, service, ids) in wrong {
            let Ok(row) = self.fresh_row(ids, now) else { continue };
            if !row.ids.is_empty() {
                operations.push(Operation::WriteSlots { base: row.extent.base, backends: row.ids.clone() });
            }
            operations.push(Operation::SetRow { service, row: row.word() });
            let record = self.services.get_mut(&name).and_then(|service| service.ports.get_mut(&key));
            if let Some(old) = record.and_then(|record| record.row.replace(row)) {
                self.extents.rest(old.extent, now + self.quarantine);
            }
        }
        let foreign = rows.into_iter().filter(|(id, word)| *id > 0 && *word != RETIRED_ROW && !ours.contains(id));
        operations.extend(foreign.map(|(service, _)| Operation::RetireRow { service }));
        operations
    }

    fn repair_frontends(&self, found: &Adopted) -> Vec<Operation> {
        let mut missing: HashMap<FrontendKey, u64> = HashMap::new();
        for address in self.services.values().flat_map(|service| &service.addresses) {
            let key = marker(*address);
            missing.insert(key, marker_word(&key));
        }
        for record in self.services.values().flat_map(|service| service.ports.values()) {
            let word = |key: &FrontendKey| frontend_word(record.id, key.tag(), 0);
            missing.extend(record.frontends.iter().map(|key| (*key, word(key))));
        }
        let mut operations = Vec::new();
        for (key, word) in &found.frontends {
            match missing.get(key) {
                Some(wanted) if wanted == word => {
                    missing.remove(key);
                }
                Some(_) => {}
                None => operations.push(removal(*key)),
            }
        }
        operations.extend(missing.into_iter().map(|(key, word)| match word == marker_word(&key) {
            true => Operation::InsertAddress { address: key.address },
            false => Operation::InsertFrontend { key, word },
        }));
        operations
    }

    fn repair_affinity(&self, found: &Adopted) -> Vec<Operation> {
        let mut affinities: HashMap<u32, u32> = found.affinities.iter().copied().collect();
        let mut operations = Vec::new();
        for record in self.services.values().flat_map(|service| service.ports.values()) {
            if affinities.remove(&record.id).unwrap_or_default() != record.affinity {
                operations.push(Operation::SetAffinity { service: record.id, ticks: record.affinity });
            }
        }
        let foreign = affinities.into_keys().filter(|id| *id > 0);
        operations.extend(foreign.map(|service| Operation::SetAffinity { service, ticks: 0 }));
        operations
    }

    fn repair_members(&self, found: &Adopted) -> Vec<Operation> {
        let mut members: HashMap<MemberKey, u64> = found.members.iter().copied().collect();
        let mut operations = Vec::new();
        for record in self.services.values().flat_map(|service| service.ports.values()) {
            for (backend, word) in &record.members {
                let key = MemberKey { service: record.id, backend: *backend };
                if members.remove(&key) != Some(*word) {
                    operations.push(Operation::InsertMember { key, word: *word });
                }
            }
        }
        operations.extend(members.into_keys().map(|key| Operation::RemoveMember { key }));
        operations
    }
}

/// Whether the map holds this row: the word and the slots.
fn stands(row: &Row, word: u64, slots: &[u32]) -> bool {
    let (base, count) = row_parts(word);
    if count == 0 || row.ids.is_empty() {
        return count as usize == row.ids.len();
    }
    let end = base.saturating_add(count) as usize;
    let in_map = slots.get(base as usize..end).map(<[u32]>::to_vec);
    word == row.word()
        && in_map.is_some_and(|mut ids| {
            ids.sort_unstable();
            ids == row.ids
        })
}
