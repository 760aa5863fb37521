//! One file keeps every promise of a store, across restarts too.

#![allow(clippy::unwrap_used)]

#[macro_use]
mod conformance;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diolkos_store::{Change, Commit, Expect, Local, Model, Range, Revision, Snapshot, Store, StoreError, Write};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio_stream::StreamExt;

async fn start() -> (Arc<dyn Store>, TempDir) {
    let place = tempfile::tempdir().unwrap();
    (Arc::new(Local::open(&file(&place)).await.unwrap()), place)
}

every_promise!(start);

#[tokio::test]
async fn a_restart_keeps_keys_revisions_and_history() {
    let place = tempfile::tempdir().unwrap();
    let store = Local::open(&file(&place)).await.unwrap();
    let first = put(&store, "/w/a", "1").await;
    let second = put(&store, "/w/a", "2").await;
    let third = delete(&store, "/w/a").await;
    drop(store);
    let store = reopen(&place).await;
    assert_eq!(store.revision(), third);
    assert_eq!(values(&store, first).await, ["/w/a=1"]);
    assert_eq!(values(&store, second).await, ["/w/a=2"]);
    assert_eq!(values(&store, 0).await, [""; 0]);
    let mut changes = store.watch("/w/", first).await.unwrap();
    let told = changes.next().await.unwrap().unwrap();
    assert_eq!(told.iter().map(Change::revision).collect::<Vec<_>>(), [second, third]);
    assert_eq!(put(&store, "/w/b", "3").await, third + 1, "and goes on counting");
    store.compact(second).await.unwrap();
    drop((changes, store));
    let store = reopen(&place).await;
    let error = store.range(Range { at: first, ..Range::default() }).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { oldest, .. } if oldest == second), "{error}");
}

#[tokio::test]
async fn a_second_opener_is_refused_and_told_why() {
    let place = tempfile::tempdir().unwrap();
    let store = Local::open(&file(&place)).await.unwrap();
    let error = Local::open(&file(&place)).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("open in another process") && error.contains("store.db"), "{error}");
    put(&store, "/a", "1").await;
    drop(store);
    reopen(&place).await;
}

#[tokio::test]
async fn a_file_of_somebody_else_is_refused_and_left_alone() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(file(&place), "a letter to my mother, which is longer than one hundred bytes ".repeat(9)).unwrap();
    let before = std::fs::read(file(&place)).unwrap();
    let error = Local::open(&file(&place)).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("store.db") && error.contains("not a store"), "{error}");
    assert_eq!(std::fs::read(file(&place)).unwrap(), before);
    std::fs::remove_file(file(&place)).unwrap();
    let foreign = rusqlite::Connection::open(file(&place)).unwrap();
    foreign.execute_batch("CREATE TABLE mine (a)").unwrap();
    let error = Local::open(&file(&place)).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("another program"), "{error}");
    drop(foreign);
    std::fs::remove_file(file(&place)).unwrap();
    drop(Local::open(&file(&place)).await.unwrap());
    let later = reopened_as(&place, 2).await;
    assert!(later.contains("layout 2") && later.contains("release that wrote it"), "{later}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("plain"), "").unwrap();
    let error = Local::open(&place.path().join("plain/store.db")).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("/plain"), "{error}");
}

