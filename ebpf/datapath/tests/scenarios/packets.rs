//! Packets of the scenarios, written by another library than the one under test: both the input and what is expected
//! are built from scratch, so every checksum of an expectation was computed over the whole packet.

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, TcpHeader, UdpHeader};

pub const POD_MAC: [u8; 6] = [0x02, 0xaa, 0, 0, 0, 0x10];
pub const HOST_MAC: [u8; 6] = [0x02, 0xbb, 0, 0, 0, 0x10];

pub const SYN: u8 = 0x02;
pub const SYN_ACK: u8 = 0x12;
pub const ACK: u8 = 0x10;
pub const FIN_ACK: u8 = 0x11;
pub const RST: u8 = 0x04;

/// An address and a port.
pub type End = ([u8; 4], u16);

/// A packet as a few words. `Frame { ttl: 63, ..frame }` is the usual way to an expectation.
#[derive(Clone, Debug)]
pub struct Frame {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    pub source: End,
    pub destination: End,
    pub ttl: u8,
    pub transport: Transport,
    pub options: Vec<u8>,
    /// Offset in units of 8 bytes, and whether more fragments follow.
    pub fragment: (u16, bool),
    pub payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// With these flags.
    Tcp(u8),
    Udp,
    /// No header at all: the payload stands right behind the IPv4 header.
    Raw(IpNumber),
}

impl Frame {
    /// A TCP segment as a pod hands it over.
    pub fn tcp(source: End, destination: End, flags: u8) -> Self {
        Self {
            to_mac: HOST_MAC,
            from_mac: POD_MAC,
            source,
            destination,
            ttl: 64,
            transport: Transport::Tcp(flags),
            options: Vec::new(),
            fragment: (0, false),
            payload: b"odd sized payload".to_vec(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header_len = match self.transport {
            Transport::Tcp(_) => TcpHeader::MIN_LEN,
            Transport::Udp => UdpHeader::LEN,
            Transport::Raw(_) => 0,
        };
        let protocol = match self.transport {
            Transport::Tcp(_) => IpNumber::TCP,
            Transport::Udp => IpNumber::UDP,
            Transport::Raw(number) => number,
        };
        let length = (header_len + self.payload.len()) as u16;
        let mut ip = Ipv4Header::new(length, self.ttl, protocol, self.source.0, self.destination.0).unwrap();
        ip.options = Ipv4Options::try_from(self.options.as_slice()).unwrap();
        ip.total_len = ip.header_len() as u16 + length;
        ip.identification = 0x1234;
        ip.fragment_offset = IpFragOffset::try_new(self.fragment.0).unwrap();
        ip.more_fragments = self.fragment.1;
        ip.dont_fragment = self.fragment == (0, false);
        ip.header_checksum = ip.calc_header_checksum();
        let mut bytes = [&self.to_mac[..], &self.from_mac[..], &[0x08, 0x00]].concat();
        bytes.extend_from_slice(&ip.to_bytes());
        match self.transport {
            Transport::Tcp(flags) => bytes.extend_from_slice(&self.tcp_header(&ip, flags)),
            Transport::Udp => {
                let udp = UdpHeader::with_ipv4_checksum(self.source.1, self.destination.1, &ip, &self.payload);
                bytes.extend_from_slice(&udp.unwrap().to_bytes());
            }
            Transport::Raw(_) => {}
        }
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    fn tcp_header(&self, ip: &Ipv4Header, flags: u8) -> Vec<u8> {
        let mut tcp = TcpHeader::new(self.source.1, self.destination.1, 0x0102_0304, 0xfff0);
        tcp.acknowledgment_number = 0x0a0b_0c0d;
        tcp.fin = flags & 0x01 != 0;
        tcp.syn = flags & 0x02 != 0;
        tcp.rst = flags & 0x04 != 0;
        tcp.ack = flags & 0x10 != 0;
        tcp.checksum = tcp.calc_checksum_ipv4(ip, &self.payload).unwrap();
        tcp.to_bytes().to_vec()
    }
}

/// An ARP request.
pub fn arp() -> Vec<u8> {
    let mut bytes = [&[0xff; 6][..], &POD_MAC[..], &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    bytes.extend_from_slice(&[0; 20]);
    bytes
}

/// An IPv6 packet without payload.
pub fn ipv6() -> Vec<u8> {
    let mut bytes = [&HOST_MAC[..], &POD_MAC[..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 59, 64]].concat();
    bytes.extend_from_slice(&[0xfe; 32]);
    bytes
}
