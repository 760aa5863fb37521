//! What the dataplane does, as data: tables and a packet in, outcome, packet and table changes out.
//!
//! The list runs twice: against a model of the maps and of a packet (`host.rs`), and through the loaded programs by
//! `BPF_PROG_TEST_RUN` (the kernel suite). Both check the same expectations.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod answers;
pub mod believed;
pub mod elsewhere;
pub mod fragments;
pub mod from_container;
pub mod host_side;
pub mod icmp;
pub mod mtu;
pub mod netdev;
pub mod outside;
pub mod overlay;
pub mod packets;
pub mod services;
pub mod sockets;
pub mod udp;
pub mod wire;
pub mod world;

use diolkos_abi::address::v4_mapped;
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{Flow, Fragment, FragmentKey, Tuple};
use diolkos_abi::counter::{DropReason, Hook, Verdict};

use diolkos_datapath::Address;
pub use diolkos_datapath::Tunnel;

use world::World;

/// One packet and all that comes of it.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub hook: Hook,
    pub config: Config,
    pub world: World,
    pub input: Input,
    pub expect: Expect,
    /// What the kernel refuses. Only the model can refuse on demand, so these run on the host alone.
    pub fault: Option<Fault>,
}

#[derive(Clone, Debug)]
pub struct Input {
    pub bytes: Vec<u8>,
    pub ingress_ifindex: u32,
    pub mark: u32,
    /// The tunnel the packet came through.
    pub tunnel: Option<Tunnel>,
    /// Beside the packet stands a VLAN tag.
    pub tagged: bool,
    /// Payload of each piece of a segment that a device will cut.
    pub gso_size: u32,
}

#[derive(Clone, Debug)]
pub struct Expect {
    pub outcome: Result<Verdict, DropReason>,
    pub told: Told,
    /// The packet afterwards; of a dropped packet nobody asks.
    pub bytes: Vec<u8>,
    pub mark: u32,
    pub redirect: Option<Redirect>,
    /// Network identifier and remote end of the tunnel key that was set.
    pub tunnel: Option<(u32, Address)>,
    /// All of conntrack afterwards.
    pub flows: Vec<(Tuple, Flow)>,
    /// All ports of packets in fragments afterwards.
    pub fragments: Vec<(FragmentKey, Fragment)>,
}

/// Whether the sender of a refused packet is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It does not matter here.
    Whatever,
    /// Not with a word.
    Nothing,
    /// By the packet, mark, redirect and tunnel key of the expectation.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    Pod(u32),
    Device(u32),
    /// Into a device, as if it had come in there.
    Ingress(u32),
    /// To a neighbour on a device.
    Neighbour(u32, Address),
    /// Out of a device, to the next hop of the host's routes.
    Routed(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Conntrack takes no entry.
    ConntrackFull,
    /// A checksum cannot be updated.
    Checksum,
    /// A tunnel key cannot be set.
    Tunnel,
    /// Nothing: a test run cannot make the packet.
    Elsewhere,
}

/// Every scenario of the packet hooks: nearly all of them once for each family.
pub fn all() -> Vec<Scenario> {
    let mut list = both();
    list.extend(packets::over_ipv6(both).into_iter().map(|scenario| {
        let name = Box::leak(format!("{}_over_ipv6", scenario.name).into_boxed_str());
        Scenario { name, ..scenario }
    }));
    list.extend(from_container::only_v4());
    list.extend(believed::only_v4());
    list.extend(packets::over_ipv6(believed::only_v6));
    list.extend(answers::all());
    list.extend(icmp::all());
    list.extend(mtu::all());
    list.extend(netdev::all());
    list.extend(outside::all());
    list
}

/// Of the family that is made.
fn both() -> Vec<Scenario> {
    [
        from_container::all(),
        believed::all(),
        fragments::all(),
        services::all(),
        udp::all(),
        elsewhere::all(),
        overlay::all(),
        host_side::all(),
    ]
    .concat()
}

impl Scenario {
    /// A packet that passes a hook as it came, and changes nothing.
    pub fn new(name: &'static str, hook: Hook, ingress_ifindex: u32, world: World, bytes: Vec<u8>) -> Self {
        let expect = Expect {
            outcome: Ok(Verdict::Untouched),
            told: Told::Whatever,
            bytes: bytes.clone(),
            mark: 0,
            redirect: None,
            tunnel: None,
            flows: world.flows.clone(),
            fragments: world.fragments.clone(),
        };
        let input = Input { bytes, ingress_ifindex, mark: 0, tunnel: None, tagged: false, gso_size: 0 };
        Self { name, hook, config: world::config(), world, input, expect, fault: None }
    }

    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.expect.outcome = Ok(verdict);
        self
    }

    pub fn drops(mut self, reason: DropReason) -> Self {
        self.expect.outcome = Err(reason);
        self
    }

    /// Refused, and answered by these bytes.
    pub fn answers(mut self, reason: DropReason, bytes: Vec<u8>) -> Self {
        self.expect.told = Told::Answer;
        self.expect.bytes = bytes;
        self.drops(reason)
    }

    /// Refused without a word.
    pub fn silent(mut self) -> Self {
        self.expect.told = Told::Nothing;
        self
    }

    /// Handed to the pod behind `ifindex` as these bytes.
    pub fn reaches_pod(mut self, ifindex: u32, bytes: Vec<u8>) -> Self {
        self.expect.bytes = bytes;
        self.expect.redirect = Some(Redirect::Pod(ifindex));
        self.verdict(Verdict::Pod)
    }

    /// Handed to the overlay device as these bytes, for node 2.
    pub fn reaches_node_2(mut self, bytes: Vec<u8>) -> Self {
        self.expect.bytes = bytes;
        self.expect.mark = diolkos_abi::config::ENCAPSULATED_MARK;
        self.expect.redirect = Some(Redirect::Device(world::OVERLAY_IFINDEX));
        self.expect.tunnel = Some((world::VNI, v4_mapped(world::NODE_2_TUNNEL)));
        self.verdict(Verdict::Overlay)
    }

    /// Redirected as these bytes.
    pub fn redirected(mut self, verdict: Verdict, to: Redirect, bytes: Vec<u8>) -> Self {
        self.expect.bytes = bytes;
        self.expect.redirect = Some(to);
        self.verdict(verdict)
    }

    /// Has this mark afterwards.
    pub fn marked(mut self, mark: u32) -> Self {
        self.expect.mark = mark;
        self
    }

    /// The packet ends after so many bytes, and goes on so.
    pub fn cut(mut self, length: usize) -> Self {
        self.input.bytes.truncate(length);
        self.expect.bytes.truncate(length);
        self
    }

    /// Goes on as these bytes.
    pub fn becomes(mut self, verdict: Verdict, bytes: Vec<u8>) -> Self {
        self.expect.bytes = bytes;
        self.verdict(verdict)
    }

    /// Conntrack holds these afterwards.
    pub fn leaves(mut self, flows: &[(Tuple, Flow)]) -> Self {
        self.expect.flows = flows.to_vec();
        self
    }

    /// The ports of these packets are known afterwards.
    pub fn remembers(mut self, fragments: &[(FragmentKey, Fragment)]) -> Self {
        self.expect.fragments = fragments.to_vec();
        self
    }

    pub fn configured(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// A test run cannot make such a packet.
    pub fn on_the_host_alone(self) -> Self {
        self.faulty(Fault::Elsewhere)
    }

    pub fn faulty(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }
}
