//! The programs, their tables and packets.

use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use diolkos_abi::address::v4_mapped;
use nix::time::{ClockId, clock_gettime};

use crate::dataplane::{Dataplane, read};
use crate::scenarios::packets::{ACK, End, Frame};
use crate::scenarios::world::{
    CLIENT, CLIENT_IFINDEX, FAR, LOCAL, LOCAL_END, REMOTE, SERVER, VIP, World, config, connection, forward,
};

/// Room for both entries of 64 k flows and more: with one LRU list per core, the core that fills the map has only its
/// share of it.
const CONNTRACK: u32 = 1 << 19;
/// Words of headers that the wrapper puts back.
const WORDS: usize = 14;
/// Bytes of payload behind the headers.
const PAYLOAD: usize = 64;
/// `struct __sk_buff` as of Linux 5.10, and its field `ingress_ifindex`.
const CONTEXT: usize = 192;
const INGRESS_IFINDEX: usize = 36;

/// One row of the table.
struct Row {
    name: &'static str,
    kind: Kind,
    /// A power of two.
    flows: u32,
    destination: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    XdpPass,
    XdpLookup,
    TcPass,
    TcLookup,
    FromContainer,
}

const ONE: u32 = 1;
const MANY: u32 = 1 << 12;
const MASS: u32 = 1 << 16;
/// Another service, whose flows use the remote backend.
const FAR_VIP: End = ([10, 96, 0, 11], 80);
const DIRECT: End = (SERVER, 8080);
const DIRECT_REMOTE: End = (REMOTE, 8080);

#[rustfmt::skip]
const ROWS: [Row; 13] = [
    Row { name: "xdp_pass", kind: Kind::XdpPass, flows: ONE, destination: DIRECT },
    Row { name: "xdp_parse_lookup", kind: Kind::XdpLookup, flows: ONE, destination: DIRECT },
    Row { name: "tc_pass", kind: Kind::TcPass, flows: ONE, destination: DIRECT },
    Row { name: "tc_parse_lookup", kind: Kind::TcLookup, flows: ONE, destination: DIRECT },
    Row { name: "pod_egress_direct", kind: Kind::FromContainer, flows: ONE, destination: DIRECT },
    Row { name: "pod_egress_direct_4k", kind: Kind::FromContainer, flows: MANY, destination: DIRECT },
    Row { name: "pod_egress_direct_64k", kind: Kind::FromContainer, flows: MASS, destination: DIRECT },
    Row { name: "pod_egress_direct_remote", kind: Kind::FromContainer, flows: ONE, destination: DIRECT_REMOTE },
    Row { name: "pod_egress_service", kind: Kind::FromContainer, flows: ONE, destination: VIP },
    Row { name: "pod_egress_service_4k", kind: Kind::FromContainer, flows: MANY, destination: VIP },
    Row { name: "pod_egress_service_64k", kind: Kind::FromContainer, flows: MASS, destination: VIP },
    Row { name: "pod_egress_service_remote", kind: Kind::FromContainer, flows: ONE, destination: FAR_VIP },
    Row { name: "pod_egress_service_remote_64k", kind: Kind::FromContainer, flows: MASS, destination: FAR_VIP },
];

/// The loaded programs.
pub struct Rows {
    dataplane: Dataplane,
    baseline: Ebpf,
    xdp: ProgramArray<MapData>,
    tc: ProgramArray<MapData>,
    template: Array<MapData, [u32; WORDS]>,
}

