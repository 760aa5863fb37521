//! Carries what is desired into the dataplane, and tries again what failed.

mod refusals;
mod retry;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use diolkos_abi::address::Address;
use diolkos_abi::service::{Backend, FrontendKey, backend_state};

use crate::dataplane::Shared;
use crate::dataplane::execute::{Outcome, execute};
use crate::desired::{DesiredNode, DesiredService, NodeFacts, Reason, Refusal, ServiceName, ThisNode};
use crate::index::{Dirty, Index};
use crate::overlay::RemoteCidr;
use crate::plan::{Operation, Owner, Planner, Step, marker};
use crate::source::Change;
use crate::state::{Census, NamedService};
use refusals::Refusals;
pub use refusals::Refused;
use retry::Retries;

/// How often the maps are compared with what they should hold.
pub const RESYNC: Duration = Duration::from_secs(600);
/// Services planned and written at a time: a first sync would otherwise hold every write of the cluster in memory.
const SERVICES_PER_PLAN: usize = 256;

/// The state of the service driver: what is known, what is planned, what is due again.
pub struct Driver {
    dataplane: Shared,
    this: ThisNode,
    quarantine: Duration,
    index: Index,
    dirty: Dirty,
    /// Nothing before the first sync, and after the maps contradicted the mirror: then they are adopted anew.
    planner: Option<Planner>,
    retries: Retries,
    refusals: Refusals,
    /// Other nodes' pod CIDRs, for the host's routes; nothing before the first sync.
    pod_cidrs: Option<BTreeSet<RemoteCidr>>,
    /// Pods of this node may be gone whose backends live on.
    look_at_pods: bool,
    resync: Duration,
    has_synced: bool,
}

/// What a cycle did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cycle {
    /// Writes that reached the maps.
    pub writes: usize,
    /// [`Driver::pod_cidrs`] is another one now.
    pub pod_cidrs_changed: bool,
    /// The maps were compared whole with what they should hold: after adoption, and at each resync.
    pub compared: bool,
    /// Backends that died: their clients' sockets are to be closed ([`crate::destroy`]).
    pub died: usize,
}

/// What is tried again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Service(ServiceName),
    Nodes,
    Adoption,
}

/// The maps contradict the mirror.
struct Contradiction;

impl Driver {
    /// A driver that knows nothing yet. What is freed rests for `quarantine` ([`crate::plan::QUARANTINE`]).
    pub fn new(dataplane: Shared, this: ThisNode, quarantine: Duration) -> Self {
        Self {
            dataplane,
            this,
            quarantine,
            index: Index::default(),
            dirty: Dirty::default(),
            planner: None,
            retries: Retries::default(),
            refusals: Refusals::default(),
            pod_cidrs: None,
            look_at_pods: true,
            resync: RESYNC,
            has_synced: false,
        }
    }

    /// Takes a change in; the next cycle acts on it.
    pub fn apply(&mut self, change: Change) {
        self.index.apply(change, &mut self.dirty);
    }

    /// Whether the maps have once been brought to what the sources say.
    pub fn has_synced(&self) -> bool {
        self.has_synced
    }

    /// Which snapshots are in: of Services, of EndpointSlices, of Nodes.
    pub fn snapshots(&self) -> [bool; 3] {
        self.index.snapshots()
    }

    /// How much the maps hold; nothing before the first sync.
    pub fn census(&self) -> Census {
        self.planner.as_ref().map(Planner::census).unwrap_or_default()
    }

    /// The Service port of each service id in use.
    pub fn names(&self) -> Vec<NamedService> {
        self.planner.as_ref().map(Planner::names).unwrap_or_default()
    }

    /// A pod of this node is gone: at the next cycle its backends end, unless a service names them still.
    pub fn pod_gone(&mut self) {
        self.look_at_pods = true;
    }

    /// The pod CIDRs of the other nodes; nothing while they are not known.
    pub fn pod_cidrs(&self) -> Option<&BTreeSet<RemoteCidr>> {
        self.pod_cidrs.as_ref()
    }

