//! When the store goes away, comes back, has forgotten, or has gone back.

use super::*;

#[tokio::test]
async fn with_the_store_away_the_cache_serves_what_it_has() {
    let (model, cache) = start(limits()).await;
    let revision = commit(&model, &[pod("a", "a", "")]).await;
    caught_up(&model, &cache).await;
    model.set_away(true);
    eventually("the loss is noticed", || cache.health().is_err()).await;
    assert_eq!(cache.get(&key("a"), Freshness::Any).await.unwrap().unwrap().revision, revision);
    assert_eq!(cache.list(PODS, None, Freshness::AtLeast(revision)).await.unwrap().1, revision);
    assert_eq!(code(cache.get(&key("a"), Freshness::Latest).await), 503);
    let mut watch = cache.watch(all_pods(Start::After(revision))).await.unwrap();
    model.set_away(false);
    let next_revision = commit(&model, &[gone("a")]).await;
    assert_eq!(take(&mut watch, 1).await, [format!("deleted a@{next_revision}")]);
    eventually("health", || cache.health().is_ok()).await;
    assert_eq!(cache.metrics().fills.get(), 1, "it went on from where it was");
}

#[tokio::test]
async fn after_a_compaction_in_its_absence_the_cache_reads_all_again() {
    let (model, cache) = start(limits()).await;
    commit(&model, &[pod("stays", "a", ""), pod("goes", "a", ""), pod("changes", "a", "")]).await;
    let mut watch = cache.watch(all_pods(Start::Now(Freshness::Latest))).await.unwrap();
    let before = cache.get(&key("stays"), Freshness::Latest).await.unwrap().unwrap();
    let old = model.revision();
    model.hold_watches(true);
    commit(&model, &[gone("goes")]).await;
    commit(&model, &[pod("changes", "b", ""), pod("comes", "a", "")]).await;
    model.compact(model.revision()).await.unwrap();
    model.hold_watches(false);
    let failure = within("the end", watch.next()).await.unwrap().unwrap_err();
    assert_eq!(failure.code(), 410, "{failure}");
    assert!(within("the end", watch.next()).await.is_none());
    let (objects, revision) = cache.list(PODS, None, Freshness::Latest).await.unwrap();
    assert_eq!(names(&objects), ["changes", "comes", "stays"]);
    assert_eq!(revision, model.revision());
    assert!(Arc::ptr_eq(&objects[2], &before), "what did not change was not parsed again");
    assert_eq!(code(cache.watch(all_pods(Start::After(old))).await), 410, "what was missed cannot be resumed over");
    let mut watch = cache.watch(all_pods(Start::After(revision))).await.unwrap();
    let next_revision = commit(&model, &[pod("comes", "b", "")]).await;
    assert_eq!(take(&mut watch, 1).await, [format!("modified comes@{next_revision}")]);
    assert_eq!(cache.metrics().fills.get(), 2);
}

#[tokio::test]
async fn a_store_restored_to_an_earlier_revision_is_not_followed() {
    let model = Model::new();
    let exchange = Arc::new(Exchange::of(&model));
    let cache = Cache::start(exchange.clone(), fields, limits());
    for n in 0..10 {
        commit(&model, &[pod(&format!("p{n}"), "a", "")]).await;
    }
    caught_up(&model, &cache).await;
    let mut watch = cache.watch(all_pods(Start::Now(Freshness::Any))).await.unwrap();
    let told = model.revision();
    let backup = Model::new();
    commit(&backup, &[pod("restored", "a", "")]).await;
    exchange.replace(&backup);
    model.cut_watches();
    eventually("the operator is told", || cache.health().is_err_and(|why| why.contains("restored"))).await;
    assert_eq!(cache.revision(), told);
    assert_eq!(cache.list(PODS, None, Freshness::Any).await.unwrap().0.len(), 10);
    assert_silent(&mut watch);
    // When it comes past the revision that was told, all is read again and nobody resumes over the break.
    while backup.revision() <= told {
        commit(&backup, &[pod("new", "a", "")]).await;
    }
    let failure = within("the end", watch.next()).await.unwrap().unwrap_err();
    assert_eq!(failure.code(), 410);
    let (objects, revision) = cache.list(PODS, None, Freshness::Latest).await.unwrap();
    assert_eq!((names(&objects), revision), (vec!["new", "restored"], backup.revision()));
}

#[tokio::test]
async fn a_store_restored_to_a_later_revision_is_followed() {
    let model = Model::new();
    let exchange = Arc::new(Exchange::of(&model));
    let cache = Cache::start(exchange.clone(), fields, limits());
    commit(&model, &[pod("a", "a", "")]).await;
    caught_up(&model, &cache).await;
    let bumped = Model::starting_at(1_000_000);
    commit(&bumped, &[pod("b", "a", "")]).await;
    bumped.compact(bumped.revision()).await.unwrap();
    exchange.replace(&bumped);
    model.cut_watches();
    caught_up(&bumped, &cache).await;
    assert_eq!(names(&cache.list(PODS, None, Freshness::Latest).await.unwrap().0), ["b"]);
}
