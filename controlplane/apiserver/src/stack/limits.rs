//! How much is taken at once: requests in flight, bytes of a body, and time; and of one user, so that none of them takes
//! all of it.

mod users;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use diolkos_api::status::Failure;
use http::Method;
use tokio::sync::Semaphore;

use super::{User, is_grpc, is_health, refusal};
use crate::metrics::Metrics;

pub use users::UserLimits;
pub(crate) use users::{Users, What};

/// Largest body of a request, in bytes: twice what etcd takes for one value, as in Kubernetes.
pub(crate) const MAX_BODY_BYTES: usize = 3 << 20;
/// Reads and writes between their arrival and the head of their answer, as in Kubernetes. Watches wait in no queue.
const MAX_READS: usize = 400;
const MAX_WRITES: usize = 200;

/// How long a request may take from its head to the head of its answer, its body included. Nobody holds a place by
/// sending slowly. Watches and lists go on after that.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The places for requests in flight.
#[derive(Clone)]
pub(crate) struct Limits {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    within: Duration,
    users: Users,
    metrics: Metrics,
}

impl Limits {
    pub(crate) fn new(users: Users, metrics: Metrics) -> Limits {
        let places = |count| Arc::new(Semaphore::new(count));
        Limits { reads: places(MAX_READS), writes: places(MAX_WRITES), within: REQUEST_TIMEOUT, users, metrics }
    }
}

pub(super) async fn layer(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    if is_health(request.uri().path()) {
        return next.run(request).await;
    }
    let grpc = is_grpc(&request);
    let _own = match request.extensions().get::<User>().map(|user| limits.users.request(user)) {
        None => None,
        Some(Ok(place)) => Some(place),
        Some(Err(failure)) => return refusal(failure, grpc),
    };
    let places = if is_write(&request, grpc) { &limits.writes } else { &limits.reads };
    let Ok(_place) = places.try_acquire() else {
        limits.metrics.refused_for_load();
        return refusal(Failure::too_many_requests("too many requests in flight, please try again later", 1), grpc);
    };
    limits.metrics.request();
    let late = |_| refusal(Failure::timeout("request did not complete within the allotted timeout"), grpc);
    tokio::time::timeout(limits.within, next.run(request)).await.unwrap_or_else(late)
}

fn is_write(request: &Request, grpc: bool) -> bool {
    if grpc {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        !matches!(method, "Get" | "List" | "Watch")
    } else {
        !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_request_that_takes_too_long_gives_its_place_back() {
        let metrics = Metrics::default();
        let users = Users::new(UserLimits::default(), metrics.clone());
        let limits = Limits { within: Duration::from_millis(10), ..Limits::new(users, metrics) };
        let slow = |_: Request| async { std::future::pending::<Response>().await };
        let router = Router::new().fallback(slow).layer(from_fn_with_state(limits.clone(), layer));
        let answer = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(answer.status(), 504);
        assert_eq!(limits.reads.available_permits(), MAX_READS);
    }
}
