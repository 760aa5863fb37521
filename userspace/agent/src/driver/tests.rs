//! From changes of the API to the model's maps.
#![allow(clippy::unwrap_used)]

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::pod::{Endpoint, RouteKey, zone};
use diolkos_abi::service::{backend_state, frontend_parts, row_parts, scope};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::*;
use crate::clock::Clock;
use crate::dataplane::model::Model;
use crate::dataplane::{Adopted, Capacities};
use crate::overlay::OnLink;
use crate::plan::{QUARANTINE, marker, marker_word};
use crate::source::{Replay, Source};

fn service(name: &str, ip: &str, ports: &[u16]) -> Service {
    let ports: Vec<_> = ports.iter().map(|port| json!({ "name": format!("p{port}"), "port": port })).collect();
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "clusterIP": ip, "clusterIPs": [ip], "ports": ports },
    }))
    .unwrap()
}

fn slice(name: &str, service: &str, ports: &[u16], addresses: &[&str]) -> EndpointSlice {
    let ports: Vec<_> = ports.iter().map(|port| json!({ "name": format!("p{port}"), "port": 8000 + port })).collect();
    let endpoints: Vec<_> = addresses.iter().map(|a| json!({ "addresses": [a], "nodeName": "n2" })).collect();
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    }))
    .unwrap()
}

fn node(name: &str, ip: &str, pod_cidr: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "podCIDR": pod_cidr, "podCIDRs": [pod_cidr] },
        "status": { "addresses": [{ "type": "InternalIP", "address": ip }] },
    }))
    .unwrap()
}

/// All three snapshots.
fn snapshots() -> Vec<Change> {
    vec![
        Change::Services(vec![service("web", "10.96.0.1", &[80, 443]), service("db", "10.96.0.2", &[5432])]),
        Change::Slices(vec![slice("web-1", "web", &[80, 443], &["10.244.2.1", "10.244.2.2"])]),
        Change::Nodes(vec![node("n1", "192.0.2.1", "10.244.1.0/24"), node("n2", "192.0.2.2", "10.244.2.0/24")]),
    ]
}

fn dual_driver(dataplane: &Shared) -> Driver {
    let this = ThisNode {
        node_v6: Some("fd00::1".parse().unwrap()),
        pod_cidr_v6: Some("fd44:0:0:1::/64".parse().unwrap()),
        ..this()
    };
    Driver::new(dataplane.clone(), this, QUARANTINE)
}

fn driver(dataplane: &Shared) -> Driver {
    Driver::new(dataplane.clone(), this(), QUARANTINE)
}

fn this() -> ThisNode {
    ThisNode {
        name: "n1".into(),
        node_v4: Some([192, 0, 2, 1].into()),
        node_v6: None,
        pod_cidr_v4: Some("10.244.1.0/24".parse().unwrap()),
        pod_cidr_v6: None,
        service_cidrs: vec![],
        overlay_mtu: 1450,
        on_link: OnLink::default(),
        clock: Clock::of(Duration::from_millis(4)),
    }
}

fn model(capacities: Capacities) -> Shared {
    Shared::new(Model::new(capacities))
}

fn synced(dataplane: &Shared) -> (Driver, Cycle) {
    let mut driver = driver(dataplane);
    for change in snapshots() {
        driver.apply(change);
    }
    let cycle = driver.cycle(Duration::ZERO);
    (driver, cycle)
}

fn content(dataplane: &Shared) -> Adopted {
    let mut found = dataplane.lock().adopt().unwrap();
    found.frontends.sort_by_key(|(key, _)| (key.address, key.port));
    found
}

/// The number of backends behind an address and port; nothing when it is not served.
fn backends(dataplane: &Shared, ip: [u8; 4], port: u16) -> Option<u32> {
    let found = content(dataplane);
    let key = FrontendKey::new(v4_mapped(ip), port.to_be_bytes(), protocol::TCP, scope::CLUSTER);
    let (_, word) = found.frontends.iter().find(|(known, _)| *known == key)?;
    let row = found.rows.iter().find(|(id, _)| *id == frontend_parts(*word).0).map_or(0, |(_, row)| *row);
    Some(row_parts(row).1)
}