    /// What a Node says; nothing when it is not known.
    pub fn node(&self, name: &str) -> Option<&Result<NodeFacts, Reason>> {
        self.index.node(name)
    }

    /// Has everything planned anew if this node has other addresses or pod CIDRs now, or another overlay.
    pub fn set_this(&mut self, this: ThisNode) {
        if self.this != this {
            self.this = this;
            self.mark_all_dirty();
        }
    }

    /// Why objects are not served, or not in all, by kind and name.
    pub fn refusals(&self) -> &BTreeMap<String, Refused> {
        self.refusals.objects()
    }

    /// How many objects are not served, or not in all, by reason.
    pub fn refusal_counts(&self) -> BTreeMap<&'static str, usize> {
        self.refusals.counts()
    }

    /// Does what is due; `now` is the time since the agent's start. Before all sources are in sync nothing is due.
    pub fn cycle(&mut self, now: Duration) -> Cycle {
        let mut cycle = Cycle::default();
        if !self.index.in_sync() {
            return cycle;
        }
        let was_adopted = self.planner.is_none();
        let mut planner = match self.planner.take() {
            Some(planner) => planner,
            None => match self.adopt(now) {
                Some(planner) => planner,
                None => return cycle,
            },
        };
        let is_resync = now >= self.resync;
        let worked = self.work(&mut planner, now, &mut cycle);
        self.refusals.summarize(is_resync);
        match worked {
            Ok(()) => {
                self.retries.done(&Subject::Adoption);
                self.planner = Some(planner);
                self.has_synced = true;
                cycle.compared = is_resync || was_adopted;
            }
            Err(Contradiction) => {
                self.mark_all_dirty();
                self.retries.failed(Subject::Adoption, now);
            }
        }
        cycle
    }

    /// When the next cycle has something to do even if nothing changes.
    pub fn deadline(&self) -> Option<Duration> {
        if !self.index.in_sync() {
            return None;
        }
        let planned = self.planner.as_ref().and_then(Planner::deadline);
        [planned, self.retries.next(), Some(self.resync)].into_iter().flatten().min()
    }

    fn adopt(&mut self, now: Duration) -> Option<Planner> {
        if !self.retries.is_due(&Subject::Adoption, now) {
            return None;
        }
        let mut dataplane = self.dataplane.lock();
        match dataplane.adopt() {
            Ok(found) => {
                let planner = Planner::adopt(dataplane.capacities(), self.quarantine, &found, now);
                drop(dataplane);
                tracing::info!(
                    frontends = found.frontends.len(),
                    backends = found.backends.len(),
                    nodes = found.nodes.len(),
                    "adopted the maps"
                );
                self.mark_all_dirty();
                self.resync = now + RESYNC;
                Some(planner)
            }
            Err(error) => {
                drop(dataplane);
                tracing::error!(%error, "cannot read the maps; trying again");
                self.retries.failed(Subject::Adoption, now);
                None
            }
        }
    }

    fn mark_all_dirty(&mut self) {
        self.dirty.services.extend(self.index.service_names().cloned());
        self.dirty.nodes = true;
    }

    fn work(&mut self, planner: &mut Planner, now: Duration, cycle: &mut Cycle) -> Result<(), Contradiction> {
        let steps = planner.housekeeping(now);
        self.carry_out(planner, &steps, cycle)?;
        self.work_nodes(planner, now, cycle)?;
        self.work_services(planner, now, cycle)?;
        let steps = planner.finish_adoption(now);
        self.carry_out(planner, &steps, cycle)?;
        self.end_gone_pods(planner, now)?;
        let steps = planner.housekeeping(now);
        self.carry_out(planner, &steps, cycle)?;
        if now >= self.resync {
            self.resync = now + RESYNC;
            self.repair(planner, now, cycle)?;
        }
        Ok(())
    }

    fn work_nodes(&mut self, planner: &mut Planner, now: Duration, cycle: &mut Cycle) -> Result<(), Contradiction> {
        if !std::mem::take(&mut self.dirty.nodes) && !self.retries.take_due(&Subject::Nodes, now) {
            return Ok(());
        }
        let (desired, refusals) = self.index.desired_nodes(&self.this);
        let (steps, no_room) = planner.plan_nodes(&desired, now);
        let of = |refusal: Refusal| (refusal.object, Refused::new(refusal.reason.word(), refusal.reason));
        let mut refused: BTreeMap<String, Refused> = refusals.into_iter().map(of).collect();
        refused.extend(no_room.iter().map(|(name, error)| (format!("Node {name}"), Refused::new(error.word(), error))));
        self.refusals.retain(|object| !object.starts_with("Node ") || refused.contains_key(object));
        for (object, refused) in refused {
            self.refusals.add(object, refused);
        }
        match no_room.is_empty() {
            true => self.retries.done(&Subject::Nodes),
            false => self.retries.failed(Subject::Nodes, now),
        }
        let pod_cidrs = Some(desired.values().flat_map(DesiredNode::remote_cidrs).collect());
        cycle.pod_cidrs_changed = pod_cidrs != self.pod_cidrs;
        self.pod_cidrs = pod_cidrs;
        self.carry_out(planner, &steps, cycle).map(drop)
    }

    fn work_services(&mut self, planner: &mut Planner, now: Duration, cycle: &mut Cycle) -> Result<(), Contradiction> {
        let mut dirty = std::mem::take(&mut self.dirty.services);
        dirty.extend(self.retries.take_services(now));
        self.look_at_pods |= !dirty.is_empty();
        let mut names: Vec<ServiceName> = dirty.into_iter().collect();
        // Those that are gone first: another may have their address already.
        names.sort_by_key(|name| self.index.has_service(name));
        names.chunks(SERVICES_PER_PLAN).try_for_each(|names| self.work_some_services(planner, names, now, cycle))
    }

    fn work_some_services(
        &mut self,
        planner: &mut Planner,
        names: &[ServiceName],
        now: Duration,
        cycle: &mut Cycle,
    ) -> Result<(), Contradiction> {
        let mut desired: BTreeMap<&ServiceName, Option<DesiredService>> = BTreeMap::new();
        let mut reasons = BTreeMap::new();
        for name in names {
            let service = self.index.desired_service(name, &self.this);
            let refused = |refusal: Refusal| Refused::new(refusal.reason.word(), refusal);
            let service = service.map_err(|refusal| reasons.insert(name.clone(), refused(refusal)));
            desired.insert(name, service.unwrap_or_default());
        }
        let changes: Vec<_> = desired.iter().map(|(name, service)| (*name, service.as_ref())).collect();
        let (steps, no_room) = planner.plan(&changes, now);
        let failed = self.carry_out(planner, &steps, cycle)?;
        let no_room = no_room.into_iter().map(|(name, error)| (name, Refused::new(error.word(), error)));
        let failed = failed.into_iter().map(|(name, error)| (name, Refused::new("write_failed", error)));
        let again: BTreeMap<_, _> = no_room.chain(failed).collect();
        for name in names {
            let subject = Subject::Service(name.clone());
            match again.contains_key(name) {
                true => self.retries.failed(subject, now),
                false => self.retries.done(&subject),
            }
            let object = format!("Service {name}");
            match again.get(name).or_else(|| reasons.get(name)) {
                Some(refused) => self.refusals.add(object, refused.clone()),
                None => self.note_unserved(name, object),
            }
        }
        Ok(())
    }

    /// A service that is served, or that is not ours: what it asks for beyond what is served is said.
    fn note_unserved(&mut self, name: &ServiceName, object: String) {
        let reasons = self.index.unserved(name);
        if reasons.is_empty() {
            return self.refusals.remove(&object);
        }
        let (words, texts): (Vec<_>, Vec<_>) = reasons.into_iter().unzip();
        self.refusals.add(object, Refused { words, text: texts.join("; ") });
    }

    /// Backends that only live for their connections, at addresses of this node that no pod has any more, have none.
    fn end_gone_pods(&mut self, planner: &mut Planner, now: Duration) -> Result<(), Contradiction> {
        let is_own = |address: &Address| self.this.is_own_pod(address);
        if !std::mem::take(&mut self.look_at_pods) || !planner.orphan_addresses().any(is_own) {
            return Ok(());
        }
        let pods = self.dataplane.lock().endpoints().map_err(|error| {
            tracing::error!(%error, "cannot read the pods of this node");
            Contradiction
        })?;
        let pods: HashSet<Address> = pods.into_iter().map(|(address, _)| address).collect();
        planner.end_orphans(|address| is_own(address) && !pods.contains(address), now);
        Ok(())
    }

    fn repair(&mut self, planner: &mut Planner, now: Duration, cycle: &mut Cycle) -> Result<(), Contradiction> {
        let found = match self.dataplane.lock().adopt() {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "cannot read the maps for the resync");
                return Err(Contradiction);
            }
        };
        let steps = planner.repair(&found, now);
        if !steps.is_empty() {
            tracing::warn!(writes = steps.len(), "someone else changed the maps; they are put right");
        }
        self.carry_out(planner, &steps, cycle).map(drop)
    }

    /// Carries out a plan. A service whose frontends the map refuses is taken back whole, and named with the reason.
    fn carry_out(
        &mut self,
        planner: &mut Planner,
        steps: &[Step],
        cycle: &mut Cycle,
    ) -> Result<BTreeMap<ServiceName, String>, Contradiction> {
        let mut failed = BTreeMap::new();
        if steps.is_empty() {
            return Ok(failed);
        }
        let outcomes = execute(&mut **self.dataplane.lock(), steps);
        cycle.writes += count_done(&outcomes);
        cycle.died += steps.iter().zip(&outcomes).filter(|(step, outcome)| is_death(step, outcome)).count();
        for (step, outcome) in steps.iter().zip(&outcomes) {
            let Outcome::Failed(error) = outcome else { continue };
            match (&step.owner, &step.operation) {
                (Owner::Service(name), Operation::InsertFrontend { .. } | Operation::InsertAddress { .. }) => {
                    failed.insert(name.clone(), error.to_string());
                }
                (owner, _) => {
                    tracing::error!(%error, ?owner, "a write failed; the maps are read again and compared");
                    return Err(Contradiction);
                }
            }
        }
        for name in failed.keys() {
            self.retract(planner, name, steps.iter().zip(&outcomes), cycle)?;
        }
        Ok(failed)
    }

    fn retract<'a>(
        &mut self,
        planner: &mut Planner,
        name: &ServiceName,
        steps: impl Iterator<Item = (&'a Step, &'a Outcome)>,
        cycle: &mut Cycle,
    ) -> Result<(), Contradiction> {
        let mut keys: Vec<FrontendKey> = Vec::new();
        let mut done = Vec::new();
        let mut skipped_others = false;
        for (step, outcome) in steps.filter(|(step, _)| step.owner == Owner::Service(name.clone())) {
            let key = match &step.operation {
                Operation::InsertFrontend { key, .. } => *key,
                Operation::InsertAddress { address } => marker(*address),
                _ => {
                    skipped_others |= matches!(outcome, Outcome::Skipped);
                    continue;
                }
            };
            keys.push(key);
            done.extend(matches!(outcome, Outcome::Done).then_some(key));
        }
        let back = planner.retract(name, &keys, &done);
        let outcomes = execute(&mut **self.dataplane.lock(), &back);
        cycle.writes += count_done(&outcomes);
        // Removals of the same service that were skipped are not in the mirror any more.
        let all_done = outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done));
        if all_done && !skipped_others { Ok(()) } else { Err(Contradiction) }
    }
}

fn is_death(step: &Step, outcome: &Outcome) -> bool {
    let dies = |backend: &Backend| backend.state == backend_state::DEAD;
    matches!(outcome, Outcome::Done)
        && matches!(&step.operation, Operation::EndBackend { backend, .. } if dies(backend))
}

fn count_done(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Done)).count()
}

#[cfg(test)]
mod tests;
