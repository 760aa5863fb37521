//! The programs, their tables and packets.

use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::{Config, features};
use diolkos_abi::conntrack::{FLOWS, Flow, Tuple, direction};
use diolkos_abi::counter::{Hook, Verdict, verdict_index};
use diolkos_abi::service::{Backend, Service, row_word};
use nix::time::{ClockId, clock_gettime};

use crate::dataplane::{Dataplane, read};
use crate::scenarios::packets::{ACK, End, Frame, SYN, Transport};
use crate::scenarios::world::{
    BASE, CLIENT, CLIENT_IFINDEX, FAR, FAR_END, HOST, LOCAL, LOCAL_END, OUTSIDE, REMOTE, SERVER, VIP, World, config,
    connection, forward, reply, tuple,
};

/// Room for both entries of 64 k flows of two services and more: with one LRU list per core, the core that fills the map
/// has only its share of it.
const CONNTRACK: u32 = 1 << 20;
/// Words of headers that the wrapper puts back.
const WORDS: usize = 14;
/// Bytes of payload behind the headers.
const PAYLOAD: usize = 64;
/// `struct __sk_buff` as of Linux 5.10, and its field `ingress_ifindex`.
const CONTEXT: usize = 192;
const INGRESS_IFINDEX: usize = 36;

/// `TC_ACT_UNSPEC` and `TC_ACT_REDIRECT`.
const NEXT: u32 = u32::MAX;
const REDIRECT: u32 = 7;

/// One row of the table.
struct Row {
    name: &'static str,
    kind: Kind,
    /// A power of two.
    flows: u32,
    destination: End,
    transport: Transport,
    /// What becomes of each packet, in a row of the dataplane.
    verdict: Verdict,
    /// In a conntrack with 64 k connections of two services, more than a node has by default.
    full: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    XdpPass,
    XdpLookup,
    TcPass,
    TcLookup,
    FromContainer,
    ToNetdev,
    /// Of flows that are not in conntrack, each once.
    NewFromContainer,
    NewToNetdev,
}

const ONE: u32 = 1;
const MANY: u32 = 1 << 12;
const NEW: u32 = 1 << 14;
const MASS: u32 = 1 << 16;
/// Another service, whose flows use the remote backend.
const FAR_VIP: End = ([10, 96, 0, 11], 80);
/// A service nobody has a flow to, with a remote backend of its own.
const NEW_VIP: End = ([10, 96, 0, 12], 80);
const NEW_SERVICE: u32 = 7;
const NEW_BACKEND: u32 = 14;
const NEW_END: End = (REMOTE, 8081);
const DIRECT: End = (SERVER, 8080);
/// Where no service leads: the answers to it are nobody else's.
const DIRECT_NEW: End = (SERVER, 9090);
const DIRECT_REMOTE: End = (REMOTE, 8080);
const WEB: End = (OUTSIDE, 443);
const DATA: Transport = Transport::Tcp(ACK);
const OPEN: Transport = Transport::Tcp(SYN);