#[test]
fn nothing_is_written_before_all_sources_are_in_sync() {
    let all = snapshots();
    for missing in 0..all.len() {
        let dataplane = model(Capacities::ABI);
        let mut driver = driver(&dataplane);
        let others = all.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, change)| change.clone());
        for change in others.chain([Change::Service(service("late", "10.96.0.9", &[80]))]) {
            driver.apply(change);
            assert_eq!(driver.cycle(Duration::ZERO), Cycle::default());
            assert!(!driver.has_synced());
            assert_eq!(driver.pod_cidrs(), None, "no route of the host may go yet");
            assert_eq!(driver.deadline(), None);
        }
        assert_eq!(content(&dataplane), Adopted::default());
        driver.apply(all[missing].clone());
        assert!(driver.cycle(Duration::ZERO).writes > 0);
        assert!(driver.has_synced());
    }
}

#[test]
fn an_earlier_agents_maps_stay_untouched_until_all_sources_are_in_sync() {
    let dataplane = model(Capacities::ABI);
    synced(&dataplane);
    let before = content(&dataplane);
    let mut second = driver(&dataplane);
    second.apply(Change::Services(vec![]));
    second.apply(Change::Nodes(vec![]));
    second.cycle(Duration::ZERO);
    assert_eq!(content(&dataplane), before);
    second.apply(Change::Slices(vec![]));
    second.cycle(Duration::ZERO);
    assert!(content(&dataplane).frontends.is_empty());
}

#[test]
fn a_restart_adopts_the_maps_and_writes_nothing_when_they_are_equal() {
    let dataplane = model(Capacities::ABI);
    let (_, first) = synced(&dataplane);
    assert!(first.writes > 0 && first.pod_cidrs_changed);
    let before = content(&dataplane);
    let (driver, second) = synced(&dataplane);
    assert_eq!(second.writes, 0);
    assert!(driver.has_synced() && second.pod_cidrs_changed);
    assert_eq!(content(&dataplane), before);
}

#[test]
fn a_replayed_source_ends_in_served_services_and_known_nodes() {
    let dataplane = model(Capacities::ABI);
    let mut driver = driver(&dataplane);
    let later = [
        Change::Slice(slice("web-2", "web", &[80], &["10.244.2.3"])),
        Change::SliceGone(slice("web-1", "web", &[80, 443], &[])),
        Change::ServiceGone(service("db", "10.96.0.2", &[5432])),
        Change::Node(node("n3", "192.0.2.3", "10.244.3.0/24")),
    ];
    let mut source = Replay::new(snapshots().into_iter().chain(later));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    while let Some(change) = runtime.block_on(source.next()) {
        driver.apply(change);
        driver.cycle(Duration::ZERO);
    }
    assert_eq!(backends(&dataplane, [10, 96, 0, 1], 80), Some(1));
    assert_eq!(backends(&dataplane, [10, 96, 0, 1], 443), Some(0));
    assert_eq!(backends(&dataplane, [10, 96, 0, 2], 5432), None);
    let cidrs: Vec<String> = driver.pod_cidrs().unwrap().iter().map(|remote| remote.cidr.to_string()).collect();
    assert_eq!(cidrs, ["10.244.2.0/24", "10.244.3.0/24"]);
    let prefix = RouteKey { prefix: v4_mapped([10, 244, 3, 0]), zone: zone::PODS };
    assert!(content(&dataplane).routes.iter().any(|(key, _)| *key == prefix));
}

#[test]
fn a_full_map_refuses_the_service_until_there_is_room() {
    let dataplane = model(Capacities { frontends: 5, ..Capacities::ABI });
    let (mut driver, _) = synced(&dataplane);
    driver.apply(Change::Service(service("late", "10.96.0.9", &[80])));
    driver.cycle(Duration::ZERO);
    assert_eq!(backends(&dataplane, [10, 96, 0, 9], 80), None);
    let reason = &driver.refusals()["Service default/late"].text;
    assert!(reason.contains("FRONTEND (5 entries)"), "{reason}");
    // The pauses between tries grow.
    let first = driver.deadline().unwrap();
    driver.cycle(first);
    assert!(driver.deadline().unwrap() - first > first);
    driver.apply(Change::ServiceGone(service("db", "10.96.0.2", &[5432])));
    driver.cycle(first);
    let due = driver.deadline().unwrap();
    driver.cycle(due);
    assert_eq!(backends(&dataplane, [10, 96, 0, 9], 80), Some(0));
    assert!(driver.refusals().is_empty());
}

