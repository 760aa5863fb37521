//! Keeps the cache current: reads everything once, then follows one watch, through losses and compactions.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use diolkos_store::{Change, Range, Revision, StoreError};
use futures::StreamExt;
use tokio::time::{Instant, sleep};

use super::state::Update;
use super::{CachedObject, ROOT, Shared};

/// Keys that are read from the store and parsed at a time.
const FILL_PAGE: usize = 2000;

/// How often a fill that takes long says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Why the cache does not follow the store.
enum Trouble {
    /// Try again from the same revision.
    Store(StoreError),
    /// The changes since the cache's revision are gone.
    Compacted,
    /// The store is at an earlier revision than the cache was.
    WentBack { store: Revision },
}

/// Never ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let (first, most) = (shared.limits.retry_first, shared.limits.retry_most);
    let mut pause = first;
    let mut refill = true;
    loop {
        let started = Instant::now();
        let trouble = match if refill { shared.fill().await } else { Ok(()) } {
            Ok(()) => {
                refill = false;
                shared.follow().await
            }
            Err(trouble) => trouble,
        };
        // A store that went back and comes past our revision again holds something else.
        refill |= matches!(trouble, Trouble::Compacted | Trouble::WentBack { .. });
        shared.report(&trouble);
        // One that went well for a while and then broke is tried at once.
        if started.elapsed() > most {
            pause = first;
        }
        sleep(pause).await;
        pause = (pause * 2).min(most);
        shared.metrics.resumes.add(1);
    }
}

impl Shared {
    /// Reads all keys at one revision and replaces the cache's content by them.
    async fn fill(&self) -> Result<(), Trouble> {
        let mut objects: BTreeMap<Arc<str>, CachedObject> = BTreeMap::new();
        let mut range = Range { prefix: ROOT.into(), limit: FILL_PAGE, ..Range::default() };
        let mut reported = Instant::now();
        loop {
            let page = self.store.range(range.clone()).await?;
            range.at = page.revision;
            if let Some(last) = page.entries.last() {
                range.start = format!("{}\0", last.key);
            }
            for entry in page.entries {
                // An object that did not change in between is not parsed again.
                let known = self.read().get(&entry.key).filter(|known| known.revision == entry.revision);
                let object = known.unwrap_or_else(|| Arc::new(self.parse(entry)));
                objects.insert(Arc::clone(&object.key), object);
            }
            if page.remaining == 0 {
                break;
            }
            if reported.elapsed() >= REPORT_EVERY {
                tracing::info!(read = objects.len(), left = page.remaining, "filling the cache");
                reported = Instant::now();
            }
        }
        self.metrics.fills.add(1);
        let (count, revision) = (objects.len(), range.at);
        if !self.write().replace(objects, revision, &self.metrics) {
            return Err(Trouble::WentBack { store: revision });
        }
        tracing::info!(objects = count, revision, "the cache is filled");
        self.reached.send_replace(revision);
        Ok(())
    }

    /// Takes all changes after the cache's revision until the watch breaks.
    async fn follow(&self) -> Trouble {
        let from = self.read().revision();
        let mut changes = match self.store.watch(ROOT, from).await {
            Ok(changes) => changes,
            Err(error) => return self.interpret(error).await,
        };
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = None;
        while let Some(batch) = changes.next().await {
            match batch {
                Ok(batch) => self.take(batch),
                Err(error) => return self.interpret(error).await,
            }
        }
        let cause = "the store ended the watch without a reason".to_owned();
        Trouble::Store(StoreError::Unavailable { endpoints: "the store".into(), cause })
    }

    /// Takes whole commits.
    fn take(&self, batch: Vec<Change>) {
        self.metrics.changes.add(batch.len());
        // Parsed before the lock is taken.
        let mut commits: Vec<(Revision, Vec<Update>)> = Vec::new();
        for change in batch {
            let revision = change.revision();
            let update = match change {
                Change::Put(entry) => Update::Put(Arc::new(self.parse(entry))),
                Change::Delete { key, revision } => Update::Delete { key, revision },
            };
            match commits.last_mut() {
                Some((last, updates)) if *last == revision => updates.push(update),
                _ => commits.push((revision, vec![update])),
            }
        }
        let reached = {
            let mut state = self.write();
            for (revision, updates) in commits {
                state.commit(revision, updates, &self.metrics);
            }
            state.revision()
        };
        self.reached.send_replace(reached);
    }

    async fn interpret(&self, error: StoreError) -> Trouble {
        match error {
            StoreError::Compacted { .. } => Trouble::Compacted,
            // A member that lags says the same for a moment: only a linearizable read tells.
            StoreError::Future { asked, .. } => match self.latest().await {
                Ok(store) if store < asked => Trouble::WentBack { store },
                _ => Trouble::Store(error),
            },
            error => Trouble::Store(error),
        }
    }

    fn report(&self, trouble: &Trouble) {
        let at = self.read().revision();
        let text = match trouble {
            Trouble::Store(error) => error.to_string(),
            Trouble::Compacted => format!("the store has compacted the changes after revision {at}: reading all again"),
            Trouble::WentBack { store } => format!(
                "the store is at revision {store}, but clients were already told {at}: it was restored without a later \
                 revision. Restore it with a revision after {at} (etcdutl snapshot restore --bump-revision), or restart \
                 all apiservers and their clients"
            ),
        };
        match trouble {
            Trouble::WentBack { .. } => tracing::error!("{text}"),
            Trouble::Store(_) | Trouble::Compacted => tracing::warn!(revision = at, "the cache lost its store: {text}"),
        }
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        // A fill reads at the revision of its first page: when that is compacted meanwhile, it begins anew.
        if matches!(error, StoreError::Compacted { .. }) { Self::Compacted } else { Self::Store(error) }
    }
}
