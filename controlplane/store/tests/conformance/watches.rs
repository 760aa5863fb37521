//! Changes as they happen, and as they happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use diolkos_store::{Change, Revision, Store, StoreError, Write};
use tokio_stream::StreamExt;

use super::{delete, done, lines, put, read_to, within};

pub(crate) async fn a_watch_tells_all_changes_in_order(store: Arc<dyn Store>) {
    let start = done(&store, &[], &[put("/w/a", "0")]).await;
    let mut changes = store.watch("/w/", start).await.unwrap();
    done(&store, &[], &[put("/w/a", "1")]).await;
    done(&store, &[], &[delete("/w/a")]).await;
    done(&store, &[], &[put("/w/a", "2")]).await;
    let last = done(&store, &[], &[put("/w/b", "3")]).await;
    let told = lines(&read_to(&mut changes, last).await);
    let wanted = [
        format!("{} put /w/a=1", start + 1),
        format!("{} delete /w/a", start + 2),
        format!("{} put /w/a=2", start + 3),
        format!("{} put /w/b=3", start + 4),
    ];
    assert_eq!(told, wanted);
}

pub(crate) async fn a_watch_tells_only_its_prefix(store: Arc<dyn Store>) {
    let start = done(&store, &[], &[put("/w/a", "0")]).await;
    let mut changes = store.watch("/w/", start).await.unwrap();
    let both = done(&store, &[], &[put("/w", "1"), put("/w0", "1"), put("/w/b", "1"), put("/x/a", "1")]).await;
    done(&store, &[], &[put("/x/a", "2")]).await;
    let last = done(&store, &[], &[put("/w/c", "1")]).await;
    assert_eq!(lines(&read_to(&mut changes, last).await), [format!("{both} put /w/b=1"), format!("{last} put /w/c=1")]);
}

pub(crate) async fn a_watch_from_the_past_tells_what_happened_since(store: Arc<dyn Store>) {
    let first = done(&store, &[], &[put("/w/a", "1")]).await;
    let second = done(&store, &[], &[put("/w/a", "2"), put("/w/b", "2")]).await;
    let third = done(&store, &[], &[delete("/w/a")]).await;
    let since = async |from| lines(&read_to(&mut store.watch("/w/", from).await.unwrap(), third).await);
    let all = [
        format!("{first} put /w/a=1"),
        format!("{second} put /w/a=2"),
        format!("{second} put /w/b=2"),
        format!("{third} delete /w/a"),
    ];
    assert_eq!(since(0).await, all, "0 is before all history");
    assert_eq!(since(first).await, all[1..]);
    assert_eq!(since(second).await, all[3..]);
}

pub(crate) async fn a_commit_of_many_keys_arrives_whole(store: Arc<dyn Store>) {
    const COMMITS: usize = 50;
    let start = done(&store, &[], &[put("/w/0", "0")]).await;
    let mut changes = store.watch("/w/", start).await.unwrap();
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut last = 0;
            for commit in 0..COMMITS {
                let writes: Vec<_> = (0..=commit % 7).map(|n| put(&format!("/w/{n}"), &commit.to_string())).collect();
                last = done(&store, &[], &writes).await;
            }
            last
        }
    });
    let mut sizes: BTreeMap<Revision, usize> = BTreeMap::new();
    let last = start + COMMITS as Revision;
    while sizes.keys().last() != Some(&last) {
        let batch = within("the next commit", changes.next()).await.unwrap().unwrap();
        count_whole(&mut sizes, &batch);
    }
    assert_eq!(writer.await.unwrap(), last);
    let wanted: Vec<usize> = (0..COMMITS).map(|commit| commit % 7 + 1).collect();
    assert_eq!(sizes.into_values().collect::<Vec<_>>(), wanted);
}

pub(crate) async fn large_commits_of_the_past_arrive_whole(store: Arc<dyn Store>) {
    // Four commits of 1.2 MiB: an implementation must cut them to send them.
    const COMMITS: Revision = 4;
    const KEYS: usize = 24;
    let start = done(&store, &[], &[put("/w/0", "0")]).await;
    let value = vec![b'x'; 50 << 10];
    for _ in 0..COMMITS {
        let put = |n: usize| Write::Put { key: format!("/w/{n}"), value: value.clone().into() };
        done(&store, &[], &(0..KEYS).map(put).collect::<Vec<_>>()).await;
    }
    let mut changes = store.watch("/w/", start).await.unwrap();
    let mut sizes = BTreeMap::new();
    while sizes.keys().last() != Some(&(start + COMMITS)) {
        let batch = within("the next commit", changes.next()).await.unwrap().unwrap();
        count_whole(&mut sizes, &batch);
    }
    assert_eq!(sizes.into_values().collect::<Vec<_>>(), [KEYS; COMMITS as usize]);
}