#[test]
fn a_map_smaller_than_believed_leaves_no_half_service() {
    // Someone else filled the map: the planner does not know, the insertion fails.
    let dataplane = model(Capacities { frontends: 6, ..Capacities::ABI });
    let (mut driver, _) = synced(&dataplane);
    let stranger = FrontendKey::new(v4_mapped([10, 96, 0, 77]), [0, 1], protocol::TCP, scope::CLUSTER);
    let entries = [(stranger, 0)];
    dataplane.lock().remove_frontends(&[stranger]).unwrap();
    driver.apply(Change::ServiceGone(service("db", "10.96.0.2", &[5432])));
    driver.cycle(Duration::ZERO);
    dataplane.lock().insert_frontends(&entries).unwrap();
    driver.apply(Change::Service(service("late", "10.96.0.9", &[80, 81])));
    driver.cycle(Duration::ZERO);
    assert_eq!(backends(&dataplane, [10, 96, 0, 9], 80), None);
    assert_eq!(backends(&dataplane, [10, 96, 0, 9], 81), None);
    assert!(driver.refusals()["Service default/late"].text.contains("FRONTEND is full"));
    assert_eq!(backends(&dataplane, [10, 96, 0, 1], 80), Some(2));
    // The resync removes the stranger, and the next try finds room.
    driver.cycle(RESYNC);
    driver.cycle(RESYNC + Duration::from_secs(60));
    assert_eq!(backends(&dataplane, [10, 96, 0, 9], 81), Some(0));
}

#[test]
fn drift_is_repaired_by_the_timed_resync() {
    let dataplane = model(Capacities::ABI);
    let (mut driver, _) = synced(&dataplane);
    let before = content(&dataplane);
    for (key, _) in &before.frontends {
        dataplane.lock().remove_frontends(&[*key]).unwrap();
    }
    assert_eq!(driver.cycle(Duration::from_secs(1)).writes, 0);
    assert_eq!(driver.deadline(), Some(RESYNC));
    driver.cycle(RESYNC);
    assert_eq!(content(&dataplane), before);
}

#[test]
fn an_endpoint_that_cannot_be_is_left_out_alone_and_named() {
    let dataplane = model(Capacities::ABI);
    let (mut driver, _) = synced(&dataplane);
    driver.apply(Change::Slice(slice("web-3", "web", &[80], &["fd00::1", "10.244.2.9"])));
    driver.cycle(Duration::ZERO);
    assert_eq!(backends(&dataplane, [10, 96, 0, 1], 80), Some(3));
    let reason = &driver.refusals()["Service default/web"].text;
    assert!(reason.contains("EndpointSlice default/web-3") && reason.contains("fd00::1"), "{reason}");
    driver.apply(Change::SliceGone(slice("web-3", "web", &[80], &[])));
    driver.cycle(Duration::ZERO);
    assert_eq!(backends(&dataplane, [10, 96, 0, 1], 80), Some(2));
    assert!(driver.refusals().is_empty());
}

#[test]
fn heartbeats_of_nodes_change_nothing() {
    let dataplane = model(Capacities::ABI);
    let (mut driver, _) = synced(&dataplane);
    let mut beat = node("n2", "192.0.2.2", "10.244.2.0/24");
    beat.metadata.resource_version = Some("77".into());
    driver.apply(Change::Node(beat));
    assert!(!driver.dirty.nodes);
    assert_eq!(driver.cycle(Duration::ZERO), Cycle::default());
}

#[test]
fn one_changed_endpoint_among_many_services_costs_a_few_writes() {
    let dataplane = model(Capacities::ABI);
    let mut driver = driver(&dataplane);
    let services = (0..200u8).map(|n| service(&format!("s{n}"), &format!("10.96.1.{n}"), &[80])).collect();
    let slices = (0..200).map(|n| slice(&format!("s{n}-1"), &format!("s{n}"), &[80], &["10.244.2.1"])).collect();
    for change in [Change::Services(services), Change::Slices(slices), Change::Nodes(vec![])] {
        driver.apply(change);
    }
    driver.cycle(Duration::ZERO);
    driver.apply(Change::Slice(slice("s7-1", "s7", &[80], &["10.244.2.1", "10.244.2.9"])));
    assert_eq!(driver.cycle(Duration::ZERO).writes, 3, "a backend, its row's slots, one row");
}

