//! Tokens of service accounts and bootstrap tokens.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use diolkos_api::client::{Client, ListOptions};
use diolkos_apiserver::{Security, TokenOptions};
use http::Method;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use crate::harness::{Answer, Rest, Server, eventually, pod};
use crate::rbac::{grant, rules};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SELF: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub(crate) async fn account(server: &Server, name: &str) -> Value {
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let answer = server.admin_rest().post(ACCOUNTS, &object).await;
    assert_eq!(answer.code, 201, "{}", answer.json());
    answer.json()
}

pub(crate) fn pod_of(name: &str, node: &str, account: &str) -> Value {
    let mut pod = pod(name, node);
    pod["spec"]["serviceAccountName"] = account.into();
    pod
}

/// Asks for a token as the administrator; the answer as it is.
pub(crate) async fn request(rest: &Rest, account: &str, spec: Value) -> Answer {
    let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    rest.post(&format!("{ACCOUNTS}/{account}/token"), &asked).await
}

pub(crate) async fn token(server: &Server, account: &str, spec: Value) -> String {
    let answer = request(&server.admin_rest(), account, spec).await;
    assert_eq!(answer.code, 201, "{}", answer.json());
    answer.json()["status"]["token"].as_str().unwrap().to_owned()
}

/// Who the server takes the bearer of a token for.
pub(crate) async fn who(server: &Server, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    server.rest_with(None).send(Method::POST, SELF, &headers, "{}").await
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_its_service_account_over_both_protocols() {
    let server = Server::start().await;
    let robot = account(&server, "robot").await;
    let answer = request(&server.admin_rest(), "robot", json!({"expirationSeconds": 600})).await;
    assert_eq!(answer.code, 201, "{}", answer.json());
    let made = answer.json();
    assert_eq!((&made["kind"], &made["spec"]["audiences"]), (&json!("TokenRequest"), &json!([ISSUER])));
    let token = made["status"]["token"].as_str().unwrap();
    let said = claims(token);
    assert_eq!(
        (&said["iss"], &said["aud"], &said["sub"]),
        (&json!(ISSUER), &json!([ISSUER]), &json!("system:serviceaccount:default:robot"))
    );
    assert_eq!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), 600);
    assert_eq!(said["kubernetes.io"]["serviceaccount"], json!({"name": "robot", "uid": robot["metadata"]["uid"]}));

    let info = who(&server, token).await.json()["status"]["userInfo"].clone();
    assert_eq!(info["username"], "system:serviceaccount:default:robot");
    assert_eq!(info["uid"], robot["metadata"]["uid"]);
    assert_eq!(
        info["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    let id = format!("JTI={}", said["jti"].as_str().unwrap());
    assert_eq!(info["extra"]["authentication.kubernetes.io/credential-id"], json!([id]));

    grant(&server, "system:serviceaccount:default:robot", "namespaces", rules(&["list"], &[""], &["namespaces"])).await;
    let url = format!("https://{}", server.running.address());
    let mut kubeconfig = server.pki.kubeconfig(&url, "nobody", &[]).unwrap();
    (kubeconfig.client_cert_pem, kubeconfig.client_key_pem) = (None, None);
    kubeconfig.token = Some(token.to_owned());
    let client = Client::connect(&kubeconfig).unwrap();
    assert!(client.api::<Namespace>(None).list(&ListOptions::default()).await.is_ok());
    kubeconfig.token = Some(format!("{token}x"));
    let failure = Client::connect(&kubeconfig).unwrap().api::<Namespace>(None).list(&ListOptions::default()).await;
    assert_eq!(failure.unwrap_err().code(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_what_it_is_bound_to() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    account(&server, "robot").await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    assert_eq!(admin.post("/api/v1/nodes", &node).await.code, 201);
    let made = admin.post(PODS, &pod_of("p", "n1", "robot")).await.json();
    let uid = made["metadata"]["uid"].clone();
    let bound = |uid: &Value| json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}});
    let token = token(&server, "robot", bound(&uid)).await;
    let said = claims(&token)["kubernetes.io"].clone();
    assert_eq!((&said["pod"]["uid"], &said["node"]["name"]), (&uid, &json!("n1")));
    let info = who(&server, &token).await.json()["status"]["userInfo"].clone();
    assert_eq!(info["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(info["extra"]["authentication.kubernetes.io/node-name"], json!(["n1"]));

    let other = request(&admin, "robot", bound(&json!("00000000-0000-0000-0000-000000000000"))).await;
    assert_eq!((other.code.as_u16(), other.json()["reason"].as_str()), (409, Some("Conflict")));
    account(&server, "someone").await;
    let wrong = request(&admin, "someone", bound(&uid)).await;
    assert_eq!(wrong.code, 400);
    assert!(wrong.json()["message"].as_str().unwrap().contains("different serviceaccount name"), "{}", wrong.json());

    assert_eq!(admin.delete(&format!("{PODS}/p?gracePeriodSeconds=0"), &Value::Null).await.code, 200);
    eventually("the token of the deleted pod ends", async || who(&server, &token).await.code == 401).await;
    // Another pod of that name is another pod.
    admin.post(PODS, &pod_of("p", "n1", "robot")).await;
    assert_eq!(who(&server, &token).await.code, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_an_account_that_is_gone_or_made_anew_is_nobodys() {
    let server = Server::start().await;
    account(&server, "robot").await;
    let token = token(&server, "robot", json!({})).await;
    assert_eq!(who(&server, &token).await.code, 201);
    assert_eq!(server.admin_rest().delete(&format!("{ACCOUNTS}/robot"), &Value::Null).await.code, 200);
    eventually("the token ends with its account", async || who(&server, &token).await.code == 401).await;
    account(&server, "robot").await;
    assert_eq!(who(&server, &token).await.code, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_others_is_reviewed_for_them_and_is_nobodys_here() {
    let server = Server::start().await;
    account(&server, "robot").await;
    let admin = server.admin_rest();
    let vault = token(&server, "robot", json!({"audiences": ["vault"]})).await;
    assert_eq!(who(&server, &vault).await.code, 401);
    let review = async |token: &str, audiences: Value| {
        let asked = json!({"spec": {"token": token, "audiences": audiences}});
        let answer = admin.post(REVIEWS, &asked).await;
        assert_eq!(answer.code, 201, "{}", answer.json());
        answer.json()["status"].clone()
    };
    let status = review(&vault, json!(["vault", "other"])).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    let status = review(&vault, json!([])).await;
    assert_eq!(status["authenticated"], false);
    assert!(status["error"].as_str().unwrap().contains("another audience"), "{status}");
    assert_eq!(review("nonsense", json!([])).await["authenticated"], false);
    assert_eq!(server.rest("alice", &[]).post(REVIEWS, &json!({"spec": {"token": vault}})).await.code, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_tokens_are_published_and_an_old_one_goes_on_beside_the_new() {
    let old = Server::start().await;
    account(&old, "robot").await;
    let made = token(&old, "robot", json!({})).await;
    let old_key = std::fs::read_to_string(old.pki.path("sa.pub")).unwrap();
    let issuer = "https://issuer.example.com";
    let security = Security {
        account_keys: vec![("old".into(), old_key)],
        tokens: TokenOptions { issuer: issuer.into(), audiences: vec!["one".into(), "two".into()] },
        ..Security::default()
    };
    let server = Server::secured(security).await;
    let admin = server.admin_rest();
    let keys = admin.get("/openid/v1/jwks").await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    let ids: Vec<Value> = keys.json()["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect();
    assert_eq!(ids.len(), 2);
    let header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(made.split('.').next().unwrap()).unwrap()).unwrap();
    assert!(ids.contains(&header["kid"]) && header["alg"] == "ES256", "{header}");
    let discovery = admin.get("/.well-known/openid-configuration").await.json();
    assert_eq!(
        (&discovery["issuer"], &discovery["id_token_signing_alg_values_supported"]),
        (&json!(issuer), &json!(["ES256"]))
    );
    assert_eq!(server.rest("alice", &[]).get("/openid/v1/jwks").await.code, 403);
    account(&server, "robot").await;
    let own = token(&server, "robot", json!({})).await;
    assert_eq!((&claims(&own)["iss"], &claims(&own)["aud"]), (&json!(issuer), &json!(["one", "two"])));
    assert_eq!(who(&server, &own).await.code, 201);
    // The signature of the old key is good, but that cluster's issuer is another one.
    assert_eq!(who(&server, &made).await.code, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_within_bounds() {
    let server = Server::start().await;
    account(&server, "robot").await;
    let admin = server.admin_rest();
    for seconds in [599_i64, 0, -1, (1 << 32) + 1] {
        assert_eq!(request(&admin, "robot", json!({"expirationSeconds": seconds})).await.code, 400, "{seconds}");
    }
    assert_eq!(request(&admin, "nobody", json!({})).await.code, 404);
    for bound in [
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}),
        json!({"apiVersion": "v1", "kind": "Pod", "name": "../x"}),
        json!({"apiVersion": "v1", "kind": "Pod"}),
    ] {
        assert_eq!(request(&admin, "robot", json!({"boundObjectRef": bound})).await.code, 400, "{bound}");
    }
    let missing = json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "x"}});
    assert_eq!(request(&admin, "robot", missing).await.code, 404);
    assert_eq!(request(&server.rest("alice", &[]), "robot", json!({})).await.code, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_tokens_of_its_own_pods_only() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    account(&server, "robot").await;
    account(&server, "idle").await;
    let own = admin.post(PODS, &pod_of("own", "n1", "robot")).await.json();
    let other = admin.post(PODS, &pod_of("other", "n2", "robot")).await.json();
    let node = server.rest("system:node:n1", &["system:nodes"]);
    let bound = |pod: &Value| {
        json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"],
                                  "uid": pod["metadata"]["uid"]}})
    };
    eventually("the node may have a token", async || request(&node, "robot", bound(&own)).await.code == 201).await;
    let cases = [
        ("robot", bound(&other), "node requested token bound to a pod scheduled on a different node"),
        ("robot", json!({}), "node requested token not bound to a pod"),
        (
            "robot",
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "own"}}),
            "node requested token with a pod binding without a uid",
        ),
        ("idle", bound(&own), "no relationship found between node 'n1' and this object"),
    ];
    for (account, spec, why) in cases {
        let answer = request(&node, account, spec).await;
        assert_eq!(answer.code, 403, "{why}");
        assert!(answer.json()["message"].as_str().unwrap().contains(why), "{}", answer.json());
    }
}

