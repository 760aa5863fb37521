//! Which objects a watcher sees, and how they come and go.

use super::*;

#[tokio::test]
async fn an_object_that_begins_to_match_is_added_and_one_that_ceases_is_deleted() {
    let (model, cache) = start(limits()).await;
    let spec = WatchSpec { filter: Some(with_app("a")), ..all_pods(Start::Now(Freshness::Any)) };
    let mut watch = cache.watch(spec.clone()).await.unwrap();
    let start = model.revision();
    for writes in [
        [pod("p", "b", "")],
        [pod("p", "a", "")],
        [pod("p", "a", "n1")],
        [pod("p", "b", "n2")],
        [pod("p", "b", "n3")],
        [pod("p", "a", "n4")],
        [gone("p")],
    ] {
        commit(&model, &writes).await;
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(next(&mut watch).await);
    }
    let lines: Vec<String> = seen.iter().map(line).collect();
    let at = |verb: &str, step: Revision| format!("{verb} p@{}", start + step);
    let wanted = [at("added", 2), at("modified", 3), at("deleted", 4), at("added", 6), at("deleted", 7)];
    assert_eq!(lines, wanted);
    let left: Value = serde_json::from_slice(&seen[2].object().unwrap().bytes).unwrap();
    assert_eq!(left["spec"]["nodeName"], "n1", "one that leaves is told as it was when it last matched");
    let deleted: Value = serde_json::from_slice(&seen[4].object().unwrap().bytes).unwrap();
    assert_eq!(deleted["spec"]["nodeName"], "n4", "a deletion carries the last state");
    // The history tells the same.
    let mut resumed = cache.watch(WatchSpec { start: Start::After(start), ..spec }).await.unwrap();
    assert_eq!(take(&mut resumed, 5).await, wanted);
}

#[tokio::test]
async fn watches_of_a_node_see_its_pods_come_and_go() {
    let (model, cache) = start(limits()).await;
    let on = |node: &str| WatchSpec { node: Some(node.into()), ..all_pods(Start::Now(Freshness::Any)) };
    let mut first = cache.watch(on("n1")).await.unwrap();
    let mut second = cache.watch(on("n2")).await.unwrap();
    let start = model.revision();
    commit(&model, &[pod("p", "a", "")]).await;
    commit(&model, &[pod("p", "a", "n1")]).await;
    commit(&model, &[pod("p", "a", "n2")]).await;
    commit(&model, &[gone("p")]).await;
    caught_up(&model, &cache).await;
    assert_eq!(take(&mut first, 2).await, [format!("added p@{}", start + 2), format!("deleted p@{}", start + 3)]);
    assert_eq!(take(&mut second, 2).await, [format!("added p@{}", start + 3), format!("deleted p@{}", start + 4)]);
    assert_silent(&mut first);
    assert_silent(&mut second);
    let state = Start::State { freshness: Freshness::Any, bookmark: false };
    commit(&model, &[pod("q", "a", "n1"), pod("r", "a", "n2")]).await;
    caught_up(&model, &cache).await;
    let mut late = cache.watch(WatchSpec { start: state, ..on("n2") }).await.unwrap();
    assert_eq!(take(&mut late, 1).await, [format!("added r@{}", start + 5)], "what was before is selected too");
}

