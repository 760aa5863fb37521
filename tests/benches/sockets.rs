//! What the socket hooks add to system calls, in one interleaved run, beside two baselines: a kernel in which no such
//! hook is attached anywhere, and one in which hooks are attached to another cgroup. The kernel keeps one switch for all
//! cgroups, so any other program of this kind on the machine (another agent, another test) takes the first baseline away.
#![allow(clippy::unwrap_used, unreachable_pub)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use diolkos_abi::config::Config;
use diolkos_agent::clock::Clock;
use diolkos_agent::dataplane::Shared;
use diolkos_agent::dataplane::kernel::{self, Kernel, KernelOptions};
use diolkos_agent::desired::ThisNode;
use diolkos_agent::driver::Driver;
use diolkos_agent::overlay::OnLink;
use diolkos_agent::plan::QUARANTINE;
use diolkos_agent::source::Change;
use diolkos_tests::cgroup::Hierarchies;
use diolkos_tests::figures::{Figures, Output, Section};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

const NODE: &str = "bench";
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
const PORT: u16 = 8080;
const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);

#[derive(Parser)]
struct Options {
    /// Rounds, each with everything once.
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// System calls a figure is the mean of.
    #[arg(long, default_value_t = 20_000)]
    repeat: u32,
    #[command(flatten)]
    output: Output,
}

/// What is measured, and how.
type Case = (&'static str, fn(&Servers, SocketAddr, u32) -> Result<()>);

const CASES: [Case; 5] = [
    ("connect() of one socket", connect),
    ("sendto() and receive", send),
    ("UDP question and answer", ping_pong),
    ("fresh UDP socket: socket, connect, close", fresh_udp),
    ("fresh TCP connection: socket, connect, accept, close", fresh_tcp),
];

const CLEAN: &str = "no hooks anywhere";
const ELSEWHERE: &str = "hooks on another cgroup";
const OTHER: &str = "diolkos, to another address";
const OURS: &str = "diolkos, to a Service";

fn main() -> Result<()> {
    let options = Options::parse();
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("make namespaces (root is needed)")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for arguments in ["link set lo up", "address add 10.200.0.1/32 dev lo", "route add default dev lo"] {
        let status = Command::new("ip").args(arguments.split(' ')).status().context("run ip")?;
        ensure!(status.success(), "ip {arguments} failed");
    }
    let figures = measure(&Place::new()?, &Servers::new()?, &options)?;
    options.output.write_figures(&figures)
}

fn measure(place: &Place, servers: &Servers, options: &Options) -> Result<Figures> {
    let backend = SocketAddr::from((BACKEND, PORT));
    let mut costs: Vec<Section> = CASES.iter().map(|(name, _)| Section::new(format!("{name}: CPU"), "ns")).collect();
    let mut added: Vec<Section> = CASES.iter().map(|(name, _)| Section::new(format!("{name}: added"), "ns")).collect();
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        // The kernel's own path is warm before it is the yardstick.
        place.enter(&place.plain)?;
        let clean = all(servers, backend, options.repeat)?;
        let _driver = place.attach()?;
        let elsewhere = all(servers, backend, options.repeat)?;
        place.enter(&place.hooked)?;
        let other = all(servers, backend, options.repeat)?;
        let ours = all(servers, SERVICE, options.repeat)?;
        place.enter(&place.plain)?;
        let again = all(servers, backend, options.repeat)?;
        place.detach()?;
        for case in 0..CASES.len() {
            let base = f64::midpoint(elsewhere[case], again[case]);
            for (name, value) in [(CLEAN, clean[case]), (ELSEWHERE, base), (OTHER, other[case]), (OURS, ours[case])] {
                costs[case].add(name, Some(ELSEWHERE), value);
            }
            added[case].add("diolkos, over hooks on another cgroup", None, ours[case] - base);
            added[case].add("diolkos, over no hooks anywhere", None, ours[case] - clean[case]);
            added[case].add("diolkos to another address, over hooks on another cgroup", None, other[case] - base);
        }
    }
    let mut figures = Figures::new("What the socket hooks add to system calls");
    for (cost, added) in costs.into_iter().zip(added) {
        figures.sections.extend([cost, added]);
    }
    Ok(figures)
}

/// CPU time of every case, ns a repeat.
fn all(servers: &Servers, to: SocketAddr, repeat: u32) -> Result<Vec<f64>> {
    CASES
        .iter()
        .map(|(name, case)| {
            case(servers, to, repeat / 20).with_context(|| format!("{name} to {to}"))?;
            let before = cpu_time()?;
            case(servers, to, repeat)?;
            Ok((cpu_time()? - before).as_secs_f64() * 1e9 / f64::from(repeat))
        })
        .collect()
}

