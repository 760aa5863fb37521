//! What every watcher can rely on, each by its name.

use super::*;

#[tokio::test]
async fn events_are_ordered() {
    let (model, cache) = start(limits()).await;
    let mut watch = cache.watch(all_pods(Start::Now(Freshness::Any))).await.unwrap();
    for n in 0..100 {
        commit(&model, &[pod(&format!("p{}", n % 7), "a", "")]).await;
    }
    let mut last = 0;
    for _ in 0..100 {
        let revision = next(&mut watch).await.revision();
        assert!(revision > last);
        last = revision;
    }
}

#[tokio::test]
async fn events_are_unique_also_when_the_store_repeats_itself() {
    let (model, cache) = start(limits()).await;
    let mut watch = cache.watch(all_pods(Start::Now(Freshness::Any))).await.unwrap();
    for n in 0..20 {
        commit(&model, &[pod(&format!("p{n}"), "a", "")]).await;
        model.cut_watches();
    }
    let last = commit(&model, &[pod("last", "a", "")]).await;
    let told = take(&mut watch, 21).await;
    assert_eq!(told[0], format!("added p0@{}", last - 20));
    assert_eq!(told[20], format!("added last@{last}"));
    assert_silent(&mut watch);
}

#[tokio::test]
async fn events_of_a_commit_are_atomic() {
    // A queue of three holds the first commit, and of the second all or nothing.
    let (model, cache) = start(Limits { queue_events: 3, ..limits() }).await;
    let mut watch = cache.watch(all_pods(Start::Now(Freshness::Any))).await.unwrap();
    let mut others = cache.watch(all_pods(Start::Now(Freshness::Any))).await.unwrap();
    let first = commit(&model, &[pod("a", "a", ""), pod("b", "a", "")]).await;
    caught_up(&model, &cache).await;
    assert_eq!(take(&mut others, 2).await.len(), 2);
    let second = commit(&model, &[pod("a", "b", ""), gone("b"), pod("c", "b", "")]).await;
    caught_up(&model, &cache).await;
    assert_eq!(take(&mut watch, 2).await, [format!("added a@{first}"), format!("added b@{first}")]);
    assert!(within("the end", watch.next()).await.is_none(), "no part of the second commit is told");
    let wanted = [format!("modified a@{second}"), format!("deleted b@{second}"), format!("added c@{second}")];
    assert_eq!(take(&mut others, 3).await, wanted);
    let (objects, revision) = cache.list(PODS, None, Freshness::Any).await.unwrap();
    assert_eq!((names(&objects), revision), (vec!["a", "c"], second));
}

#[tokio::test]
async fn events_are_reliable() {
    let (model, cache) = start(limits()).await;
    let mut watch = cache.watch(all_pods(Start::Now(Freshness::Any))).await.unwrap();
    let mut wanted = Vec::new();
    for n in 0..300 {
        let name = format!("p{}", n % 3);
        let verb = ["added", "modified", "deleted"][n / 3 % 3];
        let write = if verb == "deleted" { gone(&name) } else { pod(&name, "a", "") };
        let revision = commit(&model, &[write]).await;
        wanted.push(format!("{verb} {name}@{revision}"));
        if n % 50 == 25 {
            model.cut_watches();
        }
    }
    assert_eq!(take(&mut watch, 300).await, wanted);
}

#[tokio::test]
async fn a_watch_is_resumable_from_every_event() {
    let (model, cache) = start(limits()).await;
    let first = model.revision();
    for n in 0..10 {
        commit(&model, &[pod(&format!("p{n}"), "a", "")]).await;
    }
    caught_up(&model, &cache).await;
    let mut whole = cache.watch(all_pods(Start::After(first))).await.unwrap();
    let all = take(&mut whole, 10).await;
    for seen in 0..10 {
        let mut watch = cache.watch(all_pods(Start::After(first + seen))).await.unwrap();
        let rest = take(&mut watch, 10 - seen as usize).await;
        assert_eq!(rest, all[seen as usize..]);
        assert_silent(&mut watch);
    }
}

