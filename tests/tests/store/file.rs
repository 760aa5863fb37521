//! The apiserver over a file: killed under writers, and with a full disk.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diolkos_api::client::{Client, ListOptions};
use diolkos_api::kubeconfig::Kubeconfig;
use diolkos_store::{Commit, Local, Range, Store, StoreError, Write};
use diolkos_tests::tools;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apiserver_over_a_file_loses_no_acknowledged_write_when_it_is_killed() {
    const KILLS: usize = 3;
    const WRITERS: usize = 8;
    let place = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = spawn(&place, port);
    let client = connect(&place).await;
    let (written, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write_until(client.clone(), writer, Arc::clone(&written), Arc::clone(&stop))))
        .collect();
    for _ in 0..KILLS {
        let wanted = written.load(Ordering::Relaxed) + 50;
        eventually("writes", || written.load(Ordering::Relaxed) >= wanted).await;
        server.kill().unwrap();
        server.wait().unwrap();
        server = spawn(&place, port);
    }
    let wanted = written.load(Ordering::Relaxed) + 10;
    eventually("writes after the last kill", || written.load(Ordering::Relaxed) >= wanted).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let (held, _) = client.api::<ConfigMap>(Some("default")).list(&ListOptions::default()).await.unwrap();
    let version =
        |map: &ConfigMap| (map.metadata.name.clone().unwrap(), map.metadata.resource_version.clone().unwrap());
    let held: Vec<_> = held.iter().map(version).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|write| !held.contains(write)).collect();
    assert!(lost.is_empty(), "of {} lost {lost:?}", acknowledged.len());
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_full_disk_is_named_and_what_was_there_stays() {
    // In a thread with mounts of its own, which end with it; the store's threads are its children.
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let place = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), place.path(), Some("tmpfs"), MsFlags::empty(), Some("size=2m")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(fill(&place.path().join("store.db")));
        drop(runtime);
        umount2(place.path(), MntFlags::MNT_DETACH).unwrap();
    });
    thread.join().unwrap();
}

async fn fill(path: &Path) {
    let store = Local::open(path).await.unwrap();
    let mut kept = 0;
    let error = loop {
        let write = Write::Put { key: format!("/w/{kept}"), value: vec![b'x'; 64 << 10].into() };
        match store.commit(&[], &[write]).await {
            Ok(Commit::Done(_)) => kept += 1,
            Ok(conflict) => panic!("{conflict:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("make room"), "{error}");
    assert!(kept > 4, "{kept}");
    let held = store.range(Range { prefix: "/w/".into(), ..Range::default() }).await.unwrap();
    assert_eq!(held.entries.len(), kept);
}

async fn write_until(
    client: Client,
    writer: usize,
    written: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Vec<(String, String)> {
    let (api, mut acknowledged) = (client.api::<ConfigMap>(Some("default")), Vec::new());
    for n in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("w{writer}-{n}");
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        match api.create(&ConfigMap { metadata, ..ConfigMap::default() }).await {
            Ok(made) => {
                acknowledged.push((name, made.metadata.resource_version.unwrap()));
                written.fetch_add(1, Ordering::Relaxed);
            }
            // The server is being killed: this write may or may not have happened.
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
    acknowledged
}

fn spawn(place: &TempDir, port: u16) -> Child {
    let path = |name: &str| place.path().join(name);
    let log = fs::OpenOptions::new().create(true).append(true).open(path("log")).unwrap();
    Command::new(tools::diolkos().unwrap())
        .args(["apiserver", "--advertise-address", "127.0.0.1", "--listen", &format!("127.0.0.1:{port}"), "--cert-dir"])
        .arg(path("pki"))
        .args(["--store", &format!("file:{}", path("data/store.db").display())])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// As the administrator, once the server answers.
async fn connect(place: &TempDir) -> Client {
    let start = Instant::now();
    loop {
        if let Ok(kubeconfig) = Kubeconfig::load(place.path().join("pki/admin.kubeconfig")) {
            let client = Client::connect(&kubeconfig).unwrap();
            match client.api::<ConfigMap>(Some("default")).list(&ListOptions::default()).await {
                Ok(_) => return client,
                Err(error) => {
                    let log = fs::read_to_string(place.path().join("log")).unwrap_or_default();
                    assert!(start.elapsed() < PATIENCE, "{error}\n{log}");
                }
            }
        }
        assert!(start.elapsed() < PATIENCE, "{}", fs::read_to_string(place.path().join("log")).unwrap_or_default());
        sleep(Duration::from_millis(20)).await;
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}");
        sleep(Duration::from_millis(5)).await;
    }
}
