//! Pods whose sockets are left alone: services are translated for them on the packet path only.
//!
//! A pod, or its namespace, asks for it by an annotation, which is read when the pod is attached. Where it runs virtual
//! machines it needs no asking: their packets come from a tap device and meet no socket of the node.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use diolkos_api::client::Client;
use diolkos_api::status::Failure;
use k8s_openapi::api::core::v1::{Namespace, Pod};

use super::Pods;
use super::attachment::Attachment;
use super::error::PodsError;
use super::netns::PodNetns;
use super::veth;
use crate::overlay::netlink::Netlink;

/// Name of the annotation, CNI argument or configuration key, ...
pub(super) const SOCKET_LB: &str = "diolkos.io/socket-lb";
/// ... and the value that keeps a pod's sockets untranslated.
pub(super) const DISABLED: &str = "disabled";

/// How long ADD waits to hear what a pod asks for.
const MOMENT: Duration = Duration::from_millis(500);

/// Who knows what pods and namespaces ask for.
#[async_trait]
pub trait Wishes: Send + Sync {
    /// Whether a pod or its namespace asks for its sockets to be left alone; an error says why nobody knows.
    async fn socket_lb_disabled(&self, namespace: &str, pod: &str) -> Result<bool, String>;
}

/// What the annotations in the API say.
pub struct Annotations {
    client: Client,
}

impl Annotations {
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

#[async_trait]
impl Wishes for Annotations {
    async fn socket_lb_disabled(&self, namespace: &str, pod: &str) -> Result<bool, String> {
        let failed = |failure: Failure| failure.to_string();
        // What is not there asks for nothing.
        let pod = self.client.api::<Pod>(Some(namespace)).get_opt(pod).await.map_err(failed)?;
        if pod.is_some_and(|pod| disabled(pod.metadata.annotations.as_ref())) {
            return Ok(true);
        }
        let namespace = self.client.api::<Namespace>(None).get_opt(namespace).await.map_err(failed)?;
        Ok(namespace.is_some_and(|namespace| disabled(namespace.metadata.annotations.as_ref())))
    }
}

fn disabled(annotations: Option<&BTreeMap<String, String>>) -> bool {
    annotations.and_then(|annotations| annotations.get(SOCKET_LB)).is_some_and(|value| value == DISABLED)
}

impl Pods {
    /// Whether `namespace/name` asks for its sockets to be left alone; none when nobody answers within a moment.
    pub(super) async fn asks_to_opt_out(&self, pod: &str) -> Option<bool> {
        let wishes = self.state().wishes.clone();
        let (Some(wishes), Some((namespace, name))) = (wishes, pod.split_once('/')) else { return Some(false) };
        if namespace.is_empty() || name.is_empty() {
            return Some(false);
        }
        match tokio::time::timeout(MOMENT, wishes.socket_lb_disabled(namespace, name)).await {
            Ok(Ok(disabled)) => Some(disabled),
            Ok(Err(error)) => {
                tracing::warn!(pod, error, "cannot read the annotations of a pod; asking again later");
                None
            }
            Err(_) => {
                tracing::warn!(pod, "nobody says in time what a pod asks for; asking again later");
                None
            }
        }
    }

    /// The attachment as it should be now: with the MTU of the network, which the pod's device is given here, and with
    /// what its network namespace and the API say about its sockets. What cannot be learnt stays as it was; an error
    /// comes beside it.
    pub(super) async fn look_at(&self, held: &Attachment, mtu: u32) -> (Attachment, Result<(), PodsError>) {
        let mut pod = held.clone();
        let looked = match PodNetns::open(&held.netns).await {
            // Another one has taken the path: this pod's device is all that is left of it.
            Ok(netns) if netns.cookie() != held.netns_cookie => Ok(()),
            Ok(netns) => look_inside(&netns, &mut pod, mtu).await,
            Err(error) => Err(error.into()),
        };
        if pod.tap != held.tap {
            let (tap, pod) = (pod.tap, &pod.pod);
            tracing::info!(pod, tap, "a virtual machine's device came or went: socket translation follows");
        }
        if pod.socket_lb_unknown
            && let Some(disabled) = self.asks_to_opt_out(&pod.pod).await
        {
            (pod.socket_lb_off, pod.socket_lb_unknown) = (disabled, false);
        }
        (pod, looked)
    }
}

async fn look_inside(netns: &PodNetns, pod: &mut Attachment, mtu: u32) -> Result<(), PodsError> {
    let wanted = Attachment { mtu, ..pod.clone() };
    let changed = wanted.mtu != pod.mtu;
    let work = move || async move {
        let tap = Netlink::open()?.links().await?.iter().any(|link| link.tap);
        if changed {
            veth::follow_mtu(&wanted).await?;
        }
        Ok::<_, PodsError>(tap)
    };
    pod.tap = netns.run(work).await??;
    pod.mtu = mtu;
    Ok(())
}
