//! The whole kubelet on the model of a runtime and the model of a control plane.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::cluster::model::ModelCluster;
use crate::runtime::conformance::OBEDIENT;
use crate::runtime::model::Model;
use crate::runtime::{Container, State};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde_json::{Value, json};

const IMAGE: &str = "registry.local/busybox:1";

struct World {
    directory: tempfile::TempDir,
    model: Model,
    cluster: ModelCluster,
    driver: Driver,
    pods: futures::stream::BoxStream<'static, Event<Pod>>,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let model = Model::new(Timestamp::from_second(1_800_000_000).unwrap(), &[IMAGE]);
        let cluster = ModelCluster::default();
        let driver = driver(&directory, &model, &cluster);
        let pods = cluster.pods("n1");
        World { directory, model, cluster, driver, pods }
    }

    /// Passes and work, one after the other, while time goes on by a second at a time.
    async fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            while let Some(Some(event)) = self.pods.next().now_or_never() {
                self.driver.apply(event);
            }
            self.driver.pass(self.model.now()).await;
            while self.driver.is_busy() {
                let done = self.driver.done().await;
                self.driver.record(done, self.model.now());
            }
            self.model.advance(Duration::from_secs(1));
        }
    }

    /// The same, but without waiting for work that takes long.
    async fn run_beside(&mut self, seconds: u64) {
        for _ in 0..seconds {
            while let Some(Some(event)) = self.pods.next().now_or_never() {
                self.driver.apply(event);
            }
            self.driver.pass(self.model.now()).await;
            while let Ok(done) = tokio::time::timeout(Duration::from_millis(50), self.driver.done()).await {
                self.driver.record(done, self.model.now());
            }
            self.model.advance(Duration::from_secs(1));
        }
    }

    /// A new kubelet on the same node: it knows nothing.
    fn restart(&mut self) {
        self.driver = driver(&self.directory, &self.model, &self.cluster);
        self.pods = self.cluster.pods("n1");
    }

    async fn until(&mut self, what: &str, mut holds: impl FnMut(&World) -> bool) {
        for _ in 0..120 {
            if holds(self) {
                return;
            }
            self.run(1).await;
        }
        panic!("never: {what}; the pods are {:#?}", self.cluster.pod("default", "web").and_then(|pod| pod.status));
    }

    fn status(&self) -> PodStatus {
        self.cluster.pod("default", "web").and_then(|pod| pod.status).unwrap_or_default()
    }

    fn container(&self) -> ContainerStatus {
        self.status().container_statuses.unwrap_or_default().into_iter().next().unwrap_or_default()
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap_or_default()
    }

    fn waiting_reason(&self) -> String {
        self.container().state.and_then(|state| state.waiting?.reason).unwrap_or_default()
    }

    fn condition(&self, kind: &str) -> bool {
        let status = self.status();
        status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
    }

    async fn containers(&self) -> Vec<Container> {
        self.model.list_containers().await.unwrap()
    }
}

fn driver(directory: &tempfile::TempDir, model: &Model, cluster: &ModelCluster) -> Driver {
    let root = directory.path();
    let host = Host::new(root.join("kubelet"), root.join("logs"), "/n1", vec![root.join("cgroup")]);
    host.prepare().unwrap();
    let facts =
        Facts { node_name: "n1".into(), host_ips: vec!["192.0.2.1".into(), "2001:db8::1".into()], ..Facts::default() };
    let resolv_conf = root.join("resolv.conf");
    Driver::new(Context::new(Arc::new(model.clone()), Arc::new(cluster.clone()), host, facts, resolv_conf))
}

fn pod(extra: Value, command: &[&str]) -> Pod {
    let container = json!({"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": command});
    let mut spec = json!({"nodeName": "n1", "containers": [container]});
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
}

#[tokio::test]
async fn a_pod_runs_and_its_status_says_so_once() {
    let mut world = World::new();
    let uid = world.cluster.create_pod(pod(json!({}), &["sh", "-c", OBEDIENT]));
    world.until("running", |world| world.phase() == "Running" && world.condition("Ready")).await;
    let (status, container) = (world.status(), world.container());
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.1.2"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert!(container.ready && container.started == Some(true) && container.restart_count == 0);
    assert!(container.container_id.unwrap().starts_with("model://c"));
    assert!(world.condition("PodScheduled") && world.condition("Initialized") && world.condition("ContainersReady"));
    let logs = world.directory.path().join(format!("logs/default_web_{uid}/main"));
    assert!(logs.is_dir());
    let writes = world.cluster.status_writes();
    world.run(20).await;
    assert_eq!(world.cluster.status_writes(), writes, "a status that says nothing new is not written");
}

