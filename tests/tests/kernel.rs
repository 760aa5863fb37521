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

use std::collections::{BTreeMap, BTreeSet};

use dataplane::Dataplane;
use diolkos_abi::config::Config;
use diolkos_agent::dataplane::kernel::Facts;

/// The verifier gives up at a million instructions, and loading time grows with them.
const VERIFIED_LIMIT: u32 = 200_000;

/// The kernel says since 5.16 how many instructions it went through.
const TELLS: (u32, u32) = (5, 16);

/// None of the options, all, each alone, and all but each: what one switches off does not hide behind another. The
/// oldest kernel that is supported has `bpf_redirect_peer`; what another lacks is left out, as by the agent.
fn option_sets() -> BTreeSet<u32> {
    use diolkos_abi::config::features::{DIRECT_ROUTING, DRY_RUN, MASQUERADE, REDIRECT_PEER, SET_RETVAL};
    let each = [SET_RETVAL, DIRECT_ROUTING, MASQUERADE, DRY_RUN];
    let all = each.iter().fold(0, |all, one| all | one);
    let sets = each.iter().flat_map(|one| [*one, all & !one]).chain([0, all]);
    sets.map(|features| (features | REDIRECT_PEER) & dataplane::possible()).collect()
}

#[test]
fn every_program_passes_the_verifier_with_every_set_of_options() {
    let tells = Facts::of_kernel().version() >= TELLS;
    let mut most = BTreeMap::<String, u32>::new();
    for features in option_sets() {
        println!("options {features:#x}");
        let dataplane = Dataplane::load(&Config { features, ..scenarios::wire::config() }, 1024);
        for (name, verified) in dataplane.sizes() {
            assert!(verified > 0 || !tells, "{name}: the kernel does not say");
            assert!(verified < VERIFIED_LIMIT, "{name}: {verified} verified instructions with {features:#x}");
            let most = most.entry(name).or_default();
            *most = verified.max(*most);
        }
    }
    // `cargo xtask kernels` makes its table of these lines.
    most.iter().for_each(|(name, verified)| println!("{name}: {verified} verified instructions"));
}
