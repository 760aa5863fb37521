//! What this machine is called, where others reach it, and which container runtime it has.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context as _, bail};

/// Addresses of documentation networks: the way there is the default route, and nothing is sent.
const BEYOND_V4: &str = "192.0.2.1:9";
const BEYOND_V6: &str = "[2001:db8::1]:9";

/// Where container runtimes listen, the commonest first.
const RUNTIMES: [&str; 3] =
    ["/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock", "/run/crio/crio.sock"];

/// The address under which this machine reaches the world, as kubeadm takes it too.
pub(crate) fn address(is_ipv4: bool) -> anyhow::Result<IpAddr> {
    let (any, beyond) = if is_ipv4 { ("0.0.0.0:0", BEYOND_V4) } else { ("[::]:0", BEYOND_V6) };
    let address = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(beyond)?;
        socket.local_addr()
    });
    let address = address.map(|address: SocketAddr| address.ip()).with_context(|| {
        let family = if is_ipv4 { "IPv4" } else { "IPv6" };
        format!("it has no default route for {family}: name the address")
    })?;
    anyhow::ensure!(!address.is_unspecified(), "it has no address on its default route: name the address");
    Ok(address)
}

/// The name of this machine's Node: its host name in lower case, as kubelets take it.
pub(crate) fn node_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read this machine's name")?;
    let name = name.trim().to_ascii_lowercase();
    anyhow::ensure!(!name.is_empty(), "this machine has no name: give --node-name");
    Ok(name)
}

/// The URL of the CRI socket of this machine.
pub(crate) fn runtime() -> anyhow::Result<String> {
    runtime_below(Path::new("/"))
}

fn runtime_below(root: &Path) -> anyhow::Result<String> {
    let there = |path: &&&str| root.join(path.trim_start_matches('/')).exists();
    match RUNTIMES.iter().find(there) {
        Some(path) => Ok(format!("unix://{}", root.join(path.trim_start_matches('/')).display())),
        None => bail!(
            "no container runtime listens at {}: start containerd, or give --container-runtime-endpoint",
            RUNTIMES.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_first_runtime_that_is_there_is_taken_and_none_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let why = runtime_below(dir.path()).unwrap_err().to_string();
        assert!(why.contains("--container-runtime-endpoint"), "{why}");
        std::fs::create_dir_all(dir.path().join("run/k3s/containerd")).unwrap();
        std::fs::write(dir.path().join("run/k3s/containerd/containerd.sock"), "").unwrap();
        assert!(runtime_below(dir.path()).unwrap().ends_with("/run/k3s/containerd/containerd.sock"));
    }
}
