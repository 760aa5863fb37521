//! Kernel and dataplane brought back to what is on disk: after a restart, and at every full resync.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use diolkos_abi::pod::netns_flags;

use super::attachment::{Attachment, HOST_PREFIX};
use super::error::PodsError;
use super::{Network, Pods, veth};
use crate::overlay::ALIAS;
use crate::overlay::netlink::Netlink;

/// What [`Pods::repair`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Attachments that stand: their routes, programs and map entries are in place.
    pub kept: usize,
    /// Attachments whose device or network namespace was gone, removed.
    pub collected: usize,
    /// Endpoints, namespaces, programs and devices of ours without an attachment, removed.
    pub orphans: usize,
    /// What could not be repaired; the next call tries again.
    pub failures: Vec<String>,
}

impl Pods {
    /// Registers every attachment whose device and network namespace stand, collects the others, and removes what belongs to none. Call it
    /// once [`Pods::set_network`] was, and again at every full resync. Calls of the plugin may run meanwhile.
    pub async fn repair(&self) -> Result<Repaired, PodsError> {
        let network = self.network()?;
        let netlink = Netlink::open()?;
        let mut repaired = Repaired::default();
        for attachment in self.attachments() {
            match self.repair_one(&netlink, &attachment, &network).await {
                Ok(Standing::Kept) => repaired.kept += 1,
                Ok(Standing::Collected) => repaired.collected += 1,
                Ok(Standing::Gone) => {}
                Err(error) => repaired.failures.push(format!("{}: {error}", attachment.container_id)),
            }
        }
        match self.remove_orphans() {
            Ok(count) => repaired.orphans += count,
            Err(error) => repaired.failures.push(error.to_string()),
        }
        match self.delete_orphan_devices(&netlink).await {
            Ok(count) => repaired.orphans += count,
            Err(error) => repaired.failures.push(error.to_string()),
        }
        let Repaired { kept, collected, orphans, failures } = &repaired;
        if collected + orphans > 0 {
            tracing::info!(kept, collected, orphans, "pod attachments repaired");
        }
        if !failures.is_empty() {
            tracing::error!(?failures, "pod attachments could not be repaired");
        }
        Ok(repaired)
    }

    async fn repair_one(
        &self,
        netlink: &Netlink,
        attachment: &Attachment,
        network: &Network,
    ) -> Result<Standing, PodsError> {
        let key = attachment.key();
        let _one_at_a_time = self.lock(&key).await;
        if self.attachment(&key).as_ref() != Some(attachment) {
            return Ok(Standing::Gone);
        }
        let link = netlink.link(&attachment.host_ifname).await?.filter(|link| attachment.owns(link));
        let Some(link) = link.filter(|_| !is_gone(&attachment.netns)) else {
            self.detach(attachment).await?;
            return Ok(Standing::Collected);
        };
        let (pod, looked) = self.look_at(attachment, network.mtu).await;
        if pod != *attachment {
            self.change(&pod).await?;
        }
        veth::configure_host(netlink, &link, &pod, network).await?;
        self.register(&pod, &link)?;
        looked.map(|()| Standing::Kept)
    }

    /// The state is read while the dataplane is locked: an attachment is in the state before the dataplane hears of
    /// it, so what the state does not know belongs to nobody.
    fn remove_orphans(&self) -> Result<usize, PodsError> {
        let mut dataplane = self.0.dataplane.lock();
        let held = self.attachments();
        let mut count = 0;
        let addresses: BTreeSet<_> = held.iter().flat_map(Attachment::endpoint_addresses).collect();
        for (address, _) in dataplane.endpoints()? {
            if !addresses.contains(&address) {
                count += usize::from(dataplane.remove_endpoint(&address)?);
            }
        }
        let cookies: BTreeSet<_> = held.iter().filter_map(|attachment| attachment.netns_cookie).collect();
        for (cookie, netns) in dataplane.netnses()? {
            if netns.flags & netns_flags::HOST == 0 && !cookies.contains(&cookie) {
                count += usize::from(dataplane.remove_netns(cookie)?);
            }
        }
        let names: BTreeSet<_> = held.iter().map(|attachment| attachment.host_ifname.clone()).collect();
        for name in dataplane.attached_pods()? {
            if !names.contains(&name) {
                dataplane.detach_pod(&name)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Devices are listed before the state is read, for the same reason.
    async fn delete_orphan_devices(&self, netlink: &Netlink) -> Result<usize, PodsError> {
        let links = netlink.links().await?;
        let names: BTreeSet<_> = self.attachments().into_iter().map(|attachment| attachment.host_ifname).collect();
        let mut count = 0;
        for link in links {
            let ours = link.veth && link.alias == ALIAS && link.name.starts_with(HOST_PREFIX);
            if ours && !names.contains(&link.name) {
                netlink.delete_link(&link).await?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Whether a network namespace's file is gone from a directory that is there: the runtime removed it with the pod. (A
/// directory that is not there says nothing: it may not be mounted where the agent runs.)
fn is_gone(netns: &str) -> bool {
    let path = Path::new(netns);
    let absent = std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    absent && path.parent().is_some_and(Path::is_dir)
}

enum Standing {
    Kept,
    Collected,
    /// Deleted, or made anew, by a call meanwhile.
    Gone,
}
