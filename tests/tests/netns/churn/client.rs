//! Clients: each dials services again and again on one path in one family, and holds flows that must not notice.
//!
//! What counts as failed:
//! - A TCP connection to a service that had endpoints all the time fails, or is answered by a pod that was out of the
//!   row before it began.
//! - A request in a datagram is not answered though no backend that it may have been sent to died between its sending
//!   and the end of its patience. One that is excused is *lost*: it was under way to a pod that ended. It is asked again
//!   on the same socket, or on a new one where the agent closes sockets of dead backends, and needs another excuse if
//!   it fails again.
//! - A refusal by a service that had endpoints all the time. By one that had none, a refusal is what is expected.
//! - A flow that is held ends or moves though its backend lives: with TCP the pod is there, with datagrams the pod is
//!   there and a slice names it, ready or not. The agent closes connected sockets a little after their backend died,
//!   when another of the same address may live already ([`CLOSING`]).

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::agent::address_of;
use super::draw::Random;
use super::flow::{Answer, Flow, Path};
use super::model::{Model, SERVICES};
use super::pod::Pod;

/// Flows that each client holds.
const HELD: usize = 32;
/// Of those, how many are used after each new connection.
const USED: usize = 2;
/// How long after the death of a backend its connected UDP sockets may be closed: the agent looks for them twice, with a
/// second in between.
const CLOSING: Duration = Duration::from_secs(3);
/// Failures that are told in words.
const TOLD: usize = 5;

/// What clients and changes share.
pub(super) struct Common {
    model: Mutex<Model>,
    /// The service that changed last: every other connection goes there.
    pub(super) hot: AtomicUsize,
    stop: AtomicBool,
    /// Clients that may not dial wait here.
    gate: (Mutex<()>, Condvar),
}

