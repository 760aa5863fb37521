//! ADD, DEL, CHECK and GC: everything or nothing, and any number of times.

use std::collections::BTreeSet;
use std::time::SystemTime;

use diolkos_abi::pod::{ENDPOINTS, Endpoint};

use super::attachment::{Attachment, Names};
use super::call::AddCall;
use super::error::PodsError;
use super::netns::PodNetns;
use super::protocol::Key;
use super::{Network, Pods, veth};
use crate::overlay::netlink::{Link, Netlink};

impl Pods {
    pub(super) async fn add(&self, call: &AddCall) -> Result<Attachment, PodsError> {
        let network = self.network()?;
        let netns = PodNetns::open(&call.netns).await?;
        let _one_at_a_time = self.lock(&call.key).await;
        if let Some(held) = self.attachment(&call.key) {
            // A runtime that lost our answer asks again; one that reuses the id for another pod gets a new interface.
            if held.netns_cookie == netns.cookie() && self.verify(&held, &netns).await.is_ok() {
                return Ok(held);
            }
            self.detach(&held).await?;
        }
        let asks = if call.socket_lb_off { Some(true) } else { self.asks_to_opt_out(&call.pod).await };
        let attachment = self.reserve(call, asks, &network, &netns).await?;
        if let Err(error) = self.attach(&attachment, &netns, &network).await {
            if let Err(undo) = self.detach(&attachment).await {
                tracing::warn!(container_id = attachment.container_id, %undo, "rollback of ADD failed; DEL repeats it");
            }
            return Err(error);
        }
        let Attachment { container_id, pod, host_ifname, .. } = &attachment;
        tracing::info!(container_id, pod, address = attachment.shown(), host_ifname, "pod attached");
        Ok(attachment)
    }

    pub(super) async fn delete(&self, key: &Key) -> Result<(), PodsError> {
        let _one_at_a_time = self.lock(key).await;
        let Some(attachment) = self.attachment(key) else {
            return Ok(());
        };
        self.detach(&attachment).await?;
        let Attachment { container_id, pod, .. } = &attachment;
        tracing::info!(container_id, pod, address = attachment.shown(), "pod detached");
        Ok(())
    }

    pub(super) async fn check(&self, key: &Key, netns: &str) -> Result<Attachment, PodsError> {
        let _one_at_a_time = self.lock(key).await;
        let Key { container_id, ifname } = key.clone();
        let held = self.attachment(key).ok_or(PodsError::UnknownContainer { container_id, ifname })?;
        self.verify(&held, &PodNetns::open(netns).await?).await?;
        Ok(held)
    }

