//! Servers that say whom they see, and clients that ask them, over TCP and UDP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::pair::{BACKEND_PORT, Namespace, Pair};

/// For an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The question whom a datagram comes from; everything else comes back as it is.
pub(crate) const WHO: &[u8] = b"who";

/// Serves in a namespace under these addresses until the process ends. A socket of any address would answer under one
/// that the client did not ask.
pub(crate) fn serve(namespace: &Namespace, addresses: &[IpAddr]) {
    for address in addresses {
        let at = SocketAddr::new(*address, BACKEND_PORT);
        let (listener, socket) = namespace.inside(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || greet(stream));
            }
        });
        std::thread::spawn(move || echo(&socket));
    }
}

/// Says whom it sees, then sends back what comes. A client that is gone is none of its business.
fn greet(mut stream: TcpStream) {
    let Ok(peer) = stream.peer_addr() else { return };
    if writeln!(stream, "{}", peer).is_err() {
        return;
    }
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn echo(socket: &UdpSocket) {
    let mut buffer = vec![0; 1 << 16];
    // An error is one about an earlier answer.
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let answer = if &buffer[..length] == WHO { from.to_string().into_bytes() } else { buffer[..length].into() };
        let _ = socket.send_to(&answer, from);
    }
}

/// Reads the greeting of a connection that was made elsewhere, and then does what [`exchange`] does.
pub(crate) fn exchange_greeted(stream: TcpStream, bytes: usize) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, &stream).read_line(&mut line).expect("a greeting");
    exchange(stream, bytes);
}

/// Connects, and returns the connection, whom the server sees and what this side is.
pub(crate) fn connect(to: SocketAddr) -> (TcpStream, SocketAddr) {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap_or_else(|error| panic!("TCP {to}: {error}"));
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&stream, Some(PATIENCE)).unwrap();
    }
    assert_eq!(stream.peer_addr().unwrap(), to);
    let mut line = String::new();
    BufReader::with_capacity(64, &stream).read_line(&mut line).unwrap_or_else(|error| panic!("TCP {to}: {error}"));
    (stream, line.trim().parse().unwrap())
}

/// Sends this much over a connection and sees it come back.
pub(crate) fn exchange(mut stream: TcpStream, bytes: usize) {
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&vec![7; bytes]));
    let mut back = vec![0; bytes];
    stream.read_exact(&mut back).expect("everything comes back");
    sender.join().unwrap().unwrap();
    assert!(back.iter().all(|byte| *byte == 7));
}

/// A UDP socket of the family of `to`, connected to it.
pub(crate) fn datagrams(to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u8; 16].into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// Whom the server behind `to` sees in a datagram from here. Its answer must come from `to`.
pub(crate) fn ask(to: SocketAddr) -> SocketAddr {
    let socket = datagrams(to);
    socket.send(WHO).unwrap();
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer).unwrap_or_else(|error| panic!("UDP {to}: {error}"));
    std::str::from_utf8(&answer[..length]).unwrap().parse().unwrap()
}

/// A datagram of this size there and back.
pub(crate) fn echoed(to: SocketAddr, size: usize) -> std::io::Result<()> {
    let socket = datagrams(to);
    let sent: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    socket.send(&sent)?;
    let mut back = vec![0; 1 << 16];
    let length = socket.recv(&mut back)?;
    assert!(back[..length] == sent, "{to}: {size} bytes came back as {length} others");
    Ok(())
}

/// Two nodes for all tests of a module, one test after the other: loading takes longer than testing.
pub(crate) struct Place(Mutex<Option<Pair>>);

impl Place {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The nodes, with servers everywhere once they were made.
    pub(crate) fn enter(&self, make: impl FnOnce() -> Pair) -> MutexGuard<'_, Option<Pair>> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place.get_or_insert_with(|| {
            let pair = make();
            pair.serve();
            pair
        });
        place
    }
}

/// Runs a test for each family.
pub(crate) fn for_each_family(place: &Place, make: impl FnOnce() -> Pair, test: impl Fn(&Pair, usize)) {
    let place = place.enter(make);
    let pair = place.as_ref().expect("it was just made");
    for family in [0, 1] {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(pair, family))) {
            for (number, half) in [(1, &pair.first), (2, &pair.second)] {
                eprintln!("so far node {number} refused {:?}", half.all_drops());
            }
            resume_unwind(panic);
        }
    }
}