impl Common {
    pub(super) fn new(model: Model) -> Self {
        Self {
            model: Mutex::new(model),
            hot: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            gate: Default::default(),
        }
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets clients use what they hold once more, and end.
    pub(super) fn stop(&self) {
        self.open_gate(|| self.stop.store(true, Ordering::SeqCst));
    }

    /// Changes what clients wait for.
    fn open_gate(&self, change: impl FnOnce()) {
        let (gate, opened) = &self.gate;
        let guard = gate.lock().unwrap_or_else(PoisonError::into_inner);
        change();
        drop(guard);
        opened.notify_all();
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// What a client has done and met.
#[derive(Default)]
pub(super) struct Tally {
    /// New connections, or sockets with their first request.
    pub(super) dialled: u64,
    /// Of those, refused by a service without endpoints.
    pub(super) refused: u64,
    /// Requests under way to a backend that died.
    pub(super) lost: u64,
    /// Requests over flows that are held.
    pub(super) used: u64,
    /// Flows that ended, or moved, with their backend.
    pub(super) ended: u64,
    pub(super) failed: u64,
    pub(super) failures: Vec<String>,
    /// The longest that a connection with its first request took, of those that nothing excused.
    pub(super) slowest: Duration,
}

pub(super) struct Client {
    pub(super) path: Path,
    /// 0 for IPv4, 1 for IPv6.
    pub(super) family: usize,
    progress: Arc<Progress>,
    thread: JoinHandle<Tally>,
}

/// How often a client dialled, and how often it may.
#[derive(Default)]
struct Progress {
    dialled: AtomicU64,
    limit: AtomicU64,
}

impl Client {
    pub(super) fn start(path: Path, family: usize, pod: &Arc<Pod>, common: &Arc<Common>) -> Self {
        let progress = Arc::new(Progress::default());
        let (pod, common, shared) = (pod.clone(), common.clone(), progress.clone());
        let thread = std::thread::spawn(move || {
            pod.namespace.enter();
            let random = Random::new((family * Path::ALL.len()) as u64 + path as u64);
            let tally = Tally::default();
            Caller { path, family, common, progress: shared, random, tally, held: Vec::new(), number: 0 }.run()
        });
        Self { path, family, progress, thread }
    }

    /// How often it dialled.
    pub(super) fn dialled(&self) -> u64 {
        self.progress.dialled.load(Ordering::SeqCst)
    }

    /// Lets it dial so often from now on, and no more.
    pub(super) fn allow(&self, common: &Common, times: u64) {
        common.open_gate(|| self.progress.limit.store(self.dialled().saturating_add(times), Ordering::SeqCst));
    }

    pub(super) fn end(self) -> Tally {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// A flow that is held.
struct Held {
    service: usize,
    flow: Flow,
    with: Answer,
    /// When it was last known to go to `with`.
    known: Instant,
}

/// A client's thread.
struct Caller {
    path: Path,
    family: usize,
    common: Arc<Common>,
    progress: Arc<Progress>,
    random: Random,
    tally: Tally,
    held: Vec<Held>,
    /// Of the last question.
    number: u64,
}

impl Caller {
    fn run(mut self) -> Tally {
        while self.may_dial() {
            let hot = self.random.flip();
            let service = if hot { self.common.hot.load(Ordering::Relaxed) } else { self.random.below(SERVICES) };
            let new = self.dial(service);
            if let Some(new) = new.filter(|_| !hot && self.held.len() < HELD) {
                self.held.push(new);
            }
            self.progress.dialled.fetch_add(1, Ordering::SeqCst);
            for _ in 0..USED.min(self.held.len()) {
                let at = self.random.below(self.held.len());
                self.hold_on(at);
            }
        }
        for at in (0..self.held.len()).rev() {
            self.hold_on(at);
        }
        self.tally
    }

    /// Waits until it may; false when all is over.
    fn may_dial(&self) -> bool {
        let Progress { dialled, limit } = &*self.progress;
        let (gate, opened) = &self.common.gate;
        let waits = || dialled.load(Ordering::SeqCst) >= limit.load(Ordering::SeqCst) && !self.common.is_over();
        let guard = gate.lock().unwrap_or_else(PoisonError::into_inner);
        drop(opened.wait_while(guard, |()| waits()).unwrap_or_else(PoisonError::into_inner));
        !self.common.is_over()
    }

    /// A new flow, if it gets one.
    fn dial(&mut self, service: usize) -> Option<Held> {
        let start = Instant::now();
        self.tally.dialled += 1;
        let held = self.request(service, None, None, start)?;
        let model = self.common.model();
        // A datagram from a port that was used before may belong to the flow that had it.
        let is_right = match self.path {
            Path::PacketUdp => model.named_since(service, held.with.pod, start),
            _ => model.served_since(service, held.with.pod, start),
        };
        let is_right = is_right && model.incarnation(held.with.pod) == held.with.incarnation;
        drop(model);
        if !is_right {
            self.fail(service, start, &format!("answered by {:?}, which is no endpoint", held.with));
        }
        Some(held)
    }

    /// Asks until there is an answer, on a flow that went to a pod or on a new one. Nothing when the service refuses, or
    /// on a failure.
    fn request(
        &mut self,
        service: usize,
        mut flow: Option<Flow>,
        before: Option<usize>,
        start: Instant,
    ) -> Option<Held> {
        let is_first = flow.is_none();
        let to = address_of(service, self.family);
        let mut was_lost = false;
        loop {
            self.number += 1;
            let asked = Instant::now();
            let opened = flow.take().map_or_else(|| Flow::open(self.path, to), Ok);
            let answer = opened.and_then(|mut flow| match flow.ask(self.number) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.keeps_its_socket() => Ok((flow, None)),
                answer => answer.map(|answer| (flow, Some(answer))),
            });
            let error = match answer {
                Ok((flow, Some(with))) => {
                    if is_first && !was_lost {
                        self.tally.slowest = self.tally.slowest.max(start.elapsed());
                    }
                    return Some(Held { service, flow, with, known: asked });
                }
                Ok((kept, None)) => {
                    flow = Some(kept);
                    ErrorKind::TimedOut.into()
                }
                Err(error) => error,
            };
            let model = self.common.model();
            let was_empty = model.was_empty_since(service, asked);
            let left = before.is_some_and(|pod| model.died_since(service, pod, asked));
            let was_cut = !self.path.is_tcp() && (left || model.lost_since(service, asked));
            drop(model);
            if was_empty && (is_refusal(&error) || !self.path.is_tcp()) {
                self.tally.refused += u64::from(is_first);
                return None;
            }
            if !was_cut {
                self.fail(service, start, &error.to_string());
                return None;
            }
            was_lost = true;
            self.tally.lost += 1;
        }
    }

    /// Whether a datagram's socket finds another backend by itself when its own is gone.
    fn keeps_its_socket(&self) -> bool {
        matches!(self.path, Path::SocketUnconnected | Path::PacketUdp)
    }

    /// Uses a flow that is held. It is given up only if its backend is gone.
    fn hold_on(&mut self, at: usize) {
        let Held { service, mut flow, with, known } = self.held.swap_remove(at);
        self.number += 1;
        self.tally.used += 1;
        let asked = Instant::now();
        let answer = flow.ask(self.number);
        if answer.as_ref().is_ok_and(|answer| *answer == with) {
            return self.held.push(Held { service, flow, with, known: asked });
        }
        let model = self.common.model();
        let may_end = match self.path {
            Path::SocketTcp | Path::PacketTcp => model.gone_since(with.pod, known),
            Path::SocketConnected => model.unnamed_since(service, with.pod, known - CLOSING),
            Path::SocketUnconnected | Path::PacketUdp => model.unnamed_since(service, with.pod, known),
        };
        drop(model);
        if !may_end {
            let how = answer.map_or_else(|error| error.to_string(), |other| format!("moved to {other:?}"));
            return self.fail(service, known, &format!("the flow held to {with:?}, which lives: {how}"));
        }
        self.tally.ended += 1;
        let next = match answer {
            Ok(with) => Some(Held { service, flow, with, known: asked }),
            Err(_) if self.keeps_its_socket() => self.request(service, Some(flow), Some(with.pod), asked),
            Err(_) => None,
        };
        self.held.extend(next);
    }

    fn fail(&mut self, service: usize, since: Instant, how: &str) {
        self.tally.failed += 1;
        if self.tally.failures.len() < TOLD {
            let (path, to, after) = (self.path.name(), address_of(service, self.family), since.elapsed());
            self.tally.failures.push(format!("{path} to {to} (service {service}) after {after:.3?}: {how}"));
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == ErrorKind::ConnectionRefused
}
