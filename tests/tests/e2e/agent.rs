//! The agent dies and comes back; nobody notices.

use std::process::Stdio;

use anyhow::ensure;
use diolkos_tests::{Cluster, iperf};

use crate::fixture::{Fixture, PATIENCE, fixture, get, pod, service};
use crate::maps::Dump;

/// Times the agent is killed and started again during one iperf3 run.
const RESTARTS: usize = 20;
/// What the agent logs once it takes pods.
const READY: &str = "ready for pods";

#[test]
fn an_agent_killed_and_started_again_during_iperf_resets_nothing_and_changes_no_map() {
    let mut fixture = fixture();
    fixture.cluster.apply(&service("throughput", "far", 5201, 5201).to_string()).unwrap();
    let address = fixture.cluster.service_field("throughput", "clusterIP").unwrap();
    let client = fixture.client.clone();
    let reachable =
        |cluster: &mut Cluster| cluster.exec(&client, &[&["iperf3"], &iperf::probe(&address)[..]].concat()).map(drop);
    fixture.cluster.wait("iperf3 answers through its Service", PATIENCE, reachable).unwrap();
    let before = Dump::of(fixture.cluster.node(0)).unwrap();
    let mut iperf = fixture.cluster.exec_command(&fixture.client, "iperf3").unwrap();
    // Longer than the restarts take; it is ended when they are through.
    iperf.args(["--client", &address, "--time", "80", "--interval", "0.2", "--forceflush"]);
    let mut iperf = iperf.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for _ in 0..RESTARTS {
        fixture.cluster.node_mut(0).kill_agent().unwrap();
        start(&mut fixture);
    }
    assert!(iperf.try_wait().unwrap().is_none(), "iperf3 ended during the restarts");
    // SIGTERM makes the client print its summary.
    fixture.cluster.exec(&client, &["killall", "-TERM", "iperf3"]).unwrap();
    let output = iperf.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!err.contains("reset") && !err.contains("unable"), "{err}");
    // Below the line is the summary, of which an interrupted client does not know the receiver's half.
    let intervals: Vec<&str> = out.lines().take_while(|line| !line.starts_with("- -")).collect();
    let moving = intervals.iter().filter(|line| line.contains("bits/sec")).count();
    let idle = intervals.iter().filter(|line| line.contains(" 0.00 bits/sec")).count();
    assert!(moving > 0 && idle == 0, "data stood still: {out}");
    let after = Dump::of(fixture.cluster.node(0)).unwrap();
    assert_eq!(before, after);
    fixture.cluster.kubectl(&["delete", "service", "throughput"]).unwrap();
}

#[test]
fn connects_go_on_while_the_agent_is_away() {
    let mut fixture = fixture();
    fixture.cluster.node_mut(0).kill_agent().unwrap();
    let answers = fixture.answers(&fixture.web, 80, 60);
    start(&mut fixture);
    assert_eq!(answers.get("failed"), None, "{answers:?}");
}

#[test]
fn what_changed_while_the_agent_was_away_is_caught_up() {
    let mut fixture = fixture();
    fixture.cluster.node_mut(0).kill_agent().unwrap();
    fixture.cluster.apply(&service("late", "far", 80, 8080).to_string()).unwrap();
    let address = fixture.cluster.service_field("late", "clusterIP").unwrap();
    assert!(get(&fixture.cluster, &fixture.client, &address, 80).is_err(), "nobody can have written this Service");
    start(&mut fixture);
    fixture.wait_answer(&address, 80);
    fixture.cluster.kubectl(&["delete", "service", "late"]).unwrap();
}

#[test]
fn a_pod_gets_its_network_after_the_agent_was_away() {
    let mut fixture = fixture();
    fixture.cluster.node_mut(0).kill_agent().unwrap();
    fixture.cluster.apply(&pod("patient", Some("node-1")).to_string()).unwrap();
    start(&mut fixture);
    let patient = fixture.cluster.wait_pods("app=patient", 1, PATIENCE).unwrap().remove(0);
    assert_eq!(get(&fixture.cluster, &fixture.client, &patient.address, 8080).unwrap(), "patient");
    fixture.cluster.kubectl(&["delete", "pod", "patient"]).unwrap();
    fixture.cluster.wait_pods("app=patient", 0, PATIENCE).unwrap();
}

/// Starts the agent that was killed, and waits until it says that it is in sync and takes pods.
pub(crate) fn start(fixture: &mut Fixture) {
    let ready = |cluster: &Cluster| cluster.node(0).agent().log().matches(READY).count();
    let before = ready(&fixture.cluster);
    fixture.cluster.node_mut(0).start_agent().unwrap();
    let look = |cluster: &mut Cluster| {
        ensure!(ready(cluster) > before, "it has not said {READY:?} again");
        Ok(())
    };
    fixture.cluster.wait("the agent is ready again", PATIENCE, look).unwrap();
}

#[test]
fn a_service_carries_bulk_data() {
    let mut fixture = fixture();
    fixture.cluster.apply(&service("bulk", "far", 5201, 5201).to_string()).unwrap();
    let address = fixture.cluster.service_field("bulk", "clusterIP").unwrap();
    let client = fixture.client.clone();
    let reachable =
        |cluster: &mut Cluster| cluster.exec(&client, &[&["iperf3"], &iperf::probe(&address)[..]].concat()).map(drop);
    fixture.cluster.wait("iperf3 answers through its Service", PATIENCE, reachable).unwrap();
    let command = || {
        let mut command = fixture.cluster.exec_command(&client, "iperf3")?;
        command.args(iperf::arguments(&address, 1));
        Ok(command)
    };
    let gbps = iperf::measure(command).unwrap();
    assert!(gbps > 0.2, "{gbps} Gbit/s");
    fixture.cluster.kubectl(&["delete", "service", "bulk"]).unwrap();
}
