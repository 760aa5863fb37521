//! The same packet through the programs: a copy of them over the pinned maps, loaded so that it writes nothing.

use aya::maps::{MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use diolkos_abi::config::{self, Config, features};
use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};

use super::packet::TracePacket;
use crate::dataplane::{kernel, map};
use crate::observe::Pins;
use crate::observe::pins::chain;

/// Size of `struct __sk_buff` as of Linux 5.10, and where the device is that the packet came in through.
const CONTEXT: usize = 192;
const INGRESS_IFINDEX: usize = 36;
/// Room for an answer that is longer than the packet.
const ROOM: usize = 256;

/// What the programs read and an agent writes. The rest is each load's own, and so are the counters of this one.
const READ: [&str; 11] = [
    map::FRONTEND,
    map::SERVICE,
    map::SLOT,
    map::BACKEND,
    map::MEMBER,
    map::AFFINITY,
    map::CONNTRACK,
    map::ENDPOINT,
    map::NODE,
    map::ROUTE,
    map::NETNS,
];

/// What the program did.
pub(super) struct Run {
    outcome: Result<Verdict, DropReason>,
    bytes: Vec<u8>,
}

/// Runs the program of a hook. Fails with the reason why it cannot be run.
pub(super) fn run(
    pins: &Pins,
    config: &Config,
    hook: Hook,
    packet: &TracePacket,
    is_tunnelled: bool,
) -> Result<Run, String> {
    if is_tunnelled {
        return Err("a packet of a test run comes through no tunnel".into());
    }
    let config = Config { features: config.features | features::DRY_RUN, ..*config };
    let mut loader = EbpfLoader::new();
    loader.override_global(config::NAME, &config, true);
    for name in READ {
        loader.map_pin_path(name, pins.maps().join(name));
    }
    let mut object = loader.load(kernel::object()).map_err(|error| chain(&error))?;
    let bytes = test_run(&mut object, hook.name(), packet)?;
    let counters = object.take_map(map::COUNTER).ok_or("the object has no counters")?;
    let counters: PerCpuArray<MapData, u64> = counters.try_into().map_err(|error| chain(&error))?;
    let count = |index: u32| counters.get(&index, 0).map_or(0, |cores| cores.iter().sum::<u64>());
    let reason = DropReason::ALL.into_iter().find(|reason| count(drop_index(hook, *reason)) > 0);
    let verdict = Verdict::ALL.into_iter().find(|verdict| count(verdict_index(hook, *verdict)) > 0);
    match (reason, verdict) {
        (Some(reason), _) => Ok(Run { outcome: Err(reason), bytes }),
        (None, Some(verdict)) => Ok(Run { outcome: Ok(verdict), bytes }),
        (None, None) => Err("the program counted nothing".into()),
    }
}

fn test_run(object: &mut Ebpf, name: &str, packet: &TracePacket) -> Result<Vec<u8>, String> {
    use diolkos_datapath::Packet as _;
    let program = object.program_mut(name).ok_or_else(|| format!("there is no program {name}"))?;
    let program: &mut SchedClassifier = program.try_into().map_err(|error| chain(&error))?;
    program.load().map_err(|error| chain(&error))?;
    let mut context = [0_u8; CONTEXT];
    context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&packet.ingress_ifindex().to_ne_bytes());
    let mut out = vec![0; packet.bytes.len() + ROOM];
    let options = TestRunOptions {
        data_in: Some(&packet.bytes),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).map_err(|error| chain(&error))?;
    out.truncate(result.data_size_out as usize);
    Ok(out)
}

impl Run {
    /// What the program did otherwise; nothing when it did the same.
    pub(super) fn differs(&self, outcome: Result<Verdict, DropReason>, packet: &TracePacket) -> Option<String> {
        let name = |outcome: Result<Verdict, DropReason>| match outcome {
            Ok(verdict) => verdict.name(),
            Err(reason) => reason.name(),
        };
        if self.outcome != outcome {
            return Some(format!("{} and not {}", name(self.outcome), name(outcome)));
        }
        let is_other = outcome.is_ok() && self.bytes != packet.bytes;
        is_other.then(|| format!("it sends {}", crate::observe::monitor::describe(&self.bytes)))
    }
}
