//! A watch that never splits a commit: etcd cuts large answers into fragments, which are joined here.

use async_trait::async_trait;
use etcd_client::proto::{PbEvent, PbWatchResponse};
use etcd_client::{GetOptions, WatchOptions, WatchStream};
use tokio::time::timeout;

use super::{Etcd, range};
use crate::follow::{self, Follow};
use crate::{Change, Changes, Revision, StoreError};

impl Etcd {
    pub(super) async fn open_watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError> {
        self.check_readable(from).await?;
        // Only one watch shares a stream, so fragments of two watches never mix.
        let options = WatchOptions::new().with_prefix().with_start_revision(from + 1).with_fragment();
        let mut client = self.watch.clone();
        let stream = self.call("watch", from, client.watch(prefix, Some(options))).await?;
        let mut follower = Follower { etcd: self.clone(), stream, joiner: Joiner::default(), from };
        let opened = timeout(self.request_timeout, follower.response()).await;
        let opened = opened.map_err(|_| self.unavailable("the watch was not opened in time".into()))??;
        if !opened.created {
            return Err(self.unavailable("etcd sent changes of a watch before it said that it opened it".into()));
        }
        Ok(follow::changes(follower))
    }

    /// A watch from before the last compaction is cancelled by etcd itself, but old versions (before 3.4.33 and 3.5.15)
    /// lose a deletion that is just the compacted revision; and one from the future would wait in silence. A read at
    /// the revision tells both.
    async fn check_readable(&self, from: Revision) -> Result<(), StoreError> {
        if from == 0 {
            return Ok(());
        }
        // No key is read: only whether etcd knows the revision is of interest.
        let mut kv = self.kv.clone();
        self.call("watch", from, kv.get([0], Some(GetOptions::new().with_revision(from)))).await.map(drop)
    }
}

/// One open watch.
struct Follower {
    etcd: Etcd,
    stream: WatchStream,
    joiner: Joiner,
    from: Revision,
}

#[async_trait]
impl Follow for Follower {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            let response = self.response().await?;
            let changes = response.events.into_iter().filter_map(change).collect();
            let whole = self.joiner.join(changes, response.fragment);
            // A report of progress carries no events, and says nothing that the next commit will not say.
            if !whole.is_empty() {
                return Ok(whole);
            }
        }
    }
}

impl Follower {
    async fn response(&mut self) -> Result<PbWatchResponse, StoreError> {
        match self.stream.message().await {
            Ok(Some(response)) if response.compact_revision() != 0 => {
                Err(StoreError::Compacted { asked: self.from, oldest: response.compact_revision() })
            }
            Ok(Some(response)) if response.canceled() => {
                Err(self.etcd.unavailable(format!("etcd ended the watch: {}", response.cancel_reason())))
            }
            Ok(Some(response)) => Ok(response.0),
            Ok(None) => Err(self.etcd.unavailable("etcd closed the watch".into())),
            Err(error) => Err(self.etcd.failure("watch", self.from, &error)),
        }
    }
}

/// Joins fragments to whole commits. Holds back at most one commit.
#[derive(Default)]
struct Joiner {
    held: Vec<Change>,
}

impl Joiner {
    /// Takes the changes of one answer and returns those of commits that are complete. `fragment`: more changes of the
    /// last commit may follow.
    fn join(&mut self, changes: Vec<Change>, fragment: bool) -> Vec<Change> {
        let mut whole = std::mem::take(&mut self.held);
        let progress = changes.is_empty();
        whole.extend(changes);
        let Some(last) = whole.last().map(Change::revision) else { return whole };
        if progress {
            self.held = whole;
            return Vec::new();
        }
        if fragment {
            let first_of_last = whole.partition_point(|change| change.revision() < last);
            self.held = whole.split_off(first_of_last);
        }
        whole
    }
}

fn change(event: PbEvent) -> Option<Change> {
    /// `EventType.DELETE` of etcd's mvccpb.
    const DELETE: i32 = 1;
    let kv = event.kv?;
    Some(match event.r#type {
        DELETE => Change::Delete { revision: kv.mod_revision, key: range::key(kv.key) },
        _ => Change::Put(range::entry(kv)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(revision: Revision, key: &str) -> Change {
        Change::Delete { key: key.into(), revision }
    }

    #[test]
    fn a_commit_cut_into_fragments_is_delivered_whole() {
        let mut joiner = Joiner::default();
        assert_eq!(joiner.join(vec![deleted(2, "a"), deleted(3, "a")], true), [deleted(2, "a")]);
        assert_eq!(joiner.join(vec![deleted(3, "b")], true), []);
        assert_eq!(joiner.join(vec![], false), [], "progress does not end a commit");
        let whole = joiner.join(vec![deleted(3, "c"), deleted(4, "a")], false);
        assert_eq!(whole, [deleted(3, "a"), deleted(3, "b"), deleted(3, "c"), deleted(4, "a")]);
        assert_eq!(joiner.join(vec![deleted(5, "a")], false), [deleted(5, "a")]);
    }

    #[test]
    fn a_fragment_with_the_next_commit_completes_the_last() {
        let mut joiner = Joiner::default();
        assert_eq!(joiner.join(vec![deleted(3, "a")], true), []);
        assert_eq!(joiner.join(vec![deleted(4, "a")], true), [deleted(3, "a")]);
        assert_eq!(joiner.join(vec![deleted(4, "b")], false), [deleted(4, "a"), deleted(4, "b")]);
    }
}
