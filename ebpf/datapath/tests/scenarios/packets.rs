//! Packets of the scenarios, written by another library than the one under test: both the input and what is expected
//! are built from scratch, so every checksum of an expectation was computed over the whole packet.

use std::cell::Cell;

use diolkos_abi::address::{Address, v4_mapped};
use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FragmentHeader, Ipv6Header, TcpHeader, UdpHeader,
};

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
        let mut segment = match self.transport {
            Transport::Tcp(flags) => self.tcp_header(flags),
            Transport::Udp => self.udp_header(),
            Transport::Raw(_) => Vec::new(),
        };
        segment.extend_from_slice(&self.payload);
        let kind = if is_v6() { [0x86, 0xdd] } else { [0x08, 0x00] };
        let header = if is_v6() { self.ipv6_header(segment.len()) } else { self.ipv4_header(segment.len()) };
        [&self.to_mac[..], &self.from_mac, &kind, &header, &segment].concat()
    }

    fn protocol(&self) -> IpNumber {
        match self.transport {
            Transport::Tcp(_) => IpNumber::TCP,
            Transport::Udp => IpNumber::UDP,
            Transport::Raw(number) => number,
        }
    }

    fn ipv4_header(&self, length: usize) -> Vec<u8> {
        let length = length as u16;
        let mut ip = Ipv4Header::new(length, self.ttl, self.protocol(), self.source.0, self.destination.0).unwrap();
        ip.options = Ipv4Options::try_from(self.options.as_slice()).unwrap();
        ip.total_len = ip.header_len() as u16 + length;
        ip.identification = IDENTIFICATION;
        ip.fragment_offset = IpFragOffset::try_new(self.fragment.0).unwrap();
        ip.more_fragments = self.fragment.1;
        ip.dont_fragment = self.fragment == (0, false);
        ip.header_checksum = ip.calc_header_checksum();
        ip.to_bytes().to_vec()
    }

    /// Options become a header of destination options, and a fragment gets its header.
    fn ipv6_header(&self, length: usize) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut next = self.protocol();
        if self.fragment != (0, false) {
            let offset = IpFragOffset::try_new(self.fragment.0).unwrap();
            let header = Ipv6FragmentHeader::new(next, offset, self.fragment.1, IDENTIFICATION.into());
            extensions.extend_from_slice(&header.to_bytes());
            next = IpNumber::IPV6_FRAGMENTATION_HEADER;
        }
        if !self.options.is_empty() {
            let units = self.options.len().div_ceil(8);
            let padding = (units * 8 + 4) as u8;
            let mut header = vec![next.0, units as u8, 1, padding];
            header.resize(8 + units * 8, 0);
            extensions.splice(0..0, header);
            next = IpNumber::IPV6_DESTINATION_OPTIONS;
        }
        let ip = Ipv6Header {
            payload_length: (extensions.len() + length) as u16,
            next_header: next,
            hop_limit: self.ttl,
            source: address(self.source.0),
            destination: address(self.destination.0),
            ..Ipv6Header::default()
        };
        [&ip.to_bytes()[..], &extensions].concat()
    }

    fn tcp_header(&self, flags: u8) -> Vec<u8> {
        let mut tcp = TcpHeader::new(self.source.1, self.destination.1, 0x0102_0304, 0xfff0);
        tcp.acknowledgment_number = 0x0a0b_0c0d;
        tcp.fin = flags & 0x01 != 0;
        tcp.syn = flags & 0x02 != 0;
        tcp.rst = flags & 0x04 != 0;
        tcp.ack = flags & 0x10 != 0;
        let (source, destination) = (self.source.0, self.destination.0);
        tcp.checksum = if is_v6() {
            tcp.calc_checksum_ipv6_raw(address(source), address(destination), &self.payload).unwrap()
        } else {
            tcp.calc_checksum_ipv4_raw(source, destination, &self.payload).unwrap()
        };
        tcp.to_bytes().to_vec()
    }

    fn udp_header(&self) -> Vec<u8> {
        let length = (UdpHeader::LEN + self.payload.len()) as u16;
        let (source_port, destination_port) = (self.source.1, self.destination.1);
        let mut udp = UdpHeader { source_port, destination_port, length, checksum: 0 };
        let (source, destination) = (self.source.0, self.destination.0);
        udp.checksum = if is_v6() {
            udp.calc_checksum_ipv6_raw(address(source), address(destination), &self.payload).unwrap()
        } else {
            udp.calc_checksum_ipv4_raw(source, destination, &self.payload).unwrap()
        };
        udp.to_bytes().to_vec()
    }
}

/// What all fragments of a packet share.
pub const IDENTIFICATION: u16 = 0x1234;

thread_local! {
    static V6: Cell<bool> = const { Cell::new(false) };
}

/// The packets, addresses and tables made now are those of IPv6.
pub fn is_v6() -> bool {
    V6.get()
}

/// Makes packets, addresses and tables of IPv6, from the same words as those of IPv4.
pub fn over_ipv6<T>(make: impl FnOnce() -> T) -> T {
    let before = V6.replace(true);
    let made = make();
    V6.set(before);
    made
}

/// An address as it stands in the maps. `a.b.c.d` becomes `fd00:0a0b:0c00::d` where IPv6 is made.
pub fn address([a, b, c, d]: [u8; 4]) -> Address {
    if is_v6() { [0xfd, 0, a, b, c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, d] } else { v4_mapped([a, b, c, d]) }
}

/// An ARP request of a device for `asked`, that speaks for `mac` and `address`.
pub fn arp_of(mac: [u8; 6], address: [u8; 4], asked: [u8; 4]) -> Vec<u8> {
    let head = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &POD_MAC, &head, &mac, &address, &[0; 6], &asked].concat()
}

/// An ARP request of a host.
pub fn arp() -> Vec<u8> {
    arp_of(HOST_MAC, [10, 244, 1, 1], [10, 244, 1, 10])
}

/// An ICMPv6 message from `source` to a multicast address, made of its type, a body and the options behind it.
pub fn icmpv6(source: Address, kind: u8, body: &[u8], options: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0, 0, 0, 0, 0], body, options].concat();
    let ip = Ipv6Header {
        payload_length: message.len() as u16,
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: 255,
        source,
        destination: [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ..Ipv6Header::default()
    };
    [&[0x33, 0x33, 0, 0, 0, 1][..], &POD_MAC, &[0x86, 0xdd], &ip.to_bytes(), &message].concat()
}