#[rustfmt::skip]
const ROWS: [Row; 20] = [
    Row::new("xdp_pass", Kind::XdpPass, ONE, DIRECT, DATA),
    Row::new("xdp_parse_lookup", Kind::XdpLookup, ONE, DIRECT, DATA),
    Row::new("tc_pass", Kind::TcPass, ONE, DIRECT, DATA),
    Row::new("tc_parse_lookup", Kind::TcLookup, ONE, DIRECT, DATA),
    Row::new("pod_egress_direct", Kind::FromContainer, ONE, DIRECT, DATA),
    Row::new("pod_egress_direct_4k", Kind::FromContainer, MANY, DIRECT, DATA),
    Row::new("pod_egress_direct_64k", Kind::FromContainer, MASS, DIRECT, DATA),
    Row::new("pod_egress_direct_64k_full", Kind::FromContainer, MASS, DIRECT, DATA).full(),
    Row::new("pod_egress_direct_remote", Kind::FromContainer, ONE, DIRECT_REMOTE, DATA).to(Verdict::Overlay),
    Row::new("pod_egress_direct_syn", Kind::FromContainer, ONE, DIRECT_NEW, OPEN),
    Row::new("pod_egress_service", Kind::FromContainer, ONE, VIP, DATA),
    Row::new("pod_egress_service_4k", Kind::FromContainer, MANY, VIP, DATA).full(),
    Row::new("pod_egress_service_64k", Kind::FromContainer, MASS, VIP, DATA).full(),
    Row::new("pod_egress_service_udp", Kind::FromContainer, ONE, VIP, Transport::Udp),
    Row::new("pod_egress_service_remote", Kind::FromContainer, ONE, FAR_VIP, DATA).to(Verdict::Overlay),
    Row::new("pod_egress_service_remote_64k", Kind::FromContainer, MASS, FAR_VIP, DATA).full().to(Verdict::Overlay),
    Row::new("pod_egress_service_new", Kind::NewFromContainer, NEW, NEW_VIP, OPEN).full().to(Verdict::Overlay),
    Row::new("pod_egress_service_unknown", Kind::NewFromContainer, NEW, NEW_VIP, DATA).full().to(Verdict::Overlay),
    Row::new("masquerade", Kind::ToNetdev, ONE, WEB, DATA).to(Verdict::Masqueraded),
    Row::new("masquerade_new", Kind::NewToNetdev, NEW, WEB, OPEN).full().to(Verdict::Masqueraded),
];

impl Row {
    const fn new(name: &'static str, kind: Kind, flows: u32, destination: End, transport: Transport) -> Self {
        Self { name, kind, flows, destination, transport, verdict: Verdict::Pod, full: false }
    }

    const fn to(self, verdict: Verdict) -> Self {
        Self { verdict, ..self }
    }

    const fn full(self) -> Self {
        Self { full: true, ..self }
    }
}

/// The loaded programs.
pub struct Rows {
    quiet: Dataplane,
    full: Dataplane,
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
            quiet: filled(FLOWS, 1),
            full: filled(CONNTRACK, MASS),
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
        let base = Frame::tcp((CLIENT, 0), row.destination, ACK);
        let frame = Frame { payload: vec![0; PAYLOAD], transport: row.transport, ..base.clone() }.bytes();
        self.restore(&frame, row.flows);
        match row.kind {
            Kind::XdpPass => self.run_xdp("xdp_pass", &frame, repeat),
            Kind::XdpLookup => self.run_xdp("xdp_parse_lookup", &frame, repeat),
            Kind::TcPass => self.run_baseline("tc_pass", &frame, repeat),
            Kind::TcLookup => self.run_baseline("tc_parse_lookup", &frame, repeat),
            Kind::FromContainer => self.run_dataplane(index, Hook::FromContainer, &frame, repeat),
            Kind::ToNetdev => {
                // Only what opens a connection is masqueraded without an entry.
                let first = Frame { payload: vec![0; PAYLOAD], transport: OPEN, ..base }.bytes();
                self.restore(&first, row.flows);
                self.run_dataplane(index, Hook::ToNetdev, &first, 1);
                self.restore(&frame, row.flows);
                self.run_dataplane(index, Hook::ToNetdev, &frame, repeat)
            }
            Kind::NewFromContainer => {
                let time = self.run_dataplane(index, Hook::FromContainer, &frame, row.flows);
                self.full.forget((0..row.flows as u16).flat_map(opened));
                time
            }
            Kind::NewToNetdev => {
                let time = self.run_dataplane(index, Hook::ToNetdev, &frame, row.flows);
                // The row of established flows has one of these, and finds it gone: its first packet opens it again.
                let outside = |tuple: &Tuple| tuple.direction == direction::OUTSIDE;
                let known: Vec<Tuple> = self.full.flows().into_keys().filter(outside).collect();
                self.full.forget(known);
                time
            }
        }
    }

    /// Says what the wrapper puts back before each run.
    fn restore(&mut self, frame: &[u8], flows: u32) {
        let mut headers = [0; WORDS];
        for (word, bytes) in headers.iter_mut().zip(frame.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        self.template.set(0, headers, 0).unwrap();
        self.template.set(1, [flows - 1; WORDS], 0).unwrap();
    }

    fn run_dataplane(&mut self, index: usize, hook: Hook, frame: &[u8], repeat: u32) -> f64 {
        let Row { name, verdict, .. } = ROWS[index];
        let code = if matches!(verdict, Verdict::Pod | Verdict::Overlay) { REDIRECT } else { NEXT };
        let program = self.dataplane(index).classifier(hook.name()).fd().unwrap().try_clone().unwrap();
        let before = self.dataplane(index).counters();
        let time = self.run_tc(name, &program, frame, repeat, code);
        let counted: Vec<u64> =
            self.dataplane(index).counters().iter().zip(before).map(|(after, before)| after - before).collect();
        // A drop, or a packet that is none of ours, is quick, and would look good.
        let others: Vec<_> = counted.iter().enumerate().filter(|(_, count)| **count != 0).collect();
        let expected = verdict_index(hook, verdict) as usize;
        assert_eq!(counted[expected], u64::from(repeat), "{name}: other outcomes than {verdict:?}: {others:?}");
        time
    }

    fn dataplane(&self, index: usize) -> &Dataplane {
        if ROWS[index].full { &self.full } else { &self.quiet }
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
        self.run_tc(name, &program, frame, repeat, NEXT)
    }

    fn run_tc(&mut self, name: &str, program: &ProgramFd, frame: &[u8], repeat: u32, code: u32) -> f64 {
        self.tc.set(0, program, 0).unwrap();
        let wrapper: &SchedClassifier = self.baseline.program("tc_restore").unwrap().try_into().unwrap();
        let mut context = [0_u8; CONTEXT];
        context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&CLIENT_IFINDEX.to_ne_bytes());
        timed(repeat, || {
            let options =
                TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), repeat, ..TestRunOptions::default() };
            assert_eq!(wrapper.test_run(options).unwrap().return_value, code, "{name}: the packet is refused");
        })
    }
}