#[tokio::test]
async fn a_crashing_container_backs_off_and_counts() {
    let mut world = World::new();
    world.cluster.create_pod(pod(json!({}), &["sh", "-c", "exit 3"]));
    world.until("back-off", |world| world.waiting_reason() == "CrashLoopBackOff").await;
    let container = world.container();
    assert_eq!(container.restart_count, 1, "the first restart is at once");
    assert_eq!(container.last_state.unwrap().terminated.unwrap().exit_code, 3);
    let message = container.state.unwrap().waiting.unwrap().message.unwrap();
    assert!(message.starts_with("back-off 10s restarting failed container=main pod=web_default"), "{message}");
    world.run(5).await;
    assert_eq!(world.container().restart_count, 1);
    world.run(8).await;
    assert_eq!(world.container().restart_count, 2);
    world.restart();
    world.run(12).await;
    assert_eq!(world.container().restart_count, 2, "a new kubelet keeps the back-off of 20 s");
    world.run(12).await;
    assert_eq!(world.container().restart_count, 3);
    assert!(world.containers().await.len() <= 2, "old runs are removed");
}

#[tokio::test]
async fn a_new_kubelet_adopts_what_runs() {
    let mut world = World::new();
    world.cluster.create_pod(pod(json!({}), &["sh", "-c", OBEDIENT]));
    world.until("running", |world| world.phase() == "Running").await;
    let before = (world.containers().await, world.status());
    world.restart();
    world.run(5).await;
    assert_eq!((world.containers().await, world.status()), before);
}

#[tokio::test]
async fn a_deleted_pod_is_stopped_reported_removed_and_let_go() {
    let mut world = World::new();
    let uid = world.cluster.create_pod(pod(json!({}), &["sleep", "1000"]));
    world.until("running", |world| world.phase() == "Running").await;
    let begun = world.model.now();
    world.cluster.request_deletion("default", "web", begun, 20);
    world.until("gone", |world| world.cluster.pod("default", "web").is_none()).await;
    let took = world.model.now().duration_since(begun).as_secs();
    assert!((19..30).contains(&took), "TERM is ignored, so the grace is used up: {took} s");
    assert!(world.containers().await.is_empty() && world.model.list_sandboxes().await.unwrap().is_empty());
    assert!(!world.directory.path().join(format!("kubelet/pods/{uid}")).exists());
    assert!(!world.directory.path().join(format!("logs/default_web_{uid}")).exists());
}

#[tokio::test]
async fn pods_that_no_longer_exist_are_removed_but_not_before_the_pods_are_known() {
    let mut world = World::new();
    world.cluster.create_pod(pod(json!({}), &["sh", "-c", OBEDIENT]));
    world.until("running", |world| world.phase() == "Running").await;
    world.cluster.force_delete("default", "web");
    world.driver = driver(&world.directory, &world.model, &world.cluster);
    world.driver.pass(world.model.now()).await;
    assert!(!world.driver.is_busy() && world.containers().await.len() == 1);
    world.restart();
    world.run(5).await;
    assert!(world.model.list_sandboxes().await.unwrap().is_empty());
    assert!(world.driver.context.host.leftovers().is_empty());
}

#[tokio::test]
async fn while_the_runtime_is_away_nothing_is_lost_and_the_node_says_why() {
    let mut world = World::new();
    world.cluster.create_pod(pod(json!({}), &["sh", "-c", OBEDIENT]));
    world.until("running", |world| world.phase() == "Running").await;
    let before = (world.containers().await, world.status());
    world.model.set_away(true);
    world.run(5).await;
    assert!(world.driver.health().unreachable.as_ref().unwrap().contains("cannot be reached"));
    world.model.set_away(false);
    world.run(3).await;
    assert_eq!(world.driver.health().unreachable, None);
    assert_eq!((world.containers().await, world.status()), before);
}