#[tokio::test]
async fn a_quiet_watch_is_bookmarkable() {
    let (model, cache) = start(Limits { bookmark_every: Duration::from_millis(5), ..limits() }).await;
    let with = WatchSpec { bookmarks: true, filter: Some(with_app("none")), ..all_pods(Start::Now(Freshness::Any)) };
    let mut watch = cache.watch(with).await.unwrap();
    let mut without =
        cache.watch(WatchSpec { prefix: key("none"), ..all_pods(Start::Now(Freshness::Any)) }).await.unwrap();
    let revision = commit(&model, &[pod("a", "a", "")]).await;
    loop {
        match next(&mut watch).await {
            CacheEvent::Bookmark { revision: reached, initial_events_end: false } if reached < revision => {}
            CacheEvent::Bookmark { revision: reached, initial_events_end: false } => {
                break assert_eq!(reached, revision);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_silent(&mut without);
    let later = commit(&model, &[pod("b", "none", "")]).await;
    let mut resumed = cache.watch(all_pods(Start::After(revision))).await.unwrap();
    assert_eq!(take(&mut resumed, 1).await, [format!("added b@{later}")], "a bookmark is a place to resume from");
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let (model, cache) = start(limits()).await;
    commit(&model, &[pod("a", "a", "")]).await;
    let second = commit(&model, &[pod("b", "b", "")]).await;
    let state = Start::State { freshness: Freshness::Latest, bookmark: true };
    let mut watch = cache.watch(all_pods(state)).await.unwrap();
    let third = commit(&model, &[gone("a")]).await;
    let wanted = [
        format!("added a@{}", second - 1),
        format!("added b@{second}"),
        format!("end of state @{second}"),
        format!("deleted a@{third}"),
    ];
    assert_eq!(take(&mut watch, 4).await, wanted);
    let plain = Start::State { freshness: Freshness::Any, bookmark: false };
    let mut watch = cache.watch(all_pods(plain)).await.unwrap();
    assert_eq!(take(&mut watch, 1).await, [format!("added b@{second}")]);
    assert_silent(&mut watch);
}

#[tokio::test]
async fn nobody_goes_back_in_time() {
    let (model, cache) = start(limits()).await;
    let revision = commit(&model, &[pod("a", "a", "")]).await;
    caught_up(&model, &cache).await;
    // Another apiserver's cache that lags behind must not answer a client who has seen more.
    model.hold_watches(true);
    let newer = commit(&model, &[pod("a", "b", "")]).await;
    assert_eq!(cache.get(&key("a"), Freshness::Any).await.unwrap().unwrap().revision, revision);
    assert_eq!(code(cache.get(&key("a"), Freshness::AtLeast(newer)).await), 504);
    assert_eq!(code(cache.list(PODS, None, Freshness::AtLeast(newer)).await), 504);
    assert_eq!(code(cache.watch(all_pods(Start::After(newer))).await), 504);
    model.hold_watches(false);
    assert_eq!(cache.get(&key("a"), Freshness::AtLeast(newer)).await.unwrap().unwrap().revision, newer);
    // A store that is older than what was told is not followed.
    let older = Model::new();
    let twin = over(&older, limits());
    within("the fill", twin.ready()).await;
    assert_eq!(code(twin.list(PODS, None, Freshness::AtLeast(newer)).await), 504);
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_told_410() {
    let (model, cache) = start(Limits { ring_events: 5, ..limits() }).await;
    let first = model.revision();
    for n in 0..8 {
        commit(&model, &[pod(&format!("p{n}"), "a", "")]).await;
    }
    caught_up(&model, &cache).await;
    assert_eq!(code(cache.watch(all_pods(Start::After(first))).await), 410);
    assert_eq!(code(cache.watch(all_pods(Start::After(first + 2))).await), 410);
    let mut watch = cache.watch(all_pods(Start::After(first + 3))).await.unwrap();
    assert_eq!(take(&mut watch, 5).await[0], format!("added p3@{}", first + 4));
    // A busy resource does not shorten the history of a quiet one.
    let quiet = WatchSpec { prefix: "/registry/core/services/".into(), ..all_pods(Start::After(first)) };
    assert_eq!(code(cache.watch(quiet).await), 200);
}

#[tokio::test]
async fn the_history_is_bounded_by_bytes_too() {
    let (model, cache) = start(Limits { ring_bytes: 4096, ..limits() }).await;
    let first = model.revision();
    let large = "x".repeat(3000);
    for n in 0..3 {
        commit(&model, &[pod(&format!("p{n}"), &large, "")]).await;
    }
    caught_up(&model, &cache).await;
    assert_eq!(code(cache.watch(all_pods(Start::After(first + 1))).await), 410);
    assert_eq!(code(cache.watch(all_pods(Start::After(first + 2))).await), 200);
}

#[tokio::test]
async fn a_slow_watcher_is_closed_and_does_not_block_the_others() {
    let (model, cache) = start(Limits { queue_events: 16, ..limits() }).await;
    let first = model.revision();
    let mut slow = cache.watch(all_pods(Start::After(first))).await.unwrap();
    let mut fast = cache.watch(all_pods(Start::After(first))).await.unwrap();
    for n in 0..100 {
        let revision = commit(&model, &[pod("a", &n.to_string(), "")]).await;
        assert_eq!(next(&mut fast).await.revision(), revision);
    }
    assert_eq!(cache.metrics().slow_closed.get(), 1);
    assert_eq!(cache.metrics().watchers.get(), 1);
    let mut seen = first;
    while let Some(event) = within("the end", slow.next()).await {
        let revision = event.unwrap().revision();
        assert_eq!(revision, seen + 1, "what it still gets has no gap");
        seen = revision;
    }
    assert_eq!(seen, first + 16);
    let mut resumed = cache.watch(all_pods(Start::After(seen))).await.unwrap();
    assert_eq!(next(&mut resumed).await.revision(), seen + 1, "and it resumes where it stopped");
}

#[tokio::test]
async fn a_watcher_that_holds_too_many_bytes_is_slow() {
    let (model, cache) = start(Limits { queue_bytes: 10_000, ..limits() }).await;
    let mut slow = cache.watch(all_pods(Start::Now(Freshness::Any))).await.unwrap();
    let large = "x".repeat(20_000);
    commit(&model, &[pod("a", &large, "")]).await;
    caught_up(&model, &cache).await;
    assert_eq!(next(&mut slow).await.object().unwrap().name(), "a", "one of any size fits an empty queue");
    for _ in 0..2 {
        commit(&model, &[pod("a", &large, "")]).await;
    }
    caught_up(&model, &cache).await;
    next(&mut slow).await;
    assert!(within("the end", slow.next()).await.is_none());
    assert_eq!(cache.metrics().slow_closed.get(), 1);
}

#[tokio::test]
async fn a_watch_that_is_dropped_costs_nothing_more() {
    let (_model, cache) = start(limits()).await;
    let watches: Vec<Watch> =
        futures::future::try_join_all((0..10).map(|_| cache.watch(all_pods(Start::Now(Freshness::Any)))))
            .await
            .unwrap();
    assert_eq!(cache.metrics().watchers.get(), 10);
    drop(watches);
    assert_eq!(cache.metrics().watchers.get(), 0);
}

#[tokio::test]
async fn at_shutdown_watches_end_with_a_bookmark() {
    let (model, cache) = start(Limits { bookmark_every: Duration::from_secs(600), ..limits() }).await;
    let spec = WatchSpec { bookmarks: true, ..all_pods(Start::Now(Freshness::Any)) };
    let mut watch = cache.watch(spec.clone()).await.unwrap();
    let mut plain = cache.watch(all_pods(Start::Now(Freshness::Any))).await.unwrap();
    let revision = commit(&model, &[pod("a", "a", "")]).await;
    caught_up(&model, &cache).await;
    cache.shutdown();
    assert_eq!(take(&mut watch, 2).await, [format!("added a@{revision}"), format!("bookmark @{revision}")]);
    assert!(within("the end", watch.next()).await.is_none());
    assert_eq!(take(&mut plain, 1).await.len(), 1);
    assert!(within("the end", plain.next()).await.is_none());
    assert_eq!(code(cache.watch(spec).await), 503);
    assert!(cache.get(&key("a"), Freshness::Any).await.unwrap().is_some(), "reads go on");
}
