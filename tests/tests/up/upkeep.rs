//! Certificates that are renewed while everything runs, and a machine from which everything is removed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use diolkos_tests::eventually;
use diolkos_tests::process::Process;

use crate::machine::{FIRST, Machine, PATIENCE, Wire, said};

/// What all certificates here are valid for, in seconds.
const LIFE: &str = "30s";

/// The text of openssl about the certificate that a server shows now.
fn shown(machine: &Machine) -> Result<String> {
    let ask =
        format!("openssl s_client -connect {FIRST}:6443 </dev/null 2>/dev/null | openssl x509 -noout -serial -enddate");
    machine.space.run(&["sh", "-c", &ask])
}

/// A control plane of the first machine.
fn plane(wire: &Wire, first: &Machine, further: &[&str]) -> Result<Process> {
    let data = first.path("data");
    let mut plane = wire.start(first, "up", &[&["up", "--data-dir", &data], further].concat())?;
    said(&mut plane, "ready in ")?;
    Ok(plane)
}

/// The second machine joins it, and runs as its unit would have it.
fn node(wire: &Wire, first: &Machine, second: &Machine) -> Result<Process> {
    let admin = first.path("data/pki/admin.kubeconfig");
    let printed = first.diolkos(&["token", "create", "--kubeconfig", &admin, "--print-join-command"])?;
    let config = second.path("etc/diolkos/node.yaml");
    let mut join: Vec<String> = printed.trim().split(' ').skip(1).map(str::to_owned).collect();
    join.extend(["--data-dir".into(), second.path("data"), "--config-file".into(), config.clone()]);
    join.extend(["--systemd-units".into(), second.path("systemd")]);
    join.extend(second.node_flags("node-a"));
    second.diolkos(&join.iter().map(String::as_str).collect::<Vec<_>>())?;
    ensure!(fs::exists(second.path("systemd/diolkos-node.service"))?, "the unit is written");
    let mut node = wire.start(second, "node", &["node", "--config", &config])?;
    said(&mut node, "the kubelet starts")?;
    Ok(node)
}

/// Whether the client certificate of a kubeconfig has ended.
fn has_ended(machine: &Machine, kubeconfig: &str) -> bool {
    let read = format!("grep client-certificate-data {kubeconfig} | sed 's/.*: //' | base64 -d");
    machine.space.run(&["sh", "-c", &format!("{read} | openssl x509 -noout -checkend 0")]).is_err()
}

#[test]
fn certificates_are_renewed_while_everything_runs() -> Result<()> {
    let mut wire = Wire::new()?;
    let (first, second) = (wire.first()?, wire.add(1)?);
    let flags = ["--certificate-validity-period", LIFE, "--cluster-signing-duration", LIFE];
    let mut plane = plane(&wire, &first, &flags)?;
    let mut node = node(&wire, &first, &second)?;
    let admin = first.path("data/pki/admin.kubeconfig");
    let of_kubelet = second.path("data/kubelet.kubeconfig");
    let files = [
        first.path("data/pki/apiserver.crt"),
        first.path("data/scheduler.kubeconfig"),
        first.path("data/controller-manager.kubeconfig"),
        admin.clone(),
        of_kubelet.clone(),
        second.path("data/agent.kubeconfig"),
    ];
    let old: Vec<String> = files.iter().map(fs::read_to_string).collect::<std::io::Result<_>>()?;
    let (kept, server) = (second.path("first.kubeconfig"), shown(&first)?);
    fs::copy(&of_kubelet, &kept)?;
    let authority = fs::read(first.path("data/pki/ca.crt"))?;
    eventually("every certificate is replaced and the first ones have ended", Duration::from_secs(60), || {
        for (path, old) in files.iter().zip(&old) {
            ensure!(fs::read_to_string(path)? != *old, "{path} is still the old one");
        }
        ensure!(shown(&first)? != server, "the server still shows the old one");
        ensure!(has_ended(&second, &kept), "the first certificate is still good");
        Ok(())
    })?;
    plane.check()?;
    // Everybody has to connect anew, and nobody can with what it began with. The kubelet was never started again.
    plane.kill()?;
    plane.restart()?;
    let renewed = || -> Result<String> {
        let field = "jsonpath={.spec.renewTime}";
        first.kubectl(&admin, &["get", "lease", "-n", "kube-node-lease", "node-a", "-o", field])
    };
    let seen = eventually("the control plane is back", PATIENCE, renewed)?;
    eventually("the kubelet goes on", PATIENCE, || {
        ensure!(renewed()? != seen, "no heartbeat since {seen}");
        Ok(())
    })?;
    ensure!(fs::read(first.path("data/pki/ca.crt"))? == authority, "the authority stays");
    node.check()
}

