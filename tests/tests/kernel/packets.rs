//! The packet scenarios through `BPF_PROG_TEST_RUN`.

use std::collections::HashMap;

use aya::maps::ProgramArray;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use diolkos_abi::address::{v4_mapped, v4_of};
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{FLOWS, Flow, Tuple};
use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};

use diolkos_agent::dataplane::kernel::Facts;
use diolkos_datapath::Tunnel;

use crate::dataplane::{Dataplane, explain, read};
use crate::scenarios::world::{BEFORE, NOW};
use crate::scenarios::{self, Input, Scenario, Told};

/// Size of `struct __sk_buff` as of Linux 5.10, and the offsets of the fields that a test run takes.
const CONTEXT: usize = 192;
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const CB: usize = 48;
const GSO_SIZE: usize = 176;
/// Newer kernels refuse a test run of a packet that ends before its network header does.
fn shortest(bytes: &[u8]) -> usize {
    if bytes.get(12..14) == Some(&[0x86, 0xdd]) { 14 + 40 } else { 14 + 20 }
}

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// The programs that prepare a packet for the one under test.
struct Wrapper {
    ebpf: Ebpf,
    under_test: ProgramArray<aya::maps::MapData>,
}

impl Wrapper {
    fn load() -> Self {
        let mut ebpf = EbpfLoader::new().load(&read("bench.o")).expect("bench.o loads");
        let under_test = ebpf.take_map("TC_UNDER_TEST").expect("a program array").try_into().expect("a program array");
        let program: &mut SchedClassifier =
            ebpf.program_mut("tc_prepare").expect("a wrapper").try_into().expect("a classifier");
        program.load().unwrap_or_else(|error| panic!("{}", explain(&error)));
        Self { ebpf, under_test }
    }

    fn around(&mut self, program: &SchedClassifier) -> &SchedClassifier {
        self.under_test.set(0, program.fd().expect("the program is loaded"), 0).expect("a tail call can be set");
        self.ebpf.program("tc_prepare").expect("a wrapper").try_into().expect("a classifier")
    }
}

/// What came out of one test run.
pub struct Output {
    code: u32,
    bytes: Vec<u8>,
    mark: u32,
}

/// A packet of a test run has no tunnel metadata and is never cut off early. One that shall be either runs through a
/// wrapper that attaches the metadata as the overlay device would, or cuts, and then tail-calls the program.
pub fn run(program: &SchedClassifier, input: &Input) -> Result<Output, String> {
    let mut context = [0_u8; CONTEXT];
    let mut put = |at: usize, value: u32| context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(MARK, input.mark);
    put(INGRESS_IFINDEX, input.ingress_ifindex);
    put(GSO_SIZE, input.gso_size);
    if let Some(Tunnel { vni, remote }) = input.tunnel {
        put(CB, 1);
        put(CB + 4, vni);
        put(CB + 12, u32::from_be_bytes(v4_of(&remote)));
    }
    let mut bytes = input.bytes.clone();
    if bytes.len() < shortest(&bytes) {
        put(CB + 8, bytes.len() as u32);
        bytes.resize(shortest(&bytes), 0);
    }
    let (mut data_out, mut context_out) = (vec![0; bytes.len() + 256], [0_u8; CONTEXT]);
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(&bytes),
            data_out: Some(&mut data_out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        })
        .map_err(|error| format!("{error:?}"))?;
    data_out.truncate(result.data_size_out as usize);
    let mark = u32::from_ne_bytes(context_out[MARK..MARK + 4].try_into().expect("four bytes"));
    Ok(Output { code: result.return_value, bytes: data_out, mark })
}

/// Runs a scenario; returns what differs from its expectation.
fn differences(dataplane: &mut Dataplane, wrapper: &mut Wrapper, scenario: &Scenario) -> Vec<String> {
    let Scenario { hook, world, input, expect, .. } = scenario;
    let before = dataplane.counters();
    dataplane.fill(world, 0);
    let program = dataplane.classifier(hook.name());
    let prepared = input.tunnel.is_some() || input.bytes.len() < shortest(&input.bytes);
    let program = if prepared { wrapper.around(program) } else { program };
    let output = match run(program, input) {
        Ok(output) => output,
        Err(error) => {
            dataplane.clear(world, 0);
            return vec![format!("{}: no test run of {} bytes: {error}", scenario.name, input.bytes.len())];
        }
    };
    let mut found = Vec::new();
    let mut compare = |what: &str, same: bool, detail: String| {
        if !same {
            found.push(format!("{}: {what}: {detail}", scenario.name));
        }
    };
    let answered = match expect.told {
        Told::Answer => true,
        Told::Nothing => false,
        Told::Whatever => expect.outcome.is_err() && output.code == TC_ACT_REDIRECT,
    };
    let (code, counters) = code_and_counters(*hook, expect.outcome, answered);
    compare("code", output.code == code, format!("{:#x} and not {code:#x}", output.code));
    if expect.outcome.is_ok() || expect.told == Told::Answer {
        compare(
            "packet",
            output.bytes == expect.bytes,
            format!("{:02x?}\nand not {:02x?}", output.bytes, expect.bytes),
        );
        compare("mark", output.mark == expect.mark, format!("{:#x} and not {:#x}", output.mark, expect.mark));
    }
    let flows = with_model_clock(dataplane.flows());
    let expected = with_model_clock(expect.flows.iter().copied().collect());
    compare("conntrack", flows == expected, format!("{flows:#?}\nand not {expected:#?}"));
    for (index, (after, before)) in dataplane.counters().iter().zip(&before).enumerate() {
        let expected = u64::from(counters.contains(&(index as u32)));
        compare(
            "counter",
            after - before == expected,
            format!("{index} counted {} and not {expected}", after - before),
        );
    }
    dataplane.clear(world, 0);
    compare("teardown", dataplane.left_over() == 0, format!("{} elements are left", dataplane.left_over()));
    found
}

