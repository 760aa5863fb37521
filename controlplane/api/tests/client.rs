//! The client against servers on loopback: what it says when it cannot connect, and how it follows.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diolkos_api::client::{Client, Event, ListOptions, follow};
use diolkos_api::kubeconfig::Kubeconfig;
use diolkos_api::status::{Failure, GroupResource};
use diolkos_api::wire::{self, watch_event::Type};
use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

const SOON: Duration = Duration::from_secs(20);

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn identity(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        Identity::from_pem(params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

type NamesAndVersions = Vec<(&'static str, i64)>;

/// What a server answers, in order; a watch with nothing left stays open.
#[derive(Clone, Default)]
struct Script {
    lists: Arc<Mutex<VecDeque<NamesAndVersions>>>,
    watches: Arc<Mutex<VecDeque<Vec<wire::WatchEvent>>>>,
    /// The versions from which watches were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl wire::api_server::Api for Script {
    type ListStream = Answer<wire::Page>;
    type WatchStream = Answer<wire::WatchEvent>;
    type DeleteCollectionStream = Answer<wire::Page>;

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::Object>, Status> {
        let authorization = request.metadata().get("authorization").cloned();
        let key = request.into_inner().key.unwrap();
        assert!(key.plural == "configmaps" && key.namespace == "default");
        if authorization.is_some_and(|header| header == "Bearer secret") {
            return Ok(Response::new(object(&key.name, 7)));
        }
        Err(Failure::not_found(GroupResource { group: "", resource: "configmaps" }, &key.name).into())
    }

    async fn list(&self, _: Request<wire::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let Some(objects) = self.lists.lock().unwrap().pop_front() else {
            return Err(Failure::unavailable("no more lists").into());
        };
        let version = objects.iter().map(|(_, version)| *version).max().unwrap_or(1);
        // One object a page, all at one version.
        let pages = objects.into_iter().map(move |(name, own)| {
            let items = vec![object(name, own)];
            Ok(wire::Page { items, resource_version: version, ..Default::default() })
        });
        Ok(Response::new(stream::iter(pages).boxed()))
    }

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.asked.lock().unwrap().push(request.into_inner().resource_version);
        let events = self.watches.lock().unwrap().pop_front();
        Ok(Response::new(match events {
            Some(events) => stream::iter(events.into_iter().map(Ok)).boxed(),
            None => stream::pending().boxed(),
        }))
    }

    async fn create(&self, _: Request<wire::WriteRequest>) -> Result<Response<wire::Object>, Status> {
        Err(Failure::unimplemented("create").into())
    }

    async fn update(&self, _: Request<wire::WriteRequest>) -> Result<Response<wire::Object>, Status> {
        Err(Failure::unimplemented("update").into())
    }

    async fn patch(&self, _: Request<wire::PatchRequest>) -> Result<Response<wire::Object>, Status> {
        Err(Failure::unimplemented("patch").into())
    }

    async fn delete(&self, _: Request<wire::DeleteRequest>) -> Result<Response<wire::Object>, Status> {
        Err(Failure::unimplemented("delete").into())
    }

    async fn delete_collection(
        &self,
        _: Request<wire::DeleteRequest>,
    ) -> Result<Response<Self::DeleteCollectionStream>, Status> {
        Err(Failure::unimplemented("deletecollection").into())
    }
}

/// The name of an object that no client can read.
const UNREADABLE: &str = "unreadable";

fn object(name: &str, version: i64) -> wire::Object {
    let finalizers = if name == UNREADABLE { ",\"finalizers\":[null]" } else { "" };
    let json = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","resourceVersion":"{version}"{finalizers}}}}}"#
    );
    wire::Object { json: json.into(), resource_version: version, warnings: Vec::new() }
}

fn event(type_: Type, name: &str, version: i64) -> wire::WatchEvent {
    wire::WatchEvent { r#type: type_.into(), object: Some(object(name, version)) }
}

/// Starts a server; it ends with the test's runtime.
async fn serve(script: Script, authority: &Authority) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(authority.identity()))
        .unwrap()
        .add_service(wire::api_server::ApiServer::new(script))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    format!("https://{address}")
}

fn kubeconfig(server: String, authority: &Authority) -> Kubeconfig {
    Kubeconfig {
        server,
        ca_pem: authority.pem.clone(),
        client_cert_pem: None,
        client_key_pem: None,
        token: Some("secret".into()),
    }
}

fn names(event: Option<Event<ConfigMap>>) -> String {
    let name = |object: ConfigMap| object.metadata.name.unwrap();
    match event.unwrap() {
        Event::Restarted(objects) => format!("all {:?}", objects.into_iter().map(name).collect::<Vec<_>>()),
        Event::Applied(object) => format!("applied {}", name(object)),
        Event::Deleted(object) => format!("deleted {}", name(object)),
    }
}

