#![allow(clippy::unwrap_used)]

use super::*;
use crate::desired::workload;
use crate::runtime::model::Model;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpListener;

fn wish(extra: Value) -> ContainerWish {
    let mut container = json!({"name": "a", "image": "i:1"});
    for (key, value) in extra.as_object().unwrap() {
        container[key] = value.clone();
    }
    let pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [container]}})).unwrap();
    workload(&Arc::new(pod), 1 << 30).containers.remove(0)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn bad() -> Result<(), String> {
    Err("refused".to_owned())
}

#[test]
fn readiness_follows_its_thresholds_in_both_directions() {
    let tcp = json!({"tcpSocket": {"port": 80}, "periodSeconds": 5, "failureThreshold": 2, "successThreshold": 2});
    let mut probes = ContainerProbes::new(&wish(json!({"readinessProbe": tcp})), at(100)).unwrap();
    assert!(!probes.verdict().ready);
    assert_eq!(probes.take_due(at(100)).len(), 1);
    assert_eq!(probes.take_due(at(110)).len(), 0, "one check at a time");
    probes.record(Kind::Readiness, Ok(()), at(100));
    assert!(!probes.verdict().ready);
    assert_eq!(probes.take_due(at(104)).len(), 0);
    assert_eq!(probes.take_due(at(105)).len(), 1);
    probes.record(Kind::Readiness, Ok(()), at(105));
    assert!(probes.verdict().ready);
    probes.record(Kind::Readiness, bad(), at(110));
    assert!(probes.verdict().ready);
    probes.record(Kind::Readiness, bad(), at(115));
    assert_eq!(probes.verdict(), Verdict { started: true, ready: false, unhealthy: None });
}

#[test]
fn liveness_waits_for_startup_and_restarts_after_its_threshold() {
    let tcp = json!({"tcpSocket": {"port": 80}});
    let both = json!({"startupProbe": tcp, "livenessProbe": tcp});
    let mut probes = ContainerProbes::new(&wish(both), at(0)).unwrap();
    let kinds = |due: Vec<(Kind, Probe)>| due.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    assert_eq!(kinds(probes.take_due(at(0))), [Kind::Startup]);
    assert!(!probes.verdict().started);
    probes.record(Kind::Startup, Ok(()), at(0));
    assert_eq!(kinds(probes.take_due(at(20))), [Kind::Liveness]);
    for count in 1..=3 {
        assert_eq!(probes.verdict().unhealthy, None, "after {} failures", count - 1);
        probes.record(Kind::Liveness, bad(), at(20));
    }
    assert_eq!(probes.verdict().unhealthy.unwrap(), "liveness probe failed 3 times: refused");
}

#[test]
fn a_container_without_probes_needs_none() {
    assert!(ContainerProbes::new(&wish(json!({})), at(0)).is_none());
}

#[tokio::test]
async fn an_http_probe_reads_the_status_and_a_tcp_probe_only_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 503 Busy\r\n\r\n", ""] {
            let (mut stream, _) = listener.accept().await.unwrap();
            if !answer.is_empty() {
                let mut request = vec![0; 1024];
                let count = stream.read(&mut request).await.unwrap();
                assert!(request[..count].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let model = Model::new(at(0), &[]);
    let of = |probe: Value| wish(json!({"readinessProbe": probe})).probes.readiness.unwrap();
    let http = of(json!({"httpGet": {"port": port, "path": "/healthz"}}));
    assert_eq!(check(&http, &model, "c", "127.0.0.1").await, Ok(()));
    let refused = check(&http, &model, "c", "127.0.0.1").await.unwrap_err();
    assert!(refused.contains("503 Busy"), "{refused}");
    let tcp = of(json!({"tcpSocket": {"port": port}}));
    assert_eq!(check(&tcp, &model, "c", "127.0.0.1").await, Ok(()));
    server.await.unwrap();
    assert!(check(&tcp, &model, "c", "127.0.0.1").await.unwrap_err().contains("connect to 127.0.0.1"));
}
