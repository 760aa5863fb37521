//! Results in the form of each version of the specification.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::attachment::{Attachment, next_hop};
use super::protocol::Version;
use crate::overlay::host_prefix;
use crate::overlay::netlink::format_mac;

/// The result of ADD. Index 1 of `interfaces` is the pod's end.
pub(super) fn added(version: Version, attachment: &Attachment, netns: &str) -> Value {
    let mut host = json!({ "name": attachment.host_ifname, "mac": format_mac(&attachment.host_mac) });
    let mut pod = json!({ "name": attachment.ifname, "mac": format_mac(&attachment.pod_mac), "sandbox": netns });
    if version == Version::V1_1_0 {
        host["mtu"] = json!(attachment.mtu);
        pod["mtu"] = json!(attachment.mtu);
    }
    let addresses = attachment.addresses();
    let ips: Vec<Value> = addresses.iter().map(|address| ip(version, address)).collect();
    let routes: Vec<Value> = addresses
        .iter()
        .map(|address| {
            let everywhere = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            json!({ "dst": everywhere, "gw": next_hop(address).to_string() })
        })
        .collect();
    json!({
        "cniVersion": version.as_str(),
        "interfaces": [host, pod],
        "ips": ips,
        "routes": routes,
        "dns": {},
    })
}

fn ip(version: Version, address: IpAddr) -> Value {
    let mut ip = json!({
        "interface": 1,
        "address": format!("{address}/{}", host_prefix(address)),
        "gateway": next_hop(address).to_string(),
    });
    if version == Version::V0_4_0 {
        ip["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
    }
    ip
}

/// The result of VERSION.
pub(super) fn versions() -> Value {
    json!({
        "cniVersion": Version::V1_1_0.as_str(),
        "supportedVersions": Version::ALL.map(Version::as_str),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::pods::attachment::Names;
    use crate::pods::protocol::Key;

    fn attachment() -> Attachment {
        let names = Names::of(&Key::new("c1", "eth0").unwrap());
        Attachment {
            container_id: "c1".into(),
            ifname: "eth0".into(),
            network: "diolkos".into(),
            netns: "/run/netns/x".into(),
            netns_cookie: None,
            v4: Some("10.244.1.5".parse().unwrap()),
            v6: None,
            host_ifname: names.host_ifname,
            host_mac: [0x0a, 0xd2, 1, 2, 3, 4],
            pod_mac: [0x0a, 0xd3, 1, 2, 3, 0xff],
            mtu: 1450,
            socket_lb_off: false,
            socket_lb_unknown: false,
            tap: false,
            pod: String::new(),
        }
    }

    #[test]
    fn a_result_of_1_0_0_is_as_the_specification_says() {
        let result = added(Version::V1_0_0, &attachment(), "/run/netns/x");
        let expected = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": attachment().host_ifname, "mac": "0a:d2:01:02:03:04" },
                { "name": "eth0", "mac": "0a:d3:01:02:03:ff", "sandbox": "/run/netns/x" },
            ],
            "ips": [{ "interface": 1, "address": "10.244.1.5/32", "gateway": "169.254.1.1" }],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }],
            "dns": {},
        });
        assert_eq!(result, expected);
    }

    #[test]
    fn a_pod_with_two_addresses_has_two_ips_and_two_default_routes() {
        let v6 = Some("fd44:1::5".parse().unwrap());
        let both = added(Version::V1_1_0, &Attachment { v6, ..attachment() }, "/run/netns/x");
        let ip = |address: &str, gateway: &str| json!({ "interface": 1, "address": address, "gateway": gateway });
        assert_eq!(both["ips"], json!([ip("10.244.1.5/32", "169.254.1.1"), ip("fd44:1::5/128", "fe80::1")]));
        let routes = json!([{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }, { "dst": "::/0", "gw": "fe80::1" }]);
        assert_eq!(both["routes"], routes);
        let only_v6 = added(Version::V1_0_0, &Attachment { v4: None, v6, ..attachment() }, "/run/netns/x");
        assert_eq!(only_v6["ips"], json!([ip("fd44:1::5/128", "fe80::1")]));
        let old = added(Version::V0_4_0, &Attachment { v6, ..attachment() }, "/run/netns/x");
        assert_eq!((&old["ips"][0]["version"], &old["ips"][1]["version"]), (&json!("4"), &json!("6")));
    }

    #[test]
    fn a_result_of_0_4_0_names_the_address_family() {
        let result = added(Version::V0_4_0, &attachment(), "/run/netns/x");
        assert_eq!((&result["cniVersion"], &result["ips"][0]["version"]), (&json!("0.4.0"), &json!("4")));
        assert!(result["interfaces"][1].get("mtu").is_none());
    }

    #[test]
    fn a_result_of_1_1_0_names_the_mtu() {
        let result = added(Version::V1_1_0, &attachment(), "/run/netns/x");
        assert_eq!((&result["cniVersion"], &result["interfaces"][1]["mtu"]), (&json!("1.1.0"), &json!(1450)));
        assert!(result["ips"][0].get("version").is_none());
    }

    #[test]
    fn all_supported_versions_are_named() {
        assert_eq!(versions()["supportedVersions"], json!(["0.4.0", "1.0.0", "1.1.0"]));
    }
}