impl Rows {
    pub fn load() -> Self {
        let mut baseline = EbpfLoader::new().load(&read("bench.o")).expect("bench.o loads");
        for name in ["xdp_pass", "xdp_parse_lookup", "xdp_restore"] {
            let program: &mut Xdp = baseline.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        for name in ["tc_pass", "tc_parse_lookup", "tc_restore"] {
            let program: &mut SchedClassifier = baseline.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        let mut table: HashMap<_, [u8; 16], u64> = baseline.take_map("TABLE").unwrap().try_into().unwrap();
        table.insert(v4_mapped(DIRECT.0), 1, 0).unwrap();
        Self {
            dataplane: filled(),
            xdp: baseline.take_map("XDP_UNDER_TEST").unwrap().try_into().unwrap(),
            tc: baseline.take_map("TC_UNDER_TEST").unwrap().try_into().unwrap(),
            template: baseline.take_map("TEMPLATE").unwrap().try_into().unwrap(),
            baseline,
        }
    }

    pub fn names(&self) -> Vec<&'static str> {
        ROWS.iter().map(|row| row.name).collect()
    }

    /// Runs a row's program; ns of CPU time for one packet.
    pub fn run(&mut self, index: usize, repeat: u32) -> f64 {
        let row = &ROWS[index];
        let frame = Frame { payload: vec![0; PAYLOAD], ..Frame::tcp((CLIENT, 0), row.destination, ACK) }.bytes();
        let mut headers = [0; WORDS];
        for (word, bytes) in headers.iter_mut().zip(frame.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        self.template.set(0, headers, 0).unwrap();
        self.template.set(1, [row.flows - 1; WORDS], 0).unwrap();
        match row.kind {
            Kind::XdpPass => self.run_xdp("xdp_pass", &frame, repeat),
            Kind::XdpLookup => self.run_xdp("xdp_parse_lookup", &frame, repeat),
            Kind::TcPass => self.run_baseline("tc_pass", &frame, repeat),
            Kind::TcLookup => self.run_baseline("tc_parse_lookup", &frame, repeat),
            Kind::FromContainer => {
                let program = self.dataplane.classifier("from_container").fd().unwrap().try_clone().unwrap();
                let before = self.dataplane.counters();
                let time = self.run_tc(&program, &frame, repeat, 7);
                // Every packet was delivered: a drop is quick, and would look good.
                let counted: Vec<u64> =
                    self.dataplane.counters().iter().zip(before).map(|(after, before)| after - before).collect();
                assert!(counted.contains(&u64::from(repeat)), "{}: outcomes differ: {counted:?}", row.name);
                time
            }
        }
    }

    fn run_xdp(&mut self, name: &str, frame: &[u8], repeat: u32) -> f64 {
        let program: &Xdp = self.baseline.program(name).unwrap().try_into().unwrap();
        self.xdp.set(0, program.fd().unwrap(), 0).unwrap();
        let wrapper: &Xdp = self.baseline.program("xdp_restore").unwrap().try_into().unwrap();
        timed(repeat, || {
            let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
            assert_eq!(wrapper.test_run(options).unwrap().return_value, 2, "{name}: not XDP_PASS");
        })
    }

    fn run_baseline(&mut self, name: &str, frame: &[u8], repeat: u32) -> f64 {
        let program: &SchedClassifier = self.baseline.program(name).unwrap().try_into().unwrap();
        let program = program.fd().unwrap().try_clone().unwrap();
        self.run_tc(&program, frame, repeat, u32::MAX)
    }

    fn run_tc(&mut self, program: &ProgramFd, frame: &[u8], repeat: u32, code: u32) -> f64 {
        self.tc.set(0, program, 0).unwrap();
        let wrapper: &SchedClassifier = self.baseline.program("tc_restore").unwrap().try_into().unwrap();
        let mut context = [0_u8; CONTEXT];
        context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&CLIENT_IFINDEX.to_ne_bytes());
        timed(repeat, || {
            let options =
                TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), repeat, ..TestRunOptions::default() };
            assert_eq!(wrapper.test_run(options).unwrap().return_value, code, "the program refuses the packet");
        })
    }
}

/// A service on each kind of backend, with 64 k established connections each.
fn filled() -> Dataplane {
    let mut world = World::serving(&[LOCAL]);
    world.frontend(FAR_VIP, 6);
    let mut dataplane = Dataplane::load(&config(), CONNTRACK);
    dataplane.fill(&world, 0);
    for port in 0..=u16::MAX {
        dataplane.add_flows(&connection((CLIENT, port), LOCAL, LOCAL_END, 1));
        let (mut tuple, mut flow) = forward((CLIENT, port), FAR, 1);
        tuple.destination = v4_mapped(FAR_VIP.0);
        flow.tag = tuple.hash();
        dataplane.add_flows(&[(tuple, flow)]);
    }
    dataplane
}

fn timed(repeat: u32, run: impl FnOnce()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
    };
    let start = now();
    run();
    (now() - start) / f64::from(repeat)
}
