//! The built plugin against an agent of the test's own.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use serde_json::{Value, json};

const PLUGIN: &str = env!("CARGO_BIN_EXE_diolkos-cni");

#[test]
fn add_sends_environment_and_configuration_and_prints_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, agent) = agent(dir.path(), r#"{"result":{"cniVersion":"1.0.0","ips":[]}}"#);
    let (output, success) = run(Path::new(PLUGIN), "ADD", &config(&socket));
    assert!(success);
    assert_eq!(output, json!({ "cniVersion": "1.0.0", "ips": [] }));
    let request = agent.join().unwrap();
    assert_eq!(request["command"], "ADD");
    assert_eq!(request["containerId"], "c1");
    assert_eq!(request["netns"], "/run/netns/x");
    assert_eq!(request["ifname"], "eth0");
    assert_eq!(request["args"]["K8S_POD_NAME"], "web");
    assert_eq!(request["config"], config(&socket));
}

#[test]
fn an_error_of_the_agent_is_printed_as_it_came_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let error = json!({ "cniVersion": "1.0.0", "code": 101, "msg": "full", "details": "all 253" });
    let (socket, agent) = agent(dir.path(), &json!({ "error": error }).to_string());
    let (output, success) = run(Path::new(PLUGIN), "ADD", &config(&socket));
    assert!(!success);
    assert_eq!(output, error);
    agent.join().unwrap();
}

#[test]
fn del_that_succeeds_prints_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, agent) = agent(dir.path(), r#"{"result":null}"#);
    assert_eq!(run(Path::new(PLUGIN), "DEL", &config(&socket)), (Value::Null, true));
    agent.join().unwrap();
}

#[test]
fn with_the_agent_away_del_succeeds_and_the_others_say_when_to_come_back() {
    let away = config("/nonexistent/agent.sock");
    assert_eq!(run(Path::new(PLUGIN), "DEL", &away), (Value::Null, true));
    for (command, code) in [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)] {
        let (output, success) = run(Path::new(PLUGIN), command, &away);
        assert!(!success, "{command}");
        assert_eq!((&output["code"], &output["cniVersion"]), (&json!(code), &json!("1.0.0")), "{command}");
        assert!(output["msg"].as_str().unwrap().contains("/nonexistent/agent.sock"), "{output}");
    }
}

#[test]
fn an_agent_that_ends_during_the_call_is_away() {
    let dir = tempfile::tempdir().unwrap();
    for (command, code) in [("DEL", None), ("ADD", Some(11))] {
        let (socket, agent) = agent(dir.path(), "");
        let (output, success) = run(Path::new(PLUGIN), command, &config(&socket));
        assert_eq!((success, output.get("code").and_then(Value::as_u64)), (code.is_none(), code), "{command}");
        agent.join().unwrap();
    }
}

#[test]
fn an_answer_that_is_not_the_agents_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for garbage in ["hello\n", "{}\n", "{\"result\":1,\"error\":2}\n"] {
        let (socket, agent) = agent(dir.path(), garbage);
        let (output, success) = run(Path::new(PLUGIN), "ADD", &config(&socket));
        assert_eq!((success, &output["code"]), (false, &json!(6)), "{garbage}");
        agent.join().unwrap();
    }
}

#[test]
fn version_is_answered_without_the_agent() {
    let (output, success) = run(Path::new(PLUGIN), "VERSION", &json!({ "cniVersion": "0.3.1" }));
    assert!(success);
    assert_eq!(output["supportedVersions"], json!(["0.4.0", "1.0.0", "1.1.0"]));
}

#[test]
fn bad_input_has_the_codes_of_the_specification() {
    let code = |command: &str, config: &str| {
        let (output, success) = run_with(Path::new(PLUGIN), command, config);
        assert!(!success);
        output["code"].as_u64().unwrap()
    };
    assert_eq!(code("ADD", "no json"), 6);
    assert_eq!(code("ADD", "[]"), 6);
    assert_eq!(code("ADD", r#"{"cniVersion":"1.0.0","name":"diolkos"}"#), 7, "no agentSocket");
    assert_eq!(code("", "{}"), 4);
}

#[test]
fn called_as_loopback_it_answers_without_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let loopback = dir.path().join("loopback");
    std::fs::hard_link(PLUGIN, &loopback).or_else(|_| std::fs::copy(PLUGIN, &loopback).map(drop)).unwrap();
    let config = |version: &str| json!({ "cniVersion": version, "name": "cni-loopback" });
    let (output, success) = run(&loopback, "ADD", &config("0.3.1"));
    assert!(success);
    assert_eq!((&output["interfaces"][0]["name"], &output["ips"][0]["version"]), (&json!("lo"), &json!("4")));
    assert_eq!(run(&loopback, "ADD", &config("1.0.0")).0["ips"][0].get("version"), None);
    assert_eq!(run(&loopback, "DEL", &config("1.0.0")), (Value::Null, true));
    assert_eq!(run(&loopback, "ADD", &config("9.0.0")).0["code"], 1);
}

#[test]
fn the_binary_can_be_told_as_ours() {
    // The agent replaces a `loopback` plugin only when it finds this text in it.
    let mark = b"diolkos CNI plugin";
    assert!(std::fs::read(PLUGIN).unwrap().windows(mark.len()).any(|window| window == mark));
}

fn config(socket: &str) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "diolkos", "type": "diolkos-cni", "agentSocket": socket })
}

/// An agent for one call: gives back the request it got.
fn agent(directory: &Path, answer: &str) -> (String, JoinHandle<Value>) {
    let socket = directory.join("agent.sock");
    drop(std::fs::remove_file(&socket));
    let listener = UnixListener::bind(&socket).unwrap();
    let answer = if answer.is_empty() { String::new() } else { format!("{}\n", answer.trim()) };
    let agent = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        (&stream).write_all(answer.as_bytes()).unwrap();
        serde_json::from_str(&line).unwrap()
    });
    (socket.to_str().unwrap().to_owned(), agent)
}

fn run(plugin: &Path, command: &str, config: &Value) -> (Value, bool) {
    run_with(plugin, command, &config.to_string())
}

fn run_with(plugin: &Path, command: &str, config: &str) -> (Value, bool) {
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", "/run/netns/x")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The plugin may refuse before it reads.
    drop(child.stdin.take().unwrap().write_all(config.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let value = if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).unwrap() };
    (value, output.status.success())
}
