#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use super::device::{Judgement, Wanted, judge};
use super::netlink::{Link, Vxlan};
use super::onlink::OnLink;
use super::{
    ALIAS, HostRoute, Overlay, OverlayConfig, OverlayError, PresentRoute, RemoteCidr, RoutePlan, gateway_v4,
    gateway_v6, overlay_mac, plan,
};
use crate::options::Routing;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn route(destination: &str) -> HostRoute {
    HostRoute { destination: net(destination), ifindex: 7, gateway: None, mtu: 1450, source: Some(GATEWAY.into()) }
}

fn config(routing: Routing) -> OverlayConfig {
    OverlayConfig {
        node_v4: Some(NODE),
        node_v6: Some(NODE_V6),
        pod_cidr_v4: Some("10.244.1.0/24".parse().unwrap()),
        pod_cidr_v6: Some("fd44:1::/64".parse().unwrap()),
        port: 4789,
        routing,
    }
}

/// An overlay over devices: 7 is the overlay's, 2 is the uplink's.
fn overlay(routing: Routing) -> Overlay {
    let direct = routing == Routing::Direct;
    Overlay {
        ifindex: if direct { 0 } else { 7 },
        mac: [0; 6],
        mtu: 1450,
        gateway_v4: (!direct).then_some(GATEWAY),
        gateway_v6: (!direct).then(|| "fd44:1::1".parse().unwrap()),
        on_link: OnLink::of(&[("192.0.2.0/24", 2), ("2001:db8::/64", 2)]),
        config: config(routing),
    }
}

fn remote(cidr: &str, node_v4: Option<&str>, node_v6: Option<&str>) -> RemoteCidr {
    let (node_v4, node_v6) = (node_v4.map(|ip| ip.parse().unwrap()), node_v6.map(|ip| ip.parse().unwrap()));
    RemoteCidr { cidr: net(cidr), node_v4, node_v6 }
}

fn present(route: HostRoute) -> PresentRoute {
    PresentRoute { route, ours_in_key: true, ours_in_shape: true }
}

#[test]
fn the_plan_of_equal_routes_is_empty() {
    let desired = BTreeSet::from([route("10.244.2.0/24"), route("10.244.3.0/24")]);
    let found = [present(route("10.244.3.0/24")), present(route("10.244.2.0/24"))];
    assert_eq!(plan(&desired, &found), RoutePlan::default());
}

#[test]
fn the_plan_adds_replaces_and_removes() {
    let desired = BTreeSet::from([route("10.244.2.0/24"), route("10.244.3.0/24")]);
    let other_mtu = HostRoute { mtu: 8950, ..route("10.244.3.0/24") };
    let found = [present(route("10.244.9.0/24")), present(other_mtu)];
    let expected =
        RoutePlan { add: vec![route("10.244.2.0/24")], replace: vec![route("10.244.3.0/24")], remove: vec![0] };
    assert_eq!(plan(&desired, &found), expected);
}

#[test]
fn a_route_with_a_metric_is_removed_and_the_right_one_added() {
    let desired = BTreeSet::from([route("10.244.2.0/24")]);
    let found = [PresentRoute { ours_in_key: false, ..present(route("10.244.2.0/24")) }];
    let expected = RoutePlan { add: vec![route("10.244.2.0/24")], replace: vec![], remove: vec![0] };
    assert_eq!(plan(&desired, &found), expected);
}

#[test]
fn the_gateway_is_the_first_address_and_needs_room_for_a_pod() {
    assert_eq!(gateway_v4("10.244.1.0/24".parse().unwrap()).unwrap(), GATEWAY);
    assert_eq!(gateway_v4("10.244.1.77/24".parse().unwrap()).unwrap(), GATEWAY);
    assert!(matches!(gateway_v4("10.244.1.0/31".parse().unwrap()), Err(OverlayError::SmallPodCidr { .. })));
    assert_eq!(gateway_v6("fd44:1::/64".parse().unwrap()).unwrap().to_string(), "fd44:1::1");
    assert!(matches!(gateway_v6("fd44:1::/127".parse().unwrap()), Err(OverlayError::SmallPodCidr { .. })));
}

#[test]
fn an_overlapping_podcidr_changes_nothing_and_is_named() {
    for cidr in ["10.244.0.0/16", "fd44:1::/64"] {
        let error = overlay(Routing::Overlay).desired_routes(&BTreeSet::from([remote(cidr, None, None)])).unwrap_err();
        assert!(error.to_string().contains(cidr), "{error}");
    }
}

#[test]
fn routes_of_the_overlay_lead_through_its_device_from_the_gateway_of_the_family() {
    let (both, only_v6) = ((Some("192.0.2.2"), Some("2001:db8::2")), Some("2001:db8::3"));
    let remotes = [
        remote("10.244.2.0/24", both.0, both.1),
        remote("fd44:2::/64", both.0, both.1),
        remote("fd44:3::/64", None, only_v6),
    ];
    let (routes, left) = overlay(Routing::Overlay).desired_routes(&BTreeSet::from(remotes)).unwrap();
    let source = Some("fd44:1::1".parse().unwrap());
    let v6 = |destination, mtu| HostRoute { source, mtu, ..route(destination) };
    // The last is tunnelled to over IPv6.
    assert_eq!(routes, BTreeSet::from([route("10.244.2.0/24"), v6("fd44:2::/64", 1450), v6("fd44:3::/64", 1430)]));
    assert!(left.is_empty());
}

