//! The harness itself: nothing it makes outlives it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use diolkos_tests::cgroup::Hierarchies;
use diolkos_tests::eventually;
use diolkos_tests::guard::Guard;
use diolkos_tests::process::Process;
use diolkos_tests::space::Spaces;

/// Set for the process that `a_killed_run_leaves_nothing` starts and kills.
const VICTIM: &str = "DIOLKOS_HARNESS_VICTIM";

#[test]
fn a_node_has_its_own_network_run_directory_and_bpffs() {
    let (guard, mut spaces) = spaces();
    let node = spaces.add(guard.make_cgroup("node/system").unwrap()).unwrap();
    node.run(&["mkdir", "/run/mine", "/sys/fs/bpf/mine"]).unwrap();
    let other = spaces.add(guard.make_cgroup("other/system").unwrap()).unwrap();
    assert!(!other.run(&["ls", "/run", "/sys/fs/bpf"]).unwrap().contains("mine"));
    assert!(!Path::new("/run/mine").exists());
    let links = node.run(&["ip", "-brief", "link"]).unwrap();
    assert!(links.starts_with("lo ") && links.lines().count() == 1, "{links}");
    let group = node.run(&["cat", "/proc/self/cgroup"]).unwrap();
    assert!(group.contains(&format!("0::/{}/node/system", guard.name())), "{group}");
}

#[test]
fn a_server_that_ends_is_reported_with_its_log() {
    let (guard, spaces) = spaces();
    let argv = ["sh", "-c", "echo no luck today; exit 3"].map(str::to_owned);
    let mut server = Process::start("unlucky", spaces.control(), guard.directory(), &argv).unwrap();
    let error = eventually("the end", Duration::from_secs(5), || match server.check() {
        Ok(()) => anyhow::bail!("it still runs"),
        Err(error) => Ok(format!("{error:#}")),
    });
    let error = error.unwrap();
    assert!(error.contains("unlucky ended") && error.contains("no luck today"), "{error}");
}

#[test]
fn a_server_can_be_killed_and_started_again() {
    let (guard, spaces) = spaces();
    let argv = ["sleep", "infinity"].map(str::to_owned);
    let mut server = Process::start("sleeper", spaces.control(), guard.directory(), &argv).unwrap();
    let first = server.pid().unwrap();
    server.kill().unwrap();
    assert!(server.check().is_err());
    server.restart().unwrap();
    assert_ne!(server.pid().unwrap(), first);
    server.check().unwrap();
    server.stop().unwrap();
}

#[test]
fn a_dropped_cluster_leaves_nothing() {
    let (guard, mut spaces) = spaces();
    let node = spaces.add(guard.make_cgroup("node/system").unwrap()).unwrap();
    let argv = ["setsid", "-f", "sleep", "infinity"].map(str::to_owned);
    let server = Process::start("daemon", &node, guard.directory(), &argv).unwrap();
    let name = guard.name().to_owned();
    let directory = guard.directory().to_owned();
    drop((server, spaces, guard));
    gone(&name, &directory).unwrap();
}

#[test]
fn a_killed_run_leaves_nothing() {
    if std::env::var_os(VICTIM).is_some() {
        return be_the_victim();
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_run_leaves_nothing", "--nocapture"])
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let name = format!("diolkos-{}-0", victim.id());
    let directory = std::env::temp_dir().join(&name);
    eventually("the victim's daemon", Duration::from_secs(10), || {
        ensure!(directory.join("ready").exists(), "not yet");
        Ok(())
    })
    .unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually("everything of the victim is gone", Duration::from_secs(15), || gone(&name, &directory)).unwrap();
}

/// Makes a cluster with a daemon in it, and waits to be killed.
fn be_the_victim() {
    let (guard, mut spaces) = spaces();
    let node = spaces.add(guard.make_cgroup("node/system").unwrap()).unwrap();
    let argv = ["sleep", "infinity"].map(str::to_owned);
    let server = Process::start("daemon", &node, guard.directory(), &argv).unwrap();
    fs::write(guard.directory().join("ready"), "").unwrap();
    // Ends when our parent does, should it fail before it kills us.
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(server);
}

fn spaces() -> (Guard, Spaces) {
    let guard = Guard::new().unwrap();
    let spaces = Spaces::new(guard.make_cgroup("control").unwrap()).unwrap();
    (guard, spaces)
}

fn gone(name: &str, directory: &Path) -> Result<()> {
    ensure!(!directory.exists(), "{} is there", directory.display());
    for cgroup in Hierarchies::find()?.directories(name) {
        ensure!(!cgroup.exists(), "{} is there", cgroup.display());
    }
    let daemons = fs::read_dir("/proc")?.flatten().filter_map(|entry| fs::read(entry.path().join("cgroup")).ok());
    let left = daemons.filter(|text| String::from_utf8_lossy(text).contains(name)).count();
    ensure!(left == 0, "{left} processes are there");
    Ok(())
}
