//! Pods with the real programs: attached, carrying packets, kept over a restart.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use diolkos_abi::config::Config;
use diolkos_agent::dataplane::Shared;
use diolkos_agent::dataplane::kernel::{Kernel, KernelOptions};
use diolkos_agent::overlay::Overlay;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::world::{Node, Sandbox, address, on_a_node, overlay_config, request};

#[test]
fn pods_talk_through_the_programs_and_a_restart_does_not_interrupt_them() {
    on_a_node(async || {
        let machine = Machine::new();
        let overlay = Overlay::ensure(&overlay_config()).await.unwrap();
        let options = machine.options(&overlay);
        let mut node = Node::new().await;
        node.restart(Shared::new(Kernel::open(&options).unwrap()));
        node.dataplane.lock().put_in_place().unwrap();

        let (server, client) = (Sandbox::new(), Sandbox::new());
        let at = SocketAddr::from((address(&node.add("server", &server).await.unwrap()), 7000));
        node.add("client", &client).await.unwrap();
        for (id, sandbox) in [("server", &server), ("client", &client)] {
            node.call(request("CHECK", id, &sandbox.path)).await.unwrap();
        }
        let listener = server.inside(move || TcpListener::bind(at).unwrap());
        let connect = move || TcpStream::connect_timeout(&at, Duration::from_secs(5)).unwrap();
        let from_pod = Conversation { asks: client.inside(connect), answers: listener.accept().unwrap().0 };
        let from_node = Conversation { asks: connect(), answers: listener.accept().unwrap().0 };
        from_pod.exchange();
        from_node.exchange();

        let before = node.dataplane.lock().endpoints().unwrap();
        node.restart(Shared::new(Kernel::open(&options).unwrap()));
        from_pod.exchange();
        let repaired = node.pods.repair().await.unwrap();
        assert_eq!((repaired.kept, repaired.orphans, repaired.failures.len()), (2, 0, 0), "{repaired:?}");
        assert_eq!(node.dataplane.lock().endpoints().unwrap(), before);
        from_pod.exchange();
        from_node.exchange();
        node.call(request("CHECK", "client", &client.path)).await.unwrap();

        for id in ["server", "client"] {
            node.call(request("DEL", id, "")).await.unwrap();
        }
        node.assert_empty();
    });
}

/// Two ends of a TCP connection.
struct Conversation {
    asks: TcpStream,
    answers: TcpStream,
}

impl Conversation {
    fn exchange(&self) {
        for (mut from, mut to) in [(&self.asks, &self.answers), (&self.answers, &self.asks)] {
            to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            from.write_all(b"x").unwrap();
            to.read_exact(&mut [0]).unwrap();
        }
    }
}

/// A bpf file system in a mount namespace of the thread's own, gone with it, and a cgroup for the socket programs.
struct Machine {
    bpffs: tempfile::TempDir,
    cgroup: PathBuf,
}

impl Machine {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let bpffs = tempfile::tempdir().unwrap();
        mount(Some("bpf"), bpffs.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let root = root.into_iter().find(|root| root.join("cgroup.procs").exists());
        let cgroup = root.expect("a cgroup2 hierarchy is mounted").join(format!("diolkos-pods-{}", std::process::id()));
        std::fs::create_dir(&cgroup).unwrap();
        Self { bpffs, cgroup }
    }

    fn options(&self, overlay: &Overlay) -> KernelOptions {
        let config = Config {
            overlay_ifindex: overlay.ifindex,
            vni: 1,
            overlay_mac: overlay.mac,
            gateway_v4: overlay.gateway_v4.unwrap().octets(),
            route_mask_v4: [255, 255, 255, 0],
            pod_cidr_v4: [10, 244, 1, 0],
            service_cidr_v4: [10, 96, 0, 0],
            service_mask_v4: [255, 255, 0, 0],
            ..Config::default()
        };
        KernelOptions { bpffs: self.bpffs.path().to_owned(), node: "node".into(), cgroup: self.cgroup.clone(), config }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The pins hold the programs, which hold the cgroup.
        let _gone_already = nix::mount::umount2(self.bpffs.path(), nix::mount::MntFlags::MNT_DETACH);
        drop(std::fs::remove_dir(&self.cgroup));
    }
}
