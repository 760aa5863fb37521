//! Requests of an administrator that are no requests.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

fn continues(start: &str) -> String {
    let token = json!({"v": "meta.k8s.io/v1", "rv": 1, "start": start});
    format!("/api/v1/namespaces?limit=1&continue={}", URL_SAFE_NO_PAD.encode(token.to_string()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_even_to_administrators() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    assert_eq!(admin.post(MAPS, &config_map("m", "a", "b")).await.code, 201);
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let bad = |what, method: &Method, path: &str| case(what, ADMIN, method.clone(), path, 400, "BadRequest");
    let json = "application/json";
    let map = |name: &str| config_map(name, "a", "b");
    let mut elsewhere = map("x");
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    let both = vec![
        bad("a name that leaves its place", &get, &format!("{MAPS}/..%2Fsecrets")),
        bad("a name that is a path", &put, &format!("{MAPS}/a%2Fb")).json(map("a")),
        bad("a namespace that is a path", &get, "/api/v1/namespaces/default%2Fx/configmaps/m"),
        bad("a namespace that leaves its place", &delete, "/api/v1/namespaces/..%2Fpods/configmaps/m"),
        bad("a token that continues elsewhere", &get, &continues("../core/secrets/")),
        bad("a token that continues at the root", &get, &continues("/registry/core/secrets/")),
        bad("a token that continues above", &get, &continues("a/../../b")),
        bad("a token that is none", &get, "/api/v1/namespaces?limit=1&continue=nonsense"),
        bad("half an object", &post, MAPS).raw(json, "{\"kind\":"),
        bad("no object", &post, MAPS).raw(json, "[]"),
        bad("bytes that are no text", &post, MAPS).raw(json, &b"{\"metadata\":{\"name\":\"\xff\xfe\"}}"[..]),
        bad("two objects", &post, MAPS).raw(json, format!("{}{}", map("x"), map("y"))),
        bad("another kind", &post, MAPS).json(service("x")),
        bad("another namespace", &post, MAPS).json(elsewhere),
        bad("another name", &put, &format!("{MAPS}/m")).json(map("x")),
        bad("a field of another type", &post, MAPS).json(json!({"metadata": {"name": "x"}, "data": ["a"]})),
        bad("a token for a path", &post, "/api/v1/namespaces/default/serviceaccounts/..%2Fx/token").json(json!({})),
        bad("a nest of lists", &post, MAPS).raw(json, format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
        bad("a nest of objects", &post, MAPS).raw(json, format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000))),
        case("a name that is no name", ADMIN, Method::POST, MAPS, 422, "Invalid").json(map("../x")),
        case(
            "a namespace that is not there",
            ADMIN,
            Method::POST,
            "/api/v1/namespaces/nowhere/configmaps",
            404,
            "NotFound",
        )
        .json(map("x")),
        case("the namespace of everybody", ADMIN, Method::DELETE, "/api/v1/namespaces/default", 403, "Forbidden"),
        case("the namespace of the system", ADMIN, Method::DELETE, "/api/v1/namespaces/kube-system", 403, "Forbidden"),
        case("the public namespace", ADMIN, Method::DELETE, "/api/v1/namespaces/kube-public", 403, "Forbidden"),
        case("a part that is not there", ADMIN, Method::GET, format!("{MAPS}/m/nonsense"), 404, "NotFound"),
        case("a group without a user", ADMIN, Method::GET, MAPS, 500, "InternalError").header("impersonate-group", "x"),
    ];
    refuse_all(&server, both, 25, true).await;
    let proto = "application/vnd.kubernetes.protobuf";
    let garbage: Vec<u8> = b"k8s\0".iter().copied().chain((0..4096_u32).map(|n| (n * 167 % 251) as u8)).collect();
    let rest_only = vec![
        bad("dots for a name", &get, &format!("{MAPS}/..")),
        bad("escaped dots for a name", &get, &format!("{MAPS}/%2E%2E")),
        bad("a nest in YAML", &post, MAPS).raw("application/yaml", "[".repeat(50_000)),
        case("another content type", ADMIN, Method::POST, MAPS, 415, "UnsupportedMediaType").raw("text/plain", "x"),
        case("a method on a collection", ADMIN, Method::PUT, MAPS, 405, "MethodNotAllowed").json(map("x")),
        case("too many bytes", ADMIN, Method::POST, MAPS, 413, "RequestEntityTooLarge").json(config_map(
            "big",
            "a",
            &"x".repeat(3 << 20),
        )),
    ];
    refuse_all(&server, rest_only, 5, false).await;
    // Whether protobuf is read or not: garbage is refused, and the server lives.
    let answer = admin.send_bytes(Method::POST, MAPS, &[("content-type", proto)], &garbage).await;
    assert!(matches!(answer.code.as_u16(), 400 | 415), "{}", answer.code);
    assert_eq!(answer.json()["kind"], "Status");
    assert_eq!(admin.get(&format!("{MAPS}/m")).await.code, 200);
}
