//! What the system calls of sockets do: connect(), send(), sendto(), recvfrom() and getpeername().

mod datagrams;

use diolkos_abi::address::{Address, protocol, v4_mapped};
use diolkos_abi::config::{Config, features};
use diolkos_abi::conntrack::{SocketFlow, backend_word};
use diolkos_abi::counter::{DropReason, Verdict};
use diolkos_abi::pod::{Netns, netns_flags};
use diolkos_abi::service::{
    Backend, FrontendKey, Service, backend_state, frontend_flags, frontend_word, row_word, scope,
};

use super::world::{self, BASE, FAR, GENERATION, LOCAL, SERVICE, World};

/// An address and a port, as the maps hold them.
pub type Peer = (Address, u16);

/// One socket and what is done with it.
#[derive(Clone, Debug)]
pub struct SocketScenario {
    pub name: String,
    pub world: World,
    pub family: Family,
    pub protocol: u8,
    pub servers: [Peer; 3],
    pub steps: Vec<Step>,
    /// What the socket remembers in the end.
    pub remembers: Option<SocketFlow>,
    /// The backend under which the socket stands among the connected UDP ones in the end.
    pub connected_udp: Option<u64>,
    /// Entries of `peer` in the end.
    pub peers: usize,
    /// What comes of it where nobody knows whose the socket is. Said by every scenario whose world knows.
    pub unknown: Option<Box<SocketScenario>>,
}

/// What kernels have or lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// `bpf_set_retval` (5.18).
    pub set_retval: bool,
    /// User space learns the cookies of network namespaces (5.14).
    pub netns_cookie: bool,
}

impl Offered {
    /// Everything, and every lack alone and together.
    pub const ALL: [Self; 4] = [
        Self { set_retval: true, netns_cookie: true },
        Self { set_retval: true, netns_cookie: false },
        Self { set_retval: false, netns_cookie: true },
        Self { set_retval: false, netns_cookie: false },
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    /// An IPv6 socket that talks to v4-mapped addresses.
    Mapped,
}

impl Family {
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    /// The first and the second service, and an address without one, in the service CIDR where it is one of four.
    pub fn vips(self) -> [Peer; 2] {
        match self {
            Self::V4 | Self::Mapped => [(v4_mapped([10, 96, 0, 10]), 80), (v4_mapped([10, 96, 0, 11]), 53)],
            Self::V6 => [(v6(0x10), 80), (v6(0x11), 53)],
        }
    }
}

/// `fd10:96::<last>`: an address of the service CIDR.
fn v6(last: u8) -> Address {
    with_last(SERVICE_CIDR_V6, last)
}

const SERVICE_CIDR_V6: Address = [0xfd, 0x10, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn with_last(mut address: Address, last: u8) -> Address {
    address[15] = last;
    address
}

/// The configuration of a scenario.
pub fn config(set_retval: bool) -> Config {
    let mut config = Config { service_cidr_v6: SERVICE_CIDR_V6, service_mask_v6: [0xff; 16], ..world::config() };
    config.service_mask_v6[15] = 0;
    if !set_retval {
        config.features &= !features::SET_RETVAL;
    }
    config
}

/// Which of the servers: two backends, and one that is no service's.
pub type Server = usize;
pub const DIRECT: Server = 2;

/// One system call, or something that happens between two.
#[derive(Clone, Debug)]
pub enum Step {
    /// The socket connects and asks who its peer is. `reaches` is `None` when nobody lives there.
    Connect { to: Peer, outcome: Result<Verdict, DropReason>, reaches: Option<Server>, peer: Peer },
    /// A datagram of the connected socket.
    Push { reaches: Server },
    /// A datagram with its destination.
    Send { to: Peer, outcome: Result<Verdict, DropReason>, reaches: Option<Server> },
    /// A server answers the last datagram it got.
    Answer { from: Server, seems: Peer },
    /// The socket is connected no longer.
    Disconnect,
    /// The maps hold something else now: the same keys, other values.
    Changes(Box<World>),
}

/// The list. `servers` are backend [`LOCAL`], backend [`FAR`] and the one without a service, of each family.
pub fn all(v4: [Peer; 3], v6: [Peer; 3]) -> Vec<SocketScenario> {
    let mut list = Vec::new();
    for family in Family::ALL {
        let servers = if family == Family::V6 { v6 } else { v4 };
        for protocol in [protocol::TCP, protocol::UDP] {
            list.extend(Maker { family, protocol, servers }.connections());
        }
        let maker = Maker { family, protocol: protocol::UDP, servers };
        list.extend(maker.connected_datagrams());
        list.extend(maker.datagrams());
        list.extend(maker.two_services());
    }
    list
}

impl SocketScenario {
    /// What comes of it on a kernel. One that cannot refuse a system call leaves the address alone, for the packets to be
    /// refused.
    pub fn on(&self, kernel: Offered) -> Self {
        let mut scenario = match &self.unknown {
            Some(unknown) if !kernel.netns_cookie => (**unknown).clone(),
            _ => self.clone(),
        };
        assert!(kernel.netns_cookie || scenario.world.netns.is_none(), "{}: what if the socket is unknown?", self.name);
        for step in &mut scenario.steps {
            if let Step::Connect { outcome, .. } | Step::Send { outcome, .. } = step
                && outcome.is_err()
                && !kernel.set_retval
            {
                *outcome = UNTOUCHED;
            }
        }
        scenario
    }

    /// Every outcome that a system call of it has.
    pub fn outcomes(&self) -> impl Iterator<Item = Result<Verdict, DropReason>> + '_ {
        self.steps.iter().filter_map(|step| match step {
            Step::Connect { outcome, .. } | Step::Send { outcome, .. } => Some(*outcome),
            _ => None,
        })
    }
}

/// Makes the scenarios of one kind of socket.
#[derive(Clone, Copy)]
struct Maker {
    family: Family,
    protocol: u8,
    servers: [Peer; 3],
}

const TRANSLATED: Result<Verdict, DropReason> = Ok(Verdict::Translated);
const UNTOUCHED: Result<Verdict, DropReason> = Ok(Verdict::Untouched);
/// The service at the second address.
const SECOND: u32 = SERVICE + 1;
/// First slot of its row.
const SECOND_BASE: u32 = BASE + 100;

impl Maker {
    /// The two services with these backends.
    fn world(self, first: &[u32], second: &[u32]) -> World {
        let mut world = World::default();
        for ((address, port), service, base, row) in
            [(self.family.vips()[0], SERVICE, BASE, first), (self.family.vips()[1], SECOND, SECOND_BASE, second)]
        {
            let key = FrontendKey::new(address, port.to_be_bytes(), self.protocol, scope::CLUSTER);
            world.frontends.push((key, frontend_word(service, key.tag(), 0)));
            let marker = FrontendKey::new(address, [0; 2], 0, scope::CLUSTER);
            world.frontends.push((marker, frontend_word(0, marker.tag(), frontend_flags::ADDRESS)));
            let row_word = row_word(base, row.len() as u32);
            world.services.push((service, Service { row: row_word, ..Service::default() }));
            world.slots.extend(row.iter().enumerate().map(|(at, id)| (base + at as u32, *id)));
        }
        for (id, (address, port)) in [(LOCAL, self.servers[0]), (FAR, self.servers[1])] {
            let (state, protocol) = (backend_state::ALIVE, self.protocol);
            let port = port.to_be_bytes();
            world
                .backends
                .push((id, Backend { address, port, state, generation: GENERATION, protocol, ..Backend::default() }));
        }
        world
    }

