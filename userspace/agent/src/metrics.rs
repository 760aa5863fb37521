//! The agent's metrics, in Prometheus' text format. `docs/metrics.md` lists them; a test keeps both equal.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};

use crate::dataplane::{Capacities, map};
use crate::destroy::Closed;
use crate::state::{BUCKETS, Census, Latency, State};

/// A family of the text format.
pub struct Metric {
    pub name: &'static str,
    pub kind: &'static str,
    pub labels: &'static [&'static str],
    /// A sentence.
    pub help: &'static str,
}

/// Everything that `/metrics` shows, in its order.
pub mod metric {
    use super::Metric;

    const fn of(name: &'static str, kind: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
        Metric { name, kind, labels, help }
    }

    pub const BUILD_INFO: Metric =
        of("diolkos_build_info", "gauge", &["version", "layout"], "1, with the agent's version and the maps' layout.");
    pub const START: Metric =
        of("process_start_time_seconds", "gauge", &[], "When the agent was started, in seconds since 1970.");
    pub const MEMORY: Metric =
        of("process_resident_memory_bytes", "gauge", &[], "Memory of the agent's process, without its maps.");
    pub const READY: Metric = of(
        "diolkos_ready",
        "gauge",
        &["check"],
        "1 for each condition of /readyz that holds, 0 for each that does not.",
    );
    pub const PACKETS: Metric = of(
        "diolkos_packets_total",
        "counter",
        &["hook", "verdict"],
        "Packets, and system calls at sockets, by hook and what became of them. Those that never occurred are left out.",
    );
    pub const DROPS: Metric = of(
        "diolkos_drops_total",
        "counter",
        &["hook", "reason"],
        "Packets, and system calls at sockets, that were refused, by hook and reason. Reasons that never occurred are left out.",
    );
    pub const MAP_ENTRIES: Metric = of("diolkos_map_entries", "gauge", &["map"], "Elements in use of each map.");
    pub const MAP_CAPACITY: Metric = of("diolkos_map_capacity", "gauge", &["map"], "Elements each map has room for.");
    pub const SERVICES: Metric = of("diolkos_services", "gauge", &[], "Services that are served.");
    pub const SERVICE_PORTS: Metric =
        of("diolkos_service_ports", "gauge", &[], "Ports of the Services that are served.");
    pub const ENDPOINTS: Metric = of(
        "diolkos_endpoints",
        "gauge",
        &[],
        "Endpoints that take new connections, counted once for each Service port they serve.",
    );
    pub const BACKENDS: Metric =
        of("diolkos_backends", "gauge", &[], "Backends that are alive: those that only drain are among them.");
    pub const NODES: Metric = of("diolkos_nodes", "gauge", &[], "Other nodes of the pod network.");
    pub const PODS: Metric = of("diolkos_pods", "gauge", &[], "Pods of this node that are attached.");
    pub const REFUSED: Metric = of(
        "diolkos_refused_objects",
        "gauge",
        &["reason"],
        "Objects that are not served, or not in all, by reason. The log names them.",
    );
    pub const SYNC: Metric = of(
        "diolkos_sync_duration_seconds",
        "histogram",
        &[],
        "From the arrival of a watch event until what it asks for is written to the maps.",
    );
    pub const WRITES: Metric = of("diolkos_map_writes_total", "counter", &[], "Writes to the service and node maps.");
    pub const FULL_SYNC: Metric = of(
        "diolkos_last_full_sync_timestamp_seconds",
        "gauge",
        &[],
        "When the maps were last compared whole with what they should hold; 0 before the first time.",
    );
    pub const SWEEPS: Metric = of("diolkos_conntrack_sweeps_total", "counter", &[], "Runs of the conntrack sweeper.");
    pub const EXPIRED: Metric =
        of("diolkos_conntrack_expired_total", "counter", &[], "Conntrack entries the sweeper removed.");
    pub const CLIENTS: Metric = of(
        "diolkos_affinity_expired_total",
        "counter",
        &[],
        "Clients of services with session affinity the sweeper forgot.",
    );

    pub const CLOSED: Metric = of(
        "diolkos_sockets_closed_total",
        "counter",
        &["protocol"],
        "Sockets that were closed because the backend they were connected to was gone.",
    );
    pub const NOT_CLOSED: Metric = of(
        "diolkos_socket_close_failures_total",
        "counter",
        &["reason"],
        "Looks into a network namespace for such sockets that failed, and that this kernel does not support.",
    );

    pub const ALL: [&Metric; 23] = [
        &BUILD_INFO,
        &START,
        &MEMORY,
        &READY,
        &PACKETS,
        &DROPS,
        &MAP_ENTRIES,
        &MAP_CAPACITY,
        &SERVICES,
        &SERVICE_PORTS,
        &ENDPOINTS,
        &BACKENDS,
        &NODES,
        &PODS,
        &REFUSED,
        &SYNC,
        &WRITES,
        &FULL_SYNC,
        &SWEEPS,
        &EXPIRED,
        &CLIENTS,
        &CLOSED,
        &NOT_CLOSED,
    ];
}

