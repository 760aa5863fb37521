//! Connections while conntrack has no room: what is new takes the place of what is not used, and what was forgotten is
//! chosen again, by the same hash from the same row.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use diolkos_abi::counter::{DropReason, Hook};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::pair::{BACKEND_PORT, OUTSIDE, Pair, Setup, TWO, TWO_BACKENDS, VIPS, node, pod};
use crate::talk::{self, PATIENCE, Place};

/// Entries for each core: a connection and a socket of datagrams have two each.
const ROOM: u32 = 64;
/// New ones, many times what there is room for.
const MANY: u32 = 400;
/// One of them is followed by a word on the connection that is in use.
const BETWEEN: u32 = 4;

/// A connection and a socket of datagrams, and the backends that answered first.
struct Held {
    stream: TcpStream,
    socket: UdpSocket,
    backends: [u16; 2],
}

impl Held {
    fn open(to: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap_or_else(|error| panic!("TCP {to}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut held = Self { stream, socket: talk::datagrams(to), backends: [0; 2] };
        held.backends = held.ask();
        assert!(held.backends.iter().all(|port| TWO_BACKENDS.contains(port)), "{:?} answer", held.backends);
        held
    }

    /// The backends that answer now.
    fn ask(&self) -> [u16; 2] {
        let mut answers = [[0; 2]; 2];
        (&self.stream).write_all(b"x").unwrap();
        (&self.stream).read_exact(&mut answers[0]).expect("the connection goes on");
        self.socket.send(b"x").unwrap();
        self.socket.recv(&mut answers[1]).expect("datagrams are answered");
        answers.map(u16::from_be_bytes)
    }

    fn goes_on(&self) {
        assert_eq!(self.ask(), self.backends);
    }

    fn ports(&self) -> [u16; 2] {
        [self.stream.local_addr().unwrap().port(), self.socket.local_addr().unwrap().port()]
    }
}

fn for_each_family(test: impl Fn(&Pair, usize)) {
    static PLACE: Place = Place::new();
    let make = || {
        let pair = Pair::with(Setup { outside: true, flows_of_a_core: Some(ROOM), ..Setup::default() });
        pod(2, 10).iter().for_each(|address| TWO_BACKENDS.iter().for_each(|port| serve(&pair, *address, *port)));
        pair
    };
    talk::for_each_family(&PLACE, make, test);
}

/// Answers everything with the port it came to, until the process ends.
fn serve(pair: &Pair, address: IpAddr, port: u16) {
    let at = SocketAddr::new(address, port);
    let (listener, socket) = pair.at_server(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                while stream.read_exact(&mut [0]).is_ok() && stream.write_all(&port.to_be_bytes()).is_ok() {}
            });
        }
    });
    std::thread::spawn(move || {
        loop {
            // An error is one about an earlier answer.
            let Ok((_, from)) = socket.recv_from(&mut [0; 8]) else { continue };
            let _ = socket.send_to(&port.to_be_bytes(), from);
        }
    });
}

/// Each core has room of its own: all that a test sends has to come from one.
fn on_one_core() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let mut one = CpuSet::new();
    let first = (0..CpuSet::count()).find(|core| allowed.is_set(*core).unwrap()).unwrap();
    one.set(first).unwrap();
    sched_setaffinity(this, &one).unwrap();
}

fn assert_nothing_was_refused(pair: &Pair) {
    for hook in [Hook::FromContainer, Hook::ToNetdev] {
        assert_eq!(pair.first.drops(hook, DropReason::ConntrackFull), 0, "{hook:?}");
    }
}

#[test]
fn connections_through_a_service_are_opened_and_go_on_whether_they_are_remembered_or_not() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(VIPS[family], TWO);
        for from in [&pair.first.pod, &pair.first.node] {
            let (idle, busy) = from.inside(|| {
                on_one_core();
                ([(); 4].map(|()| Held::open(to)), Held::open(to))
            });
            from.inside(|| {
                on_one_core();
                for n in 0..MANY {
                    Held::open(to).goes_on();
                    if n % BETWEEN == 0 {
                        busy.goes_on();
                    }
                }
            });
            for held in &idle {
                assert_eq!(held.ports().map(|port| pair.first.knows(port)), [false; 2], "{to}: nothing had to go");
                held.goes_on();
                assert_eq!(held.ports().map(|port| pair.first.knows(port)), [true; 2], "{to}: there is room again");
            }
            busy.goes_on();
        }
        assert_nothing_was_refused(pair);
    });
}

#[test]
fn connections_to_the_outside_are_opened_and_go_on_while_they_are_in_use() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(OUTSIDE[family], BACKEND_PORT);
        pair.at_client(|| {
            on_one_core();
            let (mut busy, seen) = talk::connect(to);
            assert_eq!(seen.ip(), node(1)[family]);
            for n in 0..MANY {
                assert_eq!([talk::connect(to).1, talk::ask(to)].map(|seen| seen.ip()), [node(1)[family]; 2]);
                if n % BETWEEN == 0 {
                    busy.write_all(b"x").unwrap();
                    busy.read_exact(&mut [0]).expect("the connection goes on");
                }
            }
        });
        assert_nothing_was_refused(pair);
    });
}