#[tokio::test]
async fn an_absent_image_is_reported_and_used_once_it_is_there() {
    let mut world = World::new();
    let mut absent = pod(json!({}), &["sh", "-c", OBEDIENT]);
    absent.spec.as_mut().unwrap().containers[0].image = Some("registry.local/late:1".into());
    world.cluster.create_pod(absent.clone());
    world.until("refused", |world| world.waiting_reason() == "ErrImageNeverPull").await;
    assert_eq!(world.phase(), "Pending");
    world.model.add_image("registry.local/late:1");
    world.until("running", |world| world.phase() == "Running").await;
    world.cluster.force_delete("default", "web");
    absent.spec.as_mut().unwrap().containers[0].image = Some("registry.local/never:1".into());
    absent.spec.as_mut().unwrap().containers[0].image_pull_policy = Some("IfNotPresent".into());
    world.cluster.create_pod(absent);
    world.until("pull failed", |world| world.waiting_reason() == "ErrImagePull").await;
    world.until("pull backs off", |world| world.waiting_reason() == "ImagePullBackOff").await;
}

#[tokio::test]
async fn init_containers_run_in_order_and_a_job_like_pod_ends() {
    let mut world = World::new();
    let init = |name: &str, script: &str| json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script]});
    let extra = json!({"restartPolicy": "Never", "initContainers": [init("one", "exit 0"), init("two", "exit 0")]});
    world.cluster.create_pod(pod(extra, &["sh", "-c", "exit 0"]));
    world.run(2).await;
    assert_eq!(world.waiting_reason(), "PodInitializing");
    world.until("succeeded", |world| world.phase() == "Succeeded").await;
    let status = world.status();
    assert!(status.init_container_statuses.unwrap().iter().all(|init| init.ready && init.restart_count == 0));
    world.run(3).await;
    assert!(world.model.list_sandboxes().await.unwrap().iter().all(|sandbox| !sandbox.ready), "its network is free");
    assert_eq!(world.phase(), "Succeeded");
    assert!(!world.condition("Ready") && world.condition("Initialized"));
}

#[tokio::test]
async fn a_failed_sandbox_is_tried_again_under_a_new_name() {
    let mut world = World::new();
    world.model.refuse_next("run_sandbox", "the network plugin is not there");
    world.cluster.create_pod(pod(json!({}), &["sh", "-c", OBEDIENT]));
    world.run(2).await;
    let message = world.container().state.unwrap().waiting.unwrap().message.unwrap();
    assert!(message.contains("the network plugin is not there"), "{message}");
    world.until("running", |world| world.phase() == "Running").await;
    let sandboxes = world.model.list_sandboxes().await.unwrap();
    assert_eq!(sandboxes.len(), 1, "the failed one is removed: {sandboxes:?}");
}

#[tokio::test]
async fn pods_wait_for_the_network_unless_they_use_the_hosts() {
    let mut world = World::new();
    world.model.set_network_problem(Some("NetworkPluginNotReady: no config"));
    world.cluster.create_pod(pod(json!({}), &["sh", "-c", OBEDIENT]));
    world.run(3).await;
    assert!(world.model.list_sandboxes().await.unwrap().is_empty());
    world.cluster.force_delete("default", "web");
    world.cluster.create_pod(pod(json!({"hostNetwork": true}), &["sh", "-c", OBEDIENT]));
    world.until("running", |world| world.phase() == "Running").await;
    assert_eq!(world.status().pod_ip.as_deref(), Some("192.0.2.1"));
    let addresses: Vec<String> = world.status().pod_ips.into_iter().flatten().map(|address| address.ip).collect();
    assert_eq!(addresses, ["192.0.2.1", "2001:db8::1"]);
}

#[tokio::test]
async fn a_lost_sandbox_is_replaced_and_the_restart_count_goes_on() {
    let mut world = World::new();
    world.cluster.create_pod(pod(json!({}), &["sh", "-c", OBEDIENT]));
    world.until("running", |world| world.phase() == "Running").await;
    let first = world.model.list_sandboxes().await.unwrap().remove(0);
    world.model.stop_sandbox(&first.id).await.unwrap();
    world.until("restarted", |world| world.container().restart_count == 1 && world.condition("Ready")).await;
    world.run(3).await;
    let sandboxes = world.model.list_sandboxes().await.unwrap();
    assert!(sandboxes.iter().filter(|sandbox| sandbox.ready).count() == 1);
    let running = world.containers().await.into_iter().filter(|container| container.state == State::Running).count();
    assert_eq!(running, 1);
}

