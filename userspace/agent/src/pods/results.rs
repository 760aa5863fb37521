//! Results in the form of each version of the specification.

use serde_json::{Value, json};

use super::attachment::{Attachment, NEXT_HOP};
use super::protocol::Version;
use crate::overlay::netlink::format_mac;

/// The result of ADD. Index 1 of `interfaces` is the pod's end.
pub(super) fn added(version: Version, attachment: &Attachment, netns: &str) -> Value {
    let mut host = json!({ "name": attachment.host_ifname, "mac": format_mac(&attachment.host_mac) });
    let mut pod = json!({ "name": attachment.ifname, "mac": format_mac(&attachment.pod_mac), "sandbox": netns });
    let mut ip = json!({
        "interface": 1,
        "address": format!("{}/32", attachment.address),
        "gateway": NEXT_HOP.to_string(),
    });
    match version {
        Version::V0_4_0 => ip["version"] = json!("4"),
        Version::V1_0_0 => {}
        Version::V1_1_0 => {
            host["mtu"] = json!(attachment.mtu);
            pod["mtu"] = json!(attachment.mtu);
        }
    }
    json!({
        "cniVersion": version.as_str(),
        "interfaces": [host, pod],
        "ips": [ip],
        "routes": [{ "dst": "0.0.0.0/0", "gw": NEXT_HOP.to_string() }],
        "dns": {},
    })
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
            address: "10.244.1.5".parse().unwrap(),
            host_ifname: names.host_ifname,
            host_mac: [0x0a, 0xd2, 1, 2, 3, 4],
            pod_mac: [0x0a, 0xd3, 1, 2, 3, 0xff],
            mtu: 1450,
            socket_lb_off: false,
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
