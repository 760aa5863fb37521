//! Bodies in protobuf, as kubectl sends them since 1.32, written here by another encoder than the one that reads them.

use std::collections::BTreeMap;

use http::Method;
use prost::Message;
use serde_json::json;

use crate::harness::{Answer, Rest, Server, config_map};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, required, tag = "1")]
    api_version: String,
    #[prost(string, required, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, required, tag = "1")]
    type_meta: TypeMeta,
    #[prost(bytes = "vec", required, tag = "2")]
    raw: Vec<u8>,
    #[prost(string, required, tag = "3")]
    content_encoding: String,
    #[prost(string, required, tag = "4")]
    content_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct Time {
    #[prost(int64, optional, tag = "1")]
    seconds: Option<i64>,
}

/// What Go always writes is required, so that its zeros are written.
#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, required, tag = "1")]
    name: String,
    #[prost(string, required, tag = "2")]
    generate_name: String,
    #[prost(string, required, tag = "3")]
    namespace: String,
    #[prost(string, required, tag = "5")]
    uid: String,
    #[prost(int64, required, tag = "7")]
    generation: i64,
    #[prost(message, required, tag = "8")]
    creation_timestamp: Time,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigMap {
    #[prost(message, required, tag = "1")]
    metadata: ObjectMeta,
    #[prost(btree_map = "string, string", tag = "2")]
    data: BTreeMap<String, String>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    binary_data: BTreeMap<String, Vec<u8>>,
    #[prost(bool, optional, tag = "4")]
    immutable: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct Deployment {
    #[prost(message, required, tag = "1")]
    metadata: ObjectMeta,
    #[prost(message, required, tag = "2")]
    spec: DeploymentSpec,
}

#[derive(Clone, PartialEq, Message)]
struct DeploymentSpec {
    #[prost(int32, optional, tag = "1")]
    replicas: Option<i32>,
    #[prost(message, required, tag = "2")]
    selector: LabelSelector,
    #[prost(message, required, tag = "3")]
    template: PodTemplateSpec,
    #[prost(message, required, tag = "4")]
    strategy: DeploymentStrategy,
    #[prost(int32, required, tag = "5")]
    min_ready_seconds: i32,
}

#[derive(Clone, PartialEq, Message)]
struct DeploymentStrategy {
    #[prost(string, required, tag = "1")]
    type_: String,
    #[prost(message, optional, tag = "2")]
    rolling_update: Option<RollingUpdate>,
}

#[derive(Clone, PartialEq, Message)]
struct RollingUpdate {
    #[prost(message, optional, tag = "1")]
    max_unavailable: Option<IntOrString>,
    #[prost(message, optional, tag = "2")]
    max_surge: Option<IntOrString>,
}

#[derive(Clone, PartialEq, Message)]
struct IntOrString {
    #[prost(int64, required, tag = "1")]
    type_: i64,
    #[prost(int32, required, tag = "2")]
    number: i32,
    #[prost(string, required, tag = "3")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct LabelSelector {
    #[prost(btree_map = "string, string", tag = "1")]
    match_labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct PodTemplateSpec {
    #[prost(message, required, tag = "1")]
    metadata: ObjectMeta,
    #[prost(message, required, tag = "2")]
    spec: PodSpec,
}

#[derive(Clone, PartialEq, Message)]
struct PodSpec {
    #[prost(message, repeated, tag = "1")]
    volumes: Vec<Volume>,
    #[prost(message, repeated, tag = "2")]
    containers: Vec<Container>,
    #[prost(string, required, tag = "3")]
    restart_policy: String,
}

#[derive(Clone, PartialEq, Message)]
struct Volume {
    #[prost(string, required, tag = "1")]
    name: String,
    /// In Go the fields of the source are those of the volume.
    #[prost(message, required, tag = "2")]
    source: VolumeSource,
}

#[derive(Clone, PartialEq, Message)]
struct VolumeSource {
    #[prost(message, optional, tag = "2")]
    empty_dir: Option<EmptyDir>,
}

#[derive(Clone, PartialEq, Message)]
struct EmptyDir {
    #[prost(string, required, tag = "1")]
    medium: String,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, required, tag = "1")]
    name: String,
    #[prost(string, required, tag = "2")]
    image: String,
    #[prost(message, required, tag = "8")]
    resources: Resources,
}

#[derive(Clone, PartialEq, Message)]
struct Resources {
    #[prost(btree_map = "string, message", tag = "2")]
    requests: BTreeMap<String, Quantity>,
}

