//! sock_diag: listing and closing the sockets of one network namespace. Layouts: `linux/inet_diag.h`,
//! `linux/sock_diag.h`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use diolkos_abi::address::protocol;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// `INET_DIAG_REQ_SK_BPF_STORAGES` of a request, and `SK_DIAG_BPF_STORAGE_REQ_MAP_FD` in it.
const REQUEST_STORAGES: u16 = 2;
const REQUEST_MAP: u16 = 1;
/// `INET_DIAG_SK_BPF_STORAGES` of an answer, `SK_DIAG_BPF_STORAGE` in it, `SK_DIAG_BPF_STORAGE_MAP_VALUE` in that.
const STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const STORAGE_VALUE: u16 = 3;
/// The upper bits of an attribute's type are flags.
const TYPE_MASK: u16 = 0x3fff;

/// `TCP_ESTABLISHED`; of UDP: connected.
const ESTABLISHED: u32 = 1 << 1;
/// All states of TCP but `TIME_WAIT` (6), `CLOSE` (7), `LISTEN` (10) and `NEW_SYN_RECV` (12).
const OPEN: u32 = 0x0fff & !(1 | 1 << 6 | 1 << 7 | 1 << 10);

/// Sizes of `nlmsghdr`, `inet_diag_sockid` and `inet_diag_msg`.
const HEADER: usize = 16;
const ID: usize = 48;
const MESSAGE: usize = 72;
/// Where the cookie stands in an id.
const COOKIE: usize = 40;
/// The kernel fills at most 32 KiB at a time.
const BUFFER: usize = 1 << 16;

/// A socket as sock_diag names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub cookie: u64,
    family: u8,
    protocol: u8,
    /// `inet_diag_sockid`: ports, addresses, device, cookie.
    id: [u8; ID],
}

impl Socket {
    /// One that only a model knows.
    #[cfg(test)]
    pub(super) fn of_model(cookie: u64) -> Self {
        Self { cookie, family: 2, protocol: protocol::TCP, id: [0; ID] }
    }
}

/// A netlink socket in a network namespace. It stays there wherever it is used.
#[derive(Debug)]
pub struct Diag(OwnedFd);

impl Diag {
    /// `None` is the caller's own namespace.
    pub fn open(netns: Option<&Path>) -> io::Result<Self> {
        let Some(path) = netns else { return Self::here() };
        let file = File::open(path)?;
        // A thread of its own enters, or this one would have to find back.
        let thread = std::thread::Builder::new().name("diag-netns".into()).spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            Self::here()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that enters it panicked")))
    }

    fn here() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?))
    }

    /// The open TCP sockets that have a value in the socket storage `map`, with that value.
    pub fn tcp_with_storage(&self, map: BorrowedFd<'_>) -> io::Result<Vec<(Socket, Vec<u8>)>> {
        let mut found = Vec::new();
        let map = attribute(REQUEST_MAP, &map.as_raw_fd().to_ne_bytes());
        let storages = attribute(REQUEST_STORAGES, &map);
        self.dump(protocol::TCP, OPEN, &storages, |socket, attributes| {
            let storage = find(attributes, STORAGES).and_then(|list| find(list, STORAGE));
            found.extend(storage.and_then(|one| find(one, STORAGE_VALUE)).map(|value| (socket, value.to_vec())));
        })?;
        Ok(found)
    }

    /// The connected UDP sockets.
    pub fn connected_udp(&self) -> io::Result<Vec<Socket>> {
        let mut found = Vec::new();
        self.dump(protocol::UDP, ESTABLISHED, &[], |socket, _| found.push(socket))?;
        Ok(found)
    }

    /// Closes a socket: its owner's calls fail with ECONNABORTED. One that is closed already is no error.
    pub fn destroy(&self, socket: &Socket) -> io::Result<()> {
        let states = u32::MAX;
        let request = request(socket.family, socket.protocol, states, &socket.id);
        self.send(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, &request)?;
        match self.receive(|_, _| {}) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    fn dump(
        &self,
        protocol: u8,
        states: u32,
        attributes: &[u8],
        mut each: impl FnMut(Socket, &[u8]),
    ) -> io::Result<()> {
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let mut body = request(family, protocol, states, &[0; ID]);
            body.extend(attributes);
            self.send(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, &body)?;
            self.receive(|message, attributes| {
                let Some(id) = message.get(4..4 + ID).and_then(|id| <[u8; ID]>::try_from(id).ok()) else { return };
                let cookie = id[COOKIE..].as_chunks::<8>().0.first().copied().unwrap_or_default();
                each(Socket { cookie: u64::from_ne_bytes(cookie), family: message[0], protocol, id }, attributes);
            })?;
        }
        Ok(())
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        // Sequence and port: one question at a time, so answers need no name.
        message.extend([0; 8]);
        message.extend(body);
        sendto(self.0.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// Reads an answer to its end.
    fn receive(&self, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((size, kind)) = header(rest) {
                let body = &rest[HEADER..size];
                match kind {
                    NLMSG_DONE | NLMSG_ERROR => return finish(body),
                    SOCK_DIAG_BY_FAMILY if body.len() >= MESSAGE => each(body, &body[MESSAGE..]),
                    _ => {}
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Length and type of the message at hand; `None` at the end.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (length >= HEADER && length <= bytes.len()).then_some((length, kind))
}

/// The end of an answer carries an error number, negative, or 0.
fn finish(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code < 0 { Err(Errno::from_raw(-code).into()) } else { Ok(()) }
}

/// `inet_diag_req_v2`.
fn request(family: u8, protocol: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut request = vec![family, protocol, 0, 0];
    request.extend(states.to_ne_bytes());
    request.extend(id);
    request
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::with_capacity(4 + value.len());
    attribute.extend((4 + value.len() as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// The value of the first attribute of a type.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = attributes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}