/// What was there before: neighbours of everything that is made.
fn settle(machine: &Machine) -> Result<()> {
    for (path, text) in [
        ("data/mine.txt", "mine"),
        ("etc/diolkos/mine.yaml", "mine: yes"),
        ("systemd/other.service", "[Unit]"),
        ("systemd/diolkos.service", "[Unit] of another hand"),
        ("cni/bin/loopback", "another's loopback"),
        ("cni/net.d/20-other.conflist", "{}"),
        ("pods/kept.log", "a line"),
    ] {
        let path = machine.path(path);
        fs::create_dir_all(Path::new(&path).parent().context("no parent")?)?;
        fs::write(path, text)?;
    }
    Ok(())
}

/// Files, network devices, routes of ours and pins.
fn state(machine: &Machine) -> Result<[Vec<String>; 4]> {
    let links = names(&machine.space.run(&["ip", "-brief", "link"])?);
    let routes = machine.space.run(&["ip", "route", "show", "proto", "209"])?;
    let routes = routes.lines().map(str::to_owned).collect();
    Ok([machine.files(&machine.path(""))?, links, routes, machine.files("/sys/fs/bpf")?])
}

fn reset(machine: &Machine, further: &[&str]) -> Result<String> {
    let flags = [
        ("--data-dir", "data"),
        ("--config-file", "etc/diolkos/node.yaml"),
        ("--systemd-units", "systemd"),
        ("--cni-bin-dir", "cni/bin"),
        ("--cni-conf-dir", "cni/net.d"),
    ]
    .map(|(flag, path)| [flag.to_owned(), machine.path(path)]);
    let flags: Vec<&str> = flags.iter().flatten().map(String::as_str).collect();
    machine.diolkos(&[&["reset"], &flags[..], further].concat())
}

#[test]
fn reset_removes_what_was_made_and_nothing_else() -> Result<()> {
    let mut wire = Wire::new()?;
    let (first, second) = (wire.first()?, wire.add(1)?);
    settle(&second)?;
    let before = state(&second)?;
    let _plane = plane(&wire, &first, &[])?;
    let mut node = node(&wire, &first, &second)?;
    eventually("the agent has installed everything", PATIENCE, || {
        node.check()?;
        ensure!(fs::exists(second.path("cni/net.d/10-diolkos.conflist"))?, "{}", node.tail());
        let [_, links, _, pins] = state(&second)?;
        ensure!(links.contains(&"diolkos_vxlan".to_owned()) && !pins.is_empty());
        Ok(())
    })?;
    let running = reset(&second, &["--yes"]).unwrap_err().to_string();
    ensure!(running.contains("agent.lock is held"), "what runs is not removed: {running}");
    node.stop()?;
    let unasked = reset(&second, &[]).unwrap_err().to_string();
    ensure!(unasked.contains("say --yes"), "{unasked}");
    let told = reset(&second, &["--yes"])?;
    for thing in ["systemd unit", "kubelet.kubeconfig", "network device diolkos_vxlan", "10-diolkos.conflist"] {
        ensure!(told.contains(thing), "{thing} is listed: {told}");
    }
    let after = state(&second)?;
    ensure!(after == before, "files, links, routes and pins differ:\n{before:#?}\n{after:#?}");
    ensure!(second.space.run(&["ls", "/run"])?.lines().all(|name| name != "diolkos"));
    let again = reset(&second, &["--yes"])?;
    ensure!(again.contains("nothing of Diolkos is on this machine"), "{again}");
    ensure!(state(&second)? == before, "a second time changes nothing");
    Ok(())
}

fn names(links: &str) -> Vec<String> {
    let first = |line: &str| line.split([' ', '@']).next().unwrap_or_default().to_owned();
    links.lines().map(first).collect()
}