#[tokio::test]
async fn a_changed_image_replaces_the_container() {
    let mut world = World::new();
    world.cluster.create_pod(pod(json!({}), &["sh", "-c", OBEDIENT]));
    world.until("running", |world| world.phase() == "Running").await;
    world.model.add_image("registry.local/busybox:2");
    world.cluster.edit_pod("default", "web", |pod| {
        pod.spec.as_mut().unwrap().containers[0].image = Some("registry.local/busybox:2".into());
    });
    world.until("replaced", |world| world.container().restart_count == 1 && world.condition("Ready")).await;
    assert_eq!(world.container().image, "registry.local/busybox:2");
}

#[tokio::test]
async fn a_pod_that_asks_too_much_says_so_and_starts_nothing() {
    let mut world = World::new();
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]);
    world.cluster.create_pod(pod(json!({"volumes": volumes}), &["sleep", "1"]));
    world.run(3).await;
    assert_eq!((world.phase().as_str(), world.waiting_reason().as_str()), ("Pending", "CreateContainerConfigError"));
    assert!(world.status().message.unwrap().contains("only emptyDir, configMap, hostPath and projected"));
    assert!(world.model.list_sandboxes().await.unwrap().is_empty());
    world.cluster.request_deletion("default", "web", world.model.now(), 0);
    world.until("gone", |world| world.cluster.pod("default", "web").is_none()).await;
}

#[tokio::test]
async fn a_missing_config_map_holds_the_pod_until_it_is_there() {
    let mut world = World::new();
    let volumes = json!([{"name": "conf", "configMap": {"name": "conf"}}]);
    world.cluster.create_pod(pod(json!({"volumes": volumes}), &["sh", "-c", OBEDIENT]));
    world.run(3).await;
    let message = world.container().state.unwrap().waiting.unwrap().message.unwrap();
    assert_eq!(message, "volume conf: configmap \"conf\" not found");
    let map = serde_json::from_value(json!({"data": {"a": "1"}})).unwrap();
    world.cluster.add_config_map("default", "conf", map);
    world.until("running", |world| world.phase() == "Running").await;
}

#[tokio::test]
async fn a_token_is_kept_while_it_is_young_and_replaced_before_it_ends() {
    let mut world = World::new();
    let sources = json!([
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]);
    let volumes = json!([{"name": "access", "projected": {"sources": sources}}]);
    let certificate = |text: &str| serde_json::from_value(json!({"data": {"ca.crt": text}})).unwrap();
    world.cluster.add_config_map("default", "ca", certificate("old"));
    let extra = json!({"volumes": volumes, "serviceAccountName": "robot"});
    let uid = world.cluster.create_pod(pod(extra, &["sh", "-c", OBEDIENT]));
    world.until("running", |world| world.phase() == "Running").await;
    let directory = world.directory.path().join("kubelet/pods").join(uid).join("volumes/access");
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    assert_eq!(read("token"), "robot of web for apiserver, 1");
    assert_eq!((read("ca.crt").as_str(), read("namespace").as_str()), ("old", "default"));

    // What changes beside it makes a token no younger.
    let age = |seconds: u64| {
        let then = std::time::SystemTime::now() - Duration::from_secs(seconds);
        std::fs::File::options().write(true).open(directory.join("token")).unwrap().set_modified(then).unwrap();
    };
    age(2000);
    world.cluster.add_config_map("default", "ca", certificate("new"));
    world.until("the certificate is new", |_| read("ca.crt") == "new").await;
    assert_eq!(read("token"), "robot of web for apiserver, 1");
    let written = std::fs::metadata(directory.join("token")).unwrap().modified().unwrap();
    assert!(written.elapsed().unwrap() >= Duration::from_secs(2000));
    world.restart();
    world.run(5).await;
    assert_eq!(read("token"), "robot of web for apiserver, 1", "the next kubelet keeps it");
    age(3000);
    world.until("the token is new", |_| read("token") == "robot of web for apiserver, 2").await;
}

