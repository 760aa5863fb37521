//! The overlay device, the gateway address and the host routes.

use std::collections::BTreeSet;

use diolkos_agent::overlay::{DEVICE, Overlay, OverlayConfig, OverlayError, RouteChanges};

use crate::world::{ip, on_a_node, overlay_config};

#[test]
fn ensure_makes_the_device_once_and_repairs_it() {
    on_a_node(async || {
        let first = Overlay::ensure(&overlay_config()).await.unwrap();
        assert_eq!((first.mac, first.mtu), ([0x0a, 0xd1, 192, 0, 2, 1], 1450));
        assert_eq!(first.gateway.to_string(), "10.244.1.1");
        assert_as_it_should_be();
        assert_eq!(Overlay::ensure(&overlay_config()).await.unwrap(), first, "adopted");

        for damage in ["mtu 1500", "address 02:00:00:00:00:01", "arp on", "alias other", "down"] {
            ip(&format!("link set {DEVICE} {damage}"));
        }
        ip(&format!("addr del 10.244.1.1/32 dev {DEVICE}"));
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
    let setting = |path: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{path}")).unwrap();
    assert_eq!(setting("ip_forward").trim(), "1");
    assert_eq!(setting(&format!("conf/{DEVICE}/rp_filter")).trim(), "2");
    assert_ne!(setting("conf/all/rp_filter").trim(), "1");
}

#[test]
fn a_new_podcidr_takes_the_old_gateway_address_away() {
    on_a_node(async || {
        Overlay::ensure(&overlay_config()).await.unwrap();
        let moved = OverlayConfig { pod_cidr: "10.244.7.0/24".parse().unwrap(), ..overlay_config() };
        Overlay::ensure(&moved).await.unwrap();
        let addresses = ip(&format!("-4 -o addr show {DEVICE}"));
        assert!(addresses.contains("10.244.7.1/32") && !addresses.contains("10.244.1.1"), "{addresses}");
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
        let config = OverlayConfig { node_ip: "192.0.2.99".parse().unwrap(), ..overlay_config() };
        let error = Overlay::ensure(&config).await.unwrap_err();
        assert!(error.to_string().contains("192.0.2.99"), "{error}");
        let small = OverlayConfig { pod_cidr: "10.244.1.0/31".parse().unwrap(), ..overlay_config() };
        assert!(matches!(Overlay::ensure(&small).await, Err(OverlayError::SmallPodCidr { .. })));
    });
}

#[test]
fn host_routes_follow_the_other_nodes_and_are_repaired() {
    on_a_node(async || {
        let overlay = Overlay::ensure(&overlay_config()).await.unwrap();
        let remote = BTreeSet::from(["10.244.2.0/24", "10.244.3.0/24"].map(|cidr| cidr.parse().unwrap()));
        let changes = overlay.sync_routes(&remote).await.unwrap();
        assert_eq!(changes, RouteChanges { added: 2, ..RouteChanges::default() });
        assert_two_routes();
        assert_eq!(overlay.sync_routes(&remote).await.unwrap(), RouteChanges::default(), "nothing to do");

        ip("route del 10.244.2.0/24");
        ip(&format!("route change 10.244.3.0/24 dev {DEVICE} proto 209 scope link mtu 1000 src 10.244.1.1"));
        ip(&format!("route add 10.244.9.0/24 dev {DEVICE} proto 209"));
        ip(&format!("route add 10.244.3.0/24 dev {DEVICE} proto 209 metric 7"));
        ip(&format!("route add 198.51.100.0/24 dev {DEVICE} proto static"));
        let changes = overlay.sync_routes(&remote).await.unwrap();
        assert_eq!(changes, RouteChanges { added: 1, replaced: 1, removed: 2 });
        assert_two_routes();
        assert!(ip("route show proto static").contains("198.51.100.0/24"), "a route of others stays");

        overlay.sync_routes(&BTreeSet::new()).await.unwrap();
        assert_eq!(ip("route show proto 209"), "");
    });
}

fn assert_two_routes() {
    let routes = ip("route show proto 209");
    let lines: Vec<&str> = routes.lines().map(str::trim).collect();
    let line = |third: u8| format!("10.244.{third}.0/24 dev {DEVICE} scope link src 10.244.1.1 mtu 1450");
    assert_eq!(lines, [line(2), line(3)]);
}

#[test]
fn routes_come_back_after_a_new_gateway_address() {
    on_a_node(async || {
        let overlay = Overlay::ensure(&overlay_config()).await.unwrap();
        let remote = BTreeSet::from(["10.244.2.0/24".parse().unwrap()]);
        overlay.sync_routes(&remote).await.unwrap();
        let moved = OverlayConfig { pod_cidr: "10.244.7.0/24".parse().unwrap(), ..overlay_config() };
        Overlay::ensure(&moved).await.unwrap().sync_routes(&remote).await.unwrap();
        assert!(ip("route show proto 209").contains("src 10.244.7.1"));
    });
}

#[test]
fn a_route_of_others_to_a_podcidr_is_named_and_the_rest_is_done() {
    on_a_node(async || {
        let overlay = Overlay::ensure(&overlay_config()).await.unwrap();
        ip("route add 10.244.2.0/24 dev uplink");
        let remote = BTreeSet::from(["10.244.2.0/24", "10.244.3.0/24"].map(|cidr| cidr.parse().unwrap()));
        let error = overlay.sync_routes(&remote).await.unwrap_err().to_string();
        assert!(error.contains("10.244.2.0/24"), "{error}");
        assert!(ip("route show 10.244.2.0/24").contains("uplink"), "left alone");
        assert!(ip("route show proto 209").contains("10.244.3.0/24"));
    });
}
