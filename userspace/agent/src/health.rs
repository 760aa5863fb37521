//! The operator's HTTP endpoint: `/healthz`, `/readyz`, `/metrics`, and what `diolkos status` and its siblings ask.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Json;
use axum::Router;
use axum::extract::State as With;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::metrics;
use crate::observe::Pins;
use crate::state::{Handle, NamedService, State};

/// The loop comes round at least every minute; one that has not for this long hangs.
const TURN: Duration = Duration::from_secs(180);
/// How long the loop may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the names of service ids are.
pub const SERVICES: &str = "/debug/services";

/// A service id's name, as [`SERVICES`] tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceId {
    pub id: u32,
    pub namespace: String,
    pub name: String,
    pub port: u16,
    /// [`diolkos_abi::address::protocol`].
    pub protocol: u8,
}

#[derive(Clone)]
struct Served {
    handle: Handle,
    pins: Pins,
}

/// Listens at once, so that a port that is taken is found out at the start; serves until dropped.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("listen on {address} for health and metrics: name another address with --listen"))
}

/// Answers requests. `pins` are where the programs count.
pub async fn serve(listener: TcpListener, handle: Handle, pins: Pins) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .route(SERVICES, get(services))
        .with_state(Served { handle, pins });
    axum::serve(listener, router).await.context("the endpoint for health and metrics stopped")
}

async fn healthz(With(served): With<Served>) -> Response {
    respond(health(&served.handle.get(), Instant::now()))
}

async fn readyz(With(served): With<Served>) -> Response {
    respond(ready(&served.handle.get()))
}

async fn metrics_page(With(served): With<Served>) -> Response {
    let state = served.handle.get();
    let census = served.handle.census(PATIENCE).await;
    // Reading the counters is a few hundred system calls.
    let counters = tokio::task::spawn_blocking(move || served.pins.counters()).await;
    let counters = match counters {
        Ok(Ok(counters)) => counters,
        // Before the programs are loaded there are none.
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render(&state, census.as_ref(), &counters))
        .into_response()
}

async fn services(With(served): With<Served>) -> Response {
    match served.handle.names(PATIENCE).await {
        Some(names) => Json(names.into_iter().map(ServiceId::from).collect::<Vec<_>>()).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent's loop does not answer\n").into_response(),
    }
}

fn respond((holds, text): (bool, String)) -> Response {
    (if holds { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text).into_response()
}

/// Whether the loop comes round; an agent that has not begun its loop waits for others, which is no fault of its own.
fn health(state: &State, now: Instant) -> (bool, String) {
    match state.turned.map(|turned| now.saturating_duration_since(turned)) {
        Some(since) if since > TURN => {
            (false, format!("the agent's loop has not come round for {} s\n", since.as_secs()))
        }
        _ => (true, "ok\n".into()),
    }
}

/// Each condition on a line, as the verbose form of Kubernetes' own endpoints.
fn ready(state: &State) -> (bool, String) {
    let mut text = String::new();
    for (name, holds, lacks) in state.readiness.checks() {
        // Writing to a string does not fail.
        let _ = match holds {
            true => writeln!(text, "[+]{name} ok"),
            false => writeln!(text, "[-]{name} failed: {lacks}"),
        };
    }
    let is_ready = state.readiness.is_ready();
    text.push_str(if is_ready { "readyz check passed\n" } else { "readyz check failed\n" });
    (is_ready, text)
}

impl From<NamedService> for ServiceId {
    fn from(named: NamedService) -> Self {
        let NamedService { id, name, port } = named;
        Self {
            id,
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            port: port.port,
            protocol: port.protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Readiness;

    #[test]
    fn readiness_names_what_is_missing() {
        let mut state = State {
            readiness: Readiness {
                programs: true,
                services: true,
                endpoint_slices: true,
                nodes: true,
                maps: true,
                cni: false,
            },
            ..State::default()
        };
        let (is_ready, text) = ready(&state);
        assert!(!is_ready);
        assert!(text.contains("[+]services ok\n") && text.contains("[-]cni failed: the CNI plugin"), "{text}");
        assert!(text.ends_with("readyz check failed\n"), "{text}");
        state.readiness.cni = true;
        let (is_ready, text) = ready(&state);
        assert!(is_ready && !text.contains("[-]") && text.ends_with("readyz check passed\n"), "{text}");
    }

    #[test]
    fn a_loop_that_hangs_is_not_healthy_and_one_that_has_not_begun_is() {
        let mut state = State::default();
        let start = Instant::now();
        assert!(health(&state, start).0);
        state.turned = Some(start);
        assert!(health(&state, start + TURN).0);
        let (is_healthy, text) = health(&state, start + TURN + Duration::from_secs(1));
        assert!(!is_healthy && text.contains("181 s"), "{text}");
    }
}