#[tokio::test]
async fn only_its_owner_may_read_the_file() {
    let (_store, place) = start().await;
    for name in ["store.db", "store.db-wal", "store.db.lock"] {
        let mode = std::fs::metadata(place.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn compaction_gives_the_room_back() {
    const KEYS: usize = 20;
    let place = tempfile::tempdir().unwrap();
    let store = Local::open(&file(&place)).await.unwrap();
    let value = "x".repeat(64 << 10);
    let mut last = 0;
    for n in 0..10 * KEYS {
        last = put(&store, &format!("/w/{}", n % KEYS), &value).await;
    }
    drop(store);
    let full = size(&place);
    let store = reopen(&place).await;
    store.compact(last).await.unwrap();
    drop(store);
    let store = reopen(&place).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    // The file is cut when the log is written back to it, which further commits bring about.
    while size(&place) > full / 4 {
        assert!(Instant::now() < deadline, "{} of {full} bytes are left", size(&place));
        put(&store, "/w/0", &value).await;
    }
    assert_eq!(values(&store, 0).await.len(), KEYS, "nothing present is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_of_many_share_flushes_and_each_has_its_revision() {
    const WRITERS: usize = 64;
    const EACH: usize = 20;
    let (store, _place) = start().await;
    let writers = (0..WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut mine = Vec::new();
            for n in 0..EACH {
                let write = Write::Put { key: format!("/w/{writer}/{n}"), value: "v".into() };
                let expect = Expect::Absent { key: write.key().to_owned() };
                match store.commit(&[expect], &[write]).await.unwrap() {
                    Commit::Done(revision) => mine.push(revision),
                    conflict => panic!("{conflict:?}"),
                }
            }
            mine
        })
    });
    let mut revisions = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        let mine = writer.await.unwrap();
        assert!(mine.is_sorted(), "a writer sees its own writes in order");
        revisions.extend(mine);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..2 + (WRITERS * EACH) as Revision).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_advanced_revision_never_goes_back() {
    let place = tempfile::tempdir().unwrap();
    let store = Local::open(&file(&place)).await.unwrap();
    let before = put(&store, "/w/a", "1").await;
    assert_eq!(store.advance(1000).await.unwrap(), 1000);
    assert_eq!(store.advance(10).await.unwrap(), 1000);
    let mut changes = store.watch("/w/", before).await.unwrap();
    assert_eq!(put(&store, "/w/a", "2").await, 1001);
    let told = changes.next().await.unwrap().unwrap();
    assert_eq!(told.iter().map(Change::revision).collect::<Vec<_>>(), [1001]);
    drop((changes, store));
    assert_eq!(reopen(&place).await.revision(), 1001);
}

/// What somebody does to a store.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Expect>, Vec<Write>),
    Compact(Revision),
    Read(Range),
    Watch(Revision),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop::sample::select(vec!["/a", "/a/b", "/a/b\u{10ffff}", "/a/c", "/b"]).prop_map(str::to_owned);
    let expect = prop_oneof![
        key().prop_map(|key| Expect::Absent { key }),
        (key(), 1..40_i64).prop_map(|(key, revision)| Expect::At { key, revision }),
    ];
    let write = prop_oneof![
        3 => (key(), any::<u8>()).prop_map(|(key, value)| Write::Put { key, value: vec![value].into() }),
        1 => key().prop_map(|key| Write::Delete { key }),
    ];
    let writes = prop::collection::vec(write, 0..4).prop_map(|mut writes| {
        writes.sort_by(|a, b| a.key().cmp(b.key()));
        writes.dedup_by(|a, b| a.key() == b.key());
        writes
    });
    let prefix = prop::sample::select(vec!["", "/a", "/a/", "/a/b\u{10ffff}", "/c"]).prop_map(str::to_owned);
    let start = prop::sample::select(vec!["", "/a/b", "/a/b\0", "/b"]).prop_map(str::to_owned);
    let range = (prefix, start, 0..40_i64, 0..4_usize).prop_map(|(prefix, start, at, limit)| Range {
        prefix,
        start,
        at,
        limit,
    });
    prop_oneof![
        8 => (prop::collection::vec(expect, 0..2), writes).prop_map(|(expects, writes)| Step::Commit(expects, writes)),
        1 => (0..40_i64).prop_map(Step::Compact),
        4 => range.prop_map(Step::Read),
        2 => (0..40_i64).prop_map(Step::Watch),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_history_reads_as_the_model_says(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let place = tempfile::tempdir().unwrap();
            let (model, mut store) = (Model::new(), Local::open(&file(&place)).await.unwrap());
            for step in steps {
                if matches!(step, Step::Restart) {
                    drop(store);
                    store = reopen(&place).await;
                    continue;
                }
                assert_eq!(outcome(&store, &step).await, outcome(&model, &step).await, "{step:?}");
            }
        });
    }
}

/// What a step brings, as text.
async fn outcome(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::Commit(expects, writes) => format!("{:?}", store.commit(expects, writes).await),
        Step::Compact(revision) => format!("{:?}", store.compact(*revision).await),
        Step::Read(range) => format!("{:?}", store.range(range.clone()).await),
        Step::Watch(from) => match store.watch("/a", *from).await {
            Err(error) => format!("{error:?}"),
            Ok(mut changes) => {
                let last = store.range(Range { prefix: "/".into(), ..Range::default() }).await.unwrap();
                format!("{:?}", told(&mut changes, *from, &last).await)
            }
        },
        Step::Restart => String::new(),
    }
}

/// The changes that a watch has up to a snapshot: it is known to be silent afterwards.
async fn told(changes: &mut diolkos_store::Changes, from: Revision, last: &Snapshot) -> Vec<Change> {
    let newest = last.entries.iter().filter(|entry| entry.key.starts_with("/a")).map(|entry| entry.revision).max();
    let mut all: Vec<Change> = Vec::new();
    while newest.is_some_and(|newest| newest > from && all.last().is_none_or(|change| change.revision() < newest)) {
        all.extend(changes.next().await.unwrap().unwrap());
    }
    // Deletions after the newest entry are told too, in the same batch or later: they are not waited for.
    all.retain(|change| newest.is_some_and(|newest| change.revision() <= newest));
    all
}

fn file(place: &TempDir) -> PathBuf {
    place.path().join("store.db")
}

/// Opens the file again. The thread of the store before may hold it for a moment longer than its last user.
async fn reopen(place: &TempDir) -> Local {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Local::open(&file(place)).await {
            Ok(store) => return store,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn reopened_as(place: &TempDir, layout: i32) -> String {
    let connection = rusqlite::Connection::open(file(place)).unwrap();
    connection.pragma_update(None, "user_version", layout).unwrap();
    drop(connection);
    Local::open(&file(place)).await.map(drop).unwrap_err().to_string()
}

fn size(place: &TempDir) -> u64 {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    length(&file(place))
}

async fn put(store: &Local, key: &str, value: &str) -> Revision {
    commit(store, Write::Put { key: key.into(), value: value.to_owned().into() }).await
}

async fn delete(store: &Local, key: &str) -> Revision {
    commit(store, Write::Delete { key: key.into() }).await
}

async fn commit(store: &Local, write: Write) -> Revision {
    match store.commit(&[], &[write]).await.unwrap() {
        Commit::Done(revision) => revision,
        conflict => panic!("{conflict:?}"),
    }
}

async fn values(store: &Local, at: Revision) -> Vec<String> {
    let snapshot = store.range(Range { prefix: "/w/".into(), at, ..Range::default() }).await.unwrap();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    snapshot.entries.iter().map(|entry| format!("{}={}", entry.key, text(&entry.value))).collect()
}