pub(crate) fn bootstrap_secret(id: &str, secret: &str, changes: &[(&str, &str)]) -> Value {
    let mut data = json!({});
    let fields = [
        ("token-id", id),
        ("token-secret", secret),
        ("usage-bootstrap-authentication", "true"),
        ("auth-extra-groups", "system:bootstrappers:workers"),
    ];
    for (name, value) in fields.iter().chain(changes) {
        data[name] = STANDARD.encode(value).into();
    }
    json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
           "metadata": {"name": format!("bootstrap-token-{id}")}, "data": data})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_token_is_its_user_until_its_secret_goes() {
    let server = Server::start().await;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let admin = server.admin_rest();
    let made = admin.post(secrets, &bootstrap_secret("abcdef", "0123456789abcdef", &[])).await;
    assert_eq!(made.code, 201, "{}", made.json());
    eventually("the token counts", async || who(&server, "abcdef.0123456789abcdef").await.code == 201).await;
    let info = who(&server, "abcdef.0123456789abcdef").await.json()["status"]["userInfo"].clone();
    assert_eq!(
        info,
        json!({"username": "system:bootstrap:abcdef",
               "groups": ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]})
    );
    assert_eq!(who(&server, "abcdef.0123456789abcdeg").await.code, 401);
    let expired = bootstrap_secret("abcdeg", "0123456789abcdef", &[("expiration", "2020-01-01T00:00:00Z")]);
    assert_eq!(admin.post(secrets, &expired).await.code, 201);
    assert_eq!(who(&server, "abcdeg.0123456789abcdef").await.code, 401);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                        "spec": {"token": "abcdef.0123456789abcdef", "audiences": ["vault"]}});
    let reviewed = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.json();
    assert_ne!(reviewed["status"]["authenticated"], true, "it is for nobody but this server: {reviewed}");
    assert_eq!(admin.delete(&format!("{secrets}/bootstrap-token-abcdef"), &Value::Null).await.code, 200);
    eventually("the token ends", async || who(&server, "abcdef.0123456789abcdef").await.code == 401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_requests_are_let_in_only_where_the_server_is_told_to() {
    let closed = Server::start().await;
    assert_eq!(closed.rest_with(None).get("/version").await.code, 401);
    assert_eq!(closed.rest_with(None).get("/healthz").await.code, 200);
    let open = Server::secured(Security { anonymous: true, ..Security::default() }).await;
    let nobody = open.rest_with(None);
    assert_eq!(nobody.get("/version").await.code, 200);
    let answer = nobody.get("/api/v1/pods").await;
    assert_eq!(answer.code, 403);
    let mut recorded = crate::harness::fixture("err_403_anonymous");
    assert_eq!(answer.json()["message"], recorded["message"].take());
    assert_eq!(nobody.get("/api").await.code, 403);
}
