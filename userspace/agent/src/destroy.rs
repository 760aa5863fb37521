//! Closes sockets whose backend is gone.
//!
//! A socket that was translated talks to its backend directly: no packet of it meets a table again, so nobody but us
//! tells it that its peer is gone. Each look compares all such sockets with the backends; an event only says that it
//! is time to. Connections that were never a service's are left alone, though they go to the same pod.

pub mod diag;
mod kernel;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use diolkos_abi::conntrack::ConnectedUdp;

pub use kernel::KernelSockets;

/// When a second look follows a first one: a connect() under way may have chosen a backend just before its end.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// The longest pause before a look that failed is repeated; the first one is [`SECOND_LOOK`].
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The sockets of this node.
pub trait Sockets: Send {
    /// The network namespaces of the node and of its pods.
    fn spaces(&mut self) -> Vec<Space>;

    /// Whether a backend ([`diolkos_abi::conntrack::backend_word`]) is alive with that generation.
    fn lives(&mut self, backend: u64) -> Result<bool, Error>;

    /// The TCP sockets of a namespace that were translated.
    fn tcp(&mut self, space: &Space) -> Result<Vec<Translated>, Error>;

    /// The connected UDP sockets of a namespace, translated or not.
    fn udp(&mut self, space: &Space) -> Result<Vec<diag::Socket>, Error>;

    /// The UDP sockets that are connected to a backend, by their cookie.
    fn connected_udp(&mut self) -> Result<Vec<(u64, ConnectedUdp)>, Error>;

    /// A UDP socket is not connected to a backend any more.
    fn forget_udp(&mut self, cookie: u64) -> Result<(), Error>;

    /// Closes a socket: its owner's calls fail with ECONNABORTED. One that is closed already is no error.
    fn close(&mut self, space: &Space, socket: &diag::Socket) -> Result<(), Error>;
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Space {
    /// `None` for the agent's own, which is the node's.
    pub path: Option<PathBuf>,
    /// `None` when nobody knows it.
    pub cookie: Option<u64>,
}

/// A socket that was connected to a backend in place of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    pub socket: diag::Socket,
    pub backend: u64,
}

/// Why sockets were not closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "this kernel cannot close sockets of others (CONFIG_INET_DIAG_DESTROY, or the modules tcp_diag and udp_diag): \
         clients of a deleted pod learn it only from its silence or from a reset"
    )]
    Unsupported,
    #[error("network namespace {path:?}: cannot {operation}: {source}")]
    Space { path: Option<PathBuf>, operation: &'static str, source: io::Error },
    #[error("map {map}: {reason}")]
    Map { map: &'static str, reason: String },
}

/// What came of looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    pub tcp: u64,
    pub udp: u64,
    /// Namespaces that could not be looked into, and maps that could not be read.
    pub failed: u64,
    /// Looks into a namespace where the kernel cannot close sockets that it should.
    pub unsupported: u64,
}

/// A thread that looks when it is told to. It ends with this.
pub struct Closer {
    wake: SyncSender<()>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    tcp: AtomicU64,
    udp: AtomicU64,
    failed: AtomicU64,
    unsupported: AtomicU64,
}

impl Closer {
    pub fn start(sockets: impl Sockets + 'static) -> io::Result<Self> {
        // One place is enough: whoever finds it taken is served by the look that is still to come.
        let (wake, woken) = sync_channel(1);
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        std::thread::Builder::new().name("closer".into()).spawn(move || work(sockets, &woken, &shared))?;
        Ok(Self { wake, counts })
    }

    /// A backend has ended, or may have.
    pub fn look(&self) {
        let _ = self.wake.try_send(());
    }

    /// What was done so far.
    pub fn closed(&self) -> Closed {
        let Counts { tcp, udp, failed, unsupported } = &*self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Closed { tcp: read(tcp), udp: read(udp), failed: read(failed), unsupported: read(unsupported) }
    }
}

