//! Secrets rest encrypted, keys are rotated, and what cannot be decrypted stops nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use diolkos_apiserver::Security;
use diolkos_store::{Commit, Model, Range, Store as _, Write};
use serde_json::{Value, json};

use crate::harness::{Rest, Server, eventually};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const IDENTITY: &str = "identity: {}";

fn key(name: &str, number: u8) -> String {
    format!("aesgcm: {{keys: [{{name: {name}, secret: {}}}]}}", STANDARD.encode([number; 32]))
}

/// A server over what a store holds, with these providers of secrets.
async fn server(store: &Model, providers: &[&str]) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("encryption.yaml");
    let providers: String = providers.iter().map(|provider| format!("  - {provider}\n")).collect();
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
         providers:\n{providers}"
    );
    std::fs::write(&path, text).unwrap();
    let security = Security { encryption_config: Some(path), ..Security::default() };
    Server::with(store.clone(), &["10.96.0.0/16"], security).await
}

fn secret(name: &str, text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"k": STANDARD.encode(text)}})
}

async fn make(rest: &Rest, name: &str, text: &str) {
    let answer = rest.post(SECRETS, &secret(name, text)).await;
    assert_eq!(answer.code, 201, "{}", answer.json());
}

/// The bytes that rest.
async fn raw(store: &Model, name: &str) -> Bytes {
    let key = format!("/registry/core/secrets/default/{name}");
    let range = Range { prefix: key.clone(), start: key, ..Range::default() };
    store.range(range).await.unwrap().entries.remove(0).value
}

fn holds(value: &[u8], text: &str) -> bool {
    value.windows(text.len()).any(|part| part == text.as_bytes())
}

async fn ready(rest: &Rest) -> (u16, String) {
    let answer = rest.get("/readyz").await;
    (answer.code.as_u16(), String::from_utf8(answer.body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_plain_text_of_a_secret_rests_in_the_store() {
    let store = Model::new();
    let server = server(&store, &[&key("one", 1), IDENTITY]).await;
    let rest = server.admin_rest();
    make(&rest, "a", "treasure").await;
    let rests = raw(&store, "a").await;
    assert!(rests.starts_with(b"k8s:enc:aesgcm:v2:one:"));
    assert!(!holds(&rests, "treasure") && !holds(&rests, &STANDARD.encode("treasure")));
    let patch = json!({"data": {"k": STANDARD.encode("other")}});
    assert_eq!(rest.patch("merge-patch", &format!("{SECRETS}/a"), &patch).await.code, 200);
    assert!(!holds(&raw(&store, "a").await, &STANDARD.encode("other")));
    let read = rest.get(&format!("{SECRETS}/a")).await.json();
    assert_eq!(read["data"]["k"], STANDARD.encode("other"));
    let list = rest.get(&format!("{SECRETS}?limit=1")).await.json();
    assert_eq!(list["items"][0]["data"]["k"], STANDARD.encode("other"));
    assert_eq!(rest.delete(&format!("{SECRETS}/a"), &Value::Null).await.code, 200);
    assert_eq!(rest.get(&format!("{SECRETS}/a")).await.code, 404);
    assert_eq!(ready(&rest).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_rotated_by_writing_every_secret_once_as_it_is() {
    let store = Model::new();
    let plain = server(&store, &[IDENTITY, &key("old", 1)]).await;
    make(&plain.admin_rest(), "a", "treasure").await;
    assert!(holds(&raw(&store, "a").await, &STANDARD.encode("treasure")));
    plain.running.stop().await;

    for (providers, start) in [
        (vec![key("old", 1), IDENTITY.to_owned()], "k8s:enc:aesgcm:v2:old:"),
        (vec![key("new", 2), key("old", 1)], "k8s:enc:aesgcm:v2:new:"),
    ] {
        let providers: Vec<&str> = providers.iter().map(String::as_str).collect();
        let server = server(&store, &providers).await;
        let rest = server.admin_rest();
        let path = format!("{SECRETS}/a");
        let metric = async |line: &str| {
            String::from_utf8(rest.get("/metrics").await.body.to_vec()).unwrap().lines().any(|own| own == line)
        };
        assert!(metric("diolkos_apiserver_stale_values 1").await);
        let before = rest.get(&path).await.json();
        assert!(!raw(&store, "a").await.starts_with(start.as_bytes()));
        // What `kubectl get -o json | kubectl replace -f -` does.
        let replaced = rest.put(&path, &before).await;
        assert_eq!(replaced.code, 200, "{}", replaced.json());
        assert!(raw(&store, "a").await.starts_with(start.as_bytes()));
        eventually("nothing is stale", async || metric("diolkos_apiserver_stale_values 0").await).await;
        let again = rest.get(&path).await.json();
        let once_more = rest.put(&path, &again).await.json();
        assert_eq!(once_more["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"], "once is enough");
        server.running.stop().await;
    }
    let last = server(&store, &[&key("new", 2)]).await;
    assert_eq!(ready(&last.admin_rest()).await.0, 200);
    let read = last.admin_rest().get(&format!("{SECRETS}/a")).await.json();
    assert_eq!(read["data"]["k"], STANDARD.encode("treasure"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_cannot_be_decrypted_fails_readyz_and_nothing_else() {
    let store = Model::new();
    let old = server(&store, &[&key("old", 1)]).await;
    make(&old.admin_rest(), "lost", "treasure").await;
    old.running.stop().await;
    let server = server(&store, &[&key("new", 2)]).await;
    let rest = server.admin_rest();
    make(&rest, "kept", "other").await;
    let (code, why) = ready(&rest).await;
    assert_eq!(code, 500);
    assert!(why.contains("/registry/core/secrets/default/lost: the value was sealed with the key \"old\""), "{why}");
    assert!(!why.contains("kept"), "{why}");
    let list = rest.get(SECRETS).await.json();
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["kept"]);
    let lost = rest.get(&format!("{SECRETS}/lost")).await;
    assert_eq!(lost.code, 500);
    assert!(lost.json()["message"].as_str().unwrap().contains("cannot be decrypted"), "{}", lost.json());
    assert_eq!(rest.put(&format!("{SECRETS}/lost"), &secret("lost", "new")).await.code, 500);
    // Once somebody removes it, all is well.
    let write = Write::Delete { key: "/registry/core/secrets/default/lost".into() };
    assert!(matches!(store.commit(&[], &[write]).await.unwrap(), Commit::Done(_)));
    eventually("the server is ready", async || ready(&rest).await.0 == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_were_swapped_in_the_store_are_refused() {
    let store = Model::new();
    let server = server(&store, &[&key("one", 1), IDENTITY]).await;
    let rest = server.admin_rest();
    make(&rest, "mine", "harmless").await;
    make(&rest, "theirs", "treasure").await;
    let value = raw(&store, "theirs").await;
    let write = Write::Put { key: "/registry/core/secrets/default/mine".into(), value };
    assert!(matches!(store.commit(&[], &[write]).await.unwrap(), Commit::Done(_)));
    eventually("the swap is seen", async || rest.get(&format!("{SECRETS}/mine")).await.code == 500).await;
    assert!(ready(&rest).await.1.contains("secrets/default/mine: the value cannot be decrypted"));
    assert_eq!(rest.get(&format!("{SECRETS}/theirs")).await.code, 200);
}
