//! The overlay device, the gateway address and the host routes.

use std::collections::BTreeSet;

use diolkos_agent::Routing;
use diolkos_agent::overlay::{DEVICE, Overlay, OverlayConfig, OverlayError, RemoteCidr, RouteChanges};

use crate::world::{ip, link_exists, on_a_node, overlay_config};

#[test]
fn ensure_makes_the_device_once_and_repairs_it() {
    on_a_node(async || {
        let first = Overlay::ensure(&overlay_config()).await.unwrap();
        assert_eq!((first.mac, first.mtu), ([0x0a, 0xd1, 192, 0, 2, 1], 1450));
        assert_eq!(first.gateway_v4.unwrap().to_string(), "10.244.1.1");
        assert_eq!(first.gateway_v6.unwrap().to_string(), "fd44:1::1");
        assert_as_it_should_be();
        assert_eq!(Overlay::ensure(&overlay_config()).await.unwrap(), first, "adopted");

        for damage in ["mtu 1500", "address 02:00:00:00:00:01", "arp on", "alias other", "down"] {
            ip(&format!("link set {DEVICE} {damage}"));
        }
        ip(&format!("addr del 10.244.1.1/32 dev {DEVICE}"));
        ip(&format!("addr add fd44:9::9/128 dev {DEVICE}"));
        assert_eq!(Overlay::ensure(&overlay_config()).await.unwrap(), first, "repaired");
        assert_as_it_should_be();
    });
}

fn assert_as_it_should_be() {
    let link = ip(&format!("-d link show {DEVICE}"));
    for part in ["NOARP", ",UP", "mtu 1450", "0a:d1:c0:00:02:01", "external", "dstport 4789", "alias diolkos"] {
        assert!(link.contains(part), "{part} in {link}");
    }
    assert!(!link.contains(" learning"), "{link}");
    assert!(ip(&format!("-4 -o addr show {DEVICE}")).contains("10.244.1.1/32"));
    let v6 = ip(&format!("-6 -o addr show {DEVICE}"));
    assert!(v6.lines().count() == 1 && v6.contains("fd44:1::1/128") && !v6.contains("tentative"), "{v6}");
    let setting = |path: &str| std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap();
    assert_eq!(setting("ipv4/ip_forward").trim(), "1");
    assert_eq!(setting(&format!("ipv4/conf/{DEVICE}/rp_filter")).trim(), "2");
    assert_ne!(setting("ipv4/conf/all/rp_filter").trim(), "1");
    assert_eq!(setting("ipv6/conf/all/forwarding").trim(), "1");
    assert_eq!(setting(&format!("ipv6/conf/{DEVICE}/accept_ra")).trim(), "0");
}

fn moved() -> OverlayConfig {
    OverlayConfig {
        pod_cidr_v4: Some("10.244.7.0/24".parse().unwrap()),
        pod_cidr_v6: Some("fd44:7::/64".parse().unwrap()),
        ..overlay_config()
    }
}

/// Pod CIDRs of nodes that are neighbours: `10.244.N.0/24` and `fd44:N::/64` belong to node N.
fn remotes(nodes: &[u8]) -> BTreeSet<RemoteCidr> {
    let of = |n: &u8| {
        let node_v4 = Some(format!("192.0.2.{n}").parse().unwrap());
        let node_v6 = Some(format!("2001:db8::{n}").parse().unwrap());
        [format!("10.244.{n}.0/24"), format!("fd44:{n}::/64")].map(|cidr| RemoteCidr {
            cidr: cidr.parse().unwrap(),
            node_v4,
            node_v6,
        })
    };
    nodes.iter().flat_map(of).collect()
}