/// What the program returns and what it counts. An answer is counted beside its reason.
fn code_and_counters(hook: Hook, outcome: Result<Verdict, DropReason>, answered: bool) -> (u32, Vec<u32>) {
    match outcome {
        Ok(verdict @ (Verdict::Pod | Verdict::Overlay | Verdict::Neighbour)) => {
            (TC_ACT_REDIRECT, vec![verdict_index(hook, verdict)])
        }
        Ok(verdict) => (TC_ACT_UNSPEC, vec![verdict_index(hook, verdict)]),
        Err(reason) if answered => {
            (TC_ACT_REDIRECT, vec![drop_index(hook, reason), verdict_index(hook, Verdict::Answered)])
        }
        Err(reason) => (TC_ACT_SHOT, vec![drop_index(hook, reason)]),
    }
}

/// From here on a test run says by which device a packet came (5.17) and whom its tunnel came from (6.0).
const TOLD: (u32, u32) = (6, 0);

/// The scenario as test runs of this kernel can pose it. What an older one does not say is 0 to the programs, so 0 stands
/// in the tables for the device the packet came by and for the tunnel's other end.
pub fn posed(scenario: &Scenario) -> Scenario {
    let mut posed = scenario.clone();
    if Facts::of_kernel().version() >= TOLD {
        return posed;
    }
    let device = std::mem::take(&mut posed.input.ingress_ifindex);
    let endpoints = posed.world.endpoints.iter_mut().map(|(_, endpoint)| endpoint);
    endpoints.filter(|endpoint| endpoint.ifindex == device).for_each(|endpoint| endpoint.ifindex = 0);
    if let Some(Tunnel { remote, .. }) = scenario.input.tunnel {
        let nodes = posed.world.nodes.iter_mut().map(|(_, node)| node);
        for node in nodes.filter(|node| v4_mapped(node.tunnel_v4) == remote) {
            // 0.0.0.0 would mean that there is none, and that the other one is used.
            (node.tunnel_v4, node.tunnel_v6) = ([0; 4], v4_mapped([0; 4]));
        }
    }
    posed
}

/// The kernel's clock shows what it shows: every stamp but the scenarios' own is taken for the present.
fn with_model_clock(flows: HashMap<Tuple, Flow>) -> HashMap<Tuple, Flow> {
    let stamp = |flow: Flow| Flow { seen: if flow.seen == BEFORE { BEFORE } else { NOW }, ..flow };
    flows.into_iter().map(|(tuple, flow)| (tuple, stamp(flow))).collect()
}

/// The target of a redirect and a tunnel key that was set cannot be read back from a test run; the host suite compares
/// those, and the suites with real devices see them act.
#[test]
fn every_scenario_holds_in_the_kernel() {
    let mut wrapper = Wrapper::load();
    let mut by_config: Vec<(Config, Vec<Scenario>)> = Vec::new();
    for scenario in scenarios::all().iter().filter(|scenario| scenario.fault.is_none()).map(posed) {
        match by_config.iter_mut().find(|(config, _)| *config == scenario.config) {
            Some((_, scenarios)) => scenarios.push(scenario),
            None => by_config.push((scenario.config, vec![scenario])),
        }
    }
    let (mut found, mut ran) = (Vec::new(), 0);
    for (config, scenarios) in by_config {
        let needed = |name: &str| scenarios.iter().any(|scenario| scenario.hook.name() == name);
        let mut dataplane = Dataplane::load_some(&config, FLOWS, needed);
        for scenario in &scenarios {
            found.extend(differences(&mut dataplane, &mut wrapper, scenario));
            ran += 1;
        }
    }
    assert!(found.is_empty(), "{} differences in {ran} scenarios:\n{}", found.len(), found.join("\n"));
    println!("{ran} scenarios hold");
}
