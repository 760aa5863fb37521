//! The life of backends: named by a service, then alive without one, then dead, then free.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use diolkos_abi::address::{Address, protocol};
use diolkos_abi::service::{Backend, backend_state};

use super::ids::Ids;
use super::{ORPHAN_LIFE, Operation, Step};
use crate::desired::BackendKey;

/// All backend ids and who has them.
#[derive(Debug)]
pub(super) struct Backends {
    pub(super) ids: Ids,
    /// The last generation of every id that was ever given out.
    pub(super) generations: Generations,
    pub(super) records: HashMap<BackendKey, BackendRecord>,
    /// How many service ports name, as draining, a backend that is not alive.
    pub(super) named: HashMap<BackendKey, u32>,
    /// Alive, named by nobody, and until when.
    pub(super) orphans: BTreeSet<(Duration, BackendKey)>,
    /// The same by backend.
    pub(super) orphan_until: HashMap<BackendKey, Duration>,
    /// Dead, until when, and the id.
    pub(super) dying: VecDeque<(Duration, u32)>,
}

/// Generations by id; 0 for an id that was never given out.
#[derive(Debug, Default)]
pub(super) struct Generations(Vec<u32>);

impl Generations {
    pub(super) fn of(&self, id: u32) -> u32 {
        self.0.get(id as usize).copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, id: u32, generation: u32) {
        let at = id as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] = generation;
    }

    fn next(&mut self, id: u32) -> u32 {
        let generation = self.of(id).wrapping_add(1);
        self.set(id, generation);
        generation
    }
}

/// A backend that is alive. There are many: what few of them have stands elsewhere.
#[derive(Clone, Debug)]
pub(super) struct BackendRecord {
    pub(super) id: u32,
    pub(super) generation: u32,
    pub(super) node_name: Option<Arc<str>>,
    /// Node id as it stands in the map.
    pub(super) node: u32,
    /// How many service ports name it, in their row or as draining.
    pub(super) named: u32,
}

impl Backends {
    pub(super) fn id(&self, key: &BackendKey) -> Option<u32> {
        self.records.get(key).map(|record| record.id)
    }

    /// An id for a new backend. When there is none, backends that only live for old connections end early, so that a
    /// later try finds their ids.
    pub(super) fn reserve(&mut self, now: Duration) -> Option<u32> {
        let id = self.ids.take(now);
        if id.is_none() {
            let orphans = std::mem::take(&mut self.orphans);
            self.orphans = orphans.into_iter().map(|(_, key)| (now, key)).collect();
            self.orphan_until.values_mut().for_each(|until| *until = now);
        }
        id
    }

    /// Brings a backend to life under a reserved id.
    pub(super) fn publish(&mut self, key: BackendKey, id: u32, node_name: Option<Arc<str>>, node: u32) -> Operation {
        let generation = self.generations.next(id);
        let named = self.named.remove(&key).unwrap_or_default();
        let record = BackendRecord { id, generation, node_name, node, named };
        let backend = record.backend(&key);
        self.records.insert(key, record);
        Operation::SetBackend { id, backend }
    }

    /// Says on which node a living backend runs; a write if that is news.
    pub(super) fn locate(&mut self, key: &BackendKey, node_name: &Option<Arc<str>>, node: u32) -> Option<Operation> {
        let record = self.records.get_mut(key)?;
        record.node_name.clone_from(node_name);
        record.relocate(key, node)
    }

    /// Rewrites every backend whose node has another id now.
    pub(super) fn relocate(&mut self, id_of: impl Fn(&str) -> u32) -> Vec<Operation> {
        let all = self.records.iter_mut();
        all.filter_map(|(key, record)| {
            let node = id_of(record.node_name.as_deref()?);
            record.relocate(key, node)
        })
        .collect()
    }

    /// A service port begins to name a backend.
    pub(super) fn name(&mut self, key: BackendKey) {
        match self.records.get_mut(&key) {
            Some(record) => record.named += 1,
            None => *self.named.entry(key).or_default() += 1,
        }
        if let Some(until) = self.orphan_until.remove(&key) {
            self.orphans.remove(&(until, key));
        }
    }

    /// A service port names a backend no more. The last one to do so decides its end: a pod that was terminating is
    /// gone, and its connections with it; of another one nothing is known, so its connections go on. Datagrams move to
    /// another backend at once: they have no connection to lose.
    pub(super) fn unname(&mut self, key: BackendKey, terminating: bool, now: Duration) {
        let Some(record) = self.records.get_mut(&key) else { return self.unname_dead(&key) };
        if record.named == 0 {
            return;
        }
        record.named -= 1;
        if record.named == 0 {
            let is_over = terminating || key.protocol != protocol::TCP;
            self.orphan(key, if is_over { now } else { now + ORPHAN_LIFE });
        }
    }

    fn unname_dead(&mut self, key: &BackendKey) {
        if let Some(count) = self.named.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.named.remove(key);
            }
        }
    }

    /// A living backend that nobody names lives until then.
    pub(super) fn orphan(&mut self, key: BackendKey, until: Duration) {
        self.orphan_until.insert(key, until);
        self.orphans.insert((until, key));
    }

    /// Ends what is due: orphans die, and the dead are free after a quarantine.
    pub(super) fn expire(&mut self, now: Duration, quarantine: Duration) -> Vec<Step> {
        let mut steps = Vec::new();
        while self.dying.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, id)) = self.dying.pop_front() else { break };
            let generation = self.generations.of(id);
            let backend = Backend { generation, ..Backend::default() };
            steps.push(Step::housekeeping(Operation::EndBackend { id, backend }));
            self.ids.give_back(id);
        }
        while self.orphans.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, key)) = self.orphans.pop_first() else { break };
            self.orphan_until.remove(&key);
            let Some(record) = self.records.remove(&key) else { continue };
            let backend = Backend { state: backend_state::DEAD, ..record.backend(&key) };
            steps.push(Step::housekeeping(Operation::EndBackend { id: record.id, backend }));
            self.dying.push_back((now + quarantine, record.id));
        }
        steps
    }

    /// The addresses of backends that live only for the connections they have.
    pub(super) fn orphan_addresses(&self) -> impl Iterator<Item = &Address> {
        self.orphans.iter().map(|(_, key)| &key.address)
    }

    /// Orphans of whom nothing is left to wait for are due now.
    pub(super) fn end_orphans(&mut self, is_over: impl Fn(&BackendKey) -> bool, now: Duration) {
        let over: Vec<_> = self.orphans.iter().filter(|(_, key)| is_over(key)).copied().collect();
        for (until, key) in over {
            self.orphans.remove(&(until, key));
            self.orphan(key, now);
        }
    }

    /// When [`Backends::expire`] has something to do next.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let dying = self.dying.front().map(|(until, _)| *until);
        let orphan = self.orphans.first().map(|(until, _)| *until);
        dying.into_iter().chain(orphan).min()
    }
}

impl BackendRecord {
    pub(super) fn backend(&self, key: &BackendKey) -> Backend {
        Backend {
            address: key.address,
            port: key.port.to_be_bytes(),
            state: backend_state::ALIVE,
            generation: self.generation,
            node: self.node,
            protocol: key.protocol,
            ..Backend::default()
        }
    }

    fn relocate(&mut self, key: &BackendKey, node: u32) -> Option<Operation> {
        if self.node == node {
            return None;
        }
        self.node = node;
        Some(Operation::SetBackend { id: self.id, backend: self.backend(key) })
    }
}
