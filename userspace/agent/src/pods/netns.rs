//! Work inside a pod's network namespace.
//!
//! A thread enters the namespace, works and ends. Never a worker of the runtime: it would take the next task, of
//! somebody else, into the pod.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// The longest that work in a namespace may take before its caller gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);

/// An open network namespace. It lives at least as long as this.
#[derive(Clone, Debug)]
pub(super) struct PodNetns {
    file: Arc<File>,
    path: String,
    cookie: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("cannot open CNI_NETNS {path:?}: {source}")]
    Path { path: String, source: io::Error },
    #[error("CNI_NETNS {path:?} is no network namespace")]
    NoNetns { path: String },
    #[error("CNI_NETNS {path:?} is the node's own network namespace: host-network pods get no interface")]
    Host { path: String },
    #[error("cannot work in the network namespace {path:?}: {source}")]
    Enter { path: String, source: io::Error },
    #[error("work in the network namespace {path:?} takes more than {} s", PATIENCE.as_secs())]
    Slow { path: String },
}

impl PodNetns {
    pub(super) async fn open(path: &str) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError::Path { path: path.to_owned(), source };
        // Without O_NONBLOCK a path that is a FIFO would hold the caller for ever.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let kind = fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(NetnsError::NoNetns { path: path.to_owned() });
        }
        let own = std::fs::metadata("/proc/thread-self/ns/net").map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if (own.dev(), own.ino()) == (meta.dev(), meta.ino()) {
            return Err(NetnsError::Host { path: path.to_owned() });
        }
        let mut netns = Self { file: Arc::new(file), path: path.to_owned(), cookie: None };
        netns.cookie = netns.run(async || cookie()).await?.map_err(failed)?;
        Ok(netns)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// `SO_NETNS_COOKIE`; none before 5.14.
    pub(super) fn cookie(&self) -> Option<u64> {
        self.cookie
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` on a runtime of its own inside the namespace.
    pub(super) async fn run<T, W, F>(&self, work: W) -> Result<T, NetnsError>
    where
        T: Send + 'static,
        W: FnOnce() -> F + Send + 'static,
        F: Future<Output = T>,
    {
        let failed = |source| NetnsError::Enter { path: self.path.clone(), source };
        let (send, receive) = tokio::sync::oneshot::channel();
        let file = self.file.clone();
        let thread = std::thread::Builder::new().name("pod-netns".into()).spawn(move || {
            // Nobody listens when the caller gave up; what was done is undone by its rollback.
            drop(send.send(enter_and_run(&file, work)));
        });
        thread.map_err(failed)?;
        match tokio::time::timeout(PATIENCE, receive).await {
            Ok(Ok(result)) => result.map_err(failed),
            Ok(Err(_)) => Err(failed(io::Error::other("the thread ended without an answer"))),
            Err(_) => Err(NetnsError::Slow { path: self.path.clone() }),
        }
    }
}

fn enter_and_run<T, F: Future<Output = T>>(file: &File, work: impl FnOnce() -> F) -> io::Result<T> {
    setns(file, CloneFlags::CLONE_NEWNET)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async { work().await }))
}

#[derive(Clone, Copy, Debug)]
struct NetnsCookie;

nix::getsockopt_impl!(
    NetnsCookie,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64,
    nix::sys::socket::sockopt::GetStruct<u64>
);

pub(super) fn cookie() -> io::Result<Option<u64>> {
    // An unbound address needs no device that is up.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    match nix::sys::socket::getsockopt(&socket, NetnsCookie) {
        Ok(cookie) => Ok(Some(cookie)),
        Err(nix::errno::Errno::ENOPROTOOPT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
