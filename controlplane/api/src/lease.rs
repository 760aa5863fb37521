//! Leader election on a Lease object: at most one holder acts at a time.
//!
//! A candidate never compares another's clock with its own: it takes over when the lease did not change for as long as
//! it lasts, by the candidate's own clock. A holder that cannot renew stops its work before anybody may take over.

use std::future::Future;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tracing::{debug, info, warn};

use crate::client::{Api, Client};
use crate::status::Failure;

/// How long a lease lasts without a renewal.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder whose renewals fail for this long stops.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often holders renew and candidates look.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// The namespace of the leases of the control plane.
const NAMESPACE: &str = "kube-system";

/// Does `work` whenever, and only while, this process holds the lease `kube-system/{name}`; returns when `stop` does,
/// having released the lease. Work that loses the lease is dropped and begins anew when the lease is won again.
pub async fn lead<W, F>(client: &Client, name: &str, stop: impl Future<Output = ()>, work: W)
where
    W: Fn() -> F,
    F: Future<Output = ()>,
{
    let mut candidate = Candidate::new(client, name);
    tokio::select! {
        () = stop => {}
        () = candidate.campaign(work) => {}
    }
    candidate.release().await;
}

/// As [`lead`], or at once and without a Lease when `elect` says that there is nobody to agree with.
pub async fn work<W, F>(client: &Client, name: &str, elect: bool, stop: impl Future<Output = ()>, work: W)
where
    W: Fn() -> F,
    F: Future<Output = ()>,
{
    if elect {
        return lead(client, name, stop, work).await;
    }
    tokio::select! {
        () = stop => {}
        () = work() => {}
    }
}

/// Resolves when the process is told to stop, by SIGTERM or SIGINT.
pub async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("cannot listen for signals: only SIGKILL stops this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The lease as it was last seen, and since when it is so.
    seen: Option<(LeaseSpec, Instant)>,
    holds: bool,
    /// When the last write of the lease was begun: others count from when it was done, which is not before.
    renewed: Instant,
}

/// What to do about a lease.
#[derive(Debug, PartialEq)]
enum Move {
    /// Make the lease, or make it ours: write this.
    Write(Box<Lease>),
    /// Somebody else holds it.
    Wait,
}

impl Candidate {
    fn new(client: &Client, name: &str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        // Two candidates on one host differ in their process, and two incarnations of it in their start.
        let identity = format!("{}_{}_{}", host.trim(), std::process::id(), crate::now().as_microsecond());
        Self {
            api: client.api(Some(NAMESPACE)),
            name: name.into(),
            identity,
            seen: None,
            holds: false,
            renewed: Instant::now(),
        }
    }

    async fn campaign<W, F>(&mut self, work: W)
    where
        W: Fn() -> F,
        F: Future<Output = ()>,
    {
        loop {
            self.win().await;
            info!(lease = self.name, identity = self.identity, "leading");
            tokio::select! {
                () = work() => {}
                () = self.keep() => warn!(lease = self.name, "lost the lease: stopping the work"),
            }
            self.holds = false;
        }
    }

