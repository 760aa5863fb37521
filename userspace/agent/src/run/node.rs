//! This node: waiting for the agent before this one and for the Node object, and what follows from it.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use diolkos_api::client::{self, Client, Event, ListOptions};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::clock::Clock;
use crate::desired::{NodeFacts, ThisNode};
use crate::options::{Options, Routing};
use crate::overlay::{OnLink, Overlay, OverlayConfig};
use crate::pods::Network;

/// How often a waiting agent says what it waits for.
const REMIND: Duration = Duration::from_secs(10);
/// How often a starting agent looks whether the one before it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Waits for the agent before this one, which may still be answering calls, to end.
pub(super) async fn lock(state_dir: &Path) -> anyhow::Result<Flock<File>> {
    std::fs::create_dir_all(state_dir).with_context(|| format!("create {}", state_dir.display()))?;
    let path = state_dir.join("agent.lock");
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut reminder = tokio::time::interval(REMIND);
    reminder.tick().await;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(errno).with_context(|| format!("lock {}", path.display())),
        };
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            _ = reminder.tick() => tracing::info!(lock = %path.display(), "waiting for another agent to end"),
        }
    }
}

/// Waits until this node has an address and a pod CIDR.
pub(super) async fn wait(client: &Client, options: &Options) -> anyhow::Result<OverlayConfig> {
    let selector = ListOptions::fields(format!("metadata.name={}", options.node_name));
    let mut events = client::follow::<Node>(client.clone(), None, selector);
    let mut reminder = tokio::time::interval(REMIND);
    let mut lacks = "the apiserver";
    loop {
        let node = tokio::select! {
            event = events.next() => match event.context("the source of Nodes ended")? {
                Event::Restarted(nodes) => nodes.into_iter().next(),
                Event::Applied(node) => Some(node),
                Event::Deleted(_) => None,
            },
            _ = reminder.tick() => {
                tracing::info!(node = options.node_name, "waiting for {lacks}");
                continue;
            }
        };
        let Some(node) = node else {
            lacks = "the Node object, which its kubelet registers";
            continue;
        };
        let facts = NodeFacts::read(&node).with_context(|| format!("Node {}", options.node_name))?;
        match overlay_config(&facts, options) {
            Ok(config) => return Ok(config),
            Err(missing) => lacks = missing,
        }
    }
}

/// What the overlay is made from; or what the Node lacks.
pub(super) fn overlay_config(facts: &NodeFacts, options: &Options) -> Result<OverlayConfig, &'static str> {
    if facts.ip_v4.is_none() && facts.ip_v6.is_none() {
        return Err("an InternalIP in the Node's status, which its kubelet reports");
    }
    if facts.pod_cidr_v4.is_none() && facts.pod_cidr_v6.is_none() {
        return Err("a podCIDR in the Node's spec, which the controller manager assigns");
    }
    Ok(OverlayConfig {
        node_v4: facts.ip_v4,
        node_v6: facts.ip_v6,
        pod_cidr_v4: facts.pod_cidr_v4,
        pod_cidr_v6: facts.pod_cidr_v6,
        port: options.overlay_port,
        routing: options.routing,
    })
}

/// What the service side must know of this node.
pub(super) fn this(options: &Options, config: &OverlayConfig, overlay: &Overlay, clock: Clock) -> ThisNode {
    ThisNode {
        name: options.node_name.clone(),
        node_v4: config.node_v4,
        node_v6: config.node_v6,
        pod_cidr_v4: config.pod_cidr_v4,
        pod_cidr_v6: config.pod_cidr_v6,
        service_cidrs: options.service_cidrs.clone(),
        overlay_mtu: u16::try_from(overlay.mtu).unwrap_or(u16::MAX),
        on_link: match options.routing {
            Routing::Direct => overlay.on_link.clone(),
            Routing::Overlay => OnLink::default(),
        },
        clock,
    }
}

/// What pods are given.
pub(super) fn network(config: &OverlayConfig, overlay: &Overlay) -> Network {
    Network {
        pod_cidr_v4: config.pod_cidr_v4,
        pod_cidr_v6: config.pod_cidr_v6,
        source_v4: overlay.source_v4(),
        source_v6: overlay.source_v6(),
        mtu: overlay.mtu,
    }
}
