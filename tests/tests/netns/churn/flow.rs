//! How a client talks to a service: the paths, and a flow over each of them.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::model::PODS;
use super::server::{ANSWER, QUESTION};

/// For a connection, and for each answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the answer to a datagram.
const DATAGRAM_PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Translated by connect().
    SocketTcp,
    SocketConnected,
    /// Translated by sendmsg(), back by recvmsg().
    SocketUnconnected,
    /// The pod opted out: its packets are translated.
    PacketTcp,
    PacketUdp,
}

impl Path {
    pub(super) const ALL: [Self; 5] =
        [Self::SocketTcp, Self::SocketConnected, Self::SocketUnconnected, Self::PacketTcp, Self::PacketUdp];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SocketTcp => "socket TCP",
            Self::SocketConnected => "socket connected UDP",
            Self::SocketUnconnected => "socket unconnected UDP",
            Self::PacketTcp => "packet TCP",
            Self::PacketUdp => "packet UDP",
        }
    }

    pub(super) fn opts_out(self) -> bool {
        matches!(self, Self::PacketTcp | Self::PacketUdp)
    }

    pub(super) fn is_tcp(self) -> bool {
        matches!(self, Self::SocketTcp | Self::PacketTcp)
    }
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) pod: usize,
    pub(super) incarnation: u32,
}

/// A client's end of a flow to a service.
pub(super) enum Flow {
    Tcp(TcpStream),
    Connected(UdpSocket),
    Unconnected(UdpSocket, SocketAddr),
}

impl Flow {
    /// Connects, in the caller's namespace, and believes to be connected to the service.
    pub(super) fn open(path: Path, to: SocketAddr) -> io::Result<Self> {
        if path.is_tcp() {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            return check(stream.peer_addr()?, to).map(|()| Self::Tcp(stream));
        }
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(DATAGRAM_PATIENCE))?;
        if path == Path::SocketUnconnected {
            return Ok(Self::Unconnected(socket, to));
        }
        socket.connect(to)?;
        check(socket.peer_addr()?, to).map(|()| Self::Connected(socket))
    }

    /// Asks a question of a number that was not used before, and waits for its answer.
    pub(super) fn ask(&mut self, number: u64) -> io::Result<Answer> {
        let question: [u8; QUESTION] = number.to_be_bytes();
        let mut answer = [0; ANSWER];
        match self {
            Self::Tcp(stream) => {
                stream.write_all(&question)?;
                stream.read_exact(&mut answer)?;
            }
            Self::Connected(socket) => {
                socket.send(&question)?;
                receive(&question, &mut answer, |answer| socket.recv(answer))?;
            }
            Self::Unconnected(socket, to) => {
                socket.send_to(&question, *to)?;
                receive(&question, &mut answer, |answer| {
                    let (length, from) = socket.recv_from(answer)?;
                    check(from, *to).map(|()| length)
                })?;
            }
        }
        let (same, who) = answer.split_at(QUESTION);
        let (pod, incarnation) = (usize::from(who[0]), u32::from_be_bytes([who[1], who[2], who[3], who[4]]));
        match same == question && pod < PODS {
            true => Ok(Answer { pod, incarnation }),
            false => Err(io::Error::other(format!("a stranger answers: {answer:?}"))),
        }
    }
}

/// Takes what comes until it is the answer to the question: one to an earlier question may come late.
fn receive(
    question: &[u8],
    answer: &mut [u8; ANSWER],
    mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let deadline = Instant::now() + DATAGRAM_PATIENCE;
    loop {
        let length = receive(answer)?;
        if length == ANSWER && answer[..QUESTION] == *question {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

fn check(peer: SocketAddr, to: SocketAddr) -> io::Result<()> {
    match peer == to {
        true => Ok(()),
        false => Err(io::Error::other(format!("the peer is {peer}, not {to}"))),
    }
}
