//! `diolkos status`: is this node well, and what does it carry?

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diolkos_abi::LAYOUT;
use diolkos_abi::address::Address;
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{Flow, Tuple};
use diolkos_abi::counter::{DropReason, Hook, drop_index};
use diolkos_abi::pod::Endpoint;
use diolkos_abi::service::{backend_state, frontend_flags, frontend_parts};
use serde::Serialize;

use super::programs::{self, Attached, FEATURES};
use super::services::ServiceMaps;
use super::text::{columns, duration};
use super::{ObserveError, Pins, http};
use crate::dataplane::map;
use crate::metrics::metric;

/// Drops that are shown.
const SHOWN: usize = 10;
/// Programs without which nothing is translated at sockets.
const SOCKET_HOOKS: [&str; 2] = ["connect4", "getpeername4"];

/// A node at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub node: String,
    pub healthy: bool,
    /// Why not.
    pub problems: Vec<String>,
    pub agent: Agent,
    pub kernel: String,
    pub layout: u32,
    pub pins: String,
    pub features: Vec<&'static str>,
    pub programs: Vec<Program>,
    pub counts: Counts,
    /// When the counters began: seconds since 1970.
    pub counting_since: u64,
    /// The most frequent first.
    pub drops: Vec<Drops>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    pub endpoint: SocketAddr,
    pub alive: bool,
    pub ready: bool,
    /// What keeps it from being alive or ready, in its own words.
    pub lacks: Vec<String>,
    /// Seconds since 1970; nothing before the first one.
    pub last_full_sync: Option<u64>,
}

/// A program and the pins of the links that hold it.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    pub program: String,
    pub links: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub services: usize,
    pub frontends: usize,
    /// Backends that are alive.
    pub backends: usize,
    /// Pods of this node that are attached.
    pub endpoints: usize,
    /// Other nodes.
    pub nodes: usize,
    pub conntrack: usize,
    pub conntrack_capacity: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drops {
    pub hook: &'static str,
    pub reason: &'static str,
    pub count: u64,
}

/// Looks at everything. An agent that is away is a finding, not an error.
pub fn status(pins: &Pins, endpoint: SocketAddr) -> Result<Status, ObserveError> {
    let agent = ask(endpoint);
    let attached = programs::attached(pins)?;
    let config = programs::config(pins)?;
    let problems = problems(&agent, &attached, config.as_ref());
    Ok(Status {
        node: pins.node(),
        healthy: problems.is_empty(),
        problems,
        agent,
        kernel: kernel(),
        layout: LAYOUT,
        pins: pins.directory().display().to_string(),
        features: FEATURES
            .iter()
            .filter(|(bit, _)| config.is_some_and(|c| c.features & bit != 0))
            .map(|(_, n)| *n)
            .collect(),
        programs: by_program(attached),
        counts: counts(pins)?,
        counting_since: since(pins),
        drops: drops(&pins.counters()?),
    })
}

fn ask(endpoint: SocketAddr) -> Agent {
    let mut agent = Agent { endpoint, alive: false, ready: false, lacks: Vec::new(), last_full_sync: None };
    match http::get(endpoint, "/healthz") {
        Ok((200, _)) => agent.alive = true,
        Ok((_, said)) => agent.lacks.push(said.trim().to_owned()),
        Err(error) => {
            agent.lacks.push(error);
            return agent;
        }
    }
    match http::get(endpoint, "/readyz") {
        Ok((status, said)) => {
            agent.ready = status == 200;
            agent.lacks.extend(said.lines().filter_map(|line| line.strip_prefix("[-]")).map(str::to_owned));
        }
        Err(error) => agent.lacks.push(error),
    }
    if let Ok((200, page)) = http::get(endpoint, "/metrics") {
        let value = page.lines().find_map(|line| line.strip_prefix(metric::FULL_SYNC.name)?.trim().parse::<f64>().ok());
        agent.last_full_sync = value.filter(|seconds| *seconds > 0.0).map(|seconds| seconds as u64);
    }
    agent
}

fn problems(agent: &Agent, attached: &[Attached], config: Option<&Config>) -> Vec<String> {
    let mut problems = Vec::new();
    match (agent.alive, agent.ready) {
        (true, true) => {}
        (true, false) => problems.push("the agent is not ready".into()),
        (false, _) => {
            problems.push("the agent is away: what is in the maps goes on to be served, changes do not arrive".into())
        }
    }
    let runs = |name: &str| attached.iter().any(|attached| attached.pin == name);
    let overlay = if config.is_some_and(|config| config.overlay_ifindex != 0) {
        &["from_overlay", "to_overlay"][..]
    } else {
        &[]
    };
    for name in SOCKET_HOOKS.iter().chain(overlay).filter(|name| !runs(name)) {
        problems.push(format!("program {name} is not attached"));
    }
    problems
}

