//! Deployments and ReplicaSets.

use diolkos_controllers::object::{Key, KindName, Object};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::model::Model;

const BOTH: &[&str] = &["deployment", "replicaset"];

fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    })
}

fn web() -> Key {
    Key::new(KindName::Deployment, "default", "web")
}

fn stored(model: &Model) -> Deployment {
    match model.view.get(&web()) {
        Some(Object::Deployment(deployment)) => Deployment::clone(&deployment),
        _ => panic!("no deployment"),
    }
}

fn sets(model: &Model) -> Vec<ReplicaSet> {
    model.view.replica_sets.iter().map(|set| ReplicaSet::clone(set)).collect()
}

fn active(model: &Model) -> usize {
    model.view.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count()
}

fn ready(model: &Model) -> usize {
    let is_ready = |conditions: &[k8s_openapi::api::core::v1::PodCondition]| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let pods = model.view.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    pods.filter(|pod| pod.status.as_ref().and_then(|status| status.conditions.as_deref()).is_some_and(is_ready)).count()
}

/// Lets the controllers and the pods take turns until all pods are ready and nothing is wanted.
fn roll_out(model: &mut Model) {
    for _ in 0..60 {
        model.settle(BOTH);
        model.run_pods(|_| true);
        model.pass(1);
    }
    model.settle(BOTH);
}

#[test]
fn a_deployment_becomes_pods_and_says_so() {
    let mut model = Model::new();
    model.create(deployment(3, "a:1"));
    model.settle(BOTH);
    assert_eq!((sets(&model).len(), active(&model)), (1, 3));
    let pod = model.view.pods.iter().next().unwrap().clone();
    let set = &sets(&model)[0];
    assert_eq!(pod.metadata.owner_references.as_ref().unwrap()[0].name, set.metadata.name.clone().unwrap());
    let hash = &pod.metadata.labels.as_ref().unwrap()["pod-template-hash"];
    assert_eq!(set.metadata.name.as_deref(), Some(format!("web-{hash}").as_str()));
    let condition = |model: &Model, name: &str| {
        let conditions = stored(model).status.unwrap().conditions.unwrap();
        let found = conditions.into_iter().find(|condition| condition.type_ == name).unwrap();
        (found.status, found.reason.unwrap())
    };
    assert_eq!(condition(&model, "Available"), ("False".into(), "MinimumReplicasUnavailable".into()));
    roll_out(&mut model);
    let status = stored(&model).status.unwrap();
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (Some(3), Some(3), Some(3)));
    assert_eq!((status.updated_replicas, status.unavailable_replicas), (Some(3), None));
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(condition(&model, "Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(condition(&model, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    assert_eq!(stored(&model).metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "1");
}

#[test]
fn a_new_template_moves_the_pods_and_going_back_reuses_its_replica_set() {
    let mut model = Model::new();
    model.create(deployment(3, "a:1"));
    roll_out(&mut model);
    let first = sets(&model)[0].metadata.name.clone();
    let image = |model: &mut Model, image: &str| {
        model.edit(&web(), |web| {
            web["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
            web["metadata"]["generation"] = (web["metadata"]["generation"].as_i64().unwrap() + 1).into();
        });
        roll_out(model);
    };
    image(&mut model, "a:2");
    let replicas: Vec<i32> = sets(&model).iter().map(|set| set.spec.as_ref().unwrap().replicas.unwrap()).collect();
    assert_eq!((sets(&model).len(), replicas.iter().sum::<i32>(), active(&model)), (2, 3, 3));
    image(&mut model, "a:1");
    assert_eq!(sets(&model).len(), 2);
    let back = sets(&model).into_iter().find(|set| set.metadata.name == first).unwrap();
    assert_eq!(back.spec.unwrap().replicas, Some(3));
    assert_eq!(back.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "3");
}

#[test]
fn history_keeps_as_many_replica_sets_as_asked() {
    let mut model = Model::new();
    let mut object = deployment(1, "a:0");
    object["spec"]["revisionHistoryLimit"] = 2.into();
    model.create(object);
    for version in 1..6 {
        roll_out(&mut model);
        model.edit(&web(), |web| {
            web["spec"]["template"]["spec"]["containers"][0]["image"] = format!("a:{version}").into();
        });
    }
    roll_out(&mut model);
    assert_eq!(sets(&model).len(), 3);
}

#[test]
fn recreate_stops_the_old_pods_before_it_starts_new_ones() {
    let mut model = Model::new();
    let mut object = deployment(3, "a:1");
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    model.create(object);
    roll_out(&mut model);
    model.edit(&web(), |web| web["spec"]["template"]["spec"]["containers"][0]["image"] = "a:2".into());
    model.settle(BOTH);
    assert_eq!((active(&model), sets(&model).len()), (0, 1), "the pods are stopping");
    roll_out(&mut model);
    assert_eq!((active(&model), sets(&model).len()), (3, 2));
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut model = Model::new();
    model.create(deployment(2, "a:1"));
    roll_out(&mut model);
    model.edit(&web(), |web| {
        web["spec"]["paused"] = true.into();
        web["spec"]["replicas"] = 4.into();
        web["spec"]["template"]["spec"]["containers"][0]["image"] = "a:2".into();
    });
    roll_out(&mut model);
    assert_eq!((active(&model), sets(&model).len()), (4, 1));
}

#[test]
fn a_rollout_that_hangs_says_so_after_its_deadline() {
    let mut model = Model::new();
    let mut object = deployment(1, "a:1");
    object["spec"]["progressDeadlineSeconds"] = 60.into();
    model.create(object);
    model.settle(BOTH);
    model.run_pods(|_| false);
    model.settle(BOTH);
    model.pass(62);
    model.settle(BOTH);
    let conditions = stored(&model).status.unwrap().conditions.unwrap();
    let progressing = conditions.iter().find(|condition| condition.type_ == "Progressing").unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("ProgressDeadlineExceeded"));
}

#[test]
fn the_name_of_anothers_replica_set_is_avoided() {
    let mut model = Model::new();
    model.create(deployment(1, "a:1"));
    model.settle(BOTH);
    let own = sets(&model)[0].clone();
    let mut model = Model::new();
    let mut other = serde_json::to_value(&own).unwrap();
    other["metadata"] = json!({"name": own.metadata.name, "namespace": "default"});
    other["spec"]["selector"] = json!({"matchLabels": {"app": "other"}});
    other["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    model.create(other);
    model.create(deployment(1, "a:1"));
    model.settle(BOTH);
    assert_eq!(sets(&model).len(), 2);
    assert_eq!(stored(&model).status.unwrap().collision_count, Some(1));
}

#[test]
fn orphans_that_match_are_adopted_and_surplus_pods_go() {
    let mut model = Model::new();
    for index in 0..5 {
        model.create(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("orphan-{index}"), "namespace": "default", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "a:1"}]},
        }));
    }
    let mut set = deployment(3, "a:1");
    set["kind"] = "ReplicaSet".into();
    model.create(set);
    model.settle(&["replicaset"]);
    assert_eq!(active(&model), 3);
    assert!(model.view.pods.iter().all(|pod| pod.metadata.owner_references.is_some()));
}

