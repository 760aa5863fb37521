//! Requests that must be refused, each with its status and reason: over REST, and the same over gRPC wherever gRPC has
//! them.

mod authentication;
mod authorization;
mod forgery;
mod malformed;
mod nodes;

use diolkos_api::client::Client;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Rest, Server, config_map, pod, service};
use crate::rbac::{binding, cluster_role, grant, known, role, rules};
use crate::tokens::{account, bootstrap_secret, pod_of, token};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces";

/// Who sends a request.
#[derive(Clone, Debug)]
enum Who {
    Nobody,
    User(&'static str, &'static [&'static str]),
    /// The value of the header Authorization.
    Bearer(String),
}

const ALICE: Who = Who::User("alice", &[]);
const ADMIN: Who = Who::User("admin", &["system:masters"]);
const NODE: Who = Who::User("system:node:n1", &["system:nodes"]);

/// A request and how it is refused.
struct Case {
    what: &'static str,
    who: Who,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    code: u16,
    reason: &'static str,
}

fn case(
    what: &'static str,
    who: Who,
    method: Method,
    path: impl Into<String>,
    code: u16,
    reason: &'static str,
) -> Case {
    Case { what, who, method, path: path.into(), headers: Vec::new(), body: Vec::new(), code, reason }
}

impl Case {
    fn json(mut self, body: Value) -> Case {
        let kind = if self.method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        self.headers.push(("content-type", kind.into()));
        self.body = body.to_string().into_bytes();
        self
    }

    fn raw(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Case {
        self.headers.push(("content-type", content_type.to_owned()));
        self.body = body.into();
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Case {
        self.headers.push((name, value.to_owned()));
        self
    }
}

fn rest(server: &Server, who: &Who) -> Rest {
    match who {
        Who::User(name, groups) => server.rest(name, groups),
        Who::Nobody | Who::Bearer(_) => server.rest_with(None),
    }
}

fn grpc(server: &Server, who: &Who) -> Client {
    let url = format!("https://{}", server.running.address());
    let (name, groups) = match who {
        Who::User(name, groups) => (*name, *groups),
        _ => ("nobody", &[][..]),
    };
    let mut kubeconfig = server.pki.kubeconfig(&url, name, groups).unwrap();
    if !matches!(who, Who::User(..)) {
        (kubeconfig.client_cert_pem, kubeconfig.client_key_pem) = (None, None);
    }
    Client::connect(&kubeconfig).unwrap()
}

/// The same question over gRPC; `None` for what gRPC has no words for.
async fn over_grpc(server: &Server, case: &Case) -> Option<Failure> {
    let (path, query) = case.path.split_once('?').unwrap_or((&case.path, ""));
    let query = |name: &str| -> String {
        let found = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        found.map(|(_, value)| value.replace("%3D", "=").replace("%2C", ",")).unwrap_or_default()
    };
    let key = key_of(path)?;
    let json = case.body.clone().into();
    let mut client = grpc(server, &case.who).raw();
    macro_rules! call {
        ($method:ident, $message:expr) => {{
            let mut request = tonic::Request::new($message);
            for (name, value) in &case.headers {
                if *name != "content-type" {
                    request.metadata_mut().append(*name, value.parse().ok()?);
                }
            }
            if let Who::Bearer(value) = &case.who {
                request.metadata_mut().insert("authorization", value.parse().ok()?);
            }
            client.$method(request).await.err().map(Failure::from_grpc)
        }};
    }
    let named = !key.name.is_empty();
    let (key, dry_run) = (Some(key), query("dryRun") == "All");
    let refused = match case.method {
        Method::GET if query("watch") == "1" => {
            call!(watch, wire::WatchRequest { key, field_selector: query("fieldSelector"), ..Default::default() })
        }
        Method::GET if named => call!(get, wire::GetRequest { key, ..Default::default() }),
        Method::GET => call!(
            list,
            wire::ListRequest {
                key,
                field_selector: query("fieldSelector"),
                r#continue: query("continue"),
                ..Default::default()
            }
        ),
        Method::POST => {
            call!(create, wire::WriteRequest { key, json, dry_run, ..Default::default() })
        }
        Method::PUT => call!(update, wire::WriteRequest { key, json, ..Default::default() }),
        Method::PATCH => {
            let r#type = wire::patch_request::Type::Merge.into();
            call!(patch, wire::PatchRequest { key, r#type, patch: json, ..Default::default() })
        }
        Method::DELETE if named => call!(delete, wire::DeleteRequest { key, ..Default::default() }),
        _ => call!(delete_collection, wire::DeleteRequest { key, ..Default::default() }),
    };
    Some(refused.unwrap_or_else(|| panic!("{}: gRPC does not refuse it", case.what)))
}

/// What a path of REST names.
fn key_of(path: &str) -> Option<wire::Key> {
    let path = path.replace("%2F", "\u{0}");
    let parts: Vec<String> = path.split('/').skip(1).map(|part| part.replace('\u{0}', "/")).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", _, "finalize"] => ("", rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let text = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
    Some(wire::Key {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: text(0),
        namespace: namespace.to_owned(),
        name: text(1),
        subresource: text(2),
    })
}

/// Sends each one and says of all that are not refused as they should be.
async fn refuse_all(server: &Server, cases: Vec<Case>, at_least: usize, over_grpc_too: bool) {
    assert!(cases.len() >= at_least, "{} cases are fewer than {at_least}", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let mut headers: Vec<(&str, &str)> = case.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        if let Who::Bearer(value) = &case.who {
            headers.push(("authorization", value));
        }
        let answer = rest(server, &case.who).send_bytes(case.method.clone(), &case.path, &headers, &case.body).await;
        let got = (answer.code.as_u16(), answer.json()["reason"].as_str().unwrap_or_default().to_owned());
        if got != (case.code, case.reason.to_owned()) {
            wrong.push(format!("{}: REST {got:?} {}", case.what, answer.json()["message"]));
        }
        assert_eq!(answer.json()["kind"], "Status", "{}", case.what);
        if over_grpc_too && let Some(failure) = over_grpc(server, &case).await {
            let got = (failure.code(), failure.reason().to_owned());
            if got != (case.code, case.reason.to_owned()) {
                wrong.push(format!("{}: gRPC {got:?} {failure}", case.what));
            }
        }
    }
    assert!(wrong.is_empty(), "{} are not refused as they should be:\n{}", wrong.len(), wrong.join("\n"));
}