/// Our routes of both families, a line each.
fn our_routes() -> Vec<String> {
    let all = ip("route show proto 209") + &ip("-6 route show proto 209");
    all.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_new_podcidr_takes_the_old_gateway_address_away() {
    on_a_node(async || {
        Overlay::ensure(&overlay_config()).await.unwrap();
        let moved = moved();
        Overlay::ensure(&moved).await.unwrap();
        let addresses = ip(&format!("-o addr show {DEVICE}"));
        assert!(addresses.contains("10.244.7.1/32") && !addresses.contains("10.244.1.1"), "{addresses}");
        assert!(addresses.contains("fd44:7::1/128") && !addresses.contains("fd44:1::1"), "{addresses}");
    });
}

#[test]
fn a_device_of_ours_with_another_port_is_made_again() {
    on_a_node(async || {
        let old = Overlay::ensure(&OverlayConfig { port: 8472, ..overlay_config() }).await.unwrap();
        let new = Overlay::ensure(&overlay_config()).await.unwrap();
        assert_ne!(old.ifindex, new.ifindex);
        assert_as_it_should_be();
    });
}

#[test]
fn a_device_of_others_with_our_name_is_left_alone() {
    on_a_node(async || {
        ip(&format!("link add {DEVICE} type bridge"));
        let error = Overlay::ensure(&overlay_config()).await.unwrap_err();
        assert!(matches!(error, OverlayError::ForeignDevice { .. }), "{error}");
        assert!(ip(&format!("-d link show {DEVICE}")).contains("bridge"));
    });
}

#[test]
fn a_port_of_another_tunnel_is_named() {
    on_a_node(async || {
        ip("link add other type vxlan external dstport 4789");
        ip("link set other up");
        let error = Overlay::ensure(&overlay_config()).await.unwrap_err();
        assert!(matches!(error, OverlayError::PortInUse { port: 4789 }), "{error}");
    });
}

#[test]
fn a_node_address_that_no_device_holds_is_named() {
    on_a_node(async || {
        let config = OverlayConfig { node_v4: Some("192.0.2.99".parse().unwrap()), ..overlay_config() };
        let error = Overlay::ensure(&config).await.unwrap_err();
        assert!(error.to_string().contains("192.0.2.99"), "{error}");
        let small = OverlayConfig { pod_cidr_v4: Some("10.244.1.0/31".parse().unwrap()), ..overlay_config() };
        assert!(matches!(Overlay::ensure(&small).await, Err(OverlayError::SmallPodCidr { .. })));
    });
}

#[test]
fn host_routes_follow_the_other_nodes_and_are_repaired() {
    on_a_node(async || {
        let overlay = Overlay::ensure(&overlay_config()).await.unwrap();
        let remote = remotes(&[2, 3]);
        let changes = overlay.sync_routes(&remote).await.unwrap();
        assert_eq!(changes, RouteChanges { added: 4, ..RouteChanges::default() });
        assert_routes_to_two_nodes();
        assert_eq!(overlay.sync_routes(&remote).await.unwrap(), RouteChanges::default(), "nothing to do");

        ip("route del 10.244.2.0/24");
        ip(&format!("route change 10.244.3.0/24 dev {DEVICE} proto 209 scope link mtu 1000 src 10.244.1.1"));
        ip(&format!("route add 10.244.9.0/24 dev {DEVICE} proto 209"));
        ip(&format!("route add 10.244.3.0/24 dev {DEVICE} proto 209 metric 7"));
        ip(&format!("route add 198.51.100.0/24 dev {DEVICE} proto static"));
        ip("-6 route del fd44:2::/64");
        ip(&format!("-6 route change fd44:3::/64 dev {DEVICE} proto 209 mtu 1400 src fd44:1::1"));
        ip(&format!("-6 route add fd44:9::/64 dev {DEVICE} proto 209"));
        ip(&format!("-6 route add fd44:3::/64 dev {DEVICE} proto 209 metric 7"));
        let changes = overlay.sync_routes(&remote).await.unwrap();
        assert_eq!(changes, RouteChanges { added: 2, replaced: 2, removed: 4, ..RouteChanges::default() });
        assert_routes_to_two_nodes();
        assert!(ip("route show proto static").contains("198.51.100.0/24"), "a route of others stays");

        overlay.sync_routes(&BTreeSet::new()).await.unwrap();
        assert_eq!(our_routes(), [""; 0]);
    });
}

fn assert_routes_to_two_nodes() {
    let v4 = |n: u8| format!("10.244.{n}.0/24 dev {DEVICE} scope link src 10.244.1.1 mtu 1450");
    let v6 = |n: u8| format!("fd44:{n}::/64 dev {DEVICE} src fd44:1::1 metric 1024 mtu 1450 pref medium");
    assert_eq!(our_routes(), [v4(2), v4(3), v6(2), v6(3)]);
}

#[test]
fn routes_come_back_after_a_new_gateway_address() {
    on_a_node(async || {
        let overlay = Overlay::ensure(&overlay_config()).await.unwrap();
        overlay.sync_routes(&remotes(&[2])).await.unwrap();
        Overlay::ensure(&moved()).await.unwrap().sync_routes(&remotes(&[2])).await.unwrap();
        let routes = our_routes();
        assert!(routes[0].contains("src 10.244.7.1") && routes[1].contains("src fd44:7::1"), "{routes:?}");
    });
}

#[test]
fn a_route_of_others_to_a_podcidr_is_named_and_the_rest_is_done() {
    on_a_node(async || {
        let overlay = Overlay::ensure(&overlay_config()).await.unwrap();
        ip("route add 10.244.2.0/24 dev uplink");
        let error = overlay.sync_routes(&remotes(&[2, 3])).await.unwrap_err().to_string();
        assert!(error.contains("10.244.2.0/24"), "{error}");
        assert!(ip("route show 10.244.2.0/24").contains("uplink"), "left alone");
        assert!(ip("route show proto 209").contains("10.244.3.0/24"));
    });
}

#[test]
fn direct_routing_has_no_device_and_leads_to_neighbours_only() {
    on_a_node(async || {
        let overlaid = Overlay::ensure(&overlay_config()).await.unwrap();
        overlaid.sync_routes(&remotes(&[2])).await.unwrap();
        let direct = OverlayConfig { routing: Routing::Direct, ..overlay_config() };
        let overlay = Overlay::ensure(&direct).await.unwrap();
        assert_eq!((overlay.ifindex, overlay.mtu, overlay.gateway_v4, overlay.gateway_v6), (0, 1500, None, None));
        assert!(!link_exists(DEVICE), "the overlay's device is gone");

        let far =
            RemoteCidr { cidr: "10.244.9.0/24".parse().unwrap(), node_v4: "198.51.100.9".parse().ok(), node_v6: None };
        let remote = &remotes(&[2]) | &BTreeSet::from([far]);
        let changes = overlay.sync_routes(&remote).await.unwrap();
        let left = BTreeSet::from([far.cidr]);
        assert_eq!(changes, RouteChanges { added: 2, not_on_link: left.clone(), ..RouteChanges::default() });
        let v4 = "10.244.2.0/24 via 192.0.2.2 dev uplink src 192.0.2.1";
        let v6 = "fd44:2::/64 via 2001:db8::2 dev uplink src 2001:db8::1 metric 1024 pref medium";
        assert_eq!(our_routes(), [v4, v6]);
        let again = overlay.sync_routes(&remote).await.unwrap();
        assert_eq!(again, RouteChanges { not_on_link: left, ..RouteChanges::default() }, "nothing to do");

        let back = Overlay::ensure(&overlay_config()).await.unwrap();
        let changes = back.sync_routes(&remotes(&[2])).await.unwrap();
        assert_eq!(changes, RouteChanges { replaced: 2, ..RouteChanges::default() });
        assert!(our_routes().iter().all(|route| route.contains(DEVICE)), "{:?}", our_routes());
    });
}

#[test]
fn either_family_alone_makes_an_overlay() {
    on_a_node(async || {
        let v4 = OverlayConfig { node_v6: None, pod_cidr_v6: None, ..overlay_config() };
        let overlay = Overlay::ensure(&v4).await.unwrap();
        assert_eq!((overlay.mtu, overlay.gateway_v6), (1450, None));
        assert_eq!(ip(&format!("-6 -o addr show {DEVICE}")), "");
        let v6 = OverlayConfig { node_v4: None, pod_cidr_v4: None, ..overlay_config() };
        let overlay = Overlay::ensure(&v6).await.unwrap();
        assert_eq!((overlay.mtu, overlay.gateway_v4), (1430, None));
        assert_eq!(ip(&format!("-4 -o addr show {DEVICE}")), "");
        assert!(ip(&format!("link show {DEVICE}")).contains("mtu 1430"));
    });
}

#[test]
fn the_mtu_is_that_of_the_way_to_other_nodes() {
    on_a_node(async || {
        ip("route add default via 192.0.2.254 dev uplink mtu 1400");
        assert_eq!(Overlay::ensure(&overlay_config()).await.unwrap().mtu, 1350);
        ip("route del default");
        ip("link set uplink mtu 1600");
        let overlay = Overlay::ensure(&overlay_config()).await.unwrap();
        assert_eq!(overlay.mtu, 1550);
        assert!(ip(&format!("link show {DEVICE}")).contains("mtu 1550"));
        ip("link set uplink mtu 1300");
        let error = Overlay::ensure(&overlay_config()).await.unwrap_err().to_string();
        assert!(error.contains("1300") && error.contains("1330"), "{error}");
    });
}

#[test]
fn a_node_that_begins_to_forward_goes_on_hearing_its_routers() {
    on_a_node(async || {
        let setting = |name: &str| format!("/proc/sys/net/ipv6/conf/uplink/{name}");
        std::fs::write(setting("accept_ra"), "1").unwrap();
        Overlay::ensure(&overlay_config()).await.unwrap();
        assert_eq!(std::fs::read_to_string(setting("forwarding")).unwrap().trim(), "1");
        assert_eq!(std::fs::read_to_string(setting("accept_ra")).unwrap().trim(), "2");
    });
}

#[test]
fn the_tunnel_listens_on_both_families() {
    on_a_node(async || {
        Overlay::ensure(&overlay_config()).await.unwrap();
        let sockets = |table: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
        for table in ["udp", "udp6"] {
            // 4789 in hexadecimal digits.
            assert!(sockets(table).contains(":12B5 "), "{table}: {}", sockets(table));
        }
    });
}
