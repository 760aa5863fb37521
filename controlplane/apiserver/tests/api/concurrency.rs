//! Many writers of one object lose nothing.

use diolkos_api::client::PatchKind;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use crate::harness::{Server, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: usize = 8;
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_increment_a_field_with_compare_and_swap_lose_no_update() {
    let server = Server::start().await;
    server.admin_rest().post(MAPS, &config_map("counter", "n", "0")).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let maps = server.admin().api::<ConfigMap>(Some("default"));
            tokio::spawn(async move {
                let mut done = 0;
                while done < ROUNDS {
                    let mut map = maps.get("counter").await.unwrap();
                    let data = map.data.as_mut().unwrap();
                    let next = data["n"].parse::<usize>().unwrap() + 1;
                    data.insert("n".into(), next.to_string());
                    match maps.update(&map).await {
                        Ok(_) => done += 1,
                        Err(failure) => assert!(failure.is_conflict(), "{failure}"),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let counter = server.admin_rest().get(&format!("{MAPS}/counter")).await.json();
    assert_eq!(counter["data"]["n"], (WRITERS * ROUNDS).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_of_different_fields_at_once_all_arrive() {
    let server = Server::start().await;
    server.admin_rest().post(MAPS, &config_map("shared", "a", "b")).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let maps = server.admin().api::<ConfigMap>(Some("default"));
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let mut data = serde_json::Map::new();
                    data.insert(format!("w{writer}r{round}"), "1".into());
                    maps.patch("shared", PatchKind::Merge, &json!({"data": data})).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let shared = server.admin_rest().get(&format!("{MAPS}/shared")).await.json();
    assert_eq!(shared["data"].as_object().unwrap().len(), WRITERS * ROUNDS + 1);
}