fn cpu_time() -> Result<Duration> {
    Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Who answers, in the same thread.
struct Servers {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Servers {
    fn new() -> Result<Self> {
        let (udp, tcp) = (UdpSocket::bind((BACKEND, PORT))?, TcpListener::bind((BACKEND, PORT))?);
        udp.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self { udp, tcp })
    }
}

fn client() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

fn connect(_: &Servers, to: SocketAddr, repeat: u32) -> Result<()> {
    let socket = client()?;
    (0..repeat).try_for_each(|_| socket.connect(to).context("connect"))
}

fn send(servers: &Servers, to: SocketAddr, repeat: u32) -> Result<()> {
    let (socket, mut buffer) = (client()?, [0; 64]);
    for _ in 0..repeat {
        socket.send_to(&buffer, to)?;
        servers.udp.recv(&mut buffer).context("nothing arrives")?;
    }
    Ok(())
}

fn ping_pong(servers: &Servers, to: SocketAddr, repeat: u32) -> Result<()> {
    let (socket, mut buffer) = (client()?, [0; 64]);
    for _ in 0..repeat {
        socket.send_to(&buffer, to)?;
        let (_, from) = servers.udp.recv_from(&mut buffer).context("nothing arrives")?;
        servers.udp.send_to(&buffer, from)?;
        let (_, answered) = socket.recv_from(&mut buffer).context("no answer")?;
        ensure!(answered == to, "asked {to}, answered by {answered}");
    }
    Ok(())
}

fn fresh_udp(_: &Servers, to: SocketAddr, repeat: u32) -> Result<()> {
    (0..repeat).try_for_each(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.connect(to).context("connect"))
}

fn fresh_tcp(servers: &Servers, to: SocketAddr, repeat: u32) -> Result<()> {
    for _ in 0..repeat / 4 {
        for _ in 0..4 {
            let stream = TcpStream::connect(to)?;
            let accepted = servers.tcp.accept()?;
            // The server's side is closed first, and with a reset: no port is left waiting.
            linger_off(&accepted.0)?;
            drop(accepted);
            drop(stream);
        }
    }
    Ok(())
}

fn linger_off(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger)?)
}

/// A bpf file system and two cgroups; gone when this is dropped.
struct Place {
    bpffs: tempfile::TempDir,
    hooked: PathBuf,
    plain: PathBuf,
    home: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        let bpffs = tempfile::tempdir()?;
        mount(Some("bpf"), bpffs.path(), Some("bpf"), MsFlags::empty(), None::<&str>).context("mount bpffs")?;
        let root = Hierarchies::find()?.unified;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let home = root.join(own.lines().find_map(|line| line.strip_prefix("0::/")).context("our place in cgroup2")?);
        let cgroup = |kind: &str| root.join(format!("diolkos-bench-{kind}-{}", std::process::id()));
        let place = Self { bpffs, hooked: cgroup("hooked"), plain: cgroup("plain"), home };
        for directory in [&place.hooked, &place.plain] {
            fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        }
        Ok(place)
    }

    fn enter(&self, cgroup: &Path) -> Result<()> {
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).context("move to a cgroup")
    }

    /// Attaches the socket hooks to one cgroup, with one Service in the maps.
    fn attach(&self) -> Result<Driver> {
        let config = Config {
            gateway_v4: [10, 244, 1, 1],
            route_mask_v4: [255, 255, 255, 0],
            pod_cidr_v4: [10, 244, 1, 0],
            service_cidr_v4: [10, 96, 0, 0],
            service_mask_v4: [255, 255, 0, 0],
            ..Config::EMPTY
        };
        let (bpffs, cgroup) = (self.bpffs.path().to_owned(), self.hooked.clone());
        let dataplane = Shared::new(Kernel::open(&KernelOptions { bpffs, node: NODE.into(), cgroup, config })?);
        let this = ThisNode {
            name: NODE.into(),
            node_v4: None,
            node_v6: None,
            pod_cidr_v4: Some("10.244.1.0/24".parse()?),
            pod_cidr_v6: None,
            service_cidrs: vec![],
            overlay_mtu: 1450,
            on_link: OnLink::default(),
            clock: Clock::calibrate(),
        };
        let mut driver = Driver::new(dataplane.clone(), this, QUARANTINE);
        let ports =
            json!([{ "name": "t", "port": 80, "protocol": "TCP" }, { "name": "u", "port": 80, "protocol": "UDP" }]);
        let targets =
            json!([{ "name": "t", "port": PORT, "protocol": "TCP" }, { "name": "u", "port": PORT, "protocol": "UDP" }]);
        driver.apply(Change::Nodes(vec![]));
        driver.apply(Change::Services(vec![serde_json::from_value(json!({
            "metadata": { "name": "s", "namespace": "bench" },
            "spec": { "clusterIP": SERVICE.ip(), "clusterIPs": [SERVICE.ip()], "ports": ports },
        }))?]));
        driver.apply(Change::Slices(vec![serde_json::from_value(json!({
            "metadata": { "name": "s-1", "namespace": "bench", "labels": { "kubernetes.io/service-name": "s" } },
            "addressType": "IPv4", "ports": targets, "endpoints": [{ "addresses": [BACKEND] }],
        }))?]));
        driver.cycle(Duration::ZERO);
        ensure!(driver.has_synced() && driver.refusals().is_empty(), "not in sync: {:?}", driver.refusals());
        dataplane.lock().put_in_place()?;
        Ok(driver)
    }

    fn detach(&self) -> Result<()> {
        Ok(kernel::remove(self.bpffs.path(), NODE)?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.enter(&self.home);
        let _ = kernel::remove(self.bpffs.path(), NODE);
        let _ = umount2(self.bpffs.path(), MntFlags::MNT_DETACH);
        for directory in [&self.hooked, &self.plain] {
            let _ = fs::remove_dir(directory);
        }
    }
}