#[tokio::test]
async fn a_typed_object_comes_over_tls_with_the_token() {
    let authority = Authority::new();
    let server = serve(Script::default(), &authority).await;
    let client = Client::connect(&kubeconfig(server.clone(), &authority)).unwrap();
    let object = client.api::<ConfigMap>(Some("default")).get("a").await.unwrap();
    assert_eq!(object.metadata.resource_version.as_deref(), Some("7"));
    let stranger = Client::connect(&Kubeconfig { token: None, ..kubeconfig(server, &authority) }).unwrap();
    assert_eq!(stranger.api::<ConfigMap>(Some("default")).get_opt("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_is_away_is_a_503_that_says_so() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::connect(&kubeconfig(format!("https://{address}"), &authority)).unwrap();
    let failure = client.api::<ConfigMap>(Some("default")).get("a").await.unwrap_err();
    assert_eq!(failure.code(), 503);
    assert!(failure.to_string().contains("refused"), "{failure}");
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted_and_the_failure_says_why() {
    let authority = Authority::new();
    let server = serve(Script::default(), &Authority::new()).await;
    let client = Client::connect(&kubeconfig(server, &authority)).unwrap();
    let failure = client.api::<ConfigMap>(Some("default")).get("a").await.unwrap_err();
    assert_eq!(failure.code(), 503);
    assert!(failure.to_string().contains("certificate"), "{failure}");
}

#[tokio::test]
async fn a_kubeconfig_without_a_certificate_is_refused_at_once() {
    let authority = Authority::new();
    let wrong = Kubeconfig { ca_pem: "nothing".into(), ..kubeconfig("https://127.0.0.1:1".into(), &authority) };
    let why = Client::connect(&wrong).err().unwrap().to_string();
    assert!(why.contains("certificate authority is not a PEM certificate"), "{why}");
}

#[tokio::test]
async fn a_watch_that_breaks_goes_on_where_it_was() {
    let authority = Authority::new();
    let script = Script::default();
    script.lists.lock().unwrap().push_back(vec![("a", 3), ("b", 5)]);
    script.watches.lock().unwrap().extend([
        vec![event(Type::Added, "c", 6), event(Type::Bookmark, "", 8)],
        vec![event(Type::Modified, "a", 9), event(Type::Deleted, "b", 10)],
    ]);
    let asked = script.asked.clone();
    let server = serve(script, &authority).await;
    let client = Client::connect(&kubeconfig(server, &authority)).unwrap();
    let mut events = follow::<ConfigMap>(client, None, ListOptions::default());
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(names(timeout(SOON, events.next()).await.unwrap()));
    }
    assert_eq!(seen, ["all [\"a\", \"b\"]", "applied c", "applied a", "deleted b"]);
    assert_eq!(asked.lock().unwrap()[..2], ["5", "8"], "a bookmark moves the version on");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_holds_up_no_other() {
    let authority = Authority::new();
    let script = Script::default();
    script.lists.lock().unwrap().push_back(vec![("a", 3), (UNREADABLE, 4), ("b", 5)]);
    script.watches.lock().unwrap().push_back(vec![event(Type::Modified, UNREADABLE, 6), event(Type::Modified, "b", 7)]);
    let server = serve(script, &authority).await;
    let client = Client::connect(&kubeconfig(server, &authority)).unwrap();
    let mut events = follow::<ConfigMap>(client, None, ListOptions::default());
    assert_eq!(names(timeout(SOON, events.next()).await.unwrap()), "all [\"a\", \"b\"]");
    assert_eq!(names(timeout(SOON, events.next()).await.unwrap()), "applied b");
}

#[tokio::test]
async fn a_version_that_is_forgotten_leads_to_a_new_list() {
    let authority = Authority::new();
    let script = Script::default();
    script.lists.lock().unwrap().extend([vec![("a", 3)], vec![("b", 20)]]);
    let expired = wire::Object { json: Failure::expired("too old").to_json().into(), ..Default::default() };
    script
        .watches
        .lock()
        .unwrap()
        .push_back(vec![wire::WatchEvent { r#type: Type::Error.into(), object: Some(expired) }]);
    let server = serve(script, &authority).await;
    let client = Client::connect(&kubeconfig(server, &authority)).unwrap();
    let mut events = follow::<ConfigMap>(client, None, ListOptions::default());
    assert_eq!(names(timeout(SOON, events.next()).await.unwrap()), "all [\"a\"]");
    assert_eq!(names(timeout(SOON, events.next()).await.unwrap()), "all [\"b\"]");
}

#[tokio::test]
async fn a_kubeconfig_is_read_as_it_was_written() {
    let authority = Authority::new();
    let config = Kubeconfig {
        client_cert_pem: Some("-----BEGIN CERTIFICATE-----".into()),
        client_key_pem: Some("-----BEGIN PRIVATE KEY-----".into()),
        ..kubeconfig("https://10.0.0.1:6443".into(), &authority)
    };
    assert_eq!(Kubeconfig::from_yaml(&config.to_yaml()).unwrap(), config);
    assert!(!format!("{config:?}").contains("PRIVATE"));
}

#[test]
fn what_is_wrong_with_a_kubeconfig_is_named() {
    let why = |text: &str| Kubeconfig::from_yaml(text).unwrap_err().to_string();
    assert!(why("a: [").contains("not valid YAML"));
    assert_eq!(why("current-context: a"), "the kubeconfig has no entry named \"a\" among its contexts");
    let head =
        "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n";
    let with = |cluster: &str| why(&format!("{head}clusters: [{{name: c, cluster: {{{cluster}}}}}]"));
    assert_eq!(with("server: 'http://a'"), "the kubeconfig names the server http://a: only https:// is spoken");
    assert_eq!(with("server: 'https://a'"), "the kubeconfig has a cluster without certificate-authority-data");
    let data = "server: 'https://a', certificate-authority-data: '%%%'";
    assert!(with(data).contains("certificate-authority-data that is not base64 of PEM"));
    let missing = Kubeconfig::load("/nonexistent/kubeconfig").unwrap_err().to_string();
    assert!(missing.starts_with("cannot read the kubeconfig /nonexistent/kubeconfig: "), "{missing}");
}
