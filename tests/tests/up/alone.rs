//! A control plane in one process.

use std::time::Instant;

use anyhow::{Result, ensure};
use diolkos_tests::eventually;
use diolkos_tests::process::Process;

use crate::machine::{FIRST, Machine, PATIENCE, Wire, mode, said};

fn up(wire: &Wire, machine: &Machine, further: &[&str]) -> Result<Process> {
    let data = machine.path("data");
    let mut server = wire.start(machine, "up", &[&["up", "--data-dir", &data], further].concat())?;
    said(&mut server, "ready in ")?;
    Ok(server)
}

#[test]
fn up_makes_a_cluster_from_nothing_and_keeps_it_over_a_kill() -> Result<()> {
    let wire = Wire::new()?;
    let machine = wire.first()?;
    let mut server = up(&wire, &machine, &[])?;
    let log = server.log();
    ensure!(log.contains(&format!("https://{FIRST}:6443")), "the URL is said: {log}");
    for step in ["certificates", "store", "apiserver", "scheduler", "controllers"] {
        ensure!(log.lines().any(|line| line.starts_with(step)), "{step} is said: {log}");
    }
    let admin = machine.path("data/pki/admin.kubeconfig");
    ensure!(log.contains(&format!("export KUBECONFIG={admin}")), "the one command is said: {log}");
    ensure!(mode(&admin)? == 0o600, "the kubeconfig is private");
    let kubectl = |arguments: &[&str]| machine.kubectl(&admin, arguments);
    ensure!(kubectl(&["get", "nodes"])?.is_empty(), "no node yet");
    kubectl(&["create", "deployment", "web", "--image=registry.local/web:1"])?;
    // The controllers work: the Deployment gets its ReplicaSet, and that its pod.
    eventually("a pod is made", PATIENCE, || {
        let pods = kubectl(&["get", "pods", "-o", "name"])?;
        ensure!(pods.starts_with("pod/web-"), "{pods:?}");
        Ok(())
    })?;
    let authority = std::fs::read(machine.path("data/pki/ca.crt"))?;

    server.kill()?;
    server.restart()?;
    let begun = Instant::now();
    eventually("the pod is still there", PATIENCE, || {
        let pods = kubectl(&["get", "pods", "-o", "name"])?;
        ensure!(pods.starts_with("pod/web-"), "{pods:?}");
        Ok(())
    })?;
    // Nobody else can use the store's file, so nobody waits for the Lease of the one that was killed.
    kubectl(&["scale", "deployment", "web", "--replicas=2"])?;
    eventually("the controllers act", PATIENCE, || {
        let pods = kubectl(&["get", "pods", "-o", "name"])?;
        ensure!(pods.lines().count() == 2, "{pods:?}");
        Ok(())
    })?;
    ensure!(begun.elapsed().as_secs() < 12, "the controllers waited for a Lease: {:?}", begun.elapsed());
    ensure!(std::fs::read(machine.path("data/pki/ca.crt"))? == authority, "the authority is the same");
    server.stop()?;
    ensure!(!server.log().contains("ERROR"), "{}", server.log());
    Ok(())
}

#[test]
fn a_part_that_cannot_run_ends_the_process_with_its_reason() -> Result<()> {
    let wire = Wire::new()?;
    let machine = wire.first()?;
    let data = machine.path("data");
    let _first = up(&wire, &machine, &[])?;
    // The store's file is taken, and says so.
    let why = machine.diolkos(&["up", "--data-dir", &data, "--listen", "0.0.0.0:7443"]).unwrap_err().to_string();
    ensure!(why.contains("the apiserver cannot start") && why.contains("store.db"), "{why}");
    let other = machine.path("other");
    let why = machine.diolkos(&["up", "--data-dir", &other]).unwrap_err().to_string();
    ensure!(why.contains("cannot listen on 0.0.0.0:6443"), "{why}");
    let node = ["up", "--data-dir", &other, "--listen", "0.0.0.0:7443", "--node"];
    let why = machine.diolkos(&node).unwrap_err().to_string();
    ensure!(why.contains("--container-runtime-endpoint"), "{why}");
    Ok(())
}

#[test]
fn a_configuration_file_says_what_flags_say() -> Result<()> {
    let wire = Wire::new()?;
    let machine = wire.first()?;
    let file = machine.path("config.yaml");
    std::fs::write(&file, "listen: 0.0.0.0:7443\nadvertise-address: 127.0.0.1\nsan: [api.example]\n")?;
    let admin = machine.path("admin.conf");
    let mut server = up(&wire, &machine, &["--config", &file, "--write-kubeconfig", &admin, "--listen=0.0.0.0:8443"])?;
    ensure!(said(&mut server, "ready in ")?.ends_with("https://127.0.0.1:8443"), "the command line counts more");
    ensure!(mode(&admin)? == 0o600);
    machine.kubectl(&admin, &["get", "namespaces"])?;
    std::fs::write(&file, "speed: fast\n")?;
    let why = machine.diolkos(&["up", "--config", &file]).unwrap_err().to_string();
    ensure!(why.contains("--speed"), "{why}");
    Ok(())
}
