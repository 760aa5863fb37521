//! A real etcd keeps every promise of a store, and what happens when it does not answer.

#![allow(clippy::unwrap_used)]

#[path = "../../controlplane/store/tests/conformance/mod.rs"]
#[macro_use]
mod conformance;
#[path = "store/etcd.rs"]
mod etcd;
#[path = "store/file.rs"]
mod file;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diolkos_apiserver::cache::{Cache, CacheEvent, Freshness, Limits, Start, WatchSpec};
use diolkos_apiserver::pki::Pki;
use diolkos_store::{Change, Changes, Commit, Etcd, EtcdConfig, Range, Revision, Store, StoreError, Write};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use self::etcd::Server;

async fn start() -> (Arc<dyn Store>, Server) {
    let server = Server::start();
    let store = connect(&server).await;
    (Arc::new(store), server)
}

every_promise!(start);

/// Longest time until a peer that does not answer any more is noticed.
const NOTICED: Duration = Duration::from_secs(5);

/// Longest wait for anything that is not about time.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_stopped_etcd_is_noticed_by_watches_and_requests() {
    let server = Server::start();
    let store = connect(&server).await;
    let revision = put(&store, "/w/a", "1").await;
    let mut changes = store.watch("/w/", revision).await.unwrap();
    server.stop();
    let stopped = Instant::now();
    let (watch, request) = tokio::join!(timeout(NOTICED, changes.next()), timeout(NOTICED, read(&store)));
    let error = watch.expect("the watch ends in time").unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let error = request.expect("the request ends in time").unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(&server.url()), "the error names the endpoint: {error}");
    assert!(stopped.elapsed() < NOTICED);
    server.go_on();
    store.wait_ready(PATIENCE).await.unwrap();
    let next = put(&store, "/w/a", "2").await;
    let mut changes = store.watch("/w/", revision).await.unwrap();
    assert_eq!(changes.next().await.unwrap().unwrap().last().map(Change::revision), Some(next));
}

#[tokio::test]
async fn a_killed_etcd_ends_watches_and_comes_back_with_all_it_had() {
    let mut server = Server::start();
    let store = connect(&server).await;
    let first = put(&store, "/w/a", "1").await;
    let mut changes = store.watch("/w/", first).await.unwrap();
    let second = put(&store, "/w/a", "2").await;
    assert_eq!(changes.next().await.unwrap().unwrap().len(), 1);
    server.kill();
    let error = timeout(NOTICED, changes.next()).await.expect("the watch ends in time").unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let error = timeout(NOTICED, read(&store)).await.expect("the request ends in time").unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    server.restart();
    assert_eq!(store.wait_ready(PATIENCE).await.unwrap(), second);
    let third = put(&store, "/w/b", "3").await;
    let mut changes = store.watch("/w/", first).await.unwrap();
    let told = collect(&mut changes, third).await;
    assert_eq!(told, [("/w/a".to_owned(), second), ("/w/b".to_owned(), third)], "no gap and no repetition");
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_when_etcd_is_killed() {
    const KILLS: usize = 3;
    let mut server = Server::start();
    let store = connect(&server).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_until(store.clone(), Arc::clone(&stop)));
    for _ in 0..KILLS {
        let before = store.wait_ready(PATIENCE).await.unwrap();
        while store.wait_ready(PATIENCE).await.unwrap() < before + 100 {}
        server.kill();
        server.restart();
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.await.unwrap();
    assert!(acknowledged.len() >= KILLS * 90, "{} writes", acknowledged.len());
    store.wait_ready(PATIENCE).await.unwrap();
    let held = store.range(Range { prefix: "/w/".into(), ..Range::default() }).await.unwrap().entries;
    let held: Vec<(String, Revision)> = held.into_iter().map(|entry| (entry.key, entry.revision)).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|write| !held.contains(write)).collect();
    assert!(lost.is_empty(), "lost {lost:?}");
}

#[tokio::test]
async fn etcd_away_at_start_is_waited_for_and_named() {
    let mut server = Server::start();
    server.kill();
    let store = connect(&server).await;
    let patience = Duration::from_secs(1);
    let error = store.wait_ready(patience).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&server.url()) && text.contains("does not answer"), "{text}");
    assert!(text.contains("Connection refused"), "the cause is there: {text}");
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait_ready(PATIENCE).await }
    });
    server.restart();
    waiting.await.unwrap().unwrap();
    put(&store, "/a", "1").await;
}

