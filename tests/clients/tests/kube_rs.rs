//! kube-rs, a client that is nobody's of this project, against an apiserver over a real etcd.
#![allow(clippy::unwrap_used)]

// It can do more than is needed here.
#[allow(dead_code)]
#[path = "../../tests/store/etcd.rs"]
mod etcd;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use diolkos_apiserver::cache::Limits;
use diolkos_apiserver::pki::{ADMIN_GROUP, ADMIN_USER, Pki};
use diolkos_apiserver::{Running, Security, Settings, serve_with};
use diolkos_store::Etcd;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{Config as Watching, Error as WatchError, Event, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Client, Config, Discovery, Error, ResourceExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt as _};

use self::etcd::Server;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_makes_changes_and_deletes_objects_of_types_it_knows() {
    let cluster = Cluster::start(Limits::default()).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let made = maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    let twice = maps.create(&PostParams::default(), &map("a", "1")).await.unwrap_err();
    assert!(matches!(&twice, Error::Api(status) if status.is_already_exists()), "{twice}");
    let merged = maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"y": "2"}}))).await.unwrap();
    assert_eq!(merged.data.as_ref().unwrap().len(), 2);
    let stale = maps.replace("a", &PostParams::default(), &made).await.unwrap_err();
    assert!(matches!(&stale, Error::Api(status) if status.is_conflict()), "{stale}");
    assert!(maps.get_opt("b").await.unwrap().is_none());

    let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
    pods.create(&PostParams::default(), &object(&pod("p"))).await.unwrap();
    let phase = Patch::Merge(json!({"status": {"phase": "Running"}}));
    let running = pods.patch_status("p", &PatchParams::default(), &phase).await.unwrap();
    assert_eq!(running.status.unwrap().phase.as_deref(), Some("Running"));
    let selected = pods.list(&ListParams::default().fields("status.phase=Running").labels("app=p")).await.unwrap();
    assert_eq!(selected.iter().map(|pod| pod.name_any()).collect::<Vec<_>>(), ["p"]);
    let metadata = pods.get_metadata("p").await.unwrap();
    assert_eq!(metadata.metadata.uid, selected.items[0].metadata.uid);
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none());

    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client.clone());
    deployments.create(&PostParams::default(), &object(&deployment(1))).await.unwrap();
    let container = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "side:1"}]}}}});
    let two = deployments.patch("web", &PatchParams::default(), &Patch::Strategic(container)).await.unwrap();
    assert_eq!(two.spec.unwrap().template.spec.unwrap().containers.len(), 2, "containers are merged by their name");
    let scale = Patch::Merge(json!({"spec": {"replicas": 4}}));
    deployments.patch_scale("web", &PatchParams::default(), &scale).await.unwrap();
    assert_eq!(deployments.get_scale("web").await.unwrap().spec.unwrap().replicas, Some(4));
    cluster.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_applies_meets_the_conflict_and_forces() {
    let cluster = Cluster::start(Limits::default()).await;
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client.clone());
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    let made = deployments.patch("web", &one, &Patch::Apply(deployment(2))).await.unwrap();
    let managers: Vec<_> = made.managed_fields().iter().map(|entry| entry.manager.as_deref().unwrap()).collect();
    assert_eq!(managers, ["one"]);
    let conflict = deployments.patch("web", &two, &Patch::Apply(deployment(3))).await.unwrap_err();
    let Error::Api(status) = conflict else { panic!("{conflict}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"), "{status:?}");
    let causes = status.details.unwrap().causes;
    assert_eq!(causes.iter().map(|cause| cause.field.as_str()).collect::<Vec<_>>(), [".spec.replicas"]);
    let tried = deployments.patch("web", &two.clone().force().dry_run(), &Patch::Apply(deployment(3))).await.unwrap();
    assert_eq!(tried.spec.unwrap().replicas, Some(3));
    assert_eq!(deployments.get("web").await.unwrap().spec.unwrap().replicas, Some(2), "a dry run changes nothing");
    let forced = deployments.patch("web", &two.force(), &Patch::Apply(deployment(3))).await.unwrap();
    assert_eq!(forced.spec.unwrap().replicas, Some(3));
    let lost = deployments.patch("web", &one, &Patch::Apply(deployment(2))).await.unwrap_err();
    assert!(matches!(&lost, Error::Api(status) if status.is_conflict()), "{lost}");
    cluster.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kube_rs_reflector_holds_what_the_apiserver_holds() {
    let cluster = Cluster::start(Limits::default()).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    for name in ["a", "b", "c", "d", "e"] {
        maps.create(&PostParams::default(), &map(name, "1")).await.unwrap();
    }
    // In pages, and as a watch that begins with what there is.
    for watching in [Watching::default().page_size(2), Watching::default().streaming_lists()] {
        let (reader, writer) = reflector::store();
        let mut events = Box::pin(watcher(maps.clone(), watching).default_backoff().reflect(writer));
        let mut next = async || timeout(PATIENCE, events.next()).await.expect("an event").unwrap().unwrap();
        while !matches!(next().await, Event::InitDone) {}
        timeout(PATIENCE, reader.wait_until_ready()).await.expect("it is ready").unwrap();
        assert_eq!(held(&reader), ["a=1", "b=1", "c=1", "d=1", "e=1"]);
        maps.create(&PostParams::default(), &map("f", "1")).await.unwrap();
        maps.patch("b", &PatchParams::default(), &Patch::Merge(json!({"data": {"x": "2"}}))).await.unwrap();
        maps.delete("c", &DeleteParams::default()).await.unwrap();
        for _ in 0..3 {
            next().await;
        }
        assert_eq!(held(&reader), ["a=1", "b=2", "d=1", "e=1", "f=1"]);
        maps.replace("b", &PostParams::default(), &map("b", "1")).await.unwrap();
        maps.delete("f", &DeleteParams::default()).await.unwrap();
        maps.create(&PostParams::default(), &map("c", "1")).await.unwrap();
    }
    cluster.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kube_rs_watcher_lists_anew_when_the_history_is_gone() {
    const KEPT: usize = 4;
    let cluster = Cluster::start(Limits { ring_events: KEPT, ..Limits::default() }).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    maps.create(&PostParams::default(), &map("a", "0")).await.unwrap();
    let mut events: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(watcher(maps.clone(), Watching::default()));
    let mut next = async || timeout(PATIENCE, events.next()).await.expect("an event").unwrap();
    while !matches!(next().await.unwrap(), Event::InitDone) {}
    // It asks for its watch when it is asked for the next event: by then the history has gone on.
    for n in 1..=KEPT * 2 {
        let patch = Patch::Merge(json!({"data": {"x": n.to_string()}}));
        maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    }
    let gone = next().await.unwrap_err();
    assert!(matches!(&gone, WatchError::WatchError(status) if status.code == 410), "{gone:?}");
    assert!(matches!(next().await.unwrap(), Event::Init));
    assert!(matches!(next().await.unwrap(), Event::InitApply(map) if map.data.as_ref().unwrap()["x"] == "8"));
    assert!(matches!(next().await.unwrap(), Event::InitDone));
    let mut following = tokio::spawn(async move { events.next().await });
    // The watch may begin before or after this.
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let event = timeout(PATIENCE, &mut following).await.expect("an event").unwrap().unwrap();
    assert!(matches!(event.unwrap(), Event::Delete(map) if map.name_any() == "a"));
    cluster.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_finds_every_kind_and_uses_one_it_has_no_type_for() {
    let cluster = Cluster::start(Limits::default()).await;
    assert_eq!(cluster.client.apiserver_version().await.unwrap().minor, "36");
    let plain = Discovery::new(cluster.client.clone()).run().await.unwrap();
    let aggregated = Discovery::new(cluster.client.clone()).run_aggregated().await.unwrap();
    assert_eq!(kinds(&plain), kinds(&aggregated));
    for kind in ["v1/Pod", "apps/v1/Deployment", "discovery.k8s.io/v1/EndpointSlice", "batch/v1/CronJob"] {
        assert!(kinds(&plain).iter().any(|found| found == kind), "{kind}: {:?}", kinds(&plain));
    }
    let gvk = GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease");
    let (resource, capabilities) = aggregated.resolve_gvk(&gvk).unwrap();
    assert!(capabilities.supports_operation("watch"));
    let leases: Api<DynamicObject> = Api::default_namespaced_with(cluster.client.clone(), &resource);
    let lease = DynamicObject::new("l", &resource).data(json!({"spec": {"holderIdentity": "me"}}));
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let applied =
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"leaseDurationSeconds": 15}});
    leases.patch("l", &PatchParams::apply("other"), &Patch::Apply(applied)).await.unwrap();
    let held = leases.get("l").await.unwrap();
    assert_eq!(held.data["spec"], json!({"holderIdentity": "me", "leaseDurationSeconds": 15}));
    cluster.running.stop().await;
}