#[test]
fn a_pod_that_was_relabelled_is_let_go_and_replaced() {
    let mut model = Model::new();
    model.create(deployment(2, "i:1"));
    roll_out(&mut model);
    let pod = model.view.keys(KindName::Pod).remove(0);
    model.edit(&pod, |pod| pod["metadata"]["labels"]["app"] = "debug".into());
    roll_out(&mut model);
    assert_eq!(active(&model), 3);
    let Some(Object::Pod(let_go)) = model.view.get(&pod) else { panic!("the pod is gone") };
    assert_eq!(let_go.metadata.owner_references.as_deref().unwrap_or_default(), []);
}

#[test]
fn numbers_that_no_cluster_holds_stop_no_controller() {
    let mut model = Model::new();
    let mut huge = deployment(i32::MAX, "i:1");
    huge["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": i32::MAX, "maxUnavailable": "100%"}});
    model.create(huge);
    model.settle(&["deployment"]);
    for image in ["i:2", "i:3"] {
        model.edit(&web(), |web| web["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
        model.settle(&["deployment"]);
        let sets = model.view.keys(KindName::ReplicaSet);
        sets.iter().for_each(|set| model.edit(set, |set| set["spec"]["replicas"] = i32::MAX.into()));
    }
    model.settle(&["deployment"]);
}

#[test]
fn the_pods_that_matter_least_are_deleted_first() {
    let mut model = Model::new();
    let mut set = deployment(3, "a:1");
    set["kind"] = "ReplicaSet".into();
    let key = model.create(set);
    model.settle(&["replicaset"]);
    let broken = model.view.keys(KindName::Pod)[1].clone();
    model.run_pods(|pod| pod.metadata.name.as_deref() != Some(&broken.name));
    model.edit(&key, |set| set["spec"]["replicas"] = 2.into());
    model.settle(&["replicaset"]);
    assert!(model.log.contains(&format!("delete {broken}")), "{:?}", model.log);
}

#[test]
fn pods_count_as_available_after_their_time() {
    let mut model = Model::new();
    let mut object = deployment(1, "a:1");
    object["spec"]["minReadySeconds"] = 10.into();
    model.create(object);
    model.settle(BOTH);
    model.run_pods(|_| true);
    model.settle(BOTH);
    assert_eq!(stored(&model).status.unwrap().available_replicas, None);
    model.pass(11);
    model.settle(BOTH);
    assert_eq!(stored(&model).status.unwrap().available_replicas, Some(1));
}

/// What may happen to a Deployment while it is at work.
#[derive(Clone, Debug)]
enum Turn {
    Scale(i32),
    Image(u8),
    Pause(bool),
    Ready(u8),
    LosePod(usize),
    Settle,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        (0..8i32).prop_map(Turn::Scale),
        (0..4u8).prop_map(Turn::Image),
        any::<bool>().prop_map(Turn::Pause),
        (1..4u8).prop_map(Turn::Ready),
        (0..8usize).prop_map(Turn::LosePod),
        Just(Turn::Settle),
    ]
}