/// Counts the changes of each commit, and fails when one continues in another batch.
fn count_whole(sizes: &mut BTreeMap<Revision, usize>, batch: &[Change]) {
    let mut here: BTreeMap<Revision, usize> = BTreeMap::new();
    for change in batch {
        *here.entry(change.revision()).or_default() += 1;
    }
    for (revision, count) in here {
        assert!(sizes.insert(revision, count).is_none(), "commit {revision} was split between two batches");
    }
}

pub(crate) async fn a_watch_resumes_without_gaps_or_repetitions(store: Arc<dyn Store>) {
    const COMMITS: Revision = 200;
    let start = done(&store, &[], &[put("/w/0", "0")]).await;
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut written = Vec::new();
            for n in 0..COMMITS {
                let key = format!("/w/{}", n % 5);
                let (write, text) = match n % 4 {
                    3 => (delete(&format!("/w/{}", (n - 1) % 5)), format!("delete /w/{}", (n - 1) % 5)),
                    _ => (put(&key, &n.to_string()), format!("put {key}={n}")),
                };
                let revision = done(&store, &[], &[write]).await;
                written.push(format!("{revision} {text}"));
            }
            written
        }
    });
    let (mut position, mut told) = (start, Vec::new());
    while position < start + COMMITS {
        // A reader that is cut off after each third batch.
        let mut changes = store.watch("/w/", position).await.unwrap();
        for _ in 0..3 {
            if position == start + COMMITS {
                break;
            }
            let batch = within("the next change", changes.next()).await.unwrap().unwrap();
            position = batch.last().unwrap().revision();
            told.extend(lines(&batch));
        }
    }
    assert_eq!(told, writer.await.unwrap());
}

pub(crate) async fn a_watch_from_a_compacted_revision_says_so(store: Arc<dyn Store>) {
    let first = done(&store, &[], &[put("/w/a", "1")]).await;
    done(&store, &[], &[put("/w/a", "2")]).await;
    let third = done(&store, &[], &[put("/w/a", "3")]).await;
    let last = done(&store, &[], &[put("/w/a", "4")]).await;
    store.compact(third).await.unwrap();
    for from in [0, first, third - 1] {
        let error = match store.watch("/w/", from).await {
            Err(error) => error,
            Ok(mut changes) => within("the end", changes.next()).await.unwrap().unwrap_err(),
        };
        assert!(matches!(error, StoreError::Compacted { asked, .. } if asked == from), "from {from}: {error:?}");
    }
    let mut changes = store.watch("/w/", third).await.unwrap();
    assert_eq!(lines(&read_to(&mut changes, last).await), [format!("{last} put /w/a=4")]);
}

pub(crate) async fn a_watch_from_the_compacted_revision_misses_no_deletion(store: Arc<dyn Store>) {
    let created = done(&store, &[], &[put("/w/a", "1"), put("/w/b", "1")]).await;
    let deleted = done(&store, &[], &[delete("/w/a")]).await;
    store.compact(created).await.unwrap();
    let mut changes = store.watch("/w/", created).await.unwrap();
    assert_eq!(lines(&read_to(&mut changes, deleted).await), [format!("{deleted} delete /w/a")]);
    // Now the deletion itself is the compacted revision: it is told, or the watch is refused, but never passed over.
    store.compact(deleted).await.unwrap();
    let error = match store.watch("/w/", created).await {
        Err(error) => error,
        Ok(mut changes) => within("the end", changes.next()).await.unwrap().unwrap_err(),
    };
    assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}");
}

pub(crate) async fn a_watch_from_the_future_says_so(store: Arc<dyn Store>) {
    let now = done(&store, &[], &[put("/w/a", "1")]).await;
    let future = store.watch("/w/", now + 5).await.map(drop);
    assert!(matches!(future, Err(StoreError::Future { asked, .. }) if asked == now + 5), "{future:?}");
    let mut changes = store.watch("/w/", now).await.unwrap();
    let next = done(&store, &[], &[put("/w/a", "2")]).await;
    assert_eq!(lines(&read_to(&mut changes, next).await), [format!("{next} put /w/a=2")]);
}

pub(crate) async fn a_reader_that_stands_still_holds_up_nobody(store: Arc<dyn Store>) {
    const COMMITS: usize = 40;
    let start = done(&store, &[], &[put("/w/a", "0")]).await;
    let mut still = store.watch("/w/", start).await.unwrap();
    let mut moving = store.watch("/w/", start).await.unwrap();
    // 20 MiB, more than the buffers of a connection hold.
    let value = vec![b'x'; 512 << 10];
    let mut last = start;
    for _ in 0..COMMITS {
        let write = Write::Put { key: "/w/a".into(), value: value.clone().into() };
        last = within("a commit", done(&store, &[], &[write])).await;
        read_to(&mut moving, last).await;
    }
    let told = read_to(&mut still, last).await;
    assert_eq!(told.len(), COMMITS, "and misses nothing when it goes on");
}
