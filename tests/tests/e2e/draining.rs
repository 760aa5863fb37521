//! Connections while backends come and go.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::json;

use crate::fixture::{Fixture, PATIENCE, Place, deployment, fixture, probe_command};

/// A connection that is held to an echo.
struct Held {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Held {
    /// Returns when the echo has answered.
    fn open(fixture: &Fixture, from: Place<'_>, address: &str, seconds: &str) -> Self {
        let mut command = probe_command(&fixture.cluster, from).unwrap();
        command.args(["hold", address, "9000", seconds]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "held", "{from:?} {address}");
        Self { child, lines }
    }

    /// How it ended.
    fn end(mut self) -> String {
        let end = self.lines.next().unwrap().unwrap();
        self.child.wait().unwrap();
        end
    }
}

fn drained(name: &str, replicas: usize, grace: u32) -> String {
    let mut deployment = deployment(name, replicas);
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = grace.into();
    deployment.to_string()
}

fn echo(fixture: &mut Fixture, name: &str) -> Vec<String> {
    let mut ports = json!([{ "name": "main", "port": 80, "targetPort": 8080 }]);
    ports.as_array_mut().unwrap().push(json!({ "name": "echo", "port": 9000, "targetPort": 9000 }));
    let addresses = fixture.serve(name, name, 8080, &json!({ "ipFamilyPolicy": "RequireDualStack", "ports": ports }));
    let client = fixture.client.clone();
    for address in &addresses {
        let ask = ["tcp", address, "80", "1"];
        let look = |cluster: &mut diolkos_tests::Cluster| {
            let said = crate::fixture::ask(cluster, Place::Pod(&client), &ask)?;
            anyhow::ensure!(said.starts_with(name), "it says {said}");
            Ok(())
        };
        fixture.cluster.wait("the Service answers", PATIENCE, look).unwrap();
    }
    addresses
}

#[test]
fn a_rolling_change_keeps_connections_until_their_pods_end() {
    let mut fixture = fixture();
    fixture.cluster.apply(&drained("rolled", 2, 12)).unwrap();
    let old = fixture.cluster.wait_pods("app=rolled", 2, PATIENCE).unwrap();
    let addresses = echo(&mut fixture, "rolled");
    let client = fixture.client.clone();
    let from = [Place::Pod(&client), Place::Packets(&client), Place::Node(1)];
    let mut held = Vec::new();
    for address in &addresses {
        held.extend(from.map(|from| Held::open(&fixture, from, address, "7")));
    }
    fixture.cluster.kubectl(&["delete", "pod", "-l", "app=rolled", "--wait=false"]).unwrap();
    let ready = |cluster: &mut diolkos_tests::Cluster| {
        let pods = cluster.pods("app=rolled")?;
        let ready: Vec<String> = pods.into_iter().filter(|pod| pod.ready).map(|pod| pod.name).collect();
        anyhow::ensure!(ready.len() == 2, "{ready:?} are ready");
        Ok(ready)
    };
    fixture.cluster.wait("two new pods are ready", PATIENCE, ready).unwrap();
    // New connections go to the new pods, as soon as the nodes know them.
    for address in &addresses {
        let ask = ["tcp", address, "80", "30"];
        let look = |cluster: &mut diolkos_tests::Cluster| {
            let said = crate::fixture::ask(cluster, Place::Pod(&client), &ask)?;
            anyhow::ensure!(!old.iter().any(|pod| said.contains(&pod.name)), "old pods answer: {said}");
            anyhow::ensure!(said.lines().all(|name| name.starts_with("rolled-")), "{said}");
            Ok(())
        };
        fixture.cluster.wait("only new pods answer", PATIENCE, look).unwrap();
    }
    // The old ones still serve whom they have.
    for held in held {
        assert_eq!(held.end(), "held");
    }
    fixture.cluster.kubectl(&["delete", "deployment,service", "rolled"]).unwrap();
}

#[test]
fn connections_to_pods_that_are_gone_end() {
    let mut fixture = fixture();
    fixture.cluster.apply(&drained("leaving", 4, 1)).unwrap();
    fixture.cluster.wait_pods("app=leaving", 4, PATIENCE).unwrap();
    let addresses = echo(&mut fixture, "leaving");
    let client = fixture.client.clone();
    let mut held = Vec::new();
    for address in &addresses {
        for from in [Place::Pod(&client), Place::Packets(&client), Place::Node(1)] {
            held.push(Held::open(&fixture, from, address, "60"));
        }
    }
    fixture.cluster.kubectl(&["delete", "deployment,service", "leaving"]).unwrap();
    fixture.cluster.wait_pods("app=leaving", 0, PATIENCE).unwrap();
    for held in held {
        let end = held.end();
        assert!(matches!(end.as_str(), "reset" | "closed" | "refused"), "a connection to a pod that is gone: {end}");
    }
}
