//! Probes: when each is due, what its outcome means ([`ProbeState`], pure), and how a check is made.

use crate::desired::{Check, ContainerWish, Probe};
use crate::lifecycle::Verdict;
use crate::runtime::Runtime;
use k8s_openapi::api::core::v1::ContainerStatus;
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The probes of one run of a container.
#[derive(Clone, Debug)]
pub struct ContainerProbes {
    started_at: Timestamp,
    startup: Option<ProbeState>,
    liveness: Option<ProbeState>,
    readiness: Option<ProbeState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

/// One probe: its last outcomes in a row and what they amount to.
#[derive(Clone, Debug)]
pub struct ProbeState {
    probe: Probe,
    due: Timestamp,
    in_flight: bool,
    row: u32,
    last_ok: Option<bool>,
    holds: bool,
    message: String,
}

impl ContainerProbes {
    /// `None` when the container has no probes.
    pub fn new(wish: &ContainerWish, started_at: Timestamp) -> Option<ContainerProbes> {
        let probes = &wish.probes;
        if *probes == Default::default() {
            return None;
        }
        // Startup and readiness begin as "not yet"; liveness as "well".
        let state = |probe: &Option<Probe>, holds| probe.as_ref().map(|p| ProbeState::new(p, started_at, holds));
        Some(ContainerProbes {
            started_at,
            startup: state(&probes.startup, false),
            liveness: state(&probes.liveness, true),
            readiness: state(&probes.readiness, false),
        })
    }

    /// What an earlier kubelet found out, as the object says it, holds until checks say otherwise: a kubelet that
    /// starts anew takes no pod out of its services.
    pub fn resume(mut self, known: Option<&ContainerStatus>) -> ContainerProbes {
        if let (Some(known), Some(startup)) = (known, &mut self.startup) {
            startup.holds |= known.started == Some(true);
        }
        if let (Some(known), Some(readiness)) = (known, &mut self.readiness) {
            readiness.holds |= known.ready;
        }
        self
    }

    /// The checks to make now; each counts as in flight until [`ContainerProbes::record`].
    pub fn take_due(&mut self, now: Timestamp) -> Vec<(Kind, Probe)> {
        let started = self.started();
        let mut due = Vec::new();
        for (kind, state) in [
            (Kind::Startup, &mut self.startup),
            (Kind::Liveness, &mut self.liveness),
            (Kind::Readiness, &mut self.readiness),
        ] {
            // Liveness and readiness wait for startup; startup is over once it held.
            let Some(state) = state.as_mut().filter(|_| (kind == Kind::Startup) != started) else { continue };
            if !state.in_flight && state.due <= now {
                state.in_flight = true;
                due.push((kind, state.probe.clone()));
            }
        }
        due
    }

    /// Takes the outcome of a check: `Err` says why it failed.
    pub fn record(&mut self, kind: Kind, outcome: Result<(), String>, now: Timestamp) {
        let state = match kind {
            Kind::Startup => &mut self.startup,
            Kind::Liveness => &mut self.liveness,
            Kind::Readiness => &mut self.readiness,
        };
        if let Some(state) = state {
            state.record(outcome, now);
        }
    }

    pub fn verdict(&self) -> Verdict {
        let failed = |state: &Option<ProbeState>, word: &str| {
            let state = state.as_ref().filter(|state| state.failed())?;
            Some(format!("{word} probe failed {} times: {}", state.row, state.message))
        };
        Verdict {
            started: self.started(),
            ready: self.readiness.as_ref().is_none_or(|state| state.holds),
            unhealthy: failed(&self.startup, "startup").or_else(|| failed(&self.liveness, "liveness")),
        }
    }

    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    fn started(&self) -> bool {
        self.startup.as_ref().is_none_or(|state| state.holds)
    }
}

impl ProbeState {
    fn new(probe: &Probe, started_at: Timestamp, holds: bool) -> ProbeState {
        ProbeState {
            due: started_at + probe.initial_delay,
            probe: probe.clone(),
            in_flight: false,
            row: 0,
            last_ok: None,
            holds,
            message: String::new(),
        }
    }

    fn record(&mut self, outcome: Result<(), String>, now: Timestamp) {
        let ok = outcome.is_ok();
        self.row = if self.last_ok == Some(ok) { self.row.saturating_add(1) } else { 1 };
        self.last_ok = Some(ok);
        self.message = outcome.err().unwrap_or_default();
        let threshold = if ok { self.probe.success_threshold } else { self.probe.failure_threshold };
        if self.row >= threshold {
            self.holds = ok;
        }
        self.in_flight = false;
        self.due = now + self.probe.period;
    }

    fn failed(&self) -> bool {
        self.last_ok == Some(false) && !self.holds && self.row >= self.probe.failure_threshold
    }
}

/// Bytes of an HTTP answer that are read: its status line.
const STATUS_LINE: usize = 256;

/// Makes one check from this node, within the probe's timeout.
pub async fn check(probe: &Probe, runtime: &dyn Runtime, container: &str, pod_address: &str) -> Result<(), String> {
    let work = async {
        match &probe.check {
            Check::Exec(command) => exec(runtime, container, command, probe.timeout).await,
            Check::Tcp { host, port } => connect(target(host, pod_address), *port).await.map(drop),
            Check::Http { host, port, path, headers } => http(target(host, pod_address), *port, path, headers).await,
        }
    };
    // The runtime answers a command that is too slow itself; a second more lets it.
    let limit = probe.timeout + Duration::from_secs(u64::from(matches!(probe.check, Check::Exec(_))));
    match tokio::time::timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {} s", probe.timeout.as_secs())),
    }
}

fn target<'a>(host: &'a str, pod_address: &'a str) -> &'a str {
    if host.is_empty() { pod_address } else { host }
}

async fn exec(runtime: &dyn Runtime, container: &str, command: &[String], timeout: Duration) -> Result<(), String> {
    match runtime.exec(container, command, timeout).await {
        Ok(0) => Ok(()),
        Ok(code) => Err(format!("the command ended with {code}")),
        Err(error) => Err(error.to_string()),
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    if host.is_empty() {
        return Err("the pod has no address".to_owned());
    }
    TcpStream::connect((host, port)).await.map_err(|error| format!("connect to {host}:{port}: {error}"))
}

/// A GET over HTTP/1.1; 200 to 399 is well.
async fn http(host: &str, port: u16, path: &str, headers: &[(String, String)]) -> Result<(), String> {
    let mut stream = connect(host, port).await?;
    let mut request = format!("GET {path} HTTP/1.1\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request.push_str(&format!("Host: {host}:{port}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("send to {host}:{port}: {error}"))?;
    let mut answer = Vec::new();
    let mut part = [0; STATUS_LINE];
    while answer.len() < STATUS_LINE && !answer.contains(&b'\n') {
        match stream.read(&mut part).await {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&part[..count]),
            Err(error) => return Err(format!("read from {host}:{port}: {error}")),
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default();
    let code: u16 = line.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    if (200..400).contains(&code) { Ok(()) } else { Err(format!("{host}:{port}{path} answered {line:?}")) }
}

#[cfg(test)]
mod tests;
