//! The wires between the nodes: a bridge in the control plane's space, a veth to each node. All of it
//! is inside the cluster's namespaces; the machine's own network is not touched.

use anyhow::Result;

use crate::space::Space;

/// The control plane's address.
pub(super) const CONTROL: &str = "172.30.0.1";
const BRIDGE: &str = "wire";

/// The bridge, with the control plane on it.
pub(super) fn bridge(control: &Space) -> Result<()> {
    control.run(&["ip", "link", "add", BRIDGE, "type", "bridge"])?;
    control.run(&["ip", "address", "add", &format!("{CONTROL}/24"), "dev", BRIDGE])?;
    control.run(&["ip", "link", "set", BRIDGE, "up"]).map(drop)
}

/// Address of a node; nodes count from 1.
pub(super) fn address(index: u32) -> String {
    format!("172.30.0.{}", 10 + index)
}

/// Connects a node.
pub(super) fn uplink(control: &Space, node: &Space, index: u32) -> Result<()> {
    let (port, holder) = (format!("port{index}"), node.holder().to_string());
    control.run(&["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &holder])?;
    control.run(&["ip", "link", "set", &port, "master", BRIDGE, "up"])?;
    node.run(&["ip", "address", "add", &format!("{}/24", address(index)), "dev", "eth0"])?;
    node.run(&["ip", "link", "set", "eth0", "up"])?;
    node.run(&["ip", "route", "add", "default", "via", CONTROL]).map(drop)
}