/// The page. `counters` are those of the programs ([`diolkos_abi::counter`]); none when they cannot be read. Without a
/// `census`, what it would say is left out.
pub fn render(state: &State, census: Option<&Census>, counters: &[u64]) -> String {
    let mut page = Page::default();
    let layout = diolkos_abi::LAYOUT.to_string();
    page.family(&metric::BUILD_INFO, [(vec![env!("CARGO_PKG_VERSION"), layout.as_str()], 1.0)]);
    page.value(&metric::START, since_1970(Some(state.started)));
    page.value(&metric::MEMORY, resident_bytes() as f64);
    let ready = state.readiness.checks();
    page.family(&metric::READY, ready.map(|(name, holds, _)| (vec![name], f64::from(u8::from(holds)))));
    outcomes(&mut page, counters);
    maps(&mut page, state, census);
    for (metric, count) in [
        (&metric::SERVICES, census.map(|census| census.services)),
        (&metric::SERVICE_PORTS, census.map(|census| census.service_ports)),
        (&metric::ENDPOINTS, census.map(|census| census.slots)),
        (&metric::BACKENDS, census.map(|census| census.backends)),
        (&metric::NODES, census.map(|census| census.nodes)),
        (&metric::PODS, census.map(|census| census.pods)),
    ] {
        page.maybe(metric, count);
    }
    let refused = census.into_iter().flat_map(|census| &census.refused);
    page.family(&metric::REFUSED, refused.map(|(reason, count)| (vec![*reason], *count as f64)));
    page.histogram(&metric::SYNC, &state.latency);
    page.value(&metric::WRITES, state.writes as f64);
    page.value(&metric::FULL_SYNC, since_1970(state.full_sync));
    page.value(&metric::SWEEPS, state.sweeps.runs as f64);
    page.value(&metric::EXPIRED, state.sweeps.expired as f64);
    page.value(&metric::CLIENTS, state.sweeps.clients as f64);
    let Closed { tcp, udp, failed, unsupported } = state.closed;
    page.family(&metric::CLOSED, [(vec!["tcp"], tcp as f64), (vec!["udp"], udp as f64)]);
    let failures = [(vec!["failed"], failed as f64), (vec!["unsupported"], unsupported as f64)];
    page.family(&metric::NOT_CLOSED, failures);
    page.0
}

fn outcomes(page: &mut Page, counters: &[u64]) {
    let read = |index: u32| counters.get(index as usize).copied().unwrap_or_default();
    let (mut packets, mut drops) = (Vec::new(), Vec::new());
    for hook in Hook::ALL {
        let of = |name, count| (vec![hook.name(), name], count as f64);
        packets.extend(Verdict::ALL.map(|verdict| of(verdict.name(), read(verdict_index(hook, verdict)))));
        drops.extend(DropReason::ALL.map(|reason| of(reason.name(), read(drop_index(hook, reason)))));
    }
    page.family(&metric::PACKETS, packets.into_iter().filter(|(_, count)| *count > 0.0));
    page.family(&metric::DROPS, drops.into_iter().filter(|(_, count)| *count > 0.0));
}

fn maps(page: &mut Page, state: &State, census: Option<&Census>) {
    let room = Capacities::ABI;
    let of = |count: fn(&Census) -> usize| census.map(count);
    let rows = [
        (map::FRONTEND, of(|census| census.frontends), room.frontends),
        (map::SERVICE, of(|census| census.service_ports), room.services),
        (map::SLOT, of(|census| census.slots), room.slots),
        (map::BACKEND, of(|census| census.backends), room.backends),
        (map::MEMBER, of(|census| census.members), room.members),
        (map::NODE, of(|census| census.nodes), room.nodes),
        (map::ROUTE, of(|census| census.routes), room.routes),
        (map::ENDPOINT, of(|census| census.pods), room.endpoints),
        (map::CONNTRACK, Some(state.sweeps.entries as usize), diolkos_abi::conntrack::FLOWS),
    ]
    .map(|(name, entries, capacity)| (name.to_lowercase(), entries, capacity));
    let entries = rows.iter().filter_map(|(name, entries, _)| Some((vec![name.as_str()], (*entries)? as f64)));
    page.family(&metric::MAP_ENTRIES, entries);
    let capacities = rows.iter().map(|(name, _, capacity)| (vec![name.as_str()], f64::from(*capacity)));
    page.family(&metric::MAP_CAPACITY, capacities);
}

/// The text so far. Writing to a string does not fail.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, metric: &Metric) {
        let Metric { name, kind, help, .. } = metric;
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Label values in the order of [`Metric::labels`], and the value.
    fn family<'a>(&mut self, metric: &Metric, samples: impl IntoIterator<Item = (Vec<&'a str>, f64)>) {
        self.head(metric);
        for (values, value) in samples {
            let labels: Vec<String> = metric
                .labels
                .iter()
                .zip(values)
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
                .collect();
            let _ = writeln!(self.0, "{}{{{}}} {value}", metric.name, labels.join(","));
        }
    }

    fn value(&mut self, metric: &Metric, value: f64) {
        self.head(metric);
        let _ = writeln!(self.0, "{} {value}", metric.name);
    }

    fn maybe(&mut self, metric: &Metric, value: Option<usize>) {
        match value {
            Some(value) => self.value(metric, value as f64),
            None => self.head(metric),
        }
    }

    fn histogram(&mut self, metric: &Metric, latency: &Latency) {
        self.head(metric);
        let name = metric.name;
        let mut below = 0;
        for (bound, count) in BUCKETS.iter().zip(latency.counts) {
            below += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let count = latency.count();
        let _ =
            writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {}\n{name}_count {count}", latency.sum);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn since_1970(time: Option<SystemTime>) -> f64 {
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0.0, |since| since.as_secs_f64())
}

/// Anonymous memory in RAM: the mapped arrays are the kernel's, and no page of them is counted.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

#[cfg(test)]
#[path = "metrics/tests.rs"]
mod tests;
