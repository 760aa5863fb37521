//! The kubelet on a real containerd with runc: in namespaces and cgroups of its own, its images made from files of
//! this machine, its control plane in memory.
#![allow(clippy::unwrap_used)]

#[path = "cri/bench.rs"]
mod bench;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bench::{Bench, container, pod};
use diolkos_kubelet::runtime::conformance::{CASES, OBEDIENT};
use diolkos_tests::eventually;
use diolkos_tests::image::{self, ImageSpec};
use serde_json::json;

/// Longest wait for anything on a busy machine with two cores.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn containerd_keeps_the_rules_of_a_runtime() -> Result<()> {
    let bench = Bench::start()?;
    let subject = bench.subject()?;
    for (name, case) in CASES {
        bench.wait_for(case(&subject)).map_err(|problem| anyhow::anyhow!("{name}: {problem}"))?;
    }
    Ok(())
}

#[test]
fn a_pod_runs_with_its_network_volumes_limits_and_logs() -> Result<()> {
    let mut bench = Bench::start()?;
    bench.cluster.add_config_map("default", "paint", serde_json::from_value(json!({"data": {"colour": "red"}}))?);
    let script = "echo name=$(hostname) ip=$IP colour=$(cat /paint/colour); echo shared > /shared/note; echo ready; ";
    let mut main = container("main", &["sh", "-c", &format!("{script}{OBEDIENT}")]);
    main["env"] = json!([{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    main["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}});
    main["securityContext"] = json!({"runAsUser": 1000, "readOnlyRootFilesystem": true});
    main["volumeMounts"] =
        json!([{"name": "paint", "mountPath": "/paint"}, {"name": "shared", "mountPath": "/shared"}]);
    let mut side = container("side", &["sh", "-c", OBEDIENT]);
    side["volumeMounts"] = json!([{"name": "shared", "mountPath": "/other"}]);
    side["readinessProbe"] = json!({"exec": {"command": ["test", "-f", "/other/note"]}, "periodSeconds": 1});
    let volumes = json!([{"name": "paint", "configMap": {"name": "paint"}}, {"name": "shared", "emptyDir": {}}]);
    let uid = bench.cluster.create_pod(pod("web", json!({"containers": [main, side], "volumes": volumes})));
    bench.start_kubelet()?;
    eventually("the pod is ready", PATIENCE, || bench.is_ready("web"))?;
    let status = bench.status("web")?;
    let ip = status.pod_ip.unwrap_or_default();
    ensure!(ip.starts_with("10.89.0."), "its address is {ip:?}");
    let log = bench.directory().join(format!("logs/default_web_{uid}/main/0.log"));
    eventually("the log", PATIENCE, || {
        let text = fs::read_to_string(&log)?;
        ensure!(text.contains(&format!(" stdout F name=web ip={ip} colour=red")), "the log says {text:?}");
        Ok(())
    })?;
    let main = status.container_statuses.iter().flatten().find(|status| status.name == "main").unwrap();
    let id = main.container_id.as_deref().unwrap_or_default().trim_start_matches("containerd://").to_owned();
    let limit = bench.memory_limit(&uid, &id)?;
    ensure!(limit.trim() == (64 << 20).to_string(), "the memory limit is {limit:?}");
    Ok(())
}

#[test]
fn an_image_brings_the_libraries_of_its_programs() -> Result<()> {
    let mut bench = Bench::start()?;
    bench.import(&[ImageSpec::iperf3()?])?;
    let mut main = container("main", &["iperf3", "--version"]);
    main["image"] = json!(image::IPERF3);
    let spec = json!({"hostNetwork": true, "restartPolicy": "Never", "containers": [main]});
    let uid = bench.cluster.create_pod(pod("web", spec));
    bench.start_kubelet()?;
    eventually("the pod has succeeded", PATIENCE, || {
        let phase = bench.status("web")?.phase;
        ensure!(phase.as_deref() == Some("Succeeded"), "it is {phase:?}");
        Ok(())
    })?;
    let text = fs::read_to_string(bench.directory().join(format!("logs/default_web_{uid}/main/0.log")))?;
    ensure!(text.contains(" stdout F iperf 3."), "it said {text:?}");
    Ok(())
}

#[test]
fn a_failing_container_reports_its_exit_code_and_backs_off() -> Result<()> {
    let mut bench = Bench::start()?;
    let containers = json!([container("main", &["sh", "-c", "echo bad >&2; exit 3"])]);
    let uid = bench.cluster.create_pod(pod("web", json!({"hostNetwork": true, "containers": containers})));
    bench.start_kubelet()?;
    eventually("the back-off", PATIENCE, || {
        let main = bench.container("web", "main")?;
        let waiting = main.state.and_then(|state| state.waiting).unwrap_or_default();
        ensure!(waiting.reason.as_deref() == Some("CrashLoopBackOff"), "it is {waiting:?}");
        let ended = main.last_state.and_then(|state| state.terminated).unwrap_or_default();
        ensure!(ended.exit_code == 3 && ended.started_at.is_some() && ended.finished_at.is_some(), "{ended:?}");
        ensure!(main.restart_count == 1, "restarted {} times", main.restart_count);
        Ok(())
    })?;
    let directory = bench.directory().join(format!("logs/default_web_{uid}/main"));
    for attempt in 0..2 {
        let text = fs::read_to_string(directory.join(format!("{attempt}.log")))?;
        ensure!(text.contains(" stderr F bad"), "the log of run {attempt} says {text:?}");
    }
    Ok(())
}

#[test]
fn a_pod_ends_within_its_grace_and_leaves_nothing() -> Result<()> {
    let mut bench = Bench::start()?;
    let spec = |command: &[&str]| json!({"containers": [container("main", command)]});
    bench.cluster.create_pod(pod("stubborn", spec(&["sleep", "1000"])));
    bench.cluster.create_pod(pod("obedient", spec(&["sh", "-c", OBEDIENT])));
    bench.start_kubelet()?;
    for name in ["stubborn", "obedient"] {
        eventually("both are ready", PATIENCE, || bench.is_ready(name))?;
    }
    ensure!(!bench.pod_cgroups().is_empty(), "the pods have cgroups");
    let begun = Instant::now();
    bench.request_deletion("obedient", 20);
    bench.request_deletion("stubborn", 3);
    eventually("the obedient one is gone", PATIENCE, || bench.is_gone("obedient"))?;
    ensure!(begun.elapsed() < Duration::from_secs(15), "TERM ended it after {:?}", begun.elapsed());
    eventually("the stubborn one is gone", PATIENCE, || bench.is_gone("stubborn"))?;
    ensure!(begun.elapsed() >= Duration::from_secs(2), "KILL came before the grace, after {:?}", begun.elapsed());
    let containers = bench.ctr(&["containers", "list", "--quiet"])?;
    ensure!(containers.trim().is_empty(), "containers are left: {containers}");
    ensure!(bench.pod_cgroups().is_empty(), "cgroups are left: {:?}", bench.pod_cgroups());
    for directory in ["kubelet/pods", "logs"] {
        let left: Vec<_> = fs::read_dir(bench.directory().join(directory))?.collect();
        ensure!(left.is_empty(), "{directory} holds {left:?}");
    }
    Ok(())
}

#[test]
fn a_new_kubelet_adopts_what_runs_and_removes_what_nobody_wants() -> Result<()> {
    let mut bench = Bench::start()?;
    let spec = json!({"hostNetwork": true, "containers": [container("main", &["sh", "-c", OBEDIENT])]});
    bench.cluster.create_pod(pod("kept", spec.clone()));
    bench.cluster.create_pod(pod("orphan", spec));
    bench.start_kubelet()?;
    for name in ["kept", "orphan"] {
        eventually("both are ready", PATIENCE, || bench.is_ready(name))?;
    }
    let before = (bench.container("kept", "main")?, bench.container_pid("kept")?);
    bench.stop_kubelet()?;
    bench.cluster.force_delete("default", "orphan");
    bench.start_kubelet()?;
    eventually("the orphan's cgroups are gone", PATIENCE, || {
        let groups = bench.pod_cgroups();
        ensure!(groups.iter().all(|group| group.contains("uid-kept")), "{groups:?}");
        Ok(())
    })?;
    let after = (bench.container("kept", "main")?, bench.container_pid("kept")?);
    ensure!(after == before, "{after:?} is not {before:?}");
    bench.is_ready("kept")
}

#[test]
fn pods_go_on_while_containerd_is_killed_and_started_again() -> Result<()> {
    let mut bench = Bench::start()?;
    let spec = json!({"hostNetwork": true, "containers": [container("main", &["sh", "-c", OBEDIENT])]});
    bench.cluster.create_pod(pod("web", spec.clone()));
    bench.start_kubelet()?;
    eventually("the pod is ready", PATIENCE, || bench.is_ready("web"))?;
    eventually("the node is ready", PATIENCE, || bench.node_is("True", "KubeletReady"))?;
    let before = (bench.container("web", "main")?, bench.container_pid("web")?);
    bench.kill_containerd()?;
    eventually("the node is not ready", PATIENCE, || bench.node_is("False", "KubeletNotReady"))?;
    let message = bench.node_message()?;
    ensure!(message.contains("cannot be reached"), "the node says {message:?}");
    bench.cluster.create_pod(pod("late", spec));
    bench.is_ready("web")?;
    bench.restart_containerd()?;
    eventually("the node is ready again", PATIENCE, || bench.node_is("True", "KubeletReady"))?;
    eventually("the late pod is ready", PATIENCE, || bench.is_ready("late"))?;
    let after = (bench.container("web", "main")?, bench.container_pid("web")?);
    ensure!(after == before, "{after:?} is not {before:?}");
    Ok(())
}

#[test]
fn a_container_that_is_not_alive_is_restarted() -> Result<()> {
    let mut bench = Bench::start()?;
    let mut main = container("main", &["sh", "-c", &format!("touch /tmp/alive; {OBEDIENT}")]);
    let alive = json!({"exec": {"command": ["test", "-f", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 2});
    main["livenessProbe"] = alive.clone();
    main["startupProbe"] = alive;
    bench.cluster.create_pod(pod("web", json!({"hostNetwork": true, "containers": [main]})));
    bench.start_kubelet()?;
    eventually("the pod is ready", PATIENCE, || bench.is_ready("web"))?;
    bench.exec("web", &["rm", "/tmp/alive"])?;
    eventually("it was restarted and is ready", PATIENCE, || {
        let main = bench.container("web", "main")?;
        ensure!(main.restart_count == 1 && main.ready, "it is {main:?}");
        Ok(())
    })
}