/// An etcd, an apiserver over it, and the client.
struct Cluster {
    client: Client,
    running: Running,
    _etcd: Server,
    _files: TempDir,
}

impl Cluster {
    async fn start(cache: Limits) -> Self {
        let etcd = Server::start();
        let store = Etcd::connect(etcd.config()).await.unwrap();
        store.wait_ready(PATIENCE).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let pki = Pki::open(&files.path().join("pki"), &[]).unwrap();
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise_address: "127.0.0.1".parse().unwrap(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            security: Security::default(),
            cache,
        };
        let running = serve_with(Arc::new(store), &pki, settings).await.unwrap();
        let kubeconfig = files.path().join("kubeconfig");
        let url = format!("https://{}", running.address());
        pki.write_kubeconfig(&url, ADMIN_USER, &[ADMIN_GROUP], &kubeconfig).unwrap();
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Cluster { client: Client::try_from(config).unwrap(), running, _etcd: etcd, _files: files }
    }
}

/// NAME=VALUE, sorted.
fn held(reader: &reflector::Store<ConfigMap>) -> Vec<String> {
    let value = |map: &ConfigMap| format!("{}={}", map.name_any(), map.data.as_ref().unwrap()["x"]);
    let mut held: Vec<_> = reader.state().iter().map(|map| value(map)).collect();
    held.sort();
    held
}

/// GROUP/VERSION/KIND of all that is found, sorted.
fn kinds(discovery: &Discovery) -> Vec<String> {
    let resources = discovery.groups().flat_map(|group| group.resources_by_stability());
    let mut kinds: Vec<_> =
        resources.map(|(resource, _)| format!("{}/{}", resource.api_version, resource.kind)).collect();
    kinds.sort();
    kinds
}

fn map(name: &str, value: &str) -> ConfigMap {
    object(&json!({"metadata": {"name": name}, "data": {"x": value}}))
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "registry.local/main:1"}]},
    })
}

fn deployment(replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "registry.local/main:1"}]},
            },
        },
    })
}

fn object<T: k8s_openapi::serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}
