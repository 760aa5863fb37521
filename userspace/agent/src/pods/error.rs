//! What can go wrong with a call, and the CNI error code of each.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::ipam::IpamError;
use super::netns::NetnsError;
use super::protocol::{ErrorResult, Version, code};
use super::records::RecordError;
use crate::dataplane;
use crate::overlay::netlink::NetlinkError;
use crate::overlay::sysctl::SysctlError;

#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    #[error("cniVersion {found:?} is not supported; supported: {}", supported())]
    Version { found: String },
    #[error("CNI_COMMAND {0:?} is unknown; known: ADD, DEL, CHECK, GC, STATUS, VERSION")]
    Command(String),
    #[error("{0}")]
    Environment(String),
    #[error("{0}")]
    Config(String),
    #[error("the agent is not ready: it has no podCIDR of this node yet")]
    NotReady,
    #[error("ADD is not possible yet: the agent has no podCIDR of this node")]
    NotAvailable,
    #[error("pods of this node may not reach everybody: {0}")]
    Limited(String),
    #[error("{limit} pods are attached to this node, which is the limit")]
    TooManyPods { limit: usize },
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    #[error("a device {ifname} exists already in {place} and is not ours: remove it")]
    InterfaceExists { ifname: String, place: String },
    #[error("{container_id} has no interface {ifname} of ours: it was never added or is deleted")]
    UnknownContainer { container_id: String, ifname: String },
    #[error("{0}; delete the pod, its controller makes a new one")]
    Check(String),
    #[error("the address {address} has two pods on disk ({first} and {second}): delete both pods")]
    AddressTwice { address: IpAddr, first: String, second: String },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: another agent answers on this socket; stop it first", socket.display())]
    AnotherAgent { socket: PathBuf },
    #[error("the call is still running after {0} s; repeat it")]
    Slow(u64),
    #[error("the call was ended by a fault of the agent; its log has the reason")]
    Fault,
}

impl PodsError {
    pub fn code(&self) -> u32 {
        match self {
            Self::Version { .. } => code::INCOMPATIBLE_VERSION,
            Self::UnknownContainer { .. } => code::UNKNOWN_CONTAINER,
            Self::Command(_) | Self::Environment(_) => code::INVALID_ENVIRONMENT,
            Self::Netns(NetnsError::Path { .. } | NetnsError::NoNetns { .. } | NetnsError::Host { .. }) => {
                code::INVALID_ENVIRONMENT
            }
            Self::Config(_) => code::INVALID_CONFIG,
            Self::NotAvailable => code::NOT_AVAILABLE,
            Self::Limited(_) => code::LIMITED,
            Self::Record(_) | Self::Io { .. } => code::IO,
            Self::NotReady | Self::Slow(_) | Self::Fault => code::TRY_AGAIN_LATER,
            Self::Ipam(IpamError::NoRange | IpamError::Resting { .. }) => code::TRY_AGAIN_LATER,
            Self::Ipam(IpamError::Full { .. }) | Self::TooManyPods { .. } => code::POOL_FULL,
            Self::InterfaceExists { .. } => code::INTERFACE_EXISTS,
            Self::Check(_) => code::CHECK_FAILED,
            Self::Netns(NetnsError::Enter { .. } | NetnsError::Slow { .. })
            | Self::Netlink(_)
            | Self::Sysctl(_)
            | Self::Dataplane(_)
            | Self::AddressTwice { .. }
            | Self::AnotherAgent { .. } => code::KERNEL,
        }
    }

    pub(super) fn to_result(&self, version: Version) -> ErrorResult {
        ErrorResult {
            cni_version: version.as_str().into(),
            code: self.code(),
            msg: self.to_string(),
            details: self.details().into(),
        }
    }

    /// What to do about it, where the message does not say.
    fn details(&self) -> &'static str {
        match self {
            Self::NotReady | Self::NotAvailable | Self::Ipam(IpamError::NoRange) => {
                "spec.podCIDRs of the Node (kubectl get node -o yaml) is filled in by the controller manager"
            }
            Self::Ipam(IpamError::Full { .. }) => {
                "delete pods of this node, or make the node anew with a larger podCIDR (the controller manager's node \
                 mask); CNI's GC removes what the runtime has forgotten"
            }
            Self::Ipam(IpamError::Resting { .. }) => {
                "the address of a deleted pod rests, so that nobody takes the next one for it; the runtime tries again"
            }
            Self::TooManyPods { .. } => "delete pods of this node",
            Self::Limited(_) => "the agent tries again by itself; its log says when the pod network is whole",
            _ => "",
        }
    }
}

fn supported() -> String {
    Version::ALL.map(Version::as_str).join(", ")
}
