//! What the programs are told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use diolkos_abi::config::{Config, Lifetimes, features};
use diolkos_abi::pod::{Netns, netns_flags};
use ipnetwork::IpNetwork;

use crate::clock::Clock;
use crate::dataplane::Shared;
use crate::dataplane::kernel::KernelOptions;
use crate::options::{self, Options, Routing};
use crate::overlay::{Overlay, OverlayConfig};
use crate::pods;

/// How long a connection lives without a packet: as kube-proxy sets the kernel's own conntrack.
const TCP: Duration = Duration::from_secs(24 * 3600);
/// While it is being opened.
const TCP_OPENING: Duration = Duration::from_secs(60);
/// After its end: segments of it may still be under way.
const TCP_CLOSING: Duration = Duration::from_secs(10);
/// Datagrams, as the kernel's own conntrack of a stream of them.
const DATAGRAM: Duration = Duration::from_secs(120);

/// Says what contradicts this machine before anything is touched.
pub(super) fn check(options: &Options) -> anyhow::Result<()> {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let local = options::local_ports(&text).with_context(|| format!("{path} says {text:?}, which is no range"))?;
    Ok(options.check(&local)?)
}

pub(super) fn options(
    options: &Options,
    node: &OverlayConfig,
    overlay: &Overlay,
    clock: Clock,
) -> anyhow::Result<KernelOptions> {
    let cgroup = match &options.cgroup_root {
        Some(directory) => directory.clone(),
        None => cgroup2_root(Path::new("/proc/self/mountinfo"))?,
    };
    let cores = aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
    let config = Config {
        overlay_ifindex: overlay.ifindex,
        overlay_mac: overlay.mac,
        overlay_mtu: u16::try_from(overlay.mtu).unwrap_or(u16::MAX),
        gateway_v4: overlay.gateway_v4.map_or([0; 4], |ip| ip.octets()),
        gateway_v6: overlay.gateway_v6.map_or([0; 16], |ip| ip.octets()),
        cores: u32::try_from(cores)?,
        ..constants(options, node, clock)
    };
    Ok(KernelOptions { bpffs: options.bpffs.clone(), node: options.node_name.clone(), cgroup, config })
}

/// What is constant for a node of these addresses.
fn constants(options: &Options, node: &OverlayConfig, clock: Clock) -> Config {
    let pods = [node.pod_cidr_v4.map(IpNetwork::V4), node.pod_cidr_v6.map(IpNetwork::V6)];
    let ((pod_cidr_v4, route_mask_v4), (pod_cidr_v6, route_mask_v6)) = families(pods.iter().flatten());
    let ((service_cidr_v4, service_mask_v4), (service_cidr_v6, service_mask_v6)) = families(&options.service_cidrs);
    let ((native_cidr_v4, native_mask_v4), (native_cidr_v6, native_mask_v6)) = families(&options.native_cidrs);
    let direct = if options.routing == Routing::Direct { features::DIRECT_ROUTING } else { 0 };
    let masquerade = if options.masquerade { features::MASQUERADE } else { 0 };
    let ports = &options.masquerade_ports;
    Config {
        vni: options.vni,
        route_mask_v4,
        pod_cidr_v4,
        service_cidr_v4,
        service_mask_v4,
        node_v4: node.node_v4.map_or([0; 4], |ip| ip.octets()),
        native_cidr_v4,
        native_mask_v4,
        route_mask_v6,
        pod_cidr_v6,
        service_cidr_v6,
        service_mask_v6,
        node_v6: node.node_v6.map_or([0; 16], |ip| ip.octets()),
        native_cidr_v6,
        native_mask_v6,
        ports_first: *ports.start(),
        ports_count: (*ports.end() - *ports.start()).saturating_add(1),
        lifetimes: Lifetimes {
            tcp: clock.units(TCP),
            tcp_opening: clock.units(TCP_OPENING),
            tcp_closing: clock.units(TCP_CLOSING),
            datagram: clock.units(DATAGRAM),
        },
        features: direct | masquerade,
        ..Config::EMPTY
    }
}

type Network<const N: usize> = ([u8; N], [u8; N]);

/// Address and mask of the first network of each family, zeros where there is none.
fn families<'a>(networks: impl IntoIterator<Item = &'a IpNetwork>) -> (Network<4>, Network<16>) {
    let (mut v4, mut v6) = (([0; 4], [0; 4]), ([0; 16], [0; 16]));
    for network in networks {
        match network {
            IpNetwork::V4(network) => v4 = (network.network().octets(), network.mask().octets()),
            IpNetwork::V6(network) => v6 = (network.network().octets(), network.mask().octets()),
        }
    }
    (v4, v6)
}

/// The mount point of the cgroup2 hierarchy's root.
pub(crate) fn cgroup2_root(mountinfo: &Path) -> anyhow::Result<PathBuf> {
    let text = std::fs::read_to_string(mountinfo).with_context(|| format!("read {}", mountinfo.display()))?;
    let mount = text.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (file_system.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    });
    mount.context("no cgroup2 hierarchy is mounted: mount one, or name a directory with --cgroup-root")
}

/// Says that sockets of the agent's own network namespace are the node's.
pub(super) fn claim_host_namespace(dataplane: &Shared, config: &OverlayConfig) -> anyhow::Result<()> {
    let Some(cookie) = pods::host_netns_cookie().context("read the cookie of the node's network namespace")? else {
        return Ok(());
    };
    let v4 = config.node_v4.map_or([0; 4], |ip| ip.octets());
    let v6 = config.node_v6.map_or([0; 16], |ip| ip.octets());
    let netns = Netns { v4, v6, flags: netns_flags::HOST, ..Netns::default() };
    Ok(dataplane.lock().set_netns(cookie, netns)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_programs_know_both_families_of_the_node_and_how_long_flows_live() {
        let options = Options {
            native_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            routing: Routing::Direct,
            ..options::tests::options()
        };
        let node = OverlayConfig {
            node_v4: Some([192, 0, 2, 1].into()),
            node_v6: Some("fd00::1".parse().unwrap()),
            pod_cidr_v4: Some("10.244.1.0/24".parse().unwrap()),
            pod_cidr_v6: None,
            port: 4789,
            routing: Routing::Direct,
        };
        let config = constants(&options, &node, Clock::of(Duration::from_millis(4)));
        assert_eq!((config.pod_cidr_v4, config.route_mask_v4), ([10, 244, 1, 0], [255, 255, 255, 0]));
        assert_eq!((config.pod_cidr_v6, config.route_mask_v6), ([0; 16], [0; 16]), "it has no IPv6 pods");
        assert_eq!((config.service_cidr_v4, config.service_mask_v4), ([10, 96, 0, 0], [255, 255, 0, 0]));
        assert_eq!((config.service_cidr_v6[..2].to_vec(), config.service_mask_v6[13]), (vec![0xfd, 0x96], 0xff));
        assert_eq!((config.native_cidr_v4, config.native_mask_v4), ([10, 0, 0, 0], [255, 0, 0, 0]));
        assert_eq!((config.node_v4, config.node_v6[15]), ([192, 0, 2, 1], 1));
        assert_eq!((config.ports_first, config.ports_count), (61_000, 4_536));
        assert_eq!(config.features, features::DIRECT_ROUTING | features::MASQUERADE);
        let Lifetimes { tcp, tcp_opening, tcp_closing, datagram } = config.lifetimes;
        assert_eq!((tcp, tcp_opening, tcp_closing, datagram), (84_376, 60, 11, 119), "units of 1.024 s at 250 Hz");
    }
}