#[derive(Clone, PartialEq, Message)]
struct Quantity {
    #[prost(string, required, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct Review {
    #[prost(message, required, tag = "1")]
    metadata: ObjectMeta,
    #[prost(message, required, tag = "2")]
    spec: ReviewSpec,
}

#[derive(Clone, PartialEq, Message)]
struct ReviewSpec {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceAttributes>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceAttributes {
    #[prost(string, required, tag = "1")]
    namespace: String,
    #[prost(string, required, tag = "2")]
    verb: String,
    #[prost(string, required, tag = "5")]
    resource: String,
}

#[derive(Clone, PartialEq, Message)]
struct TokenRequest {
    #[prost(message, required, tag = "1")]
    metadata: ObjectMeta,
    #[prost(message, required, tag = "2")]
    spec: TokenRequestSpec,
}

#[derive(Clone, PartialEq, Message)]
struct TokenRequestSpec {
    #[prost(string, repeated, tag = "1")]
    audiences: Vec<String>,
    #[prost(int64, optional, tag = "4")]
    expiration_seconds: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct DeleteOptions {
    #[prost(int64, optional, tag = "1")]
    grace_period_seconds: Option<i64>,
    #[prost(message, optional, tag = "2")]
    preconditions: Option<Preconditions>,
    #[prost(string, optional, tag = "4")]
    propagation_policy: Option<String>,
    #[prost(string, repeated, tag = "5")]
    dry_run: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Preconditions {
    #[prost(string, optional, tag = "1")]
    uid: Option<String>,
}

fn body(api_version: &str, kind: &str, object: &impl Message) -> Vec<u8> {
    let type_meta = TypeMeta { api_version: api_version.into(), kind: kind.into() };
    let unknown = Unknown { type_meta, raw: object.encode_to_vec(), ..Unknown::default() };
    [b"k8s\0".to_vec(), unknown.encode_to_vec()].concat()
}

async fn send(rest: &Rest, method: Method, path: &str, body: &[u8]) -> Answer {
    // kubectl reads JSON as well.
    let headers = [("content-type", PROTOBUF), ("accept", "application/vnd.kubernetes.protobuf,application/json")];
    rest.send_bytes(method, path, &headers, body).await
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: name.into(), ..ObjectMeta::default() }
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kubectl_creates_in_protobuf_is_what_it_creates_in_json() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let map = ConfigMap {
        metadata: ObjectMeta { labels: pairs(&[("a", "b"), ("empty", "")]), ..named("settings") },
        data: pairs(&[("key", "value"), ("empty", "")]),
        binary_data: [("bytes".to_owned(), vec![0xff, 0x00])].into(),
        immutable: Some(false),
    };
    let path = format!("{MAPS}?fieldManager=kubectl-create&fieldValidation=Strict");
    let made = send(&rest, Method::POST, &path, &body("v1", "ConfigMap", &map)).await;
    assert_eq!(made.code, 201, "{}", made.json());
    assert_eq!(made.headers["content-type"], "application/json");
    let made = made.json();
    assert_eq!(made["metadata"]["labels"], json!({"a": "b", "empty": ""}));
    assert_eq!(
        (&made["data"], &made["binaryData"]),
        (&json!({"key": "value", "empty": ""}), &json!({"bytes": "/wA="}))
    );
    assert_eq!(made["immutable"], false);

    let container = Container {
        name: "web".into(),
        image: "registry.local/web:1".into(),
        resources: Resources { requests: [("cpu".to_owned(), Quantity { text: "100m".into() })].into() },
    };
    let source = VolumeSource { empty_dir: Some(EmptyDir::default()) };
    let spec = PodSpec {
        containers: vec![container],
        volumes: vec![Volume { name: "scratch".into(), source }],
        ..PodSpec::default()
    };
    let surge = IntOrString { type_: 1, text: "50%".into(), ..IntOrString::default() };
    let rolling_update = RollingUpdate { max_unavailable: Some(IntOrString::default()), max_surge: Some(surge) };
    let deployment = Deployment {
        metadata: named("web"),
        spec: DeploymentSpec {
            replicas: Some(0),
            selector: LabelSelector { match_labels: pairs(&[("app", "web")]) },
            template: PodTemplateSpec {
                metadata: ObjectMeta { labels: pairs(&[("app", "web")]), ..ObjectMeta::default() },
                spec,
            },
            strategy: DeploymentStrategy { type_: String::new(), rolling_update: Some(rolling_update) },
            ..DeploymentSpec::default()
        },
    };
    let path = "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict";
    let made = send(&rest, Method::POST, path, &body("apps/v1", "Deployment", &deployment)).await;
    assert_eq!(made.code, 201, "{}", made.json());
    let spec = &made.json()["spec"];
    // A zero that was set is no zero that was left out.
    assert_eq!((&spec["replicas"], &spec["strategy"]["type"]), (&0.into(), &"RollingUpdate".into()));
    assert_eq!(spec["strategy"]["rollingUpdate"], json!({"maxUnavailable": 0, "maxSurge": "50%"}));
    assert_eq!(spec["template"]["spec"]["volumes"], json!([{"name": "scratch", "emptyDir": {}}]));
    assert_eq!(spec["template"]["spec"]["containers"][0]["resources"], json!({"requests": {"cpu": "100m"}}));
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_tokens_and_deletions_come_in_protobuf_too() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let asked = ResourceAttributes { namespace: "default".into(), verb: "get".into(), resource: "pods".into() };
    let review = Review { metadata: ObjectMeta::default(), spec: ReviewSpec { resource: Some(asked) } };
    let body_of_review = body("authorization.k8s.io/v1", "SelfSubjectAccessReview", &review);
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (rest, allowed) in [(&rest, true), (&server.rest("alice", &[]), false)] {
        let answer = send(rest, Method::POST, reviews, &body_of_review).await;
        assert_eq!((answer.code.as_u16(), &answer.json()["status"]["allowed"]), (201, &allowed.into()));
    }

    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    rest.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
    let spec = TokenRequestSpec { audiences: Vec::new(), expiration_seconds: Some(600) };
    let request = body("authentication.k8s.io/v1", "TokenRequest", &TokenRequest { spec, ..TokenRequest::default() });
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let token = send(&rest, Method::POST, path, &request).await;
    assert_eq!(token.code, 201, "{}", token.json());
    assert_eq!(token.json()["status"]["token"].as_str().unwrap().split('.').count(), 3);

    let made = rest.post(MAPS, &config_map("m", "a", "b")).await.json();
    let with = |uid: &str, dry_run: &[&str]| DeleteOptions {
        preconditions: Some(Preconditions { uid: Some(uid.into()) }),
        propagation_policy: Some("Background".into()),
        dry_run: dry_run.iter().map(|word| (*word).to_owned()).collect(),
        ..DeleteOptions::default()
    };
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let path = format!("{MAPS}/m");
    // Options are one type, whatever group they say.
    for (options, api_version, code) in
        [(with("0", &[]), "v1", 409), (with(uid, &["All"]), "policy/v1", 200), (with(uid, &[]), "meta.k8s.io/v1", 200)]
    {
        assert_eq!(rest.get(&path).await.code, 200);
        let answer = send(&rest, Method::DELETE, &path, &body(api_version, "DeleteOptions", &options)).await;
        assert_eq!(answer.code, code, "{}", answer.json());
    }
    assert_eq!(rest.get(&path).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_protobuf_is_refused_and_nothing_of_it_kept() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let map = ConfigMap { metadata: named("m"), data: pairs(&[("a", "b")]), ..ConfigMap::default() };
    let good = body("v1", "ConfigMap", &map);
    let mut long = good.clone();
    // A length beyond the end.
    long[5] = 0x7f;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("no magic", good[4..].to_vec()),
        ("JSON", config_map("m", "a", "b").to_string().into_bytes()),
        ("the magic alone", b"k8s\0".to_vec()),
        ("half of it", good[..good.len() / 2].to_vec()),
        ("a length beyond the end", long),
        ("noise", [b"k8s\0".to_vec(), vec![0xff; 64]].concat()),
        ("another kind", body("v1", "Secret", &map)),
        ("no kind", body("", "", &map)),
        ("a kind that nobody knows", body("example.org/v1", "Thing", &map)),
    ];
    for (what, body) in cases {
        let answer = send(&rest, Method::POST, MAPS, &body).await;
        assert_eq!((answer.code.as_u16(), &answer.json()["reason"]), (400, &"BadRequest".into()), "{what}");
    }
    let none = rest.get(MAPS).await.json();
    assert!(none["items"].as_array().unwrap().iter().all(|item| item["metadata"]["name"] != "m"));
    assert_eq!(send(&rest, Method::POST, MAPS, &good).await.code, 201);
    // Patches have no form in protobuf.
    assert_eq!(send(&rest, Method::PATCH, &format!("{MAPS}/m"), &good).await.code, 415);
}
