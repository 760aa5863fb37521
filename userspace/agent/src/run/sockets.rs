//! Whose sockets are closed when a backend is gone.

use anyhow::Context;

use crate::destroy::{Closer, KernelSockets, Space};
use crate::observe::Pins;
use crate::options::Options;
use crate::pods::{self, Pods};

/// Looks into the node's own network namespace and those of its pods.
pub(super) fn closer(options: &Options, pods: &Pods) -> anyhow::Result<Closer> {
    let maps = Pins::of(&options.bpffs, &options.node_name).maps();
    let own = Space { path: None, cookie: pods::host_netns_cookie().context("read the cookie of the node's sockets")? };
    let pods = pods.clone();
    let spaces = move || {
        let pod = |attachment: pods::Attachment| Space {
            path: Some(attachment.netns.into()),
            cookie: attachment.netns_cookie,
        };
        std::iter::once(own.clone()).chain(pods.attachments().into_iter().map(pod)).collect()
    };
    let sockets = KernelSockets::open(&maps, spaces)?;
    Closer::start(sockets).context("start the thread that closes sockets")
}
