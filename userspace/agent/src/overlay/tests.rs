#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use proptest::prelude::*;

use super::device::{Judgement, Wanted, judge};
use super::netlink::{Link, Vxlan};
use super::{ALIAS, HostRoute, Overlay, OverlayError, PresentRoute, RoutePlan, gateway, overlay_mac, plan};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);

fn net(text: &str) -> Ipv4Network {
    text.parse().unwrap()
}

fn route(destination: &str) -> HostRoute {
    HostRoute { destination: net(destination), mtu: 1450, source: GATEWAY }
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
fn the_gateway_is_the_first_address_and_needs_a_slash_30() {
    assert_eq!(gateway(net("10.244.1.0/24")).unwrap(), GATEWAY);
    assert_eq!(gateway(net("10.244.1.77/24")).unwrap(), GATEWAY);
    assert!(matches!(gateway(net("10.244.1.0/31")), Err(OverlayError::SmallPodCidr { .. })));
}

#[test]
fn an_overlapping_podcidr_changes_nothing_and_is_named() {
    let overlay = Overlay { ifindex: 1, mac: [0; 6], mtu: 1450, gateway: GATEWAY, pod_cidr: net("10.244.1.0/24") };
    let error = overlay.desired_routes(&BTreeSet::from([net("10.244.0.0/16")])).unwrap_err();
    assert!(error.to_string().contains("10.244.0.0/16"), "{error}");
}

#[test]
fn only_a_device_with_our_alias_is_ever_made_again() {
    let wanted = Wanted { mac: overlay_mac(Ipv4Addr::new(192, 168, 0, 2)), mtu: 1450, port: 4789 };
    assert_eq!(wanted.mac, [0x0a, 0xd1, 192, 168, 0, 2]);
    let right = Link { vxlan: Some(Vxlan { external: true, port: 4789 }), ..Link::default() };
    let port = Link { vxlan: Some(Vxlan { external: true, port: 8472 }), ..Link::default() };
    let dummy = Link::default();
    assert_eq!(judge(&right, &wanted), Judgement::Adopt);
    assert_eq!(judge(&port, &wanted), Judgement::Refuse);
    assert_eq!(judge(&dummy, &wanted), Judgement::Refuse);
    assert_eq!(judge(&Link { alias: ALIAS.into(), ..port }, &wanted), Judgement::Replace);
}

fn some_route() -> impl Strategy<Value = HostRoute> {
    (0u8..8, 1400u32..1402, 1u8..3).prop_map(|(third, mtu, last)| HostRoute {
        destination: Ipv4Network::new(Ipv4Addr::new(10, 244, third, 0), 24).unwrap(),
        mtu,
        source: Ipv4Addr::new(10, 244, 1, last),
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
