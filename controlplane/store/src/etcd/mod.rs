//! The store of production: etcd.
//!
//! One connection for each endpoint, kept alive also while idle: a peer that is gone without a word (a dead machine, a
//! stopped process) is noticed within [`KEEPALIVE_INTERVAL`] + [`KEEPALIVE_TIMEOUT`], for open watches too.

mod config;
mod error;
mod range;
mod txn;
mod watch;

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, CompactionOptions, KvClient, WatchClient};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::{Changes, Commit, Expect, Range, Revision, Snapshot, Store, StoreError, Write, limits};

pub use config::EtcdConfig;

/// How often an unanswered peer is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How long it may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Largest answer that is read, in bytes. A page or fragment of etcd stays well below it; see [`range`].
const MAX_DECODED_BYTES: usize = 64 << 20;

/// The first and the longest pause between two tries of [`Etcd::wait_ready`].
const READY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How often [`Etcd::wait_ready`] says that it still waits.
const READY_REPORT: Duration = Duration::from_secs(2);

/// A connection to an etcd cluster. Clones share it.
#[derive(Clone)]
pub struct Etcd {
    kv: KvClient,
    watch: WatchClient,
    /// As errors name them.
    endpoints: String,
    request_timeout: Duration,
}

impl Etcd {
    /// Checks the configuration and prepares the connection, which is made when it is first needed: this succeeds with
    /// etcd away. See [`Etcd::wait_ready`].
    pub async fn connect(config: EtcdConfig) -> Result<Self, StoreError> {
        let options = config.options()?;
        let endpoints = config.endpoints.join(", ");
        let client = Client::connect(&config.endpoints, Some(options)).await.map_err(|error| StoreError::Refused {
            operation: "connect",
            cause: format!("{endpoints}: {}", error::describe(&error)),
        })?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(MAX_DECODED_BYTES),
            watch: client.watch_client().max_decoding_message_size(MAX_DECODED_BYTES),
            endpoints,
            request_timeout: config.request_timeout,
        })
    }

    /// Waits until etcd answers a linearizable read, that is until it has a leader, and returns its revision. Reports
    /// progress to the log; the error after `patience` names the endpoints and the last cause.
    pub async fn wait_ready(&self, patience: Duration) -> Result<Revision, StoreError> {
        let start = Instant::now();
        let (mut pause, mut reported) = (READY_PAUSE.0, start);
        let mut last = self.unavailable(format!("no answer within {patience:?}"));
        loop {
            let left = patience.saturating_sub(start.elapsed());
            match timeout(left, self.revision()).await {
                Ok(Ok(revision)) => {
                    info!(endpoints = %self.endpoints, revision, "etcd answers");
                    return Ok(revision);
                }
                Ok(Err(error @ StoreError::Unavailable { .. })) => last = error,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(advised(last)),
            }
            if start.elapsed() + pause >= patience {
                return Err(advised(last));
            }
            if reported.elapsed() >= READY_REPORT {
                warn!(waited = ?start.elapsed(), left = ?left, error = %last, "waiting for etcd");
                reported = Instant::now();
            }
            sleep(pause).await;
            pause = (pause * 2).min(READY_PAUSE.1);
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        // A range that holds no key: only the header is of interest.
        let nothing = Range { prefix: "\0".into(), limit: 1, ..Range::default() };
        Ok(self.range(nothing).await?.revision)
    }

    /// Runs one request with the time limit of all requests.
    async fn call<T>(
        &self,
        operation: &'static str,
        asked: Revision,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        match timeout(self.request_timeout, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failure(operation, asked, &error)),
            Err(_) => Err(self.unavailable(format!("{operation} got no answer within {:?}", self.request_timeout))),
        }
    }

    fn unavailable(&self, cause: String) -> StoreError {
        StoreError::Unavailable { endpoints: self.endpoints.clone(), cause }
    }
}

/// A peer that turns our certificate away closes the connection after the handshake of TLS 1.3, and whether we read its
/// reason before that is a race: the advice is there always.
fn advised(error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable { endpoints, cause } if !cause.contains("refused") => StoreError::Unavailable {
            endpoints,
            cause: format!("{cause} (see that it has a leader, and that it and we trust each other's certificates)"),
        },
        error => error,
    }
}

#[async_trait]
impl Store for Etcd {
    async fn commit(&self, expects: &[Expect], writes: &[Write]) -> Result<Commit, StoreError> {
        limits::check(expects, writes)?;
        let mut kv = self.kv.clone();
        let answer = self.call("commit", 0, kv.txn(txn::request(expects, writes))).await?;
        txn::outcome(expects, answer)
    }

    async fn range(&self, range: Range) -> Result<Snapshot, StoreError> {
        self.read_pages(range).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError> {
        self.open_watch(prefix, from).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut kv = self.kv.clone();
        match self.call("compact", revision, kv.compact(revision, Some(CompactionOptions::new()))).await {
            Ok(_) | Err(StoreError::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
