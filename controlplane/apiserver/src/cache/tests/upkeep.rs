//! What the cache does for the store.

use super::super::compact::Compactor;
use super::*;

#[test]
fn what_was_present_at_one_turn_is_compacted_at_the_next() {
    let mut compactor = Compactor::default();
    assert_eq!(compactor.turn(100), None, "nothing is known to be old yet");
    assert_eq!(compactor.turn(250), Some(100));
    compactor.done(100);
    assert_eq!(compactor.turn(250), Some(250));
    compactor.done(250);
    assert_eq!(compactor.turn(250), None, "an idle store is left alone");
    assert_eq!(compactor.turn(251), None);
    assert_eq!(compactor.turn(252), Some(251));
    assert_eq!(compactor.turn(260), Some(252), "a compaction that failed is made up for");
}

#[tokio::test]
async fn the_store_is_compacted_and_watches_do_not_notice() {
    let (model, cache) = start(Limits { compact_every: Some(Duration::from_millis(10)), ..limits() }).await;
    let mut watch = cache.watch(all_pods(Start::Now(Freshness::Any))).await.unwrap();
    let first = commit(&model, &[pod("a", "a", "")]).await;
    commit(&model, &[pod("a", "b", "")]).await;
    eventually("a compaction", || cache.metrics().compactions.get() > 0).await;
    let last = commit(&model, &[pod("a", "c", "")]).await;
    assert_eq!(take(&mut watch, 3).await[2], format!("modified a@{last}"));
    let old = Range { prefix: PODS.into(), at: first, ..Range::default() };
    assert!(model.range(old).await.is_err());
    assert_eq!(cache.metrics().fills.get(), 1);
}