    fn scenario(self, name: &str, world: World, steps: Vec<Step>) -> SocketScenario {
        let protocol = if self.protocol == protocol::TCP { "tcp" } else { "udp" };
        SocketScenario {
            name: format!("{name}, {protocol}, {:?}", self.family),
            world,
            family: self.family,
            protocol: self.protocol,
            servers: self.servers,
            steps,
            remembers: None,
            connected_udp: None,
            peers: 0,
            unknown: None,
        }
    }

    /// What a socket remembers that talks to the first service through `backend`.
    fn flow(self, dialled: usize, backend: u32) -> SocketFlow {
        let (address, port) = self.family.vips()[dialled];
        let (backend_address, backend_port) = self.servers[if backend == LOCAL { 0 } else { 1 }];
        SocketFlow {
            address,
            backend_address,
            backend: backend_word(backend, GENERATION),
            service: [SERVICE, SECOND][dialled],
            port: port.to_be_bytes(),
            backend_port: backend_port.to_be_bytes(),
            protocol: self.protocol,
            more: 0,
            recorded: 0,
            direct: 0,
            pad: [0; 4],
        }
    }

    /// connect() to a service, through the backend of this number.
    fn connects(self, dialled: usize, server: Server) -> Step {
        let to = self.family.vips()[dialled];
        Step::Connect { to, outcome: TRANSLATED, reaches: Some(server), peer: to }
    }

    /// connect() past every service.
    fn connects_directly(self) -> Step {
        let to = self.servers[DIRECT];
        Step::Connect { to, outcome: UNTOUCHED, reaches: Some(DIRECT), peer: to }
    }

    /// connect() that comes to nothing, here or on the way.
    fn fails(self, to: Peer, outcome: Result<Verdict, DropReason>) -> Step {
        Step::Connect { to, outcome, reaches: None, peer: to }
    }

    fn sends(self, dialled: usize, server: Server) -> Step {
        Step::Send { to: self.family.vips()[dialled], outcome: TRANSLATED, reaches: Some(server) }
    }

    fn sends_directly(self) -> Step {
        self.sends_past(DIRECT)
    }

    /// A datagram to a server under its own address.
    fn sends_past(self, server: Server) -> Step {
        Step::Send { to: self.servers[server], outcome: UNTOUCHED, reaches: Some(server) }
    }

    /// It asks a server under its own address, and is answered so.
    fn asks_past(self, server: Server) -> [Step; 2] {
        [self.sends_past(server), Step::Answer { from: server, seems: self.servers[server] }]
    }

