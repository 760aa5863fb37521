//! Compare-and-swap, whole or not at all.

use std::sync::Arc;

use diolkos_store::{Commit, Entry, MAX_COMMIT_BYTES, MAX_COMMIT_OPERATIONS, Range, Store, StoreError, Write};

use super::{absent, at, delete, done, put};

pub(crate) async fn a_key_is_created_only_when_absent(store: Arc<dyn Store>) {
    let first = done(&store, &[absent("/a")], &[put("/a", "1")]).await;
    let again = store.commit(&[absent("/a")], &[put("/a", "2")]).await.unwrap();
    let entry = Entry { key: "/a".into(), value: "1".into(), revision: first };
    assert_eq!(again, Commit::Conflict { key: "/a".into(), current: Some(entry) });
    let gone = done(&store, &[at("/a", first)], &[delete("/a")]).await;
    assert!(gone > first);
    assert!(done(&store, &[absent("/a")], &[put("/a", "3")]).await > gone, "a deleted key is absent");
}

pub(crate) async fn a_write_at_an_old_revision_is_a_conflict_that_shows_the_present_entry(store: Arc<dyn Store>) {
    let first = done(&store, &[], &[put("/a", "1")]).await;
    let second = done(&store, &[at("/a", first)], &[put("/a", "2")]).await;
    let entry = Entry { key: "/a".into(), value: "2".into(), revision: second };
    for writes in [vec![put("/a", "3")], vec![delete("/a")]] {
        let late = store.commit(&[at("/a", first)], &writes).await.unwrap();
        assert_eq!(late, Commit::Conflict { key: "/a".into(), current: Some(entry.clone()) });
    }
    done(&store, &[at("/a", second)], &[delete("/a")]).await;
    let absent = store.commit(&[at("/a", second)], &[put("/a", "4")]).await.unwrap();
    assert_eq!(absent, Commit::Conflict { key: "/a".into(), current: None });
}

pub(crate) async fn of_many_that_create_a_key_one_wins(store: Arc<dyn Store>) {
    const TASKS: usize = 32;
    const KEYS: usize = 8;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut won = Vec::new();
                for key in (0..KEYS).map(|key| format!("/claims/{key}")) {
                    match store.commit(&[absent(&key)], &[put(&key, &task.to_string())]).await.unwrap() {
                        Commit::Done(_) => won.push((key, task.to_string())),
                        Commit::Conflict { current, .. } => assert!(current.is_some()),
                    }
                }
                won
            })
        })
        .collect();
    let mut won = Vec::new();
    for task in tasks {
        won.extend(task.await.unwrap());
    }
    won.sort();
    let held = store.range(Range { prefix: "/claims/".into(), ..Range::default() }).await.unwrap().entries;
    let held: Vec<(String, String)> =
        held.into_iter().map(|entry| (entry.key, String::from_utf8_lossy(&entry.value).into_owned())).collect();
    assert_eq!(won, held, "each key was won once, and holds what its winner wrote");
}