#[tokio::test]
async fn with_the_control_plane_away_pods_still_start_stop_and_are_reported_later() {
    let mut world = World::new();
    world.cluster.create_pod(pod(json!({}), &["sh", "-c", "exit 1"]));
    world.cluster.set_away(true);
    world.run(15).await;
    assert_eq!(world.cluster.status_writes(), 0);
    assert!(world.containers().await.iter().any(|container| container.attempt >= 1));
    world.cluster.set_away(false);
    world.until("reported", |world| world.container().restart_count >= 1).await;
}

#[tokio::test]
async fn a_late_answer_does_not_bring_a_deleted_pod_back() {
    let mut world = World::new();
    let uid = world.cluster.create_pod(pod(json!({}), &["sh", "-c", OBEDIENT]));
    world.until("running", |world| world.phase() == "Running").await;
    let answer = Box::new(world.cluster.pod("default", "web").unwrap());
    world.cluster.force_delete("default", "web");
    world.run(1).await;
    world.driver.record(Done::Status { uid, outcome: Ok(answer) }, world.model.now());
    world.run(10).await;
    assert!(world.containers().await.is_empty(), "what has no object does not run");
}

#[tokio::test]
async fn a_new_kubelet_does_not_take_a_ready_pod_out_of_its_services() {
    let mut world = World::new();
    let probe = json!({"exec": {"command": ["sh", "-c", "exit 0"]}, "periodSeconds": 1});
    let mut probed = pod(json!({}), &["sh", "-c", OBEDIENT]);
    for field in ["readiness_probe", "startup_probe"] {
        let container = &mut probed.spec.as_mut().unwrap().containers[0];
        let probe = Some(serde_json::from_value(probe.clone()).unwrap());
        if field == "readiness_probe" { container.readiness_probe = probe } else { container.startup_probe = probe }
    }
    world.cluster.create_pod(probed);
    world.until("ready", |world| world.condition("Ready")).await;
    world.run(3).await;
    let writes = world.cluster.status_writes();
    world.restart();
    world.run(5).await;
    assert!(world.condition("Ready"));
    assert_eq!(world.cluster.status_writes(), writes, "nothing has changed, so nothing is written");
}

#[tokio::test]
async fn a_pull_that_hangs_holds_up_neither_other_pods_nor_the_end_of_its_own() {
    let mut world = World::new();
    world.model.stall_pull("registry.local/slow:1");
    let slow = (0..=PARALLEL_STARTS).map(|index| format!("slow-{index}"));
    for name in slow {
        let mut slow = pod(json!({}), &["sleep", "1000"]);
        slow.metadata.name = Some(name);
        let container = &mut slow.spec.as_mut().unwrap().containers[0];
        container.image = Some("registry.local/slow:1".into());
        container.image_pull_policy = Some("IfNotPresent".into());
        world.cluster.create_pod(slow);
    }
    world.run_beside(3).await;
    world.cluster.create_pod(pod(json!({}), &["sh", "-c", OBEDIENT]));
    world.run_beside(5).await;
    assert_eq!(world.phase(), "Running");
    world.cluster.request_deletion("default", "slow-0", world.model.now(), 30);
    world.cluster.force_delete("default", "slow-1");
    world.run_beside(8).await;
    assert!(world.cluster.pod("default", "slow-0").is_none());
    let left = world.model.list_sandboxes().await.unwrap();
    assert!(!left.iter().any(|sandbox| ["slow-0", "slow-1"].contains(&sandbox.pod.name.as_str())), "{left:?}");
}

#[tokio::test]
async fn a_shorter_grace_does_not_wait_for_a_longer_one() {
    let mut world = World::new();
    let mut patient = pod(json!({"terminationGracePeriodSeconds": 1000}), &["sh", "-c", OBEDIENT]);
    let hook = json!({"preStop": {"sleep": {"seconds": 1000}}});
    patient.spec.as_mut().unwrap().containers[0].lifecycle = Some(serde_json::from_value(hook).unwrap());
    world.cluster.create_pod(patient);
    world.until("running", |world| world.phase() == "Running").await;
    world.cluster.request_deletion("default", "web", world.model.now(), 1000);
    world.run_beside(3).await;
    assert!(world.cluster.pod("default", "web").is_some());
    world.cluster.request_deletion("default", "web", world.model.now(), 0);
    world.run_beside(8).await;
    assert!(world.cluster.pod("default", "web").is_none());
}
