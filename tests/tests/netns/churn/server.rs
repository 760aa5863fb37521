//! The processes of a pod: they send each question back, and say who they are.

use std::io;
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diolkos_tests::eventually::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::model::PORTS;
use crate::pair::Namespace;

/// The first of the pods' [`PORTS`].
pub(super) const FIRST_PORT: u16 = 8000;
/// The number of a question.
pub(super) const QUESTION: usize = 8;
/// The question, the pod and its incarnation.
pub(super) const ANSWER: usize = QUESTION + 1 + 4;

/// Of one pod after the other under the same addresses.
pub(super) struct Server {
    life: watch::Sender<Life>,
    /// Connections that are open.
    open: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
struct Life {
    incarnation: u32,
    /// How connections of the one before end: without a word, or as those of a process that ends.
    abrupt: bool,
}

/// Who answers.
#[derive(Clone, Copy)]
struct Name {
    pod: u8,
    incarnation: u32,
}

impl Server {
    pub(super) fn start(pod: usize, namespace: &Namespace) -> Self {
        let (life, lives) = watch::channel(Life { incarnation: 0, abrupt: false });
        let open = Arc::new(AtomicUsize::new(0));
        let listen = |n: usize| {
            // Of both families.
            let at = (Ipv6Addr::UNSPECIFIED, FIRST_PORT + n as u16);
            (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap())
        };
        let sockets: Vec<_> = namespace.inside(|| (0..PORTS).map(listen).collect());
        let counted = open.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(pod as u8, sockets, lives, counted));
        });
        Self { life, open }
    }

    /// The process is killed: its connections end as the kernel ends them.
    pub(super) fn kill(&self) {
        self.life.send_modify(|life| life.abrupt = false);
        self.wait_for_silence();
    }

    /// Another process in its place. What the one before had open is forgotten without a word.
    pub(super) fn renew(&self) {
        self.life.send_modify(|life| *life = Life { incarnation: life.incarnation + 1, abrupt: true });
        self.wait_for_silence();
    }

    fn wait_for_silence(&self) {
        let look = || match self.open.load(Ordering::SeqCst) {
            0 => Ok(()),
            open => anyhow::bail!("{open} are open"),
        };
        eventually("a pod's connections are closed", Duration::from_secs(30), look).unwrap();
    }
}

/// Until the [`Server`] is dropped.
async fn serve(
    pod: u8,
    sockets: Vec<(TcpListener, UdpSocket)>,
    mut lives: watch::Receiver<Life>,
    open: Arc<AtomicUsize>,
) {
    for (listener, socket) in sockets {
        listener.set_nonblocking(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        tokio::spawn(accept(pod, listener, lives.clone(), open.clone()));
        tokio::spawn(echo(pod, socket, lives.clone()));
    }
    while lives.changed().await.is_ok() {}
}

async fn accept(pod: u8, listener: tokio::net::TcpListener, lives: watch::Receiver<Life>, open: Arc<AtomicUsize>) {
    loop {
        // A client that gave up counts the failure itself.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (lives, open) = (lives.clone(), Open::new(&open));
        tokio::spawn(async move {
            let _ = talk(pod, stream, lives).await;
            drop(open);
        });
    }
}

async fn talk(pod: u8, mut stream: tokio::net::TcpStream, mut lives: watch::Receiver<Life>) -> io::Result<()> {
    let name = Name { pod, incarnation: lives.borrow_and_update().incarnation };
    loop {
        let mut question = [0; QUESTION];
        tokio::select! {
            read = stream.read_exact(&mut question) => drop(read?),
            changed = lives.changed() => {
                if changed.is_err() || lives.borrow().abrupt {
                    stream.set_zero_linger()?;
                }
                return Ok(());
            }
        }
        stream.write_all(&name.answer(&question)).await?;
    }
}

async fn echo(pod: u8, socket: tokio::net::UdpSocket, lives: watch::Receiver<Life>) {
    let mut question = [0; QUESTION];
    loop {
        // An error is one about an earlier answer.
        let Ok((QUESTION, from)) = socket.recv_from(&mut question).await else { continue };
        let name = Name { pod, incarnation: lives.borrow().incarnation };
        let _ = socket.send_to(&name.answer(&question), from).await;
    }
}

impl Name {
    fn answer(self, question: &[u8; QUESTION]) -> [u8; ANSWER] {
        let mut answer = [0; ANSWER];
        answer[..QUESTION].copy_from_slice(question);
        answer[QUESTION] = self.pod;
        answer[QUESTION + 1..].copy_from_slice(&self.incarnation.to_be_bytes());
        answer
    }
}

/// Counts a connection as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