pub(crate) async fn increments_by_compare_and_swap_are_not_lost(store: Arc<dyn Store>) {
    const TASKS: u64 = 8;
    const EACH: u64 = 20;
    done(&store, &[absent("/count")], &[put("/count", "0")]).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut entry = store.range(whole("/count")).await.unwrap().entries.remove(0);
                for _ in 0..EACH {
                    // The conflict itself carries what the next try needs.
                    loop {
                        let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                        let next = (count + 1).to_string();
                        match store.commit(&[at("/count", entry.revision)], &[put("/count", &next)]).await.unwrap() {
                            Commit::Done(revision) => {
                                entry = Entry { key: entry.key, value: next.into(), revision };
                                break;
                            }
                            Commit::Conflict { current, .. } => entry = current.unwrap(),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let entry = store.range(whole("/count")).await.unwrap().entries.remove(0);
    assert_eq!(entry.value, (TASKS * EACH).to_string());
}

pub(crate) async fn a_commit_of_many_keys_happens_whole_or_not_at_all(store: Arc<dyn Store>) {
    let first = done(&store, &[absent("/a"), absent("/b")], &[put("/a", "1"), put("/b", "1"), put("/c", "1")]).await;
    let all = store.range(whole("/")).await.unwrap();
    assert!(all.entries.iter().all(|entry| entry.revision == first), "one commit is one revision: {all:?}");
    let expects = [at("/a", first), absent("/b")];
    let refused = store.commit(&expects, &[put("/a", "2"), put("/d", "2"), delete("/c")]).await.unwrap();
    assert!(matches!(refused, Commit::Conflict { ref key, .. } if key == "/b"), "{refused:?}");
    assert_eq!(store.range(whole("/")).await.unwrap(), all, "nothing changed, not even the revision");
    let second = done(&store, &[at("/a", first)], &[delete("/a"), put("/b", "2"), delete("/c")]).await;
    let rest = store.range(whole("/")).await.unwrap().entries;
    assert_eq!(rest, [Entry { key: "/b".into(), value: "2".into(), revision: second }]);
}

pub(crate) async fn the_first_expectation_that_fails_is_named(store: Arc<dyn Store>) {
    let revision = done(&store, &[], &[put("/a", "1"), put("/b", "1")]).await;
    let expects = [at("/a", revision), at("/none", revision), absent("/b")];
    let conflict = store.commit(&expects, &[put("/c", "1")]).await.unwrap();
    assert_eq!(conflict, Commit::Conflict { key: "/none".into(), current: None });
}

pub(crate) async fn a_commit_that_changes_nothing_has_the_present_revision(store: Arc<dyn Store>) {
    let revision = done(&store, &[], &[put("/a", "1")]).await;
    assert_eq!(done(&store, &[at("/a", revision)], &[]).await, revision);
    assert_eq!(done(&store, &[absent("/b")], &[delete("/b")]).await, revision);
    assert_eq!(done(&store, &[], &[put("/a", "1")]).await, revision + 1, "writing the same value is a change");
}

pub(crate) async fn a_commit_of_the_largest_size_is_taken(store: Arc<dyn Store>) {
    let value = vec![b'x'; MAX_COMMIT_BYTES - "/a".len()];
    let revision = done(&store, &[], &[Write::Put { key: "/a".into(), value: value.clone().into() }]).await;
    let held = store.range(whole("/a")).await.unwrap().entries;
    assert_eq!(held, [Entry { key: "/a".into(), value: value.into(), revision }]);
    let share = MAX_COMMIT_BYTES / MAX_COMMIT_OPERATIONS;
    let key = |n: usize| format!("/many/{n:03}");
    let expects: Vec<_> = (0..MAX_COMMIT_OPERATIONS).map(|n| absent(&key(n))).collect();
    let value = vec![b'y'; share - 2 * key(0).len()];
    let writes: Vec<_> =
        (0..MAX_COMMIT_OPERATIONS).map(|n| Write::Put { key: key(n), value: value.clone().into() }).collect();
    done(&store, &expects, &writes).await;
    assert_eq!(store.range(whole("/many/")).await.unwrap().entries.len(), MAX_COMMIT_OPERATIONS);
}

pub(crate) async fn what_is_too_large_is_refused_and_changes_nothing(store: Arc<dyn Store>) {
    let before = done(&store, &[], &[put("/a", "1")]).await;
    let large = Write::Put { key: "/large".into(), value: vec![0; MAX_COMMIT_BYTES].into() };
    let many: Vec<_> = (0..=MAX_COMMIT_OPERATIONS).map(|n| put(&format!("/many/{n}"), "1")).collect();
    let cases: [(&[Write], &str); 4] = [
        (&[put("/small", "1"), large], "/large makes it"),
        (&many, "129 operations"),
        (&[put("/b", "1"), delete("/b")], "writes /b twice"),
        (&[put("", "1")], "empty key"),
    ];
    for (writes, wanted) in cases {
        match store.commit(&[], writes).await {
            Err(StoreError::Refused { cause, .. }) => assert!(cause.contains(wanted), "{cause}"),
            other => panic!("{wanted}: {other:?}"),
        }
    }
    let after = store.range(whole("/")).await.unwrap();
    assert_eq!((after.revision, after.entries.len()), (before, 1));
}

fn whole(prefix: &str) -> Range {
    Range { prefix: prefix.into(), ..Range::default() }
}