#[test]
fn direct_routes_lead_to_neighbours_and_others_are_left_to_the_operator() {
    let remotes = [
        remote("10.244.2.0/24", Some("192.0.2.2"), Some("2001:db8::2")),
        remote("fd44:2::/64", Some("192.0.2.2"), Some("2001:db8::2")),
        remote("10.244.3.0/24", Some("198.51.100.3"), None),
        remote("fd44:3::/64", Some("192.0.2.3"), None),
    ];
    let (routes, left) = overlay(Routing::Direct).desired_routes(&BTreeSet::from(remotes)).unwrap();
    let by = |destination, gateway: &str, source: IpAddr| HostRoute {
        ifindex: 2,
        gateway: Some(gateway.parse().unwrap()),
        mtu: 0,
        source: Some(source),
        ..route(destination)
    };
    let v4 = by("10.244.2.0/24", "192.0.2.2", NODE.into());
    assert_eq!(routes, BTreeSet::from([v4, by("fd44:2::/64", "2001:db8::2", NODE_V6.into())]));
    assert_eq!(left, BTreeSet::from([net("10.244.3.0/24"), net("fd44:3::/64")]));
}

#[test]
fn what_a_tunnel_adds_follows_the_family_of_its_ends() {
    let v4 = config(Routing::Overlay);
    let v6 = OverlayConfig { node_v4: None, ..v4 };
    assert_eq!((v4.tunnel(), v6.tunnel()), (Some(NODE.into()), Some(NODE_V6.into())));
    assert_eq!([v4, v6, config(Routing::Direct)].map(|config| config.overhead()), [50, 70, 0]);
    let small = OverlayConfig { pod_cidr_v6: None, ..v4 };
    assert_eq!([v4, v6, small].map(|config| config.min_uplink_mtu()), [1330, 1350, 626]);
}

#[test]
fn only_a_device_with_our_alias_is_ever_made_again() {
    let wanted = Wanted { mac: overlay_mac("192.168.0.2".parse().unwrap()), mtu: 1450, port: 4789 };
    assert_eq!(wanted.mac, [0x0a, 0xd1, 192, 168, 0, 2]);
    let [first, second, ..] = overlay_mac(NODE_V6.into());
    assert_eq!([first, second], [0x0a, 0xd1], "apart from the MACs of pods, locally administered");
    assert_ne!(overlay_mac(NODE_V6.into()), overlay_mac("2001:db8::2".parse().unwrap()));
    let right = Link { vxlan: Some(Vxlan { external: true, port: 4789 }), ..Link::default() };
    let port = Link { vxlan: Some(Vxlan { external: true, port: 8472 }), ..Link::default() };
    let dummy = Link::default();
    assert_eq!(judge(&right, &wanted), Judgement::Adopt);
    assert_eq!(judge(&port, &wanted), Judgement::Refuse);
    assert_eq!(judge(&dummy, &wanted), Judgement::Refuse);
    assert_eq!(judge(&Link { alias: ALIAS.into(), ..port }, &wanted), Judgement::Replace);
}

fn some_route() -> impl Strategy<Value = HostRoute> {
    (0u8..8, 1400u32..1402, 1u8..3, any::<bool>(), any::<bool>()).prop_map(|(third, mtu, last, v6, hop)| {
        let (destination, source, gateway) = match v6 {
            true => (format!("fd44:{third}::/64"), format!("fd44:1::{last}"), format!("2001:db8::{last}")),
            false => (format!("10.244.{third}.0/24"), format!("10.244.1.{last}"), format!("192.0.2.{last}")),
        };
        let gateway = hop.then(|| gateway.parse().unwrap());
        HostRoute { destination: net(&destination), ifindex: 7, gateway, mtu, source: Some(source.parse().unwrap()) }
    })
}

fn by_destination(routes: Vec<HostRoute>) -> BTreeSet<HostRoute> {
    let unique: std::collections::BTreeMap<_, _> = routes.into_iter().map(|r| (r.destination, r)).collect();
    unique.into_values().collect()
}

proptest! {
    /// Applied to a model of the kernel's table, any plan leads to the desired routes, and a second plan is empty.
    #[test]
    fn any_plan_leads_to_the_desired_routes(
        desired in prop::collection::vec(some_route(), 0..10),
        found in prop::collection::vec((some_route(), any::<bool>(), any::<bool>()), 0..10),
    ) {
        let desired = by_destination(desired);
        let found: Vec<PresentRoute> = found
            .into_iter()
            .map(|(route, ours_in_key, ours_in_shape)| PresentRoute { route, ours_in_key, ours_in_shape })
            .collect();
        let plan_made = plan(&desired, &found);
        let mut after: Vec<PresentRoute> = found
            .iter()
            .enumerate()
            .filter(|(index, _)| !plan_made.remove.contains(index))
            .map(|(_, present)| *present)
            .collect();
        for replaced in &plan_made.replace {
            let slot = after.iter_mut().find(|p| p.ours_in_key && p.route.destination == replaced.destination);
            *slot.expect("a replaced route is there") = present(*replaced);
        }
        for added in &plan_made.add {
            prop_assert!(after.iter().all(|p| !p.ours_in_key || p.route.destination != added.destination));
            after.push(present(*added));
        }
        prop_assert_eq!(after.iter().map(|p| p.route).collect::<BTreeSet<_>>(), desired.clone());
        prop_assert_eq!(plan(&desired, &after), RoutePlan::default());
    }
}
