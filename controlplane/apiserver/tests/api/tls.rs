//! Who is let in: TLS, and certificates of our own authority only.

use diolkos_api::client::{Client, ListOptions};
use diolkos_apiserver::pki::Pki;
use http::Method;
use k8s_openapi::api::core::v1::Namespace;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{PATIENCE, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_of_another_authority_is_refused_in_the_handshake() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let foreign = Pki::open(dir.path(), &[]).unwrap();
    let identity = foreign.client("admin", &["system:masters"]).unwrap();
    let refused = server.rest_with(Some(identity)).open(Method::GET, "/healthz", &[], "").await;
    assert!(refused.is_err());

    let url = format!("https://{}", server.running.address());
    let mut kubeconfig = foreign.kubeconfig(&url, "admin", &["system:masters"]).unwrap();
    kubeconfig.ca_pem = server.pki.ca_pem().to_owned();
    let client = Client::connect(&kubeconfig).unwrap();
    let failure = client.api::<Namespace>(None).list(&ListOptions::default()).await.unwrap_err();
    assert_eq!(failure.code(), 503, "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_authority_is_refused_by_our_client() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("https://{}", server.running.address());
    let foreign = Pki::open(dir.path(), &[]).unwrap();
    let client = Client::connect(&foreign.kubeconfig(&url, "admin", &["system:masters"]).unwrap()).unwrap();
    let failure = client.api::<Namespace>(None).list(&ListOptions::default()).await.unwrap_err();
    assert_eq!(failure.code(), 503, "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_grpc_is_unauthenticated() {
    let server = Server::start().await;
    let url = format!("https://{}", server.running.address());
    let mut kubeconfig = server.pki.kubeconfig(&url, "nobody", &[]).unwrap();
    kubeconfig.client_cert_pem = None;
    kubeconfig.client_key_pem = None;
    let client = Client::connect(&kubeconfig).unwrap();
    let failure = client.api::<Namespace>(None).list(&ListOptions::default()).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (401, "Unauthorized"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_gets_no_answer() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.running.address()).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server hangs up");
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_stops_while_watches_are_open_and_frees_its_port() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let mut lines = crate::harness::Lines::open(&rest, "/api/v1/namespaces?watch=1", "").await;
    assert!(lines.next().await.is_some());
    let address = server.running.address();
    tokio::time::timeout(PATIENCE, server.running.stop()).await.expect("the server stops in time");
    while lines.next().await.is_some() {}
    assert!(TcpStream::connect(address).await.is_err());
}