#[tokio::test]
async fn the_watch_cache_loses_nothing_when_etcd_is_killed() {
    const PREFIX: &str = "/registry/core/configmaps/";
    let mut server = Server::start();
    let store = connect(&server).await;
    let limits = Limits { compact_every: None, ..Limits::default() };
    let cache = Cache::start(Arc::new(store.clone()), |_| vec![], limits);
    timeout(PATIENCE, cache.ready()).await.expect("the cache is filled");
    let start = Start::Now(Freshness::Latest);
    let spec = WatchSpec { prefix: PREFIX.into(), node: None, filter: None, start, bookmarks: false };
    let mut watch = cache.watch(spec).await.unwrap();
    let mut written = Vec::new();
    for n in 0..10 {
        if n % 4 == 3 {
            server.kill();
            let read = cache.list(PREFIX, None, Freshness::Any).await.unwrap();
            assert_eq!(read.1, *written.last().unwrap(), "what it has is served");
            let latest = cache.list(PREFIX, None, Freshness::Latest).await.map(drop);
            assert_eq!(latest.unwrap_err().code(), 503, "and nothing else");
            server.restart();
            store.wait_ready(PATIENCE).await.unwrap();
        }
        let name = format!("c{n}");
        let object = format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}");
        written.push(put(&store, &format!("{PREFIX}default/{name}"), &object).await);
        let read = cache.list(PREFIX, None, Freshness::AtLeast(written[n])).await.unwrap();
        assert_eq!((read.0.len(), read.1), (n + 1, written[n]));
    }
    for revision in written {
        let event = timeout(PATIENCE, watch.next()).await.expect("an event").unwrap().unwrap();
        assert!(matches!(event, CacheEvent::Added(_)));
        assert_eq!(event.revision(), revision);
    }
    assert_eq!(cache.metrics().fills.get(), 1);
}

#[tokio::test]
async fn a_client_without_a_certificate_etcd_trusts_is_turned_away() {
    let server = Server::start();
    let foreign_files = tempfile::tempdir().unwrap();
    let foreign = Pki::open(foreign_files.path(), &[]).unwrap();
    let identity = foreign.etcd_client();
    let cases = [
        ("none", EtcdConfig { cert: None, key: None, ..server.config() }),
        (
            "foreign",
            EtcdConfig {
                cert: Some(identity.cert_pem.clone()),
                key: Some(identity.key_pem.clone()),
                ..server.config()
            },
        ),
        ("foreign authority", EtcdConfig { ca: Some(foreign.etcd_ca_pem().to_owned()), ..server.config() }),
    ];
    for (name, config) in cases {
        let config = EtcdConfig { request_timeout: Duration::from_millis(300), ..config };
        let store = Etcd::connect(config).await.unwrap();
        let error = store.wait_ready(Duration::from_secs(1)).await.unwrap_err().to_string();
        assert!(error.contains(&server.url()), "{name}: {error}");
        assert!(error.contains("certificate"), "{name}: the error says what to look at: {error}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_with_what_to_do() {
    let server = Server::start();
    let good = server.config();
    let cases = [
        (EtcdConfig { endpoints: vec![], ..good.clone() }, "https://HOST:PORT"),
        (EtcdConfig { endpoints: vec!["http://127.0.0.1:1".into()], ..good.clone() }, "must be https://"),
        (EtcdConfig { endpoints: vec!["127.0.0.1:1".into()], ..good.clone() }, "must be https://"),
        (EtcdConfig { key: None, ..good.clone() }, "without its private key"),
        (EtcdConfig { cert: None, ..good.clone() }, "without its client certificate"),
        (EtcdConfig { ca: Some("/etc/ca.crt".into()), ..good.clone() }, "is not PEM"),
    ];
    for (config, wanted) in cases {
        let error = Etcd::connect(config).await.map(drop).unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    assert!(!format!("{good:?}").contains("PRIVATE KEY"), "the key is not in logs");
}

/// Writes one key after the other, and returns those that etcd said it has.
async fn write_until(store: Etcd, stop: Arc<AtomicBool>) -> Vec<(String, Revision)> {
    let mut acknowledged = Vec::new();
    for n in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let write = Write::Put { key: format!("/w/{n:05}"), value: n.to_string().into() };
        match store.commit(&[], std::slice::from_ref(&write)).await {
            Ok(Commit::Done(revision)) => acknowledged.push((write.key().to_owned(), revision)),
            Ok(conflict) => panic!("{conflict:?}"),
            Err(StoreError::Unavailable { .. }) => drop(store.wait_ready(PATIENCE).await.unwrap()),
            Err(error) => panic!("{error}"),
        }
    }
    acknowledged
}

async fn connect(server: &Server) -> Etcd {
    let store = Etcd::connect(server.config()).await.unwrap();
    if server.runs() {
        store.wait_ready(PATIENCE).await.unwrap();
    }
    store
}

async fn put(store: &Etcd, key: &str, value: &str) -> Revision {
    let write = Write::Put { key: key.into(), value: value.to_owned().into() };
    match store.commit(&[], &[write]).await.unwrap() {
        Commit::Done(revision) => revision,
        conflict => panic!("{conflict:?}"),
    }
}

async fn read(store: &Etcd) -> Result<Revision, StoreError> {
    store.range(Range { prefix: "/w/".into(), ..Range::default() }).await.map(|snapshot| snapshot.revision)
}

async fn collect(changes: &mut Changes, last: Revision) -> Vec<(String, Revision)> {
    let mut told = Vec::new();
    while told.last().is_none_or(|(_, revision)| *revision < last) {
        let batch = timeout(PATIENCE, changes.next()).await.expect("the next change").unwrap().unwrap();
        told.extend(batch.iter().map(|change| (change.key().to_owned(), change.revision())));
    }
    told
}
