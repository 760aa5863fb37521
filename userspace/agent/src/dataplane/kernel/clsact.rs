//! Filters in a device's clsact queueing discipline: how packets reach the programs before tcx (Linux 6.6).
//!
//! A filter has no link to pin. Its priority and handle are fixed, so that the next agent replaces it in place, and the
//! device holds the program.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

/// Our place among a hook's filters; smaller ones run before.
const PRIORITY: u32 = 50;
/// Our filter's handle among those of one priority.
const HANDLE: u32 = 0xd1;

// linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h
const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// Which packets of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// Lets a program run on a device, in place of the one that we had there.
pub(super) fn attach(ifindex: u32, direction: Direction, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut qdisc = Message::new(RTM_NEWQDISC, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
    qdisc.header(ifindex, CLSACT_HANDLE, CLSACT, 0);
    qdisc.text(TCA_KIND, "clsact");
    match qdisc.send() {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
        _ => {}
    }
    let mut filter = filter(RTM_NEWTFILTER, libc::NLM_F_CREATE, ifindex, direction);
    filter.nested(TCA_OPTIONS, |options| {
        options.number(TCA_BPF_FD, program.as_raw_fd() as u32);
        options.text(TCA_BPF_NAME, name);
        options.number(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
    });
    filter.send()
}

/// Takes our filter off a device. That there is none is no error.
pub(super) fn detach(ifindex: u32, direction: Direction) -> io::Result<()> {
    match filter(RTM_DELTFILTER, 0, ifindex, direction).send() {
        // No filter, no clsact, no device.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => Err(error),
        _ => Ok(()),
    }
}

fn filter(kind: u16, flags: i32, ifindex: u32, direction: Direction) -> Message {
    let parent = match direction {
        Direction::Ingress => INGRESS,
        Direction::Egress => EGRESS,
    };
    let all_protocols = u32::from((libc::ETH_P_ALL as u16).to_be());
    let mut message = Message::new(kind, flags);
    message.header(ifindex, HANDLE, parent, PRIORITY << 16 | all_protocols);
    message.text(TCA_KIND, "bpf");
    message
}

/// A netlink request of one message.
struct Message {
    bytes: Vec<u8>,
}

/// `struct nlmsghdr`.
const HEADER: usize = 16;

impl Message {
    fn new(kind: u16, flags: i32) -> Self {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self { bytes }
    }

    /// `struct tcmsg`.
    fn header(&mut self, ifindex: u32, handle: u32, parent: u32, info: u32) {
        for word in [0, ifindex, handle, parent, info] {
            self.bytes.extend(word.to_ne_bytes());
        }
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.nested(kind, |message| {
            message.bytes.extend(text.as_bytes());
            message.bytes.push(0);
        });
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.nested(kind, |message| message.bytes.extend(number.to_ne_bytes()));
    }

    /// An attribute: length, kind, content, padding that the length does not count.
    fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        content(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Sends the request and waits for the kernel's answer.
    fn send(mut self) -> io::Result<()> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let kernel = NetlinkAddr::new(0, 0);
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        sendto(socket.as_raw_fd(), &self.bytes, &kernel, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let received = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        match answer[..received].get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok()) {
            Some(code) => match i32::from_ne_bytes(code) {
                0 => Ok(()),
                code => Err(io::Error::from_raw_os_error(-code)),
            },
            None => Err(io::Error::other("netlink answers too short")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_length_does_not_say_so() {
        let mut message = Message::new(RTM_NEWQDISC, 0);
        message.nested(TCA_OPTIONS, |options| options.text(TCA_KIND, "bpf55"));
        let attributes = &message.bytes[HEADER..];
        assert_eq!(attributes.len(), 4 + 12);
        assert_eq!(attributes[..4], [16, 0, 2, 0].map(u8::to_le));
        assert_eq!(attributes[4..8], [10, 0, 1, 0]);
    }
}
