//! Packets made by hand.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use etherparse::UdpHeader;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

const PORT: u16 = 7777;
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a fragment but the last; a multiple of 8.
const PIECE: usize = 1200;

/// One UDP datagram in three pieces.
pub(crate) struct Fragments {
    from: IpAddr,
    to: SocketAddr,
    /// Header and payload.
    datagram: Vec<u8>,
}

/// Where the answer to it is received.
pub(crate) struct Answers {
    at: SocketAddr,
    from: SocketAddr,
}

impl Fragments {
    pub(crate) fn of(from: IpAddr, to: SocketAddr, size: usize) -> (Self, Answers) {
        let payload: Vec<u8> = (0..size).map(|at| (at % 241) as u8).collect();
        let header = match (from, to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(ip)) => {
                UdpHeader::with_ipv4_checksum(PORT, to.port(), &v4(from.octets(), ip.octets()), &payload)
            }
            (IpAddr::V6(from), IpAddr::V6(ip)) => {
                let header =
                    etherparse::Ipv6Header { source: from.octets(), destination: ip.octets(), ..Default::default() };
                UdpHeader::with_ipv6_checksum(PORT, to.port(), &header, &payload)
            }
            _ => panic!("{from} and {to} are of two families"),
        };
        let datagram = [&header.unwrap().to_bytes()[..], &payload].concat();
        (Self { from, to, datagram }, Answers { at: (from, PORT).into(), from: to })
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.datagram[8..]
    }

    /// Piece `n` of the datagram as number `id`: a whole IP packet.
    pub(crate) fn packet(&self, id: u16, n: usize) -> Vec<u8> {
        let (start, end) = (n * PIECE, ((n + 1) * PIECE).min(self.datagram.len()));
        let (piece, more) = (&self.datagram[start..end], end < self.datagram.len());
        match (self.from, self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = v4(from.octets(), to.octets());
                header.total_len = (20 + piece.len()) as u16;
                header.identification = id;
                header.more_fragments = more;
                header.fragment_offset = ((start / 8) as u16).try_into().unwrap();
                header.header_checksum = header.calc_header_checksum();
                [&header.to_bytes()[..], piece].concat()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend(((8 + piece.len()) as u16).to_be_bytes());
                packet.extend([44, 64]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                packet.extend([17, 0]);
                packet.extend((start as u16 | u16::from(more)).to_be_bytes());
                packet.extend(u32::from(id).to_be_bytes());
                packet.extend(piece);
                packet
            }
            _ => panic!("{} and {} are of two families", self.from, self.to),
        }
    }
}

impl Answers {
    pub(crate) fn open(&self) -> UdpSocket {
        let socket = UdpSocket::bind(self.at).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(self.from).unwrap();
        socket
    }

    pub(crate) fn wait(&self, socket: &UdpSocket) -> std::io::Result<Vec<u8>> {
        let mut answer = vec![0; 1 << 16];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    }
}

fn v4(source: [u8; 4], destination: [u8; 4]) -> etherparse::Ipv4Header {
    etherparse::Ipv4Header::new(0, 64, etherparse::ip_number::UDP, source, destination).unwrap()
}

/// Sends whole IP packets, in this order.
pub(crate) fn send_raw(to: IpAddr, packets: &[Vec<u8>]) {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw = socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).expect("a raw socket");
    let raw = UdpSocket::from(raw);
    for packet in packets {
        raw.send_to(packet, (to, 0)).expect("the packet is sent");
    }
}
