//! The CNI server, IPAM and pod interfaces.
//!
//! The plugin hands every call to the agent ([`protocol`]), which holds what is attached on disk ([`records`]) and
//! makes the kernel follow. Everything is repeatable: ADD of what is there answers the same again, DEL of what is gone
//! succeeds, and [`Pods::repair`] brings kernel and dataplane back to what is on disk.

mod attach;
mod attachment;
mod call;
mod error;
mod install;
mod ipam;
mod netns;
mod opt_out;
pub mod protocol;
mod records;
mod repair;
mod results;
mod server;
mod veth;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ipnetwork::{Ipv4Network, Ipv6Network};

pub use attachment::{Attachment, HOST_PREFIX, NEXT_HOP_V4, NEXT_HOP_V6, Names};
pub use error::PodsError;
pub use install::{Install, install};
pub use ipam::{Addresses, Ipam, IpamError, REST};
pub use netns::NetnsError;
pub use opt_out::{Annotations, Wishes};
pub use records::{RecordError, Records};
pub use repair::Repaired;
pub use server::listen;

use crate::dataplane::Shared;
use protocol::Key;

/// The pods of this node. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Pods(Arc<Inner>);

/// What pods of this node are given, known once the node has a podCIDR and the overlay stands. At least one podCIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub pod_cidr_v4: Option<Ipv4Network>,
    pub pod_cidr_v6: Option<Ipv6Network>,
    /// The node's own addresses towards pods: the source of its packets to them.
    pub source_v4: Option<Ipv4Addr>,
    pub source_v6: Option<Ipv6Addr>,
    /// Of both ends of every veth, bytes.
    pub mtu: u32,
}

/// Locks for calls about the same interface: a bound on memory, not on how many interfaces there are.
const LOCKS: usize = 64;

struct Inner {
    dataplane: Shared,
    records: Records,
    /// Never held over an `await`, nor while the dataplane is asked for (lock order: dataplane, then state).
    state: Mutex<State>,
    /// One call at a time for one interface, picked by the hash of its key.
    locks: [tokio::sync::Mutex<()>; LOCKS],
    /// A pod is gone that nobody was told of yet.
    gone: tokio::sync::Notify,
}

struct State {
    ipam: Ipam,
    /// What is on disk, or is about to be.
    attachments: BTreeMap<Key, Attachment>,
    network: Option<Network>,
    /// Why pods that are attached may not reach everybody.
    limited: Option<String>,
    wishes: Option<Arc<dyn Wishes>>,
}

impl Pods {
    /// Reads what the agent before this one left in `state_dir`. An address rests for `rest` ([`REST`]) before reuse.
    pub fn open(state_dir: &Path, dataplane: Shared, rest: Duration) -> Result<Self, PodsError> {
        let records = Records::open(state_dir)?;
        let loaded = records.load()?;
        let mut state =
            State { ipam: Ipam::new(rest), attachments: BTreeMap::new(), network: None, limited: None, wishes: None };
        for attachment in loaded.attachments {
            for address in attachment.addresses().iter() {
                if !state.ipam.adopt(address) {
                    return Err(address_twice(address, &state.attachments, &attachment));
                }
            }
            state.attachments.insert(attachment.key(), attachment);
        }
        let now = SystemTime::now();
        for (address, released) in loaded.resting {
            state.ipam.adopt_resting(address, released, now);
        }
        let locks = std::array::from_fn(|_| tokio::sync::Mutex::new(()));
        Ok(Self(Arc::new(Inner {
            dataplane,
            records,
            state: Mutex::new(state),
            locks,
            gone: tokio::sync::Notify::new(),
        })))
    }

    /// From now on pods are given addresses of this network. Until the first call ADD answers "try again later".
    pub fn set_network(&self, network: Network) {
        let mut state = self.state();
        state.ipam.set_ranges(network.pod_cidr_v4, network.pod_cidr_v6);
        state.network = Some(network);
    }

    /// Says why attached pods may not reach everybody, or that they do: STATUS tells the runtime.
    pub fn set_limited(&self, reason: Option<String>) {
        self.state().limited = reason;
    }

    /// From now on pods may ask for their sockets to be left alone.
    pub fn set_wishes(&self, wishes: impl Wishes + 'static) {
        self.state().wishes = Some(Arc::new(wishes));
    }

    /// What is attached now.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.state().attachments.values().cloned().collect()
    }

    /// Returns when a pod was detached since the last time.
    pub async fn gone(&self) {
        self.0.gone.notified().await;
    }

    fn attachment(&self, key: &Key) -> Option<Attachment> {
        self.state().attachments.get(key).cloned()
    }

    fn network(&self) -> Result<Network, PodsError> {
        self.state().network.ok_or(PodsError::NotReady)
    }

    /// Whether ADD would succeed, and pods reach everybody.
    fn status(&self) -> Result<(), PodsError> {
        let state = self.state();
        match (&state.network, &state.limited) {
            (None, _) => Err(PodsError::NotAvailable),
            (Some(_), Some(reason)) => Err(PodsError::Limited(reason.clone())),
            (Some(_), None) => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one assignment, so a panic elsewhere cannot leave half of one.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lock(&self, key: &Key) -> tokio::sync::MutexGuard<'_, ()> {
        let hash = attachment::hash(format!("{}/{}", key.container_id, key.ifname).as_bytes());
        self.0.locks[hash as usize % LOCKS].lock().await
    }
}

/// `SO_NETNS_COOKIE` of the agent's own network namespace; none before Linux 5.14.
pub(crate) fn host_netns_cookie() -> std::io::Result<Option<u64>> {
    netns::cookie()
}

fn address_twice(address: IpAddr, attachments: &BTreeMap<Key, Attachment>, second: &Attachment) -> PodsError {
    let first = attachments.values().find(|first| first.addresses().iter().any(|held| held == address));
    PodsError::AddressTwice {
        address,
        first: first.map(|first| first.container_id.clone()).unwrap_or_default(),
        second: second.container_id.clone(),
    }
}