    /// Removes the attachments of a network that the runtime no longer knows.
    pub(super) async fn collect(&self, network: &str, valid: &BTreeSet<Key>) -> Result<(), PodsError> {
        let mut first = None;
        for held in self.attachments() {
            if held.network != network || valid.contains(&held.key()) {
                continue;
            }
            if let Err(error) = self.delete(&held.key()).await {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Takes an address and writes the attachment to disk, before anything in the kernel knows of it.
    async fn reserve(
        &self,
        call: &AddCall,
        opts_out: Option<bool>,
        network: &Network,
        netns: &PodNetns,
    ) -> Result<Attachment, PodsError> {
        let Names { host_ifname, host_mac, pod_mac } = Names::of(&call.key);
        let attachment = {
            let mut state = self.state();
            let entries: usize = state.attachments.values().map(|held| held.addresses().iter().count()).sum();
            let more = usize::from(network.pod_cidr_v4.is_some()) + usize::from(network.pod_cidr_v6.is_some());
            if entries + more > ENDPOINTS as usize {
                return Err(PodsError::TooManyPods { limit: state.attachments.len() });
            }
            if state.attachments.values().any(|held| held.host_ifname == host_ifname) {
                // Two keys with one hash: 44 bits make it rare, not impossible.
                return Err(PodsError::InterfaceExists {
                    ifname: host_ifname,
                    place: "another pod of this node".into(),
                });
            }
            let addresses = state.ipam.allocate(SystemTime::now())?;
            let attachment = Attachment {
                container_id: call.key.container_id.clone(),
                ifname: call.key.ifname.clone(),
                network: call.network.clone(),
                netns: call.netns.clone(),
                netns_cookie: netns.cookie(),
                v4: addresses.v4,
                v6: addresses.v6,
                host_ifname,
                host_mac,
                pod_mac,
                mtu: network.mtu,
                socket_lb_off: opts_out == Some(true),
                socket_lb_unknown: opts_out.is_none(),
                tap: false,
                pod: call.pod.clone(),
            };
            state.attachments.insert(call.key.clone(), attachment.clone());
            attachment
        };
        if let Err(error) = self.save(&attachment).await {
            if let Err(left) = self.0.records.cancel(&attachment) {
                tracing::warn!(%left, "cannot remove what may be left of the record");
            }
            let mut state = self.state();
            state.attachments.remove(&call.key);
            attachment.addresses().iter().for_each(|address| state.ipam.cancel(address));
            return Err(error);
        }
        Ok(attachment)
    }

    async fn attach(&self, pod: &Attachment, netns: &PodNetns, network: &Network) -> Result<(), PodsError> {
        let netlink = Netlink::open()?;
        let link = veth::create(&netlink, pod, netns).await?;
        veth::configure_host(&netlink, &link, pod, network).await?;
        let inside = pod.clone();
        netns.run(move || async move { veth::configure_pod(&inside).await }).await??;
        self.register(pod, &link)
    }

    /// Tells the dataplane of the pod, the addresses last: from then on packets are delivered.
    pub(super) fn register(&self, pod: &Attachment, link: &Link) -> Result<(), PodsError> {
        let mut dataplane = self.0.dataplane.lock();
        dataplane.attach_pod(&pod.host_ifname, link.index)?;
        if let Some(cookie) = pod.netns_cookie {
            dataplane.set_netns(cookie, pod.netns_entry(cookie))?;
        }
        for address in pod.endpoint_addresses() {
            dataplane.upsert_endpoint(address, pod.endpoint(link.index))?;
        }
        Ok(())
    }

    /// Writes another state of an attachment that is there: to disk, then in memory. The caller holds its lock.
    pub(super) async fn change(&self, pod: &Attachment) -> Result<(), PodsError> {
        self.save(pod).await?;
        self.state().attachments.insert(pod.key(), pod.clone());
        Ok(())
    }

    async fn save(&self, pod: &Attachment) -> Result<(), PodsError> {
        self.on_disk(pod.clone(), |pods, pod| Ok(pods.0.records.save(pod)?)).await
    }

    /// Takes everything of a pod away, as far as it is there. When a step fails the others are done, the attachment
    /// stays on disk, and the next call tries again.
    pub(super) async fn detach(&self, pod: &Attachment) -> Result<(), PodsError> {
        let unregistered = self.unregister(pod);
        delete_device(pod).await?;
        unregistered?;
        let now = SystemTime::now();
        self.on_disk(pod.clone(), move |pods, pod| Ok(pods.0.records.release(pod, now)?)).await?;
        let mut state = self.state();
        state.attachments.remove(&pod.key());
        pod.addresses().iter().for_each(|address| state.ipam.release(address, now));
        self.0.gone.notify_one();
        Ok(())
    }

    fn unregister(&self, pod: &Attachment) -> Result<(), PodsError> {
        let mut dataplane = self.0.dataplane.lock();
        let mut endpoint = Ok(());
        for address in pod.endpoint_addresses() {
            endpoint = endpoint.and(dataplane.remove_endpoint(&address).map(drop));
        }
        let netns = match pod.netns_cookie {
            Some(cookie) if !self.shares_netns(pod) => dataplane.remove_netns(cookie).map(drop),
            _ => Ok(()),
        };
        let programs = dataplane.detach_pod(&pod.host_ifname);
        Ok(endpoint.and(netns).and(programs)?)
    }

    /// Another interface of ours in the same pod.
    fn shares_netns(&self, pod: &Attachment) -> bool {
        let other = |held: &Attachment| held.netns_cookie == pod.netns_cookie && held.key() != pod.key();
        self.state().attachments.values().any(other)
    }

    async fn verify(&self, pod: &Attachment, netns: &PodNetns) -> Result<(), PodsError> {
        if pod.netns_cookie != netns.cookie() {
            return Err(PodsError::Check(format!("{} is not the namespace of ADD, {}", netns.path(), pod.netns)));
        }
        let link = veth::verify_host(&Netlink::open()?, pod).await?.map_err(PodsError::Check)?;
        let inside = pod.clone();
        netns.run(move || async move { veth::verify_pod(&inside).await }).await??.map_err(PodsError::Check)?;
        self.verify_dataplane(pod, &link)
    }

    fn verify_dataplane(&self, pod: &Attachment, link: &Link) -> Result<(), PodsError> {
        let dataplane = self.0.dataplane.lock();
        let endpoints = dataplane.endpoints()?;
        for address in pod.endpoint_addresses() {
            let found = endpoints.iter().find(|(key, _)| *key == address);
            let endpoint = found.map(|(_, endpoint)| Endpoint { tag: 0, ..*endpoint });
            if endpoint != Some(pod.endpoint(link.index)) {
                return Err(PodsError::Check(format!("the endpoint map has lost {}", pod.shown())));
            }
        }
        if !dataplane.attached_pods()?.contains(&pod.host_ifname) {
            return Err(PodsError::Check(format!("no programs are attached to {}", pod.host_ifname)));
        }
        let netnses = dataplane.netnses()?;
        match pod.netns_cookie {
            Some(cookie) if !netnses.contains(&(cookie, pod.netns_entry(cookie))) => {
                Err(PodsError::Check(format!("the netns map has lost {}", pod.netns)))
            }
            _ => Ok(()),
        }
    }

    /// Runs disk work, which waits for the disk, beside the runtime's workers.
    async fn on_disk(
        &self,
        attachment: Attachment,
        work: impl FnOnce(&Pods, &Attachment) -> Result<(), PodsError> + Send + 'static,
    ) -> Result<(), PodsError> {
        let pods = self.clone();
        tokio::task::spawn_blocking(move || work(&pods, &attachment)).await.unwrap_or(Err(PodsError::Fault))
    }
}

/// Routes and neighbours of both sides go with the device.
async fn delete_device(pod: &Attachment) -> Result<(), PodsError> {
    let netlink = Netlink::open()?;
    match netlink.link(&pod.host_ifname).await? {
        Some(link) if pod.owns(&link) => Ok(netlink.delete_link(&link).await?),
        _ => Ok(()),
    }
}