fn take(model: &mut Model, turn: Turn) {
    match turn {
        Turn::Scale(replicas) => model.edit(&web(), |web| web["spec"]["replicas"] = replicas.into()),
        Turn::Image(image) => model.edit(&web(), |web| {
            web["spec"]["template"]["spec"]["containers"][0]["image"] = format!("a:{image}").into();
        }),
        Turn::Pause(paused) => model.edit(&web(), |web| web["spec"]["paused"] = paused.into()),
        Turn::Ready(share) => model.run_pods(|pod| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            name.bytes().map(u32::from).sum::<u32>() % u32::from(share) == 0
        }),
        Turn::LosePod(index) => {
            let pods = model.view.keys(KindName::Pod);
            if let Some(pod) = pods.get(index) {
                model.remove(pod);
            }
        }
        Turn::Settle => model.settle(BOTH),
    }
    model.pass(1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// From every state the controllers come to rest, and once the pods run, at what was asked for.
    #[test]
    fn every_history_comes_to_rest(
        strategy in prop_oneof![
            Just(json!({"type": "Recreate"})),
            (0..3i32, 0..3i32).prop_filter("room to move", |(surge, unavailable)| surge + unavailable > 0).prop_map(
                |(surge, unavailable)| json!({"type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
            ),
        ],
        turns in prop::collection::vec(turn(), 0..12),
    ) {
        let mut model = Model::new();
        let mut object = deployment(3, "a:0");
        object["spec"]["strategy"] = strategy;
        model.create(object);
        for turn in turns {
            take(&mut model, turn);
        }
        model.settle(BOTH);
        take(&mut model, Turn::Pause(false));
        roll_out(&mut model);
        let wanted = stored(&model).spec.unwrap().replicas.unwrap();
        prop_assert_eq!(i32::try_from(active(&model)).unwrap(), wanted);
        let status = stored(&model).status.unwrap();
        prop_assert_eq!(status.updated_replicas.unwrap_or(0), wanted);
        prop_assert_eq!(status.available_replicas.unwrap_or(0), wanted);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// A rolling update never has more pods than the surge, nor fewer ready ones than availability allows.
    #[test]
    fn a_rolling_update_stays_within_its_bounds(
        replicas in 1..8i32,
        (surge, unavailable) in (0..4i32, 0..4i32).prop_filter("room", |(surge, unavailable)| surge + unavailable > 0),
        share in 1..4u8,
    ) {
        let mut model = Model::new();
        let mut object = deployment(replicas, "a:0");
        object["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        model.create(object);
        roll_out(&mut model);
        take(&mut model, Turn::Image(1));
        let most = usize::try_from(replicas + surge).unwrap();
        let least = usize::try_from((replicas - unavailable).max(0)).unwrap();
        for round in 0..60 {
            for key in model.view.keys(KindName::Deployment) {
                model.look("deployment", &key);
            }
            for key in model.view.keys(KindName::ReplicaSet) {
                model.look("replicaset", &key);
            }
            prop_assert!(active(&model) <= most, "{} pods", active(&model));
            prop_assert!(ready(&model) >= least, "{} ready pods", ready(&model));
            // Pods that are ready stay so; others become ready some time.
            let ready_now: Vec<_> = model.view.pods.iter().map(|pod| pod.metadata.name.clone()).collect();
            model.run_pods(|pod| {
                let index = ready_now.iter().position(|name| *name == pod.metadata.name).unwrap_or(0);
                let was = pod.status.as_ref().and_then(|status| status.conditions.as_ref())
                    .is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
                was || (index + round) % usize::from(share) == 0
            });
            model.pass(1);
        }
        prop_assert_eq!(active(&model), usize::try_from(replicas).unwrap());
    }
}