/// A service on each kind of backend, with `connections` established ones each.
fn filled(flows: u32, connections: u32) -> Dataplane {
    let mut world = World::serving(&[LOCAL]);
    world.also_udp();
    world.frontend(FAR_VIP, 6);
    world.frontend(NEW_VIP, NEW_SERVICE);
    world.services.push((NEW_SERVICE, Service { row: row_word(BASE + 8, 1), ..Service::default() }));
    world.slots.push((BASE + 8, NEW_BACKEND));
    let far = world.backends.iter().find(|(id, _)| *id == FAR).unwrap().1;
    world.backends.push((NEW_BACKEND, Backend { port: NEW_END.1.to_be_bytes(), ..far }));
    let config = Config {
        node_v4: HOST,
        ports_first: 4096,
        ports_count: 60_000,
        features: config().features | features::MASQUERADE,
        ..config()
    };
    let mut dataplane = Dataplane::load(&config, flows);
    dataplane.fill(&world, 0);
    let datagrams = connection((CLIENT, 0), LOCAL, LOCAL_END, 1).map(|(tuple, flow)| {
        let tuple = Tuple { protocol: protocol::UDP, ..tuple };
        (tuple, Flow { tag: tuple.hash(), ..flow })
    });
    dataplane.add_flows(&datagrams);
    for port in (0..connections).map(|port| port as u16) {
        dataplane.add_flows(&connection((CLIENT, port), LOCAL, LOCAL_END, 1));
        let (mut tuple, mut flow) = forward((CLIENT, port), FAR, 1);
        tuple.destination = v4_mapped(FAR_VIP.0);
        flow.tag = tuple.hash();
        dataplane.add_flows(&[(tuple, flow), reply((CLIENT, port), FAR_VIP, FAR, FAR_END, 1)]);
    }
    dataplane
}

/// What the opening of a flow to [`NEW_VIP`] leaves in conntrack.
fn opened(port: u16) -> [Tuple; 2] {
    [tuple((CLIENT, port), NEW_VIP), tuple(NEW_END, (CLIENT, port))]
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
