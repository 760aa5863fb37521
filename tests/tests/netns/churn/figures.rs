//! What a run has shown.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use diolkos_agent::destroy::Closed;
use serde_json::{Value, json};

use super::client::Tally;
use super::flow::Path;
use super::grave::Seen;
use super::model::{Change, Member};

#[derive(Default)]
pub(super) struct Figures {
    seed: u64,
    pub(super) seconds: f64,
    /// Path, family and what the client met.
    pub(super) clients: Vec<(Path, usize, Tally)>,
    /// All refusals of the programs.
    pub(super) drops: Vec<(String, u64)>,
    /// What each hook did for clients of services.
    pub(super) translated: Vec<(&'static str, u64)>,
    changes: BTreeMap<&'static str, u64>,
    restarts: u64,
    sockets_closed: Closed,
    graves: u64,
    strays: u64,
    latest: Duration,
    late: Vec<String>,
}

impl Figures {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn count(&mut self, change: &Change) {
        let kind = match change {
            Change::Member { now: Member::Ready, .. } => "endpoint ready",
            Change::Member { now: Member::NotReady, .. } => "endpoint not ready",
            Change::Member { now: Member::Absent, .. } => "endpoint removed",
            Change::Empty { .. } => "service without endpoints",
            Change::Terminate { .. } => "pod terminating",
            Change::Bury { .. } => "pod gone",
            Change::Return { .. } => "new pod at an old address",
        };
        *self.changes.entry(kind).or_default() += 1;
    }

    /// An agent ends that closed sockets.
    pub(super) fn restarted(&mut self, closed: Closed) {
        self.restarts += 1;
        self.closed(closed);
    }

    pub(super) fn closed(&mut self, closed: Closed) {
        let all = &mut self.sockets_closed;
        all.tcp += closed.tcp;
        all.udp += closed.udp;
        all.failed += closed.failed;
        all.unsupported += closed.unsupported;
    }

    pub(super) fn buried(&mut self, pod: usize, seen: Seen) {
        self.graves += 1;
        self.strays += seen.packets;
        self.latest = self.latest.max(seen.latest);
        self.late.extend(seen.late.into_iter().map(|packet| format!("to pod {pod}: {packet}")));
    }

    fn json(&self) -> Value {
        let client = |(path, family, tally): &(Path, usize, Tally)| {
            json!({
                "path": path.name(), "family": family_name(*family), "dialled": tally.dialled,
                "refused_without_endpoints": tally.refused, "lost_to_dying_pods": tally.lost,
                "requests_over_held_flows": tally.used, "held_flows_ended_with_their_backend": tally.ended,
                "failed": tally.failed, "slowest_ms": milliseconds(tally.slowest),
            })
        };
        let clients: Vec<Value> = self.clients.iter().map(client).collect();
        json!({
            "seed": self.seed, "seconds": (self.seconds * 10.0).round() / 10.0,
            "changes": self.changes.values().sum::<u64>(), "changes_by_kind": self.changes, "restarts": self.restarts,
            "clients": clients,
            "gone_pods": {
                "pods": self.graves, "packets": self.strays, "latest_packet_ms": milliseconds(self.latest),
                "later_than_a_second": self.late.len(),
            },
            "sockets_closed": { "tcp": self.sockets_closed.tcp, "udp": self.sockets_closed.udp },
            "translated": self.translated.iter().copied().collect::<BTreeMap<_, _>>(),
            "refusals": self.drops.iter().cloned().collect::<BTreeMap<_, _>>(),
        })
    }

    /// Into the file that a campaign names.
    pub(super) fn write(&self) {
        if let Some(file) = std::env::var_os("DIOLKOS_CAMPAIGN_JSON") {
            std::fs::write(file, format!("{:#}\n", self.json())).expect("the figures can be written");
        }
    }

    /// Fails when anything failed, or nothing was tried.
    pub(super) fn assert_clean(&self) {
        for (path, family, tally) in &self.clients {
            let who = format!("{} over {}", path.name(), family_name(*family));
            assert_eq!(tally.failed, 0, "{who}: {:#?}", tally.failures);
            assert!(tally.dialled > 0 && tally.used > 0, "{who}: nothing was tried");
        }
        assert!(self.late.is_empty(), "{} packets to pods gone for a second: {:#?}", self.late.len(), self.late);
        assert!(self.graves > 0, "no pod was gone");
        for (hook, count) in &self.translated {
            assert!(*count > 0, "{hook} translated nothing");
        }
        assert_eq!((self.sockets_closed.failed, self.sockets_closed.unsupported), (0, 0), "looks for sockets failed");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {:.1} s, {} restarts, {:?}", self.seed, self.seconds, self.restarts, self.changes)?;
        writeln!(f, "path                   family dialled refused lost over held ended failed slowest")?;
        for (path, family, tally) in &self.clients {
            let (path, family, slowest) = (path.name(), family_name(*family), milliseconds(tally.slowest));
            let Tally { dialled, refused, lost, used, ended, failed, .. } = tally;
            let counts = format!("{dialled:7} {refused:7} {lost:4} {used:9} {ended:5} {failed:6} {slowest:4} ms");
            writeln!(f, "{path:22} {family:6} {counts}")?;
        }
        let latest = milliseconds(self.latest);
        let (graves, strays, late) = (self.graves, self.strays, self.late.len());
        writeln!(f, "{graves} pods gone: {strays} packets to them, the latest after {latest} ms, {late} too late")?;
        let Closed { tcp, udp, .. } = self.sockets_closed;
        write!(f, "sockets closed: {tcp} TCP, {udp} UDP; hooks: {:?}; refusals: {:?}", self.translated, self.drops)
    }
}

fn family_name(family: usize) -> &'static str {
    ["IPv4", "IPv6"][family]
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
