//! What connect() and getpeername() do.

use std::net::SocketAddrV4;

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::conntrack::{SocketFlow, backend_word};
use diolkos_abi::counter::{DropReason, Verdict};
use diolkos_abi::pod::{Netns, netns_flags};
use diolkos_abi::service::backend_state;

use super::packets::End;
use super::world::{GENERATION, LOCAL, SERVICE, VIP, World};

/// One connect(), then one getpeername() on the same socket.
#[derive(Clone, Debug)]
pub struct SocketScenario {
    pub name: &'static str,
    pub world: World,
    /// `bpf_set_retval` is there.
    pub set_retval: bool,
    pub protocol: u8,
    pub dials: End,
    pub outcome: Result<Verdict, DropReason>,
    /// Where the connection goes.
    pub reaches: End,
    /// What getpeername() says.
    pub peer: End,
    /// What the socket remembers.
    pub remembers: Option<SocketFlow>,
}

/// The list, with the one backend at `backend`. `direct` is an address that is no service and can be connected to.
pub fn all(backend: SocketAddrV4, direct: SocketAddrV4) -> Vec<SocketScenario> {
    let backend = (backend.ip().octets(), backend.port());
    let direct = (direct.ip().octets(), direct.port());
    let world = |row: &[u32]| {
        World::serving(row).with_backend(LOCAL, |b| {
            b.address = v4_mapped(backend.0);
            b.port = backend.1.to_be_bytes();
        })
    };
    let opted_out = World { netns: Some(Netns { flags: netns_flags::OPT_OUT, ..Netns::default() }), ..world(&[LOCAL]) };
    let in_host = World { netns: Some(Netns { flags: netns_flags::HOST, ..Netns::default() }), ..world(&[LOCAL]) };
    let dead = world(&[LOCAL, LOCAL]).with_backend(LOCAL, |b| b.state = backend_state::DEAD);
    let untouched = |name, world: World, dials: End| SocketScenario {
        name,
        world,
        set_retval: true,
        protocol: protocol::TCP,
        dials,
        outcome: Ok(Verdict::Untouched),
        reaches: dials,
        peer: dials,
        remembers: None,
    };
    let translated = |name, world: World| SocketScenario {
        outcome: Ok(Verdict::Translated),
        reaches: backend,
        remembers: Some(SocketFlow {
            address: v4_mapped(VIP.0),
            backend_address: v4_mapped(backend.0),
            backend: backend_word(LOCAL, GENERATION),
            service: SERVICE,
            port: VIP.1.to_be_bytes(),
            backend_port: backend.1.to_be_bytes(),
            protocol: protocol::TCP,
            pad: [0; 7],
        }),
        ..untouched(name, world, VIP)
    };
    let refused = |name, world: World, reason| SocketScenario { outcome: Err(reason), ..untouched(name, world, VIP) };
    vec![
        translated("connect_to_a_cluster_ip_reaches_the_backend", world(&[LOCAL])),
        translated("connect_takes_any_slot_of_the_row", world(&[LOCAL; 33])),
        translated("connect_from_the_host_is_translated", in_host),
        untouched("connect_to_anything_else_is_left_alone", world(&[LOCAL]), direct),
        untouched("a_pod_that_opted_out_is_left_to_the_packet_path", opted_out, VIP),
        refused("connect_without_endpoints_is_refused", world(&[]), DropReason::NoEndpoints),
        refused("connect_with_dead_backends_is_refused", dead, DropReason::NoEndpoints),
        refused("connect_through_a_broken_row_is_refused", world(&[u32::MAX]), DropReason::BadBackend),
        SocketScenario {
            set_retval: false,
            ..untouched("an_old_kernel_leaves_refusing_to_the_packet_path", world(&[]), VIP)
        },
        SocketScenario {
            protocol: protocol::UDP,
            ..untouched("connect_of_a_udp_socket_is_left_alone", world(&[LOCAL]), VIP)
        },
    ]
}