#[test]
fn what_a_service_asks_for_beyond_what_is_served_is_said_and_counted() {
    let dataplane = model(Capacities::ABI);
    let (mut driver, _) = synced(&dataplane);
    let mut web = service("web", "10.96.0.1", &[80, 443]);
    let spec = web.spec.as_mut().unwrap();
    spec.type_ = Some("NodePort".into());
    spec.external_ips = Some(vec!["192.0.2.80".into()]);
    driver.apply(Change::Service(web));
    let mut sctp = service("sctp", "10.96.0.3", &[53]);
    sctp.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].protocol = Some("SCTP".into());
    driver.apply(Change::Service(sctp));
    driver.cycle(Duration::ZERO);
    assert_eq!(backends(&dataplane, [10, 96, 0, 1], 80), Some(2), "its cluster address is served");
    let text = &driver.refusals()["Service default/web"].text;
    assert!(text.contains("NodePort") && text.contains("spec.externalIPs"), "{text}");
    let expected = [("external_ips", 1), ("external_traffic", 1), ("protocol", 1)];
    assert_eq!(driver.refusal_counts(), expected.into());
    driver.apply(Change::Service(service("web", "10.96.0.1", &[80, 443])));
    driver.apply(Change::ServiceGone(service("sctp", "10.96.0.3", &[53])));
    driver.cycle(Duration::ZERO);
    assert!(driver.refusals().is_empty() && driver.refusal_counts().is_empty());
}

#[test]
fn a_backend_without_a_service_ends_with_its_pod_on_this_node() {
    let dataplane = model(Capacities::ABI);
    let (mut driver, _) = synced(&dataplane);
    let pods = [[10, 244, 1, 5], [10, 244, 1, 6]].map(v4_mapped);
    for pod in pods {
        dataplane.lock().upsert_endpoint(pod, Endpoint::default()).unwrap();
    }
    let addresses = ["10.244.1.5", "10.244.1.6", "10.244.2.7"];
    driver.apply(Change::Slice(slice("db-1", "db", &[5432], &addresses)));
    driver.cycle(Duration::ZERO);
    let state = |address| {
        let found = content(&dataplane);
        let backend = found.backends.iter().find(|(_, backend)| backend.address == v4_mapped(address));
        backend.map(|(_, backend)| backend.state)
    };
    // The first pod goes before its slice, the second after it.
    dataplane.lock().remove_endpoint(&pods[0]).unwrap();
    driver.pod_gone();
    driver.cycle(Duration::ZERO);
    assert_eq!(state([10, 244, 1, 5]), Some(backend_state::ALIVE), "a row still names it");
    driver.apply(Change::SliceGone(slice("db-1", "db", &[5432], &addresses)));
    driver.cycle(Duration::ZERO);
    assert_eq!(state([10, 244, 1, 5]), Some(backend_state::DEAD));
    assert_eq!(state([10, 244, 1, 6]), Some(backend_state::ALIVE), "its pod is there");
    dataplane.lock().remove_endpoint(&pods[1]).unwrap();
    driver.pod_gone();
    driver.cycle(Duration::ZERO);
    assert_eq!(state([10, 244, 1, 6]), Some(backend_state::DEAD));
    assert_eq!(state([10, 244, 2, 7]), Some(backend_state::ALIVE), "of other nodes nothing is known");
}

#[test]
fn datagrams_move_when_their_backend_leaves_every_slice_and_connections_stay() {
    let dataplane = model(Capacities::ABI);
    let (mut driver, _) = synced(&dataplane);
    let of = |protocol: &str| {
        let mut slice = slice("dns-1", "dns", &[53], &["10.244.2.5"]);
        slice.ports.as_mut().unwrap()[0].protocol = Some(protocol.to_owned());
        slice
    };
    for (name, ip, protocol_name, number) in
        [("dns", "10.96.0.7", "UDP", protocol::UDP), ("dns", "10.96.0.7", "TCP", protocol::TCP)]
    {
        let mut dns = service(name, ip, &[53]);
        dns.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].protocol = Some(protocol_name.to_owned());
        driver.apply(Change::Service(dns));
        driver.apply(Change::Slice(of(protocol_name)));
        driver.cycle(Duration::ZERO);
        let state = || {
            let address = v4_mapped([10, 244, 2, 5]);
            let found = content(&dataplane).backends;
            found.iter().find(|(_, b)| b.address == address && b.protocol == number).map(|(_, b)| b.state)
        };
        assert_eq!(state(), Some(backend_state::ALIVE));
        driver.apply(Change::SliceGone(of(protocol_name)));
        driver.cycle(Duration::ZERO);
        let expected = if number == protocol::UDP { backend_state::DEAD } else { backend_state::ALIVE };
        assert_eq!(state(), Some(expected), "{protocol_name}");
    }
}