    /// It asks a service, which answers through this server.
    fn asks(self, dialled: usize, server: Server) -> [Step; 2] {
        [self.sends(dialled, server), self.answers(server, dialled)]
    }

    fn answers(self, server: Server, dialled: usize) -> Step {
        Step::Answer { from: server, seems: self.family.vips()[dialled] }
    }

    /// What a connected socket remembers of the service.
    fn remembered(self, dialled: usize, backend: u32) -> SocketFlow {
        SocketFlow { recorded: (self.protocol == protocol::UDP).into(), ..self.flow(dialled, backend) }
    }

    fn recorded(self, backend: u32) -> Option<u64> {
        (self.protocol == protocol::UDP).then_some(backend_word(backend, GENERATION))
    }

    /// connect() to the first service reaches its backend.
    fn connected(self, name: &str, world: World) -> SocketScenario {
        SocketScenario {
            remembers: Some(self.remembered(0, LOCAL)),
            connected_udp: self.recorded(LOCAL),
            ..self.scenario(name, world, vec![self.connects(0, 0)])
        }
    }

    /// connect() of either protocol.
    fn connections(self) -> Vec<SocketScenario> {
        let [vip, (unknown, _)] = self.family.vips();
        let alone = |name, world: World, step| self.scenario(name, world, vec![step]);
        let serving = || self.world(&[LOCAL], &[]);
        let mut dead = self.world(&[LOCAL, LOCAL], &[]);
        dead.backends[0].1.state = backend_state::DEAD;
        let refused = |name, world, to, reason| alone(name, world, self.fails(to, Err(reason)));
        let unallocated = (with_last(unknown, 99), 80);
        let is_tcp = self.protocol == protocol::TCP;
        let not_served = self.fails((vip.0, 81), if is_tcp { Err(DropReason::UnknownPort) } else { UNTOUCHED });
        let mut list = vec![
            self.connected("connect to a cluster IP reaches the backend", serving()),
            self.connected("connect takes any slot of the row", self.world(&[LOCAL; 33], &[])),
            alone("connect to anything else is left alone", serving(), self.connects_directly()),
            refused("connect without endpoints is refused", self.world(&[], &[]), vip, DropReason::NoEndpoints),
            refused("connect with dead backends is refused", dead, vip, DropReason::NoEndpoints),
            refused(
                "connect through a broken row is refused",
                self.world(&[u32::MAX], &[]),
                vip,
                DropReason::BadBackend,
            ),
            alone("an unknown port is refused to TCP; of UDP it may be a client's", serving(), not_served),
            alone("an address not given out is left to the packet path", serving(), self.fails(unallocated, UNTOUCHED)),
            SocketScenario {
                remembers: Some(self.remembered(1, FAR)),
                connected_udp: self.recorded(FAR),
                ..self.scenario(
                    "a socket connects to one service after another",
                    self.world(&[LOCAL], &[FAR]),
                    vec![self.connects(0, 0), Step::Disconnect, self.connects(1, 1)],
                )
            },
            self.scenario(
                "a socket connects past the services after it was connected to one",
                serving(),
                vec![self.connects(0, 0), Step::Disconnect, self.connects_directly()],
            ),
        ];
        list.extend(self.known());
        list
    }

    /// connect() of a socket of which it is known whose it is.
    fn known(self) -> [SocketScenario; 3] {
        let [vip, _] = self.family.vips();
        let of = |flags, mut world: World| {
            world.netns = Some(Netns { flags, ..Netns::default() });
            world
        };
        let serving = || self.world(&[LOCAL], &[]);
        let unless = |known: SocketScenario, unknown| SocketScenario { unknown: Some(Box::new(unknown)), ..known };
        let (opted_out, deaf) = (of(netns_flags::OPT_OUT, serving()), of(netns_flags::OPT_OUT, self.world(&[], &[])));
        let fails = |name, world, to, outcome| self.scenario(name, world, vec![self.fails(to, outcome)]);
        [
            unless(
                self.connected("connect from the host is translated", of(netns_flags::HOST, serving())),
                self.connected("connect from the host is translated unknown", serving()),
            ),
            unless(
                fails("a pod that opted out is left to the packet path", opted_out, vip, UNTOUCHED),
                self.connected("a pod that opted out unknown is translated", serving()),
            ),
            unless(
                fails("a pod that opted out is refused on the packet path", deaf, vip, UNTOUCHED),
                fails(
                    "a pod that opted out unknown is refused",
                    self.world(&[], &[]),
                    vip,
                    Err(DropReason::NoEndpoints),
                ),
            ),
        ]
    }

    fn connected_datagrams(self) -> Vec<SocketScenario> {
        vec![SocketScenario {
            remembers: Some(SocketFlow { recorded: 1, ..self.flow(0, LOCAL) }),
            connected_udp: Some(backend_word(LOCAL, GENERATION)),
            ..self.scenario(
                "answers to a connected socket come from the service",
                self.world(&[LOCAL], &[]),
                vec![self.connects(0, 0), Step::Push { reaches: 0 }, self.answers(0, 0), Step::Push { reaches: 0 }],
            )
        }]
    }
}
