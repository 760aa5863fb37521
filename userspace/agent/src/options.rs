//! How the agent is run, and what of it contradicts itself or the machine.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

/// How the agent is run.
#[derive(Clone, Debug)]
pub struct Options {
    pub kubeconfig: PathBuf,
    pub node_name: String,
    /// A mounted bpf file system.
    pub bpffs: PathBuf,
    /// A cgroup2 directory, by default the root of the mounted hierarchy.
    pub cgroup_root: Option<PathBuf>,
    pub cni_socket: PathBuf,
    pub state_dir: PathBuf,
    /// Where the CNI plugin and its configuration go; nothing is installed unless both are given.
    pub cni_bin_dir: Option<PathBuf>,
    pub cni_conf_dir: Option<PathBuf>,
    /// The plugin to install, by default `diolkos-cni` beside this binary.
    pub cni_binary: Option<PathBuf>,
    pub vni: u32,
    pub overlay_port: u16,
    /// ClusterIPs come from here; one CIDR per family.
    pub service_cidrs: Vec<IpNetwork>,
    /// Devices on which the node talks to the outside; when empty, those that hold a node address or a default route.
    pub devices: Vec<String>,
    pub routing: Routing,
    /// Whether pods talk to the outside under the node's address.
    pub masquerade: bool,
    /// Source ports of what is translated under an address of the node.
    pub masquerade_ports: RangeInclusive<u16>,
    /// Destinations that see a pod's own address though they are no pods; one CIDR per family.
    pub native_cidrs: Vec<IpNetwork>,
    /// Where health and metrics are served.
    pub listen: SocketAddr,
}

/// How pods of other nodes are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Through VXLAN.
    #[default]
    Overlay,
    /// By their node's address as next hop: the network between the nodes carries pod addresses.
    Direct,
}

/// Node ports come from here, as in every Kubernetes cluster.
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// What is wrong with the options, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("{option} names two {family} networks, {first} and {second}: give one per family")]
    TwoOfOneFamily { option: &'static str, family: &'static str, first: IpNetwork, second: IpNetwork },
    #[error("--service-cidr names no network: give one per family of the cluster")]
    NoServiceCidr,
    #[error("--masquerade-ports {}-{} is empty: give FIRST-LAST, both included", .0.start(), .0.end())]
    NoPorts(RangeInclusive<u16>),
    #[error(
        "--masquerade-ports {}-{} meets {what} {}-{}: a reply would not tell whose it is; choose others",
        ports.start(), ports.end(), other.start(), other.end()
    )]
    PortsMeet { ports: RangeInclusive<u16>, what: &'static str, other: RangeInclusive<u16> },
}

impl Options {
    /// Looks for contradictions; `local_ports` is what the kernel gives to sockets (`ip_local_port_range`).
    pub fn check(&self, local_ports: &RangeInclusive<u16>) -> Result<(), OptionsError> {
        one_per_family("--service-cidr", &self.service_cidrs)?;
        one_per_family("--native-cidr", &self.native_cidrs)?;
        if self.service_cidrs.is_empty() {
            return Err(OptionsError::NoServiceCidr);
        }
        let ports = &self.masquerade_ports;
        if ports.is_empty() || *ports.start() == 0 {
            return Err(OptionsError::NoPorts(ports.clone()));
        }
        let others = [("the local port range", local_ports), ("the node port range", &NODE_PORTS)];
        for (what, other) in others {
            if ports.start() <= other.end() && other.start() <= ports.end() {
                return Err(OptionsError::PortsMeet { ports: ports.clone(), what, other: other.clone() });
            }
        }
        Ok(())
    }
}

/// The ports the kernel gives to sockets that do not choose one, as the sysctl `net.ipv4.ip_local_port_range` says it.
pub(crate) fn local_ports(sysctl: &str) -> Option<RangeInclusive<u16>> {
    let mut bounds = sysctl.split_whitespace().map(|bound| bound.parse().ok());
    Some(bounds.next()??..=bounds.next()??)
}

fn one_per_family(option: &'static str, networks: &[IpNetwork]) -> Result<(), OptionsError> {
    for family in ["IPv4", "IPv6"] {
        let mut of_family = networks.iter().filter(|network| network.is_ipv4() == (family == "IPv4"));
        if let (Some(first), Some(second)) = (of_family.next(), of_family.next()) {
            return Err(OptionsError::TwoOfOneFamily { option, family, first: *first, second: *second });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn options() -> Options {
        Options {
            kubeconfig: "config".into(),
            node_name: "n1".into(),
            bpffs: "/sys/fs/bpf".into(),
            cgroup_root: None,
            cni_socket: "cni.sock".into(),
            state_dir: "state".into(),
            cni_bin_dir: None,
            cni_conf_dir: None,
            cni_binary: None,
            vni: 1,
            overlay_port: 4789,
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd96::/112".parse().unwrap()],
            devices: Vec::new(),
            routing: Routing::default(),
            masquerade: true,
            masquerade_ports: 61_000..=65_535,
            native_cidrs: Vec::new(),
            listen: "127.0.0.1:10256".parse().unwrap(),
        }
    }

    #[test]
    fn options_that_contradict_themselves_or_the_machine_are_refused_with_what_to_do() {
        let local = local_ports("32768\t60999\n").unwrap();
        assert_eq!(options().check(&local), Ok(()));
        let said = |options: Options| options.check(&local).unwrap_err().to_string();
        let second = "10.97.0.0/16".parse().unwrap();
        let service_cidrs = [options().service_cidrs, vec![second]].concat();
        assert!(said(Options { service_cidrs, ..options() }).contains("two IPv4 networks, 10.96.0.0/16 and 10.97"));
        assert!(said(Options { service_cidrs: vec![], ..options() }).contains("--service-cidr names no network"));
        let native_cidrs = vec![second, second];
        assert!(said(Options { native_cidrs, ..options() }).starts_with("--native-cidr names two"));
        let ports = |masquerade_ports| said(Options { masquerade_ports, ..options() });
        assert!(ports(60_999..=61_100).contains("meets the local port range 32768-60999"));
        assert!(ports(20_000..=30_000).contains("meets the node port range 30000-32767"));
        assert!(ports(RangeInclusive::new(2, 1)).contains("--masquerade-ports 2-1 is empty"));
        assert!(ports(0..=100).contains("is empty"));
    }

    #[test]
    fn a_local_port_range_that_says_nothing_is_none() {
        for text in ["", "1", "a b", "70000 80000"] {
            assert_eq!(local_ports(text), None);
        }
    }
}
