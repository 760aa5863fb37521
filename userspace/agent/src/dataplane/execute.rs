//! Carrying out a plan.

use std::collections::HashSet;

use diolkos_abi::address::Address;
use diolkos_abi::service::FrontendKey;

use super::{Dataplane, Error};
use crate::plan::{Operation, Owner, RETIRED_ROW, Step, marker, marker_word};

/// Frontends or members written by one system call: more is not faster.
const BATCH: usize = 1024;

/// What became of a step.
#[derive(Debug)]
pub enum Outcome {
    Done,
    Failed(Error),
    /// Not tried, because an earlier step of the same owner failed, or a step that concerns all.
    Skipped,
}

/// Carries out the steps in order and says what became of each. When a frontend, a member or a route fails, the later steps of
/// its owner are skipped and the others go on. When a write to an array fails, map and mirror contradict each other:
/// everything after it is skipped.
pub fn execute(dataplane: &mut dyn Dataplane, steps: &[Step]) -> Vec<Outcome> {
    let mut run = Run { dataplane, failed: HashSet::new(), outcomes: Vec::with_capacity(steps.len()) };
    while let Some(step) = steps.get(run.outcomes.len()) {
        let rest = &steps[run.outcomes.len()..];
        match &step.operation {
            Operation::InsertAddress { .. } | Operation::InsertFrontend { .. } => run.insert_frontends(rest),
            Operation::RemoveFrontend { .. } | Operation::RemoveAddress { .. } => run.remove_frontends(rest),
            Operation::InsertMember { .. } => run.insert_members(rest),
            Operation::RemoveMember { .. } => run.remove_members(rest),
            _ if !run.single(step) => break,
            _ => {}
        }
    }
    run.outcomes.resize_with(steps.len(), || Outcome::Skipped);
    run.outcomes
}

struct Run<'a> {
    dataplane: &'a mut dyn Dataplane,
    failed: HashSet<Owner>,
    outcomes: Vec<Outcome>,
}

impl Run<'_> {
    /// False when nothing may follow.
    fn single(&mut self, step: &Step) -> bool {
        if self.failed.contains(&step.owner) {
            self.outcomes.push(Outcome::Skipped);
            return true;
        }
        let of_one = matches!(step.operation, Operation::SetRoute { .. } | Operation::RemoveRoute { .. });
        match self.apply(&step.operation) {
            Ok(()) => self.outcomes.push(Outcome::Done),
            Err(error) => {
                self.fail(step, error);
                return of_one;
            }
        }
        true
    }

    fn apply(&mut self, operation: &Operation) -> super::Result<()> {
        let dataplane = &mut self.dataplane;
        match operation {
            Operation::SetNode { id, node } => dataplane.upsert_node(*id, node),
            Operation::SetRoute { key, route } => dataplane.upsert_route(*key, *route),
            Operation::SetBackend { id, backend } | Operation::EndBackend { id, backend } => {
                dataplane.set_backend(*id, backend)
            }
            Operation::WriteSlots { base, backends } => dataplane.write_slots(*base, backends),
            Operation::SetRow { service, row } => dataplane.set_row(*service, *row),
            Operation::SetAffinity { service, ticks } => dataplane.set_affinity(*service, *ticks),
            Operation::RetireRow { service } => {
                // The row last: an id with a retired row has no affinity.
                dataplane.set_affinity(*service, 0)?;
                dataplane.set_row(*service, RETIRED_ROW)
            }
            Operation::RemoveRoute { key } => dataplane.remove_route(key),
            Operation::RemoveNode { id } => dataplane.remove_node(*id),
            Operation::InsertFrontend { key, word } => one(dataplane.insert_frontends(&[(*key, *word)])),
            Operation::InsertAddress { address } => one(dataplane.insert_frontends(&[address_entry(*address)])),
            Operation::RemoveFrontend { key } => one(dataplane.remove_frontends(&[*key])),
            Operation::RemoveAddress { address } => one(dataplane.remove_frontends(&[marker(*address)])),
            Operation::InsertMember { key, word } => one(dataplane.insert_members(&[(*key, *word)])),
            Operation::RemoveMember { key } => one(dataplane.remove_members(&[*key])),
        }
    }

    fn insert_frontends(&mut self, steps: &[Step]) {
        let entry = |step: &Step| match &step.operation {
            Operation::InsertFrontend { key, word } => Some((*key, *word)),
            Operation::InsertAddress { address } => Some(address_entry(*address)),
            _ => None,
        };
        self.batch(steps, entry, |dataplane, entries| dataplane.insert_frontends(entries));
    }

    fn remove_frontends(&mut self, steps: &[Step]) {
        let entry = |step: &Step| match &step.operation {
            Operation::RemoveFrontend { key } => Some(*key),
            Operation::RemoveAddress { address } => Some(marker(*address)),
            _ => None,
        };
        self.batch(steps, entry, |dataplane, keys| dataplane.remove_frontends(keys));
    }

    fn insert_members(&mut self, steps: &[Step]) {
        let entry = |step: &Step| match &step.operation {
            Operation::InsertMember { key, word } => Some((*key, *word)),
            _ => None,
        };
        self.batch(steps, entry, |dataplane, entries| dataplane.insert_members(entries));
    }

    fn remove_members(&mut self, steps: &[Step]) {
        let entry = |step: &Step| match &step.operation {
            Operation::RemoveMember { key } => Some(*key),
            _ => None,
        };
        self.batch(steps, entry, |dataplane, keys| dataplane.remove_members(keys));
    }

    /// Carries out the leading steps that have an entry and whose owners are well, up to a batch; or skips the first.
    fn batch<T>(
        &mut self,
        steps: &[Step],
        entry: impl Fn(&Step) -> Option<T>,
        write: impl Fn(&mut dyn Dataplane, &[T]) -> Result<(), super::Partial>,
    ) {
        let well = steps.iter().take_while(|step| !self.failed.contains(&step.owner));
        let entries: Vec<T> = well.map_while(entry).take(BATCH).collect();
        if entries.is_empty() {
            return self.outcomes.push(Outcome::Skipped);
        }
        let written = write(&mut *self.dataplane, &entries);
        let done = written.as_ref().map_or_else(|partial| partial.done.min(entries.len() - 1), |()| entries.len());
        self.outcomes.extend((0..done).map(|_| Outcome::Done));
        if let Err(partial) = written {
            self.fail(&steps[done], partial.error);
        }
    }

    fn fail(&mut self, step: &Step, error: Error) {
        self.failed.insert(step.owner.clone());
        self.outcomes.push(Outcome::Failed(error));
    }
}

fn one(result: Result<(), super::Partial>) -> super::Result<()> {
    result.map_err(|partial| partial.error)
}

fn address_entry(address: Address) -> (FrontendKey, u64) {
    let key = marker(address);
    (key, marker_word(&key))
}
