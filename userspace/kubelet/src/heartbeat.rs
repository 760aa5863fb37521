//! Registration of the node, its lease and its status.

use crate::cluster::Cluster;
use crate::machine;
use crate::node::{self, NodeHealth, NodeIdentity};
use diolkos_api::status::Failure;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How often the lease is renewed and the status compared.
pub const PERIOD: Duration = Duration::from_secs(10);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the node known and alive, for ever. The first beat waits for the first look at the runtime.
pub async fn run(
    identity: NodeIdentity,
    cluster: Arc<dyn Cluster>,
    root_dir: PathBuf,
    mut health: watch::Receiver<NodeHealth>,
) {
    let mut heart = Heart { identity, cluster, last_write: None };
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    // Without a look there is nothing true to say; the look comes within a second.
    if health.changed().await.is_err() {
        return std::future::pending().await;
    }
    loop {
        let seen = health.borrow_and_update().clone();
        let seen = NodeHealth { pressure: machine::pressure(&root_dir), ..seen };
        match heart.beat(&seen, machine::now()).await {
            Ok(()) if failing => {
                failing = false;
                tracing::info!("the node's status is written again");
            }
            Ok(()) => {}
            Err(failure) => {
                if !failing {
                    tracing::warn!(error = %failure, "the node's status or lease was not written; will be tried again");
                }
                failing = true;
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        tokio::select! {
            _ = tick.tick() => {}
            changed = health.changed() => if changed.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// One node's heartbeat.
pub struct Heart {
    pub identity: NodeIdentity,
    pub cluster: Arc<dyn Cluster>,
    pub last_write: Option<Timestamp>,
}

impl Heart {
    /// Registers the node when it is not known, writes its status when due, and renews its lease.
    pub async fn beat(&mut self, health: &NodeHealth, now: Timestamp) -> Result<(), Failure> {
        let node = self.register().await?;
        let previous = node.status.clone().unwrap_or_default();
        let status = node::status(&self.identity, health, &previous, now);
        if let Some(patch) = node::patch(&previous, &status, self.last_write, now) {
            self.cluster.patch_node_status(&self.identity.name, &patch).await?;
            self.last_write = Some(now);
        }
        self.renew(&node, now).await
    }

    async fn register(&mut self) -> Result<Node, Failure> {
        let name = &self.identity.name;
        let node = match self.cluster.node(name).await? {
            Some(node) => node,
            None => {
                let created = self.cluster.create_node(&node::object(&self.identity)).await?;
                tracing::info!(node = name, "registered the node");
                self.last_write = None;
                created
            }
        };
        match node::adoption(&self.identity, &node) {
            Some(patch) => self.cluster.patch_node(name, &patch).await,
            None => Ok(node),
        }
    }

    async fn renew(&self, node: &Node, now: Timestamp) -> Result<(), Failure> {
        match self.cluster.lease(&self.identity.name).await? {
            Some(lease) => self.cluster.update_lease(&node::lease(Some(lease), node, now)).await.map(drop),
            None => self.cluster.create_lease(&node::lease(None, node, now)).await.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cluster::model::ModelCluster;
    use std::collections::BTreeMap;

    #[tokio::test]
    async fn a_node_registers_beats_and_comes_back_when_it_was_deleted() {
        let cluster = ModelCluster::default();
        let capacity = BTreeMap::from([("cpu".to_owned(), "2".to_owned())]);
        let identity = machine::identity("n1".into(), vec!["10.0.0.1".into()], capacity);
        let mut heart = Heart { identity, cluster: Arc::new(cluster.clone()), last_write: None };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        heart.beat(&NodeHealth::default(), at(0)).await.unwrap();
        let node = cluster.node("n1").await.unwrap().unwrap();
        assert_eq!(node.status.as_ref().unwrap().capacity.as_ref().unwrap()["cpu"].0, "2");
        heart.beat(&NodeHealth::default(), at(10)).await.unwrap();
        let again = cluster.node("n1").await.unwrap().unwrap();
        assert_eq!(again.metadata.resource_version, node.metadata.resource_version, "nothing new, nothing written");
        let lease = cluster.lease("n1").await.unwrap().unwrap();
        assert_eq!(lease.spec.unwrap().renew_time.unwrap().0, at(10));
        cluster.set_away(true);
        assert_eq!(heart.beat(&NodeHealth::default(), at(20)).await.unwrap_err().code(), 503);
        cluster.set_away(false);
        cluster.forget_node("n1");
        heart.beat(&NodeHealth::default(), at(30)).await.unwrap();
        assert!(cluster.node("n1").await.unwrap().unwrap().status.is_some());
    }
}
