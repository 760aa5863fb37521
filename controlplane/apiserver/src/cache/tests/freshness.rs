//! How current answers are.

use super::*;

#[tokio::test]
async fn the_latest_state_is_what_was_committed_before_the_call() {
    let (model, cache) = start(limits()).await;
    for n in 0..50 {
        let revision = commit(&model, &[pod("a", &n.to_string(), "")]).await;
        let object = cache.get(&key("a"), Freshness::Latest).await.unwrap().unwrap();
        assert_eq!(object.revision, revision);
    }
    assert_eq!(cache.metrics().ticks.get(), 0, "the watch follows by itself");
}

#[tokio::test]
async fn commits_outside_the_registry_are_caught_up_by_a_tick() {
    let (model, cache) = start(limits()).await;
    let foreign = Write::Put { key: "/elsewhere".into(), value: "1".into() };
    let foreign = commit(&model, &[foreign]).await;
    let (objects, revision) = cache.list(PODS, None, Freshness::Latest).await.unwrap();
    assert!(revision > foreign && objects.is_empty());
    assert_eq!(cache.metrics().ticks.get(), 1);
    let many = (0..100).map(|_| cache.list(PODS, None, Freshness::Latest));
    futures::future::try_join_all(many).await.unwrap();
    assert_eq!(cache.metrics().ticks.get(), 1, "the tick's own revision needs no tick");
}

#[tokio::test]
async fn readers_of_the_latest_state_share_reads_of_the_store() {
    let model = Model::new();
    let cache = Cache::start(Arc::new(Exchange::of(&model)), fields, limits());
    within("the fill", cache.ready()).await;
    let before = cache.metrics().revision_reads.get();
    let name = key("a");
    futures::future::try_join_all((0..500).map(|_| cache.get(&name, Freshness::Latest))).await.unwrap();
    let reads = cache.metrics().revision_reads.get() - before;
    assert!(reads <= 2, "{reads} reads for 500 readers");
    // However they interleave, nobody is answered by a read that began before it asked.
    let readers: Vec<_> = (0..20)
        .map(|n| {
            let (model, cache) = (model.clone(), cache.clone());
            tokio::spawn(async move {
                let name = format!("p{n}");
                for step in 0..20 {
                    let revision = commit(&model, &[pod(&name, &step.to_string(), "")]).await;
                    let object = cache.get(&key(&name), Freshness::Latest).await.unwrap().unwrap();
                    assert_eq!(object.revision, revision);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn a_revision_that_does_not_come_is_too_large() {
    let (model, cache) = start(limits()).await;
    let future = model.revision() + 1;
    let failure = cache.list(PODS, None, Freshness::AtLeast(future)).await.unwrap_err();
    assert_eq!(failure.code(), 504);
    assert!(failure.to_string().contains("Too large resource version"), "{failure}");
    let read = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get(&key("a"), Freshness::AtLeast(future)).await }
    });
    commit(&model, &[pod("a", "a", "")]).await;
    assert_eq!(within("the read", read).await.unwrap().unwrap().unwrap().revision, future, "one that comes is awaited");
}

#[tokio::test]
async fn a_cache_that_is_not_filled_says_so() {
    let model = Model::new();
    model.set_away(true);
    let cache = over(&model, limits());
    let failure = cache.list(PODS, None, Freshness::Any).await.unwrap_err();
    assert_eq!(failure.code(), 503);
    assert!(failure.to_string().contains("does not answer"), "the cause is there: {failure}");
    assert!(cache.health().is_err());
    model.set_away(false);
    within("the fill", cache.ready()).await;
    assert_eq!(code(cache.list(PODS, None, Freshness::Latest).await), 200);
    eventually("health", || cache.health().is_ok()).await;
}
