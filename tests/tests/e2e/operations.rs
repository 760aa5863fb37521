//! The operator's commands on the nodes of a running cluster.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use anyhow::ensure;
use diolkos_tests::{Cluster, Node, Pod, tools};
use serde_json::{Value, json};

use crate::agent::start;
use crate::fixture::{Fixture, PATIENCE, Place, ask, fixture};

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    /// What a command that succeeded printed, which holds all these.
    #[track_caller]
    fn says(self, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        for part in parts {
            assert!(self.out.contains(part), "{part:?} is not in\n{}", self.out);
        }
        self.out
    }

    fn json(self) -> Value {
        serde_json::from_str(&self.says(&[])).unwrap()
    }
}

fn command(node: &Node, arguments: &[&str]) -> Command {
    let mut command = node.space().bounded(tools::diolkos().unwrap());
    command.args(arguments).stdin(Stdio::null());
    command
}

fn diolkos(node: &Node, arguments: &[&str]) -> Ended {
    let output = command(node, arguments).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Ended { code: output.status.code(), out, err }
}

/// `address:port` as a person writes it.
fn end(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The addresses of the pods behind the Service `both`, of one family.
fn behind(fixture: &Fixture, family: usize) -> Vec<String> {
    let pods = fixture.cluster.pods("app=web").unwrap();
    let mut ends: Vec<String> = pods.iter().map(|pod| end(&pod.addresses[family], 8080)).collect();
    ends.sort();
    ends
}

#[test]
fn status_tells_a_node_that_is_well_from_one_without_its_agent() {
    let mut fixture = fixture();
    for node in fixture.cluster.nodes() {
        let well = diolkos(node, &["status", "--json"]).json();
        assert_eq!((&well["healthy"], &well["problems"]), (&json!(true), &json!([])), "{well}");
        assert_eq!((&well["node"], &well["agent"]["ready"]), (&json!(node.name()), &json!(true)), "{well}");
        assert_eq!(well["counts"]["nodes"], 1, "{well}");
        let programs = well["programs"].to_string();
        for program in ["connect4", "connect6", "from_overlay", "to_overlay", "from_netdev", "to_netdev"] {
            assert!(programs.contains(program), "{program} is not in {programs}");
        }
    }
    let node = fixture.cluster.node(0);
    diolkos(node, &["status"]).says(&["node-1", "healthy", "alive, ready", "from_container"]);
    fixture.cluster.node_mut(0).kill_agent().unwrap();
    let ill = diolkos(fixture.cluster.node(0), &["status"]);
    start(&mut fixture);
    assert_eq!(ill.code, Some(1), "{ill:?}");
    assert!(ill.out.contains("the agent is away"), "{ill:?}");
    diolkos(fixture.cluster.node(0), &["status"]).says(&["alive, ready"]);
}

#[test]
fn the_list_of_services_names_each_with_the_pods_behind_it() {
    let fixture = fixture();
    for node in fixture.cluster.nodes() {
        let list = diolkos(node, &["service", "list", "--json"]).json();
        for (family, address) in fixture.both.iter().enumerate() {
            for protocol in ["TCP", "UDP"] {
                let is_it = |frontend: &&Value| {
                    frontend["address"] == *address && frontend["port"] == 80 && frontend["protocol"] == protocol
                };
                let frontend = list.as_array().unwrap().iter().find(is_it).unwrap();
                assert_eq!(frontend["service"], "default/both", "{frontend}");
                let backends = frontend["backends"].as_array().unwrap();
                assert!(backends.iter().all(|backend| backend["state"] == "alive"), "{frontend}");
                let text = |backend: &Value| end(backend["address"].as_str().unwrap(), 8080);
                let mut ends: Vec<String> = backends.iter().map(text).collect();
                ends.sort();
                assert_eq!(ends, behind(&fixture, family), "{}: {frontend}", node.name());
            }
        }
        let frontends = fixture.both.each_ref().map(|address| format!("{}/TCP", end(address, 80)));
        diolkos(node, &["service", "list"]).says(&["SERVICE", "default/both", &frontends[0], &frontends[1]]);
    }
}

#[test]
fn a_trace_leads_from_a_pod_through_its_service_to_a_pod_behind_it() {
    let fixture = fixture();
    for (family, address) in fixture.both.iter().enumerate() {
        let (from, to) = (&fixture.client.addresses[family], end(address, 80));
        for protocol in ["tcp", "udp"] {
            let trace = diolkos(fixture.cluster.node(0), &["trace", from, &to, "--protocol", protocol, "--json"]);
            let trace = trace.json();
            assert_eq!(trace["origin"], "pod", "{trace}");
            let stages = trace["stages"].as_array().unwrap();
            assert!(stages.len() == 3 && stages.iter().all(|stage| stage["differs"].is_null()), "{trace}");
            assert!(stages[1..].iter().all(|stage| stage["unchecked"].is_null()), "{trace}");
            for stage in stages {
                assert!(stage["drop"].is_null(), "{stage}");
                let output = stage["output"].as_str().unwrap();
                assert!(behind(&fixture, family).iter().any(|end| output.contains(end.as_str())), "{stage}");
            }
        }
        let text = diolkos(fixture.cluster.node(0), &["trace", from, &to]);
        text.says(&["is service", "(default/both)", "=> translated", "of a socket without the hook"]);
        let unserved = diolkos(fixture.cluster.node(0), &["trace", from, &end(address, 81)]);
        unserved.says(&["REFUSED unknown_port"]);
    }
    let wrong = diolkos(fixture.cluster.node(0), &["trace", &fixture.client.addresses[1], &end(&fixture.both[0], 80)]);
    assert!(wrong.code == Some(1) && wrong.err.contains("two families"), "{wrong:?}");
}

/// A monitor that ends by itself or with the test.
struct Monitor(Child);

impl Monitor {
    fn start(node: &Node, arguments: &[&str]) -> Self {
        let mut command = command(node, &[&["monitor", "--json"], arguments].concat());
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Asks for an address until enough was seen; the records.
    fn watch(mut self, cluster: &mut Cluster, pod: &Pod, arguments: &[&str]) -> Vec<Value> {
        let look = |cluster: &mut Cluster| {
            // What becomes of it is the monitor's to tell.
            let _ = ask(cluster, Place::Packets(pod), arguments);
            ensure!(self.0.try_wait()?.is_some(), "it has not seen enough");
            Ok(())
        };
        cluster.wait("the monitor ends", PATIENCE, look).unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert!(self.0.wait().unwrap().success(), "{err}");
        assert!(err.contains("lines shown"), "{err}");
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_monitor_shows_what_a_pod_is_refused_with_its_reason() {
    let mut fixture = fixture();
    let client = fixture.client.clone();
    for (family, address) in fixture.both.clone().iter().enumerate() {
        let arguments = ["--drops", "--address", address, "--hook", "from_container", "--count", "4"];
        let monitor = Monitor::start(fixture.cluster.node(0), &arguments);
        let records = monitor.watch(&mut fixture.cluster, &client, &["tcp", address, "81", "1"]);
        assert_eq!(records.len(), 4, "{records:?}");
        let pod = &client.addresses[family];
        for refused in records.chunks(2) {
            // What is refused, and what the pod is told.
            let [refused, told] = refused else { panic!("{records:?}") };
            assert_eq!((&refused["drop"], &refused["detail"]), (&json!("unknown_port"), &json!("SYN")), "{refused}");
            assert_eq!((&refused["source"], &refused["protocol"]), (&json!(pod), &json!("TCP")), "{refused}");
            assert_eq!((&refused["destination"], &refused["destination_port"]), (&json!(address), &json!(81)));
            assert_eq!((&told["verdict"], &told["detail"]), (&json!("answered"), &json!("RST,ACK")), "{told}");
            assert_eq!((&told["destination"], &told["source"]), (&json!(pod), &json!(address)), "{told}");
        }
    }
}

#[test]
fn the_monitor_shows_what_goes_on() {
    let mut fixture = fixture();
    let (client, far) = (fixture.client.clone(), fixture.far.clone());
    let arguments = ["--flows", "--sample", "1", "--address", &far.address, "--hook", "from_container", "--count", "4"];
    let monitor = Monitor::start(fixture.cluster.node(0), &arguments);
    let records = monitor.watch(&mut fixture.cluster, &client, &["tcp", &far.address, "8080", "1"]);
    assert_eq!(records.len(), 4, "{records:?}");
    for record in records {
        assert_eq!((&record["verdict"], &record["drop"]), (&json!("overlay"), &Value::Null), "{record}");
        assert_eq!((&record["source"], &record["destination"]), (&json!(client.address), &json!(far.address)));
    }
}

#[test]
fn check_says_whether_a_machine_can_be_a_node() {
    let fixture = fixture();
    let node = fixture.cluster.node(0);
    let group = node.space().cgroup().to_string_lossy().into_owned();
    let works = diolkos(node, &["check", "--json", "--cgroup-root", &group]).json();
    assert_eq!(works["works"], true, "{works}");
    diolkos(node, &["check", "--cgroup-root", &group]).says(&["bpf file system", "cgroup2"]);
    let lacks = diolkos(node, &["check", "--bpffs", "/tmp", "--cgroup-root", &group]);
    assert_eq!(lacks.code, Some(1), "{lacks:?}");
    assert!(lacks.out.contains("mount -t bpf"), "{lacks:?}");
}