#[tokio::test]
async fn a_change_is_looked_at_only_by_watchers_of_its_place() {
    const NODES: usize = 2000;
    let (model, cache) = start(limits()).await;
    let looked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counting = |looked: &Arc<std::sync::atomic::AtomicUsize>| -> Filter {
        let looked = Arc::clone(looked);
        Arc::new(move |_| {
            looked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            true
        })
    };
    let mut watches = Vec::new();
    for n in 0..NODES {
        let node = Some(format!("n{n}"));
        let filter = Some(counting(&looked));
        watches.push(cache.watch(WatchSpec { node, filter, ..all_pods(Start::Now(Freshness::Any)) }).await.unwrap());
    }
    for prefix in ["/registry/core/pods/other/", "/registry/core/services/"] {
        let (prefix, filter) = (prefix.to_owned(), Some(counting(&looked)));
        watches.push(cache.watch(WatchSpec { prefix, filter, ..all_pods(Start::Now(Freshness::Any)) }).await.unwrap());
    }
    commit(&model, &[pod("p", "a", "n7")]).await;
    assert_eq!(take(&mut watches[7], 1).await.len(), 1);
    assert_eq!(looked.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_prefix_is_a_resource_a_namespace_or_one_object() {
    let (model, cache) = start(limits()).await;
    let start = model.revision();
    let json = |name: &str| format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}");
    let put = |key: &str| Write::Put { key: key.into(), value: json(key.rsplit('/').next().unwrap()).into() };
    let keys = [
        "/registry/core/pods/a/x",
        "/registry/core/pods/a/xy",
        "/registry/core/pods/b/x",
        "/registry/core/podtemplates/a/x",
        "/registry/core/nodes/x",
    ];
    let watch = async |prefix: &str| {
        let spec = WatchSpec { prefix: prefix.into(), ..all_pods(Start::After(start)) };
        cache.watch(spec).await.unwrap()
    };
    let mut live = Vec::new();
    let expected = [
        ("/registry/core/pods/", vec![1, 2, 3]),
        ("/registry/core/pods/a/", vec![1, 2]),
        ("/registry/core/pods/a/x", vec![1]),
        ("/registry/core/nodes/", vec![5]),
        ("/registry/core/nodes/x", vec![5]),
    ];
    for (prefix, _) in &expected {
        live.push(watch(prefix).await);
    }
    for key in keys {
        commit(&model, &[put(key)]).await;
    }
    caught_up(&model, &cache).await;
    for ((prefix, steps), mut live) in expected.into_iter().zip(live) {
        let wanted: Vec<Revision> = steps.iter().map(|step| start + step).collect();
        for watch in [&mut live, &mut watch(prefix).await] {
            let mut seen = Vec::new();
            for _ in 0..wanted.len() {
                seen.push(next(watch).await.revision());
            }
            assert_eq!(seen, wanted, "{prefix}");
            assert_silent(watch);
        }
        let (listed, _) = cache.list(prefix, None, Freshness::Any).await.unwrap();
        assert_eq!(listed.iter().map(|object| object.revision).collect::<Vec<_>>(), wanted, "{prefix}");
    }
}

#[tokio::test]
async fn objects_offer_their_labels_and_selectable_fields() {
    let (model, cache) = start(limits()).await;
    commit(&model, &[pod("p", "web", "n1")]).await;
    let object = cache.get(&key("p"), Freshness::Latest).await.unwrap().unwrap();
    assert_eq!((object.label("app"), object.label("none")), (Some("web"), None));
    assert_eq!((object.name(), object.namespace()), ("p", "default"));
    let fields = ["metadata.name", "metadata.namespace", "spec.nodeName", "spec.hostNetwork", "spec.unknown"];
    let values = fields.map(|path| object.field(path));
    assert_eq!(values, [Some("p"), Some("default"), Some("n1"), Some("false"), None]);
    let filtered = cache.list(PODS, Some(&with_app("other")), Freshness::Any).await.unwrap();
    assert_eq!(filtered.0.len(), 0);
}

#[tokio::test]
async fn claims_and_ticks_are_kept_as_they_are_and_told_to_nobody() {
    let (model, cache) = start(limits()).await;
    let claim = "/registry/_claims/nodeport/30000";
    let mut watch = cache
        .watch(WatchSpec { prefix: "/registry/_claims/nodeport/".into(), ..all_pods(Start::Now(Freshness::Any)) })
        .await
        .unwrap();
    commit(&model, &[Write::Put { key: claim.into(), value: "default/web".into() }]).await;
    assert_eq!(cache.get(claim, Freshness::Latest).await.unwrap().unwrap().bytes, "default/web");
    assert_eq!(cache.list("/registry/_claims/nodeport/", None, Freshness::Any).await.unwrap().0.len(), 1);
    assert_silent(&mut watch);
}

#[tokio::test]
async fn a_value_that_is_no_object_spoils_only_its_own_key() {
    let (model, cache) = start(limits()).await;
    let mut watch = cache.watch(all_pods(Start::Now(Freshness::Any))).await.unwrap();
    commit(&model, &[pod("a", "a", ""), pod("b", "a", "")]).await;
    for bad in ["", "null", "[]", "{\"metadata\":3}", "{\"metadata\":{\"labels\":[]}}", "{\"metadata\":{", "\u{1}"] {
        commit(&model, &[Write::Put { key: key("b"), value: bad.to_owned().into() }]).await;
        assert_eq!(code(cache.get(&key("b"), Freshness::Latest).await), 500, "{bad}");
        let (objects, _) = cache.list(PODS, None, Freshness::Any).await.unwrap();
        assert_eq!(names(&objects), ["a"]);
    }
    assert_eq!(cache.metrics().broken.get(), 7);
    let repaired = commit(&model, &[pod("b", "a", "")]).await;
    let told = take(&mut watch, 4).await;
    assert!(told[2].starts_with("deleted b@"), "{told:?}");
    assert_eq!(told[3], format!("added b@{repaired}"));
}
