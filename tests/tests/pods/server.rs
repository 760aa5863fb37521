//! The socket.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use diolkos_agent::pods::protocol::{Reply, Request};
use diolkos_agent::pods::{PodsError, listen};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::world::{Node, Sandbox, on_a_node, request};

#[test]
fn calls_come_in_by_the_socket_and_the_server_stops_when_asked() {
    on_a_node(async || {
        let node = Node::new().await;
        let socket = node.state.path().join("run/cni.sock");
        std::fs::create_dir(socket.parent().unwrap()).unwrap();
        // What an agent that was killed leaves.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let (pods, listener) = (node.pods.clone(), listen(&socket).await.unwrap());
        let server = tokio::spawn(async move { pods.serve(listener, async { drop(stopped.await) }).await });

        let sandbox = Sandbox::new();
        let reply = ask(&socket, &request("ADD", "c1", &sandbox.path)).await;
        assert!(matches!(&reply, Reply::Result(result) if result["ips"].is_array()), "{reply:?}");
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let second = listen(&socket).await;
        assert!(matches!(second, Err(PodsError::AnotherAgent { .. })), "{second:?}");

        assert_eq!(ask(&socket, &request("DEL", "c1", "")).await, Reply::Result(serde_json::Value::Null));
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        node.assert_empty();
    });
}

#[test]
fn what_is_no_request_gets_an_error() {
    on_a_node(async || {
        let node = Node::new().await;
        let socket = node.state.path().join("cni.sock");
        let (pods, listener) = (node.pods.clone(), listen(&socket).await.unwrap());
        let server = tokio::spawn(async move { pods.serve(listener, std::future::pending()).await });
        let too_long = vec![b'x'; (1 << 20) + 1];
        for garbage in [b"hello\n".as_slice(), b"\"ADD\"\n", b"\n", &too_long] {
            let reply = converse(&socket, garbage).await;
            assert!(matches!(&reply, Reply::Error(error) if error.code == 6), "{reply:?}");
        }
        server.abort();
    });
}

#[test]
fn many_calls_at_a_time_are_all_answered() {
    on_a_node(async || {
        let node = Node::new().await;
        let socket = node.state.path().join("cni.sock");
        let (pods, listener) = (node.pods.clone(), listen(&socket).await.unwrap());
        let server = tokio::spawn(async move { pods.serve(listener, std::future::pending()).await });
        let sandboxes: Vec<Sandbox> = (0..40).map(|_| Sandbox::new()).collect();
        let mut calls = tokio::task::JoinSet::new();
        for (index, sandbox) in sandboxes.iter().enumerate() {
            let (socket, call) = (socket.clone(), request("ADD", &format!("c{index}"), &sandbox.path));
            calls.spawn(async move { ask(&socket, &call).await });
        }
        for reply in calls.join_all().await {
            assert!(matches!(reply, Reply::Result(_)), "{reply:?}");
        }
        let addresses: BTreeSet<_> =
            node.pods.attachments().into_iter().flat_map(|held| held.addresses().iter()).collect();
        assert_eq!(addresses.len(), 80, "one of each family");
        assert_eq!(node.dataplane.lock().endpoints().unwrap().len(), 80);
        server.abort();
    });
}

async fn ask(socket: &Path, request: &Request) -> Reply {
    let mut line = serde_json::to_vec(request).unwrap();
    line.push(b'\n');
    converse(socket, &line).await
}

async fn converse(socket: &Path, bytes: &[u8]) -> Reply {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // The server answers an oversized request before it has read all of it.
    drop(stream.write_all(bytes).await);
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}
