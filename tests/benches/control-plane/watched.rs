//! Watches of all pods through the apiserver beside watches of the same keys in etcd: the same writes, past the
//! apiserver, for both.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use diolkos_api::wire;
use diolkos_api::wire::watch_event::Type;
use diolkos_tests::figures::Section;
use etcd_client::{WatchOptions, WatchStream};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::Streaming;

use crate::etcd::Server as Etcd;
use crate::load::{Side, percentile, rate};
use crate::pods::{self, BATCH};
use crate::server::{pod_key, raw};

/// Where the writes go. No Namespace is needed for what is written past the apiserver.
const NAMESPACE: &str = "watched";
/// Writes of the measured stream: transactions of [`BATCH`].
const BATCHES: usize = 30;
/// Transactions that not all have been told of yet: an apiserver closes watches that fall far behind.
const AHEAD: usize = 4;
/// Writes that are told one by one.
const SINGLES: usize = 200;
/// Longest wait for an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Watched {
    rate: Section,
    median: Section,
    last: Section,
}

impl Watched {
    pub(crate) fn new() -> Self {
        Self {
            rate: Section::new("Watch pods: events told to all watchers together", "1/s"),
            median: Section::new("Watch pods: from a write's begin to the last watcher, median", "us"),
            last: Section::new("Watch pods: from a write's begin to the last watcher, 99th percentile", "us"),
        }
    }

    pub(crate) fn sections(self) -> [Section; 3] {
        [self.rate, self.median, self.last]
    }

    /// A watch on each connection of both sides, one side after the other.
    pub(crate) async fn round(&mut self, sides: &[Vec<Side>; 2], template: &Value, etcd: &Etcd) -> Result<()> {
        let mut client = raw(etcd).await?;
        let noun = if sides[0].len() == 1 { "watcher" } else { "watchers" };
        let base = format!("etcd, {} {noun}", sides[0].len());
        for (side, name) in sides.iter().zip([base.clone(), format!("diolkos, {} {noun}", sides[1].len())]) {
            let told = Told::open(side, &mut client).await.with_context(|| name.clone())?;
            let start = Instant::now();
            for batch in 0..BATCHES {
                let indices = batch * BATCH..(batch + 1) * BATCH;
                let entries = indices.map(|index| pods::like(template, NAMESPACE, index, batch)).collect();
                pods::put(&mut client, entries).await?;
                told.wait(side.len() * BATCH * (batch + 1).saturating_sub(AHEAD)).await?;
            }
            let all = side.len() * BATCH * BATCHES;
            told.wait(all).await?;
            self.rate.add(&name, Some(&base), rate(all, start.elapsed()));
            let mut times = Vec::new();
            for index in 0..SINGLES {
                let start = Instant::now();
                pods::put(&mut client, vec![pods::like(template, NAMESPACE, index, SINGLES)]).await?;
                told.wait(all + side.len() * (index + 1)).await?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            times.sort_by(f64::total_cmp);
            self.median.add(&name, Some(&base), percentile(&times, 50));
            self.last.add(&name, Some(&base), percentile(&times, 99));
            told.check(all / side.len() + SINGLES)?;
        }
        Ok(())
    }
}

/// Watches that count.
pub(crate) struct Told {
    total: Arc<Total>,
    each: Vec<Arc<AtomicUsize>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
pub(crate) struct Total {
    events: AtomicUsize,
    wanted: AtomicUsize,
    reached: Notify,
    failed: std::sync::Mutex<Option<String>>,
}

impl Total {
    fn count(&self, events: usize, own: &AtomicUsize) {
        own.fetch_add(events, Ordering::SeqCst);
        let before = self.events.fetch_add(events, Ordering::SeqCst);
        if before + events >= self.wanted.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }

    fn fail(&self, why: &anyhow::Error) {
        if let Ok(mut failed) = self.failed.lock() {
            failed.get_or_insert(format!("{why:#}"));
        }
        self.reached.notify_one();
    }
}

impl Told {
    pub(crate) fn new() -> Self {
        Self { total: Arc::default(), each: Vec::new(), tasks: Vec::new() }
    }

    async fn open(sides: &[Side], client: &mut etcd_client::Client) -> Result<Self> {
        let now = client.get(pods::store_key(NAMESPACE, ""), None).await?;
        let now = now.header().context("etcd named no revision")?.revision();
        let mut told = Self::new();
        for side in sides {
            match side.clone() {
                Side::Etcd(mut client) => {
                    let options = WatchOptions::new().with_prefix().with_start_revision(now + 1);
                    let stream = client.watch(pods::store_key(NAMESPACE, ""), Some(options)).await?;
                    told.follow(|total, own| of_etcd(stream, total, own));
                }
                Side::Diolkos(mut wire) => {
                    let request = wire::WatchRequest {
                        key: Some(pod_key(NAMESPACE, "")),
                        resource_version: now.to_string(),
                        omit_managed_fields: true,
                        ..Default::default()
                    };
                    let stream = wire.watch(request).await?.into_inner();
                    told.follow(|total, own| of_diolkos(stream, total, own));
                }
            }
        }
        Ok(told)
    }

    /// Counts what `watch` tells.
    pub(crate) fn follow<W>(&mut self, watch: impl FnOnce(Arc<Total>, Arc<AtomicUsize>) -> W)
    where
        W: Future<Output = Result<()>> + Send + 'static,
    {
        let own = Arc::<AtomicUsize>::default();
        let watch = watch(Arc::clone(&self.total), Arc::clone(&own));
        let total = Arc::clone(&self.total);
        self.each.push(own);
        self.tasks.push(tokio::spawn(async move {
            let ended: Result<()> = watch.await.and_then(|()| Err(anyhow!("the watch ended")));
            if let Err(error) = ended {
                total.fail(&error);
            }
        }));
    }

    /// Until so many events were told.
    pub(crate) async fn wait(&self, events: usize) -> Result<()> {
        self.total.wanted.store(events, Ordering::SeqCst);
        let reached = async {
            while self.total.events.load(Ordering::SeqCst) < events {
                if let Some(why) = self.total.failed.lock().ok().and_then(|why| why.clone()) {
                    bail!("a watch failed: {why}");
                }
                self.total.reached.notified().await;
            }
            Ok(())
        };
        let told = || format!("{} of {events} events after {PATIENCE:?}", self.total.events.load(Ordering::SeqCst));
        tokio::time::timeout(PATIENCE, reached).await.with_context(told)?
    }

    /// Every watch told the same number of events.
    pub(crate) fn check(&self, each: usize) -> Result<()> {
        for own in &self.each {
            let own = own.load(Ordering::SeqCst);
            ensure!(own == each, "a watch told {own} events of {each}");
        }
        Ok(())
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn of_etcd(mut stream: WatchStream, total: Arc<Total>, own: Arc<AtomicUsize>) -> Result<()> {
    while let Some(answer) = stream.message().await? {
        ensure!(!answer.canceled(), "etcd cancelled a watch: {}", answer.cancel_reason());
        total.count(answer.events().len(), &own);
    }
    Ok(())
}

pub(crate) async fn of_diolkos(
    mut stream: Streaming<wire::WatchEvent>,
    total: Arc<Total>,
    own: Arc<AtomicUsize>,
) -> Result<()> {
    while let Some(event) = stream.message().await? {
        match event.r#type() {
            Type::Bookmark => {}
            Type::Added | Type::Modified => total.count(1, &own),
            other => {
                let object = event.object.unwrap_or_default().json;
                bail!("an event {other:?}: {}", String::from_utf8_lossy(&object));
            }
        }
    }
    Ok(())
}