fn by_program(attached: Vec<Attached>) -> Vec<Program> {
    let mut all: Vec<Program> = Vec::new();
    for Attached { pin, program, .. } in attached {
        match all.iter_mut().find(|known| known.program == program) {
            Some(known) => known.links.push(pin),
            None => all.push(Program { program, links: vec![pin] }),
        }
    }
    all.sort_by(|a, b| a.program.cmp(&b.program));
    all
}

fn counts(pins: &Pins) -> Result<Counts, ObserveError> {
    let maps = ServiceMaps::read(pins)?;
    let frontends = || maps.frontends.iter().filter(|(_, word)| frontend_parts(*word).2 & frontend_flags::ADDRESS == 0);
    let mut services: Vec<u32> = frontends().map(|(_, word)| frontend_parts(*word).0).collect();
    services.sort_unstable();
    services.dedup();
    Ok(Counts {
        services: services.len(),
        frontends: frontends().count(),
        backends: maps.backends.values().filter(|backend| backend.state == backend_state::ALIVE).count(),
        endpoints: pins.dump::<Address, Endpoint>(map::ENDPOINT)?.len(),
        nodes: maps.nodes.len(),
        conntrack: pins.dump::<Tuple, Flow>(map::CONNTRACK)?.len(),
        conntrack_capacity: diolkos_abi::conntrack::FLOWS,
    })
}

fn drops(counters: &[u64]) -> Vec<Drops> {
    let all = Hook::ALL.into_iter().flat_map(|hook| DropReason::ALL.map(move |reason| (hook, reason)));
    let mut drops: Vec<Drops> = all
        .map(|(hook, reason)| {
            let count = counters.get(drop_index(hook, reason) as usize).copied().unwrap_or_default();
            Drops { hook: hook.name(), reason: reason.name(), count }
        })
        .filter(|drops| drops.count > 0)
        .collect();
    drops.sort_by(|a, b| b.count.cmp(&a.count).then(a.hook.cmp(b.hook)).then(a.reason.cmp(b.reason)));
    drops
}

/// A map counts from when it was pinned.
fn since(pins: &Pins) -> u64 {
    let pinned = std::fs::metadata(pins.maps().join(map::COUNTER)).and_then(|pin| pin.modified());
    pinned.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The status as people read it; `now` is the time by which ages are told.
pub fn render(status: &Status, now: SystemTime) -> String {
    let ago = |seconds: u64| {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{} ago", duration(now.saturating_sub(Duration::from_secs(seconds))))
    };
    let agent = match (status.agent.alive, status.agent.ready) {
        (true, true) => "alive, ready".to_owned(),
        (true, false) => format!("alive, not ready: {}", status.agent.lacks.join("; ")),
        (false, _) => format!("away: {}", status.agent.lacks.join("; ")),
    };
    let mut rows = vec![
        line("node", &status.node),
        line("status", if status.healthy { "healthy".into() } else { status.problems.join("; ") }),
        line("agent", agent),
        line("last full sync", status.agent.last_full_sync.map_or("-".into(), ago)),
        line("kernel", &status.kernel),
        line("layout", format!("{} in {}", status.layout, status.pins)),
        line("features", or_none(status.features.join(" "))),
    ];
    for Program { program, links } in &status.programs {
        rows.push(line(&format!("program {program}"), place(links)));
    }
    let counts = &status.counts;
    rows.push(line("services", format!("{} with {} frontends", counts.services, counts.frontends)));
    rows.push(line("backends", counts.backends.to_string()));
    rows.push(line("pods here", counts.endpoints.to_string()));
    rows.push(line("other nodes", counts.nodes.to_string()));
    rows.push(line("conntrack", format!("{} of {} entries", counts.conntrack, counts.conntrack_capacity)));
    let mut text = columns(&rows);
    text.push_str(&format!("\ndrops and refusals since {}:\n", ago(status.counting_since)));
    if status.drops.is_empty() {
        text.push_str("none\n");
    }
    let shown = status.drops.iter().take(SHOWN);
    text.push_str(&columns(
        &shown.map(|d| vec![d.count.to_string(), d.reason.into(), d.hook.into()]).collect::<Vec<_>>(),
    ));
    text
}

fn line(name: &str, value: impl Into<String>) -> Vec<String> {
    vec![name.to_owned(), value.into()]
}

/// Where a program hangs: devices by their number.
fn place(links: &[String]) -> String {
    let is_device = |pin: &&String| ["_from", "_to", "_ingress", "_egress"].iter().any(|end| pin.ends_with(end));
    match links.iter().filter(is_device).count() {
        0 => "attached".into(),
        1 => "1 device".into(),
        devices => format!("{devices} devices"),
    }
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".into() } else { text }
}

#[cfg(test)]
mod tests;
