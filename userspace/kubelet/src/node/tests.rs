#![allow(clippy::unwrap_used)]

use super::*;

fn identity() -> NodeIdentity {
    NodeIdentity {
        name: "n1".into(),
        ips: vec!["10.0.0.1".into(), "fd00::1".into()],
        capacity: BTreeMap::from([("cpu".into(), "2".into()), ("pods".into(), "110".into())]),
        kernel: "6.18".into(),
        os_image: "Debian".into(),
        machine_id: "m".into(),
        boot_id: "b".into(),
    }
}

fn healthy() -> NodeHealth {
    NodeHealth {
        version: Some(Version { name: "containerd".into(), version: "1.6.20".into() }),
        runtime: Some(Health::default()),
        ..NodeHealth::default()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn ready(status: &core::NodeStatus) -> core::NodeCondition {
    status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").unwrap().clone()
}

#[test]
fn a_node_says_why_it_is_not_ready_and_since_when() {
    let first = status(&identity(), &healthy(), &core::NodeStatus::default(), at(100));
    assert_eq!((ready(&first).status.as_str(), ready(&first).last_transition_time), ("True", Some(Time(at(100)))));
    assert_eq!(first.node_info.as_ref().unwrap().container_runtime_version, "containerd://1.6.20");
    let away = NodeHealth { unreachable: Some("runtime is away".into()), ..NodeHealth::default() };
    let second = status(&identity(), &away, &first, at(110));
    assert_eq!(ready(&second).reason.as_deref(), Some("KubeletNotReady"));
    assert_eq!(ready(&second).message.as_deref(), Some("runtime is away"));
    assert_eq!(second.node_info.as_ref().unwrap().container_runtime_version, "containerd://1.6.20");
    let third = status(&identity(), &away, &second, at(120));
    assert_eq!(ready(&third).last_transition_time, Some(Time(at(110))));
}

#[test]
fn a_node_has_an_address_for_each_family() {
    let status = status(&identity(), &healthy(), &core::NodeStatus::default(), at(100));
    let addresses: Vec<(String, String)> =
        status.addresses.into_iter().flatten().map(|address| (address.type_, address.address)).collect();
    let expected = [("InternalIP", "10.0.0.1"), ("InternalIP", "fd00::1"), ("Hostname", "n1")];
    assert_eq!(addresses, expected.map(|(kind, address)| (kind.to_owned(), address.to_owned())));
}

#[test]
fn a_change_is_written_at_once_and_a_heartbeat_every_five_minutes() {
    let first = status(&identity(), &healthy(), &core::NodeStatus::default(), at(100));
    assert!(patch(&core::NodeStatus::default(), &first, None, at(100)).is_some());
    let later = status(&identity(), &healthy(), &first, at(110));
    assert_eq!(patch(&first, &later, Some(at(100)), at(110)), None);
    let much_later = status(&identity(), &healthy(), &first, at(400));
    let beat = patch(&first, &much_later, Some(at(100)), at(400)).unwrap();
    assert_eq!(beat["status"].as_object().unwrap().keys().collect::<Vec<_>>(), ["conditions"]);
    let problem = NodeHealth { runtime: Some(Health { runtime: None, network: Some("no CNI".into()) }), ..healthy() };
    let broken = status(&identity(), &problem, &first, at(110));
    assert!(patch(&first, &broken, Some(at(100)), at(110)).is_some());
    assert_eq!(ready(&broken).message.as_deref(), Some("container network is not ready: no CNI"));
}

#[test]
fn conditions_of_others_stay_and_labels_are_completed() {
    let foreign = core::NodeCondition { type_: "Foreign".into(), status: "True".into(), ..Default::default() };
    let previous = core::NodeStatus { conditions: Some(vec![foreign]), ..Default::default() };
    let now = status(&identity(), &healthy(), &previous, at(1));
    assert_eq!(now.conditions.unwrap().len(), 5);
    let mut node = object(&identity());
    assert_eq!(adoption(&identity(), &node), None);
    node.metadata.labels.as_mut().unwrap().remove("kubernetes.io/os");
    assert_eq!(adoption(&identity(), &node).unwrap()["metadata"]["labels"], json!({"kubernetes.io/os": "linux"}));
}

#[test]
fn a_renewed_lease_keeps_its_version_and_names_its_holder() {
    let mut node = object(&identity());
    node.metadata.uid = Some("u".into());
    let first = lease(None, &node, at(5));
    assert_eq!(first.spec.as_ref().unwrap().holder_identity.as_deref(), Some("n1"));
    assert_eq!(first.spec.as_ref().unwrap().lease_duration_seconds, Some(40));
    let mut stored = first;
    stored.metadata.resource_version = Some("7".into());
    let renewed = lease(Some(stored), &node, at(15));
    assert_eq!(renewed.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(renewed.spec.unwrap().renew_time, Some(MicroTime(at(15))));
}
