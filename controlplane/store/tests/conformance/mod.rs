//! The promises of a store, as tests that run with each implementation: here with the model, and with a real etcd in
//! the integration suite `store`.

mod commits;
mod ranges;
mod watches;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use diolkos_store::{Change, Changes, Commit, Expect, Revision, Store, Write};
use tokio_stream::StreamExt;

pub(crate) use commits::*;
pub(crate) use ranges::*;
pub(crate) use watches::*;

/// Declares one test for each promise. `$start` is an async function that gives a fresh store and what keeps it alive.
macro_rules! every_promise {
    ($start:path) => {
        every_promise! { $start:
            a_key_is_created_only_when_absent,
            a_write_at_an_old_revision_is_a_conflict_that_shows_the_present_entry,
            of_many_that_create_a_key_one_wins,
            increments_by_compare_and_swap_are_not_lost,
            a_commit_of_many_keys_happens_whole_or_not_at_all,
            the_first_expectation_that_fails_is_named,
            a_commit_that_changes_nothing_has_the_present_revision,
            a_commit_of_the_largest_size_is_taken,
            what_is_too_large_is_refused_and_changes_nothing,
            a_range_holds_its_prefix_and_nothing_else,
            a_range_at_an_old_revision_is_as_it_was,
            pages_at_one_revision_miss_and_repeat_nothing_while_keys_change,
            a_range_of_thousands_of_keys_is_whole,
            a_range_of_large_values_is_whole,
            a_compacted_revision_cannot_be_read,
            a_revision_in_the_future_cannot_be_read,
            a_watch_tells_all_changes_in_order,
            a_watch_tells_only_its_prefix,
            a_watch_from_the_past_tells_what_happened_since,
            a_commit_of_many_keys_arrives_whole,
            large_commits_of_the_past_arrive_whole,
            a_watch_resumes_without_gaps_or_repetitions,
            a_watch_from_a_compacted_revision_says_so,
            a_watch_from_the_compacted_revision_misses_no_deletion,
            a_watch_from_the_future_says_so,
            a_reader_that_stands_still_holds_up_nobody,
        }
    };
    ($start:path: $($promise:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let (store, _alive) = $start().await;
                conformance::$promise(store).await;
            }
        )+
    };
}

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.into(), value: value.to_owned().into() }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.into() }
}

fn absent(key: &str) -> Expect {
    Expect::Absent { key: key.into() }
}

fn at(key: &str, revision: Revision) -> Expect {
    Expect::At { key: key.into(), revision }
}

/// Commits what must not conflict.
async fn done(store: &Arc<dyn Store>, expects: &[Expect], writes: &[Write]) -> Revision {
    match store.commit(expects, writes).await.unwrap() {
        Commit::Done(revision) => revision,
        Commit::Conflict { key, current } => panic!("{key} conflicts with {current:?}"),
    }
}

/// Reads changes up to and including a revision; the sizes of the batches do not matter.
async fn read_to(changes: &mut Changes, last: Revision) -> Vec<Change> {
    let mut all = Vec::new();
    while all.last().is_none_or(|change: &Change| change.revision() < last) {
        let batch = within("the next change", changes.next()).await.unwrap().unwrap();
        assert!(!batch.is_empty(), "a batch holds at least one commit");
        all.extend(batch);
    }
    all
}

/// A change as a line: `12 put a=1` or `13 delete a`.
fn line(change: &Change) -> String {
    match change {
        Change::Put(entry) => {
            format!("{} put {}={}", entry.revision, entry.key, String::from_utf8_lossy(&entry.value))
        }
        Change::Delete { key, revision } => format!("{revision} delete {key}"),
    }
}

fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(line).collect()
}
