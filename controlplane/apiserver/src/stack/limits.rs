//! How much is taken at once: requests in flight, and bytes of a body.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use diolkos_api::status::Failure;
use http::Method;
use tokio::sync::Semaphore;

use super::{is_grpc, is_health, refusal};
use crate::metrics::Metrics;

/// Largest body of a request, in bytes: twice what etcd takes for one value, as in Kubernetes.
pub(crate) const MAX_BODY_BYTES: usize = 3 << 20;
/// Reads and writes between their arrival and the head of their answer, as in Kubernetes. Watches wait in no queue.
const MAX_READS: usize = 400;
const MAX_WRITES: usize = 200;

/// The places for requests in flight.
#[derive(Clone)]
pub(crate) struct Limits {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    metrics: Metrics,
}

impl Limits {
    pub(crate) fn new(metrics: Metrics) -> Limits {
        Limits { reads: Arc::new(Semaphore::new(MAX_READS)), writes: Arc::new(Semaphore::new(MAX_WRITES)), metrics }
    }
}

pub(super) async fn layer(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    if is_health(request.uri().path()) {
        return next.run(request).await;
    }
    let grpc = is_grpc(&request);
    let places = if is_write(&request, grpc) { &limits.writes } else { &limits.reads };
    let Ok(_place) = places.try_acquire() else {
        limits.metrics.refused_for_load();
        return refusal(Failure::too_many_requests("too many requests in flight, please try again later", 1), grpc);
    };
    limits.metrics.request();
    next.run(request).await
}

fn is_write(request: &Request, grpc: bool) -> bool {
    if grpc {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        !matches!(method, "Get" | "List" | "Watch")
    } else {
        !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
    }
}
