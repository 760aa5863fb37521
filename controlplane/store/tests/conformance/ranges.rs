//! Reads at one revision.

use std::sync::Arc;

use diolkos_store::{Range, Snapshot, Store, StoreError, Write};

use super::{delete, done, put};

pub(crate) async fn a_range_holds_its_prefix_and_nothing_else(store: Arc<dyn Store>) {
    for key in ["/a", "/a/", "/a/1", "/a/2", "/a0", "/b/1", "/A/1"] {
        done(&store, &[], &[put(key, "1")]).await;
    }
    let keys = async |prefix: &str, start: &str, limit| {
        let range = Range { prefix: prefix.into(), start: start.into(), limit, at: 0 };
        let snapshot = store.range(range).await.unwrap();
        (snapshot.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>(), snapshot.remaining)
    };
    assert_eq!(keys("/a/", "", 0).await, (vec!["/a/".into(), "/a/1".into(), "/a/2".into()], 0));
    assert_eq!(keys("/a/", "/a/1", 0).await, (vec!["/a/1".into(), "/a/2".into()], 0), "start is inclusive");
    assert_eq!(keys("/a/", "/a/1\0", 0).await, (vec!["/a/2".into()], 0));
    assert_eq!(keys("/a/", "/a/", 1).await, (vec!["/a/".into()], 2), "what the limit left out is counted");
    assert_eq!(keys("/a/", "/b", 0).await, (vec![], 0), "a start after the prefix");
    assert_eq!(keys("/a/", "/A", 0).await.0.len(), 3, "a start before the prefix");
    assert_eq!(keys("/none/", "", 5).await, (vec![], 0));
    assert_eq!(keys("", "", 0).await.0, ["/A/1", "/a", "/a/", "/a/1", "/a/2", "/a0", "/b/1"], "in order of keys");
}

pub(crate) async fn a_range_at_an_old_revision_is_as_it_was(store: Arc<dyn Store>) {
    let mut past: Vec<Snapshot> = Vec::new();
    let steps = [
        vec![put("/k/a", "1"), put("/k/b", "1")],
        vec![put("/k/a", "2")],
        vec![delete("/k/b"), put("/k/c", "1")],
        vec![put("/other", "1")],
        vec![put("/k/b", "2"), delete("/k/a")],
    ];
    for writes in steps {
        done(&store, &[], &writes).await;
        past.push(store.range(Range { prefix: "/k/".into(), ..Range::default() }).await.unwrap());
    }
    for was in &past {
        let range = Range { prefix: "/k/".into(), at: was.revision, ..Range::default() };
        assert_eq!(store.range(range).await.unwrap(), *was);
    }
    assert_eq!(past.iter().map(|was| was.entries.len()).collect::<Vec<_>>(), [2, 2, 2, 2, 2]);
}

pub(crate) async fn pages_at_one_revision_miss_and_repeat_nothing_while_keys_change(store: Arc<dyn Store>) {
    const KEYS: usize = 100;
    let key = |n: usize| format!("/p/{n:03}");
    for n in 0..KEYS {
        done(&store, &[], &[put(&key(n), "1")]).await;
    }
    let before = store.range(Range { prefix: "/p/".into(), ..Range::default() }).await.unwrap();
    let mut range = Range { prefix: "/p/".into(), limit: 7, ..Range::default() };
    let mut read = Vec::new();
    loop {
        let page = store.range(range.clone()).await.unwrap();
        assert_eq!(page.revision, before.revision, "every page is of the same revision");
        assert_eq!(page.remaining as usize, KEYS - read.len() - page.entries.len());
        read.extend(page.entries);
        if page.remaining == 0 {
            break;
        }
        range.at = page.revision;
        range.start = format!("{}\0", read.last().unwrap().key);
        // Ahead of the reader keys go away, come and change.
        let ahead = read.len() + 3;
        done(&store, &[], &[delete(&key(ahead)), put(&format!("{}+", key(ahead)), "1"), put(&key(ahead + 1), "2")])
            .await;
    }
    assert_eq!(read, before.entries);
}

pub(crate) async fn a_range_of_thousands_of_keys_is_whole(store: Arc<dyn Store>) {
    const COMMITS: usize = 20;
    const EACH: usize = 100;
    for commit in 0..COMMITS {
        let writes: Vec<_> = (0..EACH).map(|n| put(&format!("/t/{:04}", n * COMMITS + commit), "1")).collect();
        done(&store, &[], &writes).await;
    }
    let all = store.range(Range { prefix: "/t/".into(), ..Range::default() }).await.unwrap();
    assert_eq!((all.entries.len(), all.remaining), (COMMITS * EACH, 0));
    assert!(all.entries.is_sorted_by(|a, b| a.key < b.key));
    let some = store.range(Range { prefix: "/t/".into(), limit: 1234, ..Range::default() }).await.unwrap();
    assert_eq!((some.entries.as_slice(), some.remaining), (&all.entries[..1234], 766));
}

pub(crate) async fn a_range_of_large_values_is_whole(store: Arc<dyn Store>) {
    // More than one answer of 64 MiB can hold.
    const KEYS: usize = 72;
    let value = vec![b'x'; 1 << 20];
    for n in 0..KEYS {
        done(&store, &[], &[Write::Put { key: format!("/l/{n:02}"), value: value.clone().into() }]).await;
    }
    let all = store.range(Range { prefix: "/l/".into(), ..Range::default() }).await.unwrap();
    assert_eq!((all.entries.len(), all.remaining), (KEYS, 0));
    assert!(all.entries.iter().all(|entry| entry.value.len() == value.len()));
}

pub(crate) async fn a_compacted_revision_cannot_be_read(store: Arc<dyn Store>) {
    let first = done(&store, &[], &[put("/a", "1"), put("/gone", "1")]).await;
    let second = done(&store, &[], &[put("/a", "2"), delete("/gone")]).await;
    let third = done(&store, &[], &[put("/a", "3")]).await;
    store.compact(second).await.unwrap();
    store.compact(second).await.unwrap();
    store.compact(first).await.unwrap();
    let read = async |at| store.range(Range { prefix: "/".into(), at, ..Range::default() }).await;
    assert!(matches!(read(first).await, Err(StoreError::Compacted { asked, .. }) if asked == first));
    let at_compaction = read(second).await.unwrap();
    assert_eq!(at_compaction.entries.iter().map(|entry| entry.value.as_ref()).collect::<Vec<_>>(), [b"2"]);
    assert_eq!(read(third).await.unwrap().entries[0].value, "3");
    let future = store.compact(third + 1).await;
    assert!(matches!(future, Err(StoreError::Future { asked, .. }) if asked == third + 1), "{future:?}");
}

pub(crate) async fn a_revision_in_the_future_cannot_be_read(store: Arc<dyn Store>) {
    let now = done(&store, &[], &[put("/a", "1")]).await;
    let range = store.range(Range { prefix: "/".into(), at: now + 1, ..Range::default() }).await;
    assert!(matches!(range, Err(StoreError::Future { asked, .. }) if asked == now + 1), "{range:?}");
}
