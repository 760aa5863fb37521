//! The loaded programs in the kernel: the datapath's scenarios through `BPF_PROG_TEST_RUN`, and its socket scenarios
//! with real sockets in a private cgroup and network namespace. Needs root and the built objects.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "kernel/dataplane.rs"]
mod dataplane;
#[path = "kernel/events.rs"]
mod events;
#[path = "kernel/destroy.rs"]
mod destroy;
#[path = "kernel/packets.rs"]
mod packets;
#[path = "../../ebpf/datapath/tests/scenarios/mod.rs"]
mod scenarios;
#[path = "kernel/sockets.rs"]
mod sockets;

use dataplane::Dataplane;

/// The verifier gives up at a million instructions, and loading time grows with them.
const VERIFIED_LIMIT: u32 = 200_000;

#[test]
fn every_program_passes_the_verifier_within_its_budget() {
    let dataplane = Dataplane::load(&scenarios::world::config(), 1024);
    for (name, verified) in dataplane.sizes() {
        println!("{name}: {verified} verified instructions");
        assert!(verified > 0, "{name}: the kernel does not say");
        assert!(verified < VERIFIED_LIMIT, "{name}: {verified} verified instructions, of {VERIFIED_LIMIT} allowed");
    }
}