#[test]
fn a_service_of_two_families_has_a_row_for_each_and_a_marker_for_each_address() {
    let dataplane = model(Capacities::ABI);
    let mut driver = dual_driver(&dataplane);
    let mut web = service("web", "10.96.0.1", &[80]);
    web.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.96.0.1".into(), "fd96::1".into()]);
    let mut six = slice("web-6", "web", &[80], &["fd44:0:0:2::7", "fd44:0:0:2::8"]);
    six.address_type = "IPv6".into();
    let mut remote = node("n2", "192.0.2.2", "10.244.2.0/24");
    remote.spec.as_mut().unwrap().pod_cidrs = Some(vec!["10.244.2.0/24".into(), "fd44:0:0:2::/64".into()]);
    driver.apply(Change::Services(vec![web.clone()]));
    driver.apply(Change::Slices(vec![slice("web-4", "web", &[80], &["10.244.2.1"]), six]));
    driver.apply(Change::Nodes(vec![remote]));
    driver.cycle(Duration::ZERO);
    assert_eq!(backends(&dataplane, [10, 96, 0, 1], 80), Some(1));
    let vip = "fd96::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let found = content(&dataplane);
    let key = FrontendKey::new(vip, 80u16.to_be_bytes(), protocol::TCP, scope::CLUSTER);
    let (_, word) = found.frontends.iter().find(|(found, _)| *found == key).unwrap();
    let (_, row) = found.rows.iter().find(|(id, _)| *id == frontend_parts(*word).0).unwrap();
    assert_eq!(row_parts(*row).1, 2);
    for address in [v4_mapped([10, 96, 0, 1]), vip] {
        let key = marker(address);
        assert!(found.frontends.contains(&(key, marker_word(&key))), "{address:?} has no marker");
    }
    let mut zones: Vec<_> = found.routes.iter().map(|(key, _)| key.zone).collect();
    zones.sort_unstable();
    assert_eq!(zones, [zone::PODS, zone::PODS, zone::NODES], "a pod CIDR of each family, and its own address");
    // Without the second family its row, frontend and marker go.
    web.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.96.0.1".into()]);
    driver.apply(Change::Service(web));
    driver.cycle(Duration::ZERO);
    assert!(content(&dataplane).frontends.iter().all(|(key, _)| key.address == v4_mapped([10, 96, 0, 1])));
    assert_eq!(backends(&dataplane, [10, 96, 0, 1], 80), Some(1));
}

#[test]
fn the_members_of_a_service_with_affinity_follow_its_row() {
    let dataplane = model(Capacities::ABI);
    let (mut driver, _) = synced(&dataplane);
    let mut db = service("db", "10.96.0.2", &[5432]);
    db.spec.as_mut().unwrap().session_affinity = Some("ClientIP".into());
    let members = || {
        let found = content(&dataplane);
        let address = |id| found.backends.iter().find(|(found, _)| *found == id).map(|(_, b)| b.address[15]);
        let mut members: Vec<_> = found.members.iter().filter_map(|(key, _)| address(key.backend)).collect();
        members.sort_unstable();
        (members, found.affinities.len())
    };
    driver.apply(Change::Service(db));
    driver.apply(Change::Slice(slice("db-1", "db", &[5432], &["10.244.2.7", "10.244.2.8"])));
    driver.cycle(Duration::ZERO);
    assert_eq!(members(), (vec![7, 8], 1));
    driver.apply(Change::Slice(slice("db-1", "db", &[5432], &["10.244.2.8", "10.244.2.9"])));
    driver.cycle(Duration::ZERO);
    assert_eq!(members(), (vec![8, 9], 1));
    driver.apply(Change::Service(service("db", "10.96.0.2", &[5432])));
    driver.cycle(Duration::ZERO);
    assert_eq!(members(), (vec![], 0), "without affinity there are none");
}

#[test]
fn more_services_than_one_plan_takes_are_all_served_and_an_address_goes_from_one_that_is_gone_to_another() {
    let dataplane = model(Capacities::ABI);
    let mut driver = driver(&dataplane);
    let count = 2 * SERVICES_PER_PLAN + 3;
    let ip = |n: usize| format!("10.96.{}.{}", n / 250, n % 250 + 1);
    let services = |range: std::ops::Range<usize>| -> Vec<Service> {
        range.map(|n| service(&format!("s{n:05}"), &ip(n), &[80])).collect()
    };
    for change in [Change::Services(services(0..count)), Change::Slices(vec![]), Change::Nodes(vec![])] {
        driver.apply(change);
    }
    driver.cycle(Duration::ZERO);
    assert_eq!(driver.census().services, count);
    assert!(driver.refusals().is_empty());
    // The last one is gone, and one that is planned long before it has its address.
    let mut rest = services(0..count - 1);
    rest.push(service("a", &ip(count - 1), &[80]));
    driver.apply(Change::Services(rest));
    driver.cycle(Duration::ZERO);
    assert!(driver.refusals().is_empty(), "{:?}", driver.refusals());
    assert_eq!(driver.census().services, count);
}