fn work(mut sockets: impl Sockets, woken: &Receiver<()>, counts: &Counts) {
    let (mut pause, mut has_warned) = (None, false);
    loop {
        let is_new = match pause {
            None if woken.recv().is_err() => return,
            None => true,
            Some(pause) => match woken.recv_timeout(pause) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            },
        };
        let (closed, errors) = close_dead(&mut sockets);
        counts.add(&closed);
        if closed.tcp + closed.udp > 0 {
            tracing::info!(
                tcp = closed.tcp,
                udp = closed.udp,
                "closed the sockets of clients of backends that are gone"
            );
        }
        if closed.unsupported > 0 && !has_warned {
            tracing::warn!("{}", Error::Unsupported);
            has_warned = true;
        }
        for error in &errors {
            tracing::error!(%error, "sockets of clients of backends that are gone may live on; looking again");
        }
        pause = match (errors.is_empty(), is_new, pause) {
            (true, true, _) => Some(SECOND_LOOK),
            (true, false, _) => None,
            (false, false, Some(pause)) => Some((pause * 2).min(LONGEST_PAUSE)),
            (false, ..) => Some(SECOND_LOOK),
        };
    }
}

impl Counts {
    fn add(&self, closed: &Closed) {
        self.tcp.fetch_add(closed.tcp, Ordering::Relaxed);
        self.udp.fetch_add(closed.udp, Ordering::Relaxed);
        self.failed.fetch_add(closed.failed, Ordering::Relaxed);
        self.unsupported.fetch_add(closed.unsupported, Ordering::Relaxed);
    }
}

/// Looks once. What fails in one namespace does not keep another from being looked into.
pub fn close_dead(sockets: &mut impl Sockets) -> (Closed, Vec<Error>) {
    let (mut closed, mut errors) = (Closed::default(), Vec::new());
    let dead_udp = dead_udp(sockets).unwrap_or_else(|error| {
        errors.push(error);
        HashMap::new()
    });
    for space in sockets.spaces() {
        match close_tcp(sockets, &space, &mut closed).and_then(|()| close_udp(sockets, &space, &dead_udp, &mut closed))
        {
            Ok(()) => {}
            Err(Error::Unsupported) => closed.unsupported += 1,
            Err(error) => errors.push(error),
        }
    }
    closed.failed = errors.len() as u64;
    (closed, errors)
}

/// The UDP sockets whose backend is gone.
fn dead_udp(sockets: &mut impl Sockets) -> Result<HashMap<u64, ConnectedUdp>, Error> {
    let mut dead = HashMap::new();
    for (cookie, udp) in sockets.connected_udp()? {
        if !sockets.lives(udp.backend)? {
            dead.insert(cookie, udp);
        }
    }
    Ok(dead)
}

fn close_tcp(sockets: &mut impl Sockets, space: &Space, closed: &mut Closed) -> Result<(), Error> {
    for Translated { socket, backend } in sockets.tcp(space)? {
        if sockets.lives(backend)? {
            continue;
        }
        sockets.close(space, &socket)?;
        closed.tcp += 1;
    }
    Ok(())
}

/// Closes those of `dead` that are of this namespace. What is not there any more was closed by its owner.
fn close_udp(
    sockets: &mut impl Sockets,
    space: &Space,
    dead: &HashMap<u64, ConnectedUdp>,
    closed: &mut Closed,
) -> Result<(), Error> {
    let is_here = |udp: &ConnectedUdp| space.cookie.is_none_or(|cookie| udp.netns == cookie || udp.netns == 0);
    if !dead.values().any(is_here) {
        return Ok(());
    }
    for socket in sockets.udp(space)?.into_iter().filter(|socket| dead.get(&socket.cookie).is_some_and(is_here)) {
        sockets.close(space, &socket)?;
        closed.udp += 1;
    }
    let known = dead.iter().filter(|(_, udp)| space.cookie.is_some_and(|cookie| udp.netns == cookie));
    for (cookie, _) in known {
        sockets.forget_udp(*cookie)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
