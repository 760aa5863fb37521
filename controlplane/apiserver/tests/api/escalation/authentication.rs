//! Who are you?

use super::forgery::{claims, hmac, signed, unsigned, with};
use super::*;

/// What was wrong, and the token.
type Tokens = Vec<(&'static str, String)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_taken_for_somebody() {
    let server = Server::start().await;
    account(&server, "robot").await;
    let good = token(&server, "robot", json!({})).await;
    assert_eq!(crate::tokens::who(&server, &good).await.code, 201);
    let tokens = [forged(&server, &good), changed(&server, &good), gone(&server).await, bootstrap(&server).await];
    let unauthorized = |what, who| case(what, who, Method::GET, "/api/v1/namespaces", 401, "Unauthorized");
    let bearers = tokens.into_iter().flatten();
    let mut cases: Vec<Case> =
        bearers.map(|(what, token)| unauthorized(what, Who::Bearer(format!("Bearer {token}")))).collect();
    cases.extend([
        unauthorized("no word for a token", Who::Bearer("nope".into())),
        unauthorized("a password", Who::Bearer("Basic YWRtaW46YWRtaW4=".into())),
        unauthorized("nothing at all", Who::Nobody),
        case("nothing for the version", Who::Nobody, Method::GET, "/version", 401, "Unauthorized"),
        unauthorized("a certificate with a bad token", ADMIN).header("authorization", "Bearer nope"),
        unauthorized("impersonation by nobody", Who::Nobody)
            .header("impersonate-user", "admin")
            .header("impersonate-group", "system:masters"),
    ]);
    refuse_all(&server, cases, 30, true).await;
    // Over gRPC such a header is refused by HTTP/2 itself.
    let long = Who::Bearer(format!("Bearer {}", "a".repeat(20_000)));
    refuse_all(&server, vec![unauthorized("a token that never ends", long)], 1, false).await;
}

/// Tokens that this cluster's key did not sign so.
fn forged(server: &Server, good: &str) -> Tokens {
    let said = claims(good);
    let public = std::fs::read_to_string(server.pki.path("sa.pub")).unwrap();
    let other = tempfile::tempdir().unwrap();
    let foreign = diolkos_apiserver::pki::Pki::open(other.path(), &[]).unwrap().account_keys().signing_pem.clone();
    let (header, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let altered = unsigned("ES256", &with(&said, "/sub", json!("system:serviceaccount:kube-system:robot")));
    vec![
        ("nothing for a token", String::new()),
        ("three words for a token", "a.b.c".to_owned()),
        ("no algorithm", format!("{}.", unsigned("none", &said))),
        ("no algorithm with a signature", format!("{}.{signature}", unsigned("none", &said))),
        ("an HMAC with the public key", hmac(&public, &said)),
        ("a key of another cluster", signed(&foreign, &said)),
        ("altered claims", format!("{header}.{}.{signature}", altered.split('.').nth(1).unwrap())),
    ]
}

/// Tokens with a good signature that say what they may not.
fn changed(server: &Server, good: &str) -> Tokens {
    let said = claims(good);
    let now = said["iat"].as_i64().unwrap();
    let key = server.pki.account_keys().signing_pem.clone();
    let saying = |pointer: &str, value: Value| signed(&key, &with(&said, pointer, value));
    let traversal = {
        let said = with(&said, "/kubernetes.io/namespace", json!("default/x"));
        with(&said, "/sub", json!("system:serviceaccount:default/x:robot"))
    };
    vec![
        ("an expired token", saying("/exp", json!(now - 1))),
        ("a token that begins later", saying("/nbf", json!(now + 600))),
        ("a token issued later", saying("/iat", json!(now + 600))),
        ("another audience", saying("/aud", json!(["vault"]))),
        ("no audience", saying("/aud", json!([]))),
        ("another issuer", saying("/iss", json!("https://example.com"))),
        ("a subject that is not the account", saying("/sub", json!("system:serviceaccount:kube-system:robot"))),
        ("the subject of an administrator", saying("/sub", json!("kubernetes-admin"))),
        ("another uid of the account", saying("/kubernetes.io/serviceaccount/uid", json!("1"))),
        ("a namespace that is a path", signed(&key, &traversal)),
        ("claims that are no object", signed(&key, &json!([]))),
    ]
}

/// Tokens of what is there no more, and of a pod that is another one.
async fn gone(server: &Server) -> Tokens {
    let admin = server.admin_rest();
    let made = admin.post(PODS, &pod_of("gone", "", "robot")).await.json();
    let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "gone", "uid": made["metadata"]["uid"]});
    let of_pod = token(server, "robot", json!({"boundObjectRef": reference})).await;
    assert_eq!(crate::tokens::who(server, &of_pod).await.code, 201);
    let key = server.pki.account_keys().signing_pem.clone();
    // The helper makes good tokens too, or the refusals would say nothing.
    assert_eq!(crate::tokens::who(server, &signed(&key, &claims(&of_pod))).await.code, 201);
    let other_pod = signed(&key, &with(&claims(&of_pod), "/kubernetes.io/pod/uid", json!("1")));
    assert_eq!(crate::tokens::who(server, &other_pod).await.code, 401);
    admin.delete(&format!("{PODS}/gone"), &Value::Null).await;
    account(server, "left").await;
    let of_account = token(server, "left", json!({})).await;
    admin.delete("/api/v1/namespaces/default/serviceaccounts/left", &Value::Null).await;
    crate::harness::eventually("what is gone is gone", async || {
        crate::tokens::who(server, &of_pod).await.code == 401
            && crate::tokens::who(server, &of_account).await.code == 401
    })
    .await;
    vec![("a deleted pod", of_pod), ("a deleted account", of_account), ("another pod of the name", other_pod)]
}

async fn bootstrap(server: &Server) -> Tokens {
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let ended = [("expiration", "2020-01-01T00:00:00Z")];
    let no_usage = [("usage-bootstrap-authentication", "false")];
    for (id, changes) in [("ended1", &ended[..]), ("unused", &no_usage[..]), ("goodid", &[])] {
        let answer = server.admin_rest().post(secrets, &bootstrap_secret(id, "0123456789abcdef", changes)).await;
        assert_eq!(answer.code, 201, "{}", answer.json());
    }
    vec![
        ("a bootstrap token that is not there", "nobody.0123456789abcdef".to_owned()),
        ("a bootstrap token that ended", "ended1.0123456789abcdef".to_owned()),
        ("a bootstrap token for something else", "unused.0123456789abcdef".to_owned()),
        ("a bootstrap token of another secret", "goodid.0123456789abcdeg".to_owned()),
    ]
}