    /// Returns when the lease is ours.
    async fn win(&mut self) {
        let mut said = false;
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) if !said => {
                    info!(lease = self.name, "waiting for the lease");
                    said = true;
                }
                Ok(false) => {}
                Err(failure) if !said && !failure.is_conflict() && !failure.is_already_exists() => {
                    warn!(lease = self.name, %failure, "cannot ask for the lease; trying again");
                    said = true;
                }
                Err(failure) => debug!(lease = self.name, %failure, "cannot ask for the lease"),
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// Returns when the lease is lost, or may be.
    async fn keep(&mut self) {
        loop {
            tokio::time::sleep(RETRY_PERIOD).await;
            let left = RENEW_DEADLINE.saturating_sub(self.renewed.elapsed());
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                Ok(Err(failure)) => debug!(lease = self.name, %failure, "cannot renew the lease"),
                Err(_) => return,
            }
        }
    }

    /// Takes or renews the lease if that is allowed.
    async fn attempt(&mut self) -> Result<bool, Failure> {
        let present = self.api.get_opt(&self.name).await?;
        self.see(present.as_ref(), Instant::now());
        let unchanged_for = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let lease = match next_move(present, &self.name, &self.identity, unchanged_for, crate::now()) {
            Move::Wait => {
                self.holds = false;
                return Ok(false);
            }
            Move::Write(lease) => lease,
        };
        let begun = Instant::now();
        let written = if lease.metadata.resource_version.is_some() {
            self.api.update(&lease).await?
        } else {
            self.api.create(&lease).await?
        };
        self.see(Some(&written), Instant::now());
        self.renewed = begun;
        self.holds = true;
        Ok(true)
    }

    fn see(&mut self, lease: Option<&Lease>, now: Instant) {
        let spec = lease.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.seen = Some((spec, now));
        }
    }

    /// Lets the next one begin at once.
    async fn release(&mut self) {
        if !self.holds {
            return;
        }
        let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return;
        }
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        match self.api.update(&lease).await {
            Ok(_) => info!(lease = self.name, "released the lease"),
            Err(failure) => debug!(lease = self.name, %failure, "cannot release the lease; it runs out by itself"),
        }
    }
}

/// Whether, and with what, a candidate may write the lease that it found unchanged for so long.
fn next_move(present: Option<Lease>, name: &str, identity: &str, unchanged_for: Duration, now: Timestamp) -> Move {
    let mut lease = present.unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(name.into()), namespace: Some(NAMESPACE.into()), ..Default::default() },
        spec: None,
    });
    let spec = lease.spec.get_or_insert_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let renewing = holder == identity;
    let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let lasts = lasts.map_or(LEASE_DURATION, Duration::from_secs);
    if !holder.is_empty() && !renewing && unchanged_for < lasts {
        return Move::Wait;
    }
    if !renewing {
        spec.acquire_time = Some(MicroTime(now));
        spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
    }
    spec.holder_identity = Some(identity.into());
    spec.lease_duration_seconds = i32::try_from(LEASE_DURATION.as_secs()).ok();
    spec.renew_time = Some(MicroTime(now));
    Move::Write(Box::new(lease))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn taken(present: Option<Lease>, me: &str, unchanged_for: Duration) -> Option<LeaseSpec> {
        match next_move(present, "scheduler", me, unchanged_for, Timestamp::UNIX_EPOCH) {
            Move::Write(lease) => lease.spec,
            Move::Wait => None,
        }
    }

    fn held_by(holder: &str) -> Option<Lease> {
        match next_move(None, "scheduler", holder, Duration::ZERO, Timestamp::UNIX_EPOCH) {
            Move::Write(lease) => Some(*lease),
            Move::Wait => None,
        }
    }

    #[test]
    fn a_missing_lease_is_made() {
        let lease = held_by("a").unwrap();
        assert_eq!(lease.metadata.resource_version, None);
        assert_eq!(lease.spec.unwrap().lease_transitions, Some(0));
    }

    #[test]
    fn a_lease_that_is_renewed_stays_with_its_holder() {
        assert_eq!(taken(held_by("a"), "b", LEASE_DURATION - Duration::from_millis(1)), None);
        let renewed = taken(held_by("a"), "a", Duration::ZERO).unwrap();
        assert_eq!(renewed.lease_transitions, Some(0));
    }

    #[test]
    fn a_lease_that_ran_out_is_taken_over() {
        let spec = taken(held_by("a"), "b", LEASE_DURATION).unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("b"));
        assert_eq!(spec.lease_transitions, Some(1));
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let mut lease = held_by("a").unwrap();
        lease.spec.as_mut().unwrap().holder_identity = None;
        assert!(taken(Some(lease), "b", Duration::ZERO).is_some());
    }

    #[test]
    fn a_holder_stops_before_anybody_may_take_over() {
        assert!(RENEW_DEADLINE + RETRY_PERIOD < LEASE_DURATION);
    }
}
