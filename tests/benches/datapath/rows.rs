//! The programs, their tables and packets.

use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::{Config, ENCAPSULATED_MARK, features};
use diolkos_abi::conntrack::{FLOWS, Flow, Tuple, direction};
use diolkos_abi::counter::{Hook, Verdict, verdict_index};
use diolkos_abi::event::ANSWERS_PER_TICK;
use diolkos_abi::service::{Backend, Service, row_word};
use nix::time::{ClockId, clock_gettime};

use crate::dataplane::{Dataplane, read};
use crate::scenarios::packets::{ACK, End, Frame, SYN, Transport, address, over_ipv6};
use crate::scenarios::world::{
    BASE, CLIENT, CLIENT_IFINDEX, FAR, FAR_END, GATEWAY, HOST, HOST_END, HOST_NETWORK, LOCAL, LOCAL_END, NODE_2_TUNNEL,
    OUTSIDE, REMOTE, SERVER, VIP, VNI, World, config, connection, forward, masqueraded, reply, tuple,
};

/// Room for both entries of 64 k flows of two services and more: with one LRU list per core, the core that fills the map
/// has only its share of it.
const CONNTRACK: u32 = 1 << 20;
/// Words of headers that the wrapper puts back, and its settings (`setting` of the benchmark's programs).
const WORDS: usize = 18;
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
    source: End,
    destination: End,
    transport: Transport,
    /// What becomes of each packet, in a row of the dataplane.
    verdict: Verdict,
    tables: Tables,
    mark: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    XdpPass,
    XdpLookup,
    TcPass,
    TcLookup,
    /// The packet is cut to a RST's length, and put back by the wrapper.
    TcCut,
    /// The packet comes through a tunnel.
    Tunnelled,
    Hook(Hook),
    /// Of flows that are not in conntrack, each once.
    New(Hook),
    /// Refused and answered.
    Refused(Hook),
}

/// What is in the maps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    /// A connection of each kind, and conntrack as nodes have it.
    Quiet,
    /// The same of IPv6.
    QuietV6,
    /// 64 k connections of two services, more than a node has by default.
    Full,
}

const ONE: u32 = 1;
const MANY: u32 = 1 << 12;
const NEW: u32 = 1 << 14;
/// Answers are made so many times at once as one core may, and so often.
const BATCHES: u32 = 20;
const MASS: u32 = 1 << 16;
/// Another service, whose flows use the remote backend.
const FAR_VIP: End = ([10, 96, 0, 11], 80);
/// A service nobody has a flow to, with a remote backend of its own.
const NEW_VIP: End = ([10, 96, 0, 12], 80);
const NEW_SERVICE: u32 = 7;
const NEW_BACKEND: u32 = 14;
const NEW_END: End = (REMOTE, 8081);
const POD: End = (CLIENT, 0);
const DIRECT: End = (SERVER, 8080);
/// Where no service leads: the answers to it are nobody else's.
const DIRECT_NEW: End = (SERVER, 9090);
const DIRECT_REMOTE: End = (REMOTE, 8080);
const WEB: End = (OUTSIDE, 443);
/// A port that a service's address does not serve.
const UNKNOWN: End = (VIP.0, 99);
/// The node, with the port under which a pod's flow to [`WEB`] goes out, and with one of its own.
const HIDDEN: End = (HOST, 4096);
const NODE: End = (HOST, 22);
/// The pod's end of that flow.
const HIDDEN_POD: End = (CLIENT, 1);
const DATA: Transport = Transport::Tcp(ACK);
const OPEN: Transport = Transport::Tcp(SYN);
const SENT: Kind = Kind::Hook(Hook::FromContainer);

#[rustfmt::skip]
const ROWS: [Row; 38] = [
    Row::new("xdp_pass", Kind::XdpPass, ONE, DIRECT, DATA),
    Row::new("xdp_parse_lookup", Kind::XdpLookup, ONE, DIRECT, DATA),
    Row::new("tc_pass", Kind::TcPass, ONE, DIRECT, DATA),
    Row::new("tc_parse_lookup", Kind::TcLookup, ONE, DIRECT, DATA),
    Row::new("tc_cut", Kind::TcCut, ONE, DIRECT, DATA),
    Row::new("tc_tunnel_key", Kind::Tunnelled, ONE, DIRECT, DATA),
    Row::new("pod_egress_direct", SENT, ONE, DIRECT, DATA),
    Row::new("pod_egress_direct_v6", SENT, ONE, DIRECT, DATA).in_v6(),
    Row::new("pod_egress_direct_4k", SENT, MANY, DIRECT, DATA),
    Row::new("pod_egress_direct_64k", SENT, MASS, DIRECT, DATA),
    Row::new("pod_egress_direct_64k_full", SENT, MASS, DIRECT, DATA).full(),
    Row::new("pod_egress_direct_remote", SENT, ONE, DIRECT_REMOTE, DATA).meets(Verdict::Overlay),
    Row::new("pod_egress_direct_remote_v6", SENT, ONE, DIRECT_REMOTE, DATA).meets(Verdict::Overlay).in_v6(),
    Row::new("pod_egress_direct_udp", SENT, ONE, DIRECT_NEW, Transport::Udp),
    Row::new("pod_egress_direct_syn", SENT, ONE, DIRECT_NEW, OPEN),
    Row::new("pod_egress_service", SENT, ONE, VIP, DATA),
    Row::new("pod_egress_service_v6", SENT, ONE, VIP, DATA).in_v6(),
    Row::new("pod_egress_service_4k", SENT, MANY, VIP, DATA).full(),
    Row::new("pod_egress_service_64k", SENT, MASS, VIP, DATA).full(),
    Row::new("pod_egress_service_udp", SENT, ONE, VIP, Transport::Udp),
    Row::new("pod_egress_service_remote", SENT, ONE, FAR_VIP, DATA).meets(Verdict::Overlay),
    Row::new("pod_egress_service_remote_64k", SENT, MASS, FAR_VIP, DATA).meets(Verdict::Overlay).full(),
    Row::new("pod_egress_service_new", Kind::New(Hook::FromContainer), NEW, NEW_VIP, OPEN).meets(Verdict::Overlay).full(),
    Row::new("pod_egress_service_unknown", Kind::New(Hook::FromContainer), NEW, NEW_VIP, DATA).meets(Verdict::Overlay).full(),
    Row::new("pod_egress_refused_rst", Kind::Refused(Hook::FromContainer), ONE, UNKNOWN, OPEN).meets(Verdict::Answered),
    Row::new("pod_egress_refused_rst_v6", Kind::Refused(Hook::FromContainer), ONE, UNKNOWN, OPEN).meets(Verdict::Answered).in_v6(),
    Row::new("pod_egress_refused_icmp", Kind::Refused(Hook::FromContainer), ONE, UNKNOWN, Transport::Udp).meets(Verdict::Answered),
    Row::new("pod_egress_refused_icmp_v6", Kind::Refused(Hook::FromContainer), ONE, UNKNOWN, Transport::Udp).meets(Verdict::Answered).in_v6(),
    Row::new("overlay_ingress", Kind::Hook(Hook::FromOverlay), ONE, DIRECT, DATA).from(DIRECT_REMOTE),
    Row::new("overlay_ingress_reply", Kind::Hook(Hook::FromOverlay), ONE, POD, DATA).from(FAR_END),
    Row::new("overlay_egress", Kind::Hook(Hook::ToOverlay), ONE, DIRECT_REMOTE, DATA).meets(Verdict::Encapsulated).marked(),
    Row::new("overlay_egress_of_node", Kind::Hook(Hook::ToOverlay), ONE, DIRECT_REMOTE, DATA).from((GATEWAY, 9)).meets(Verdict::Encapsulated),
    Row::new("pod_ingress_from_node", Kind::Hook(Hook::ToContainer), ONE, POD, DATA).from(NODE).meets(Verdict::Untouched),
    Row::new("pod_ingress_from_node_reply", Kind::Hook(Hook::ToContainer), ONE, POD, DATA).from(HOST_END).meets(Verdict::Translated),
    Row::new("masquerade", Kind::Hook(Hook::ToNetdev), ONE, WEB, DATA).from(HIDDEN_POD).meets(Verdict::Masqueraded),
    Row::new("masquerade_reply", Kind::Hook(Hook::FromNetdev), ONE, HIDDEN, DATA).from(WEB),
    Row::new("masquerade_new", Kind::New(Hook::ToNetdev), NEW, WEB, OPEN).meets(Verdict::Masqueraded).full(),
    Row::new("node_ingress", Kind::Hook(Hook::FromNetdev), ONE, NODE, DATA).from(WEB).meets(Verdict::Untouched),
];

impl Row {
    const fn new(name: &'static str, kind: Kind, flows: u32, destination: End, transport: Transport) -> Self {
        let (source, verdict, tables) = (POD, Verdict::Pod, Tables::Quiet);
        Self { name, kind, flows, source, destination, transport, verdict, tables, mark: 0 }
    }

    const fn from(self, source: End) -> Self {
        Self { source, ..self }
    }

    const fn meets(self, verdict: Verdict) -> Self {
        Self { verdict, ..self }
    }

    const fn full(self) -> Self {
        Self { tables: Tables::Full, ..self }
    }

    const fn in_v6(self) -> Self {
        Self { tables: Tables::QuietV6, ..self }
    }

    /// With the mark of a packet that has its tunnel key.
    const fn marked(self) -> Self {
        Self { mark: ENCAPSULATED_MARK, ..self }
    }

    /// The packet, in its tables' family.
    fn frame(&self) -> Vec<u8> {
        let frame = Frame::tcp(self.source, self.destination, ACK);
        let frame = Frame { payload: vec![0; PAYLOAD], transport: self.transport, ..frame };
        if self.is_v6() { over_ipv6(|| frame.bytes()) } else { frame.bytes() }
    }

    fn is_v6(&self) -> bool {
        self.tables == Tables::QuietV6
    }

    /// What the wrapper does to each packet.
    fn settings(&self) -> [u32; WORDS] {
        let arrives = matches!(self.kind, Kind::Tunnelled | Kind::Hook(Hook::FromOverlay));
        let tunnel = if arrives { u32::from_be_bytes(NODE_2_TUNNEL) } else { 0 };
        let mut settings = [0; WORDS];
        // What answers has another length.
        let changes = matches!(self.kind, Kind::TcCut | Kind::Refused(_));
        let length = if changes { self.frame().len() as u32 } else { 0 };
        // An ICMP error has its own IP header and 8 bytes in front of what it quotes.
        let header = if self.is_v6() { 40 } else { 20 };
        let front = if changes && self.transport == Transport::Udp { header + 8 } else { 0 };
        let said = [self.flows - 1, self.is_v6().into(), self.mark, tunnel, VNI, length, front];
        settings[..said.len()].copy_from_slice(&said);
        settings
    }
}

/// The loaded programs.
pub struct Rows {
    quiet: Dataplane,
    quiet_v6: Dataplane,
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
        for name in ["tc_pass", "tc_parse_lookup", "tc_cut", "tc_restore"] {
            let program: &mut SchedClassifier = baseline.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        let mut table: HashMap<_, [u8; 16], u64> = baseline.take_map("TABLE").unwrap().try_into().unwrap();
        table.insert(v4_mapped(DIRECT.0), 1, 0).unwrap();
        Self {
            quiet: filled(FLOWS, 1),
            quiet_v6: over_ipv6(|| filled(FLOWS, 1)),
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
        let frame = row.frame();
        let mut headers = [0; WORDS];
        for (word, bytes) in headers.iter_mut().zip(frame.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        self.template.set(0, headers, 0).unwrap();
        self.template.set(1, row.settings(), 0).unwrap();
        match row.kind {
            Kind::XdpPass => self.run_xdp("xdp_pass", &frame, repeat),
            Kind::XdpLookup => self.run_xdp("xdp_parse_lookup", &frame, repeat),
            Kind::TcPass | Kind::Tunnelled => self.run_baseline("tc_pass", &frame, repeat),
            Kind::TcLookup => self.run_baseline("tc_parse_lookup", &frame, repeat),
            Kind::TcCut => self.run_baseline("tc_cut", &frame, repeat),
            Kind::Hook(hook) => self.run_dataplane(index, hook, &frame, repeat),
            Kind::New(hook) => {
                let time = self.run_dataplane(index, hook, &frame, row.flows);
                let outside = |tuple: &Tuple| tuple.direction == direction::OUTSIDE;
                let outside: Vec<Tuple> = self.full.flows().into_keys().filter(outside).collect();
                self.full.forget((0..row.flows as u16).flat_map(opened).chain(outside));
                time
            }
            Kind::Refused(hook) => {
                let times = (0..(repeat / ANSWERS_PER_TICK).clamp(1, BATCHES)).map(|_| {
                    self.dataplane_mut(index).allow_answers();
                    self.run_dataplane(index, hook, &frame, ANSWERS_PER_TICK)
                });
                mean(&times.collect::<Vec<_>>())
            }
        }
    }

    fn run_dataplane(&mut self, index: usize, hook: Hook, frame: &[u8], repeat: u32) -> f64 {
        let Row { name, verdict, .. } = ROWS[index];
        let code = if matches!(verdict, Verdict::Pod | Verdict::Overlay | Verdict::Answered) { REDIRECT } else { NEXT };
        let program = self.dataplane(index).classifier(hook.name()).fd().unwrap().try_clone().unwrap();
        let before = self.dataplane(index).counters();
        let (time, returned) = self.run_tc(&program, frame, repeat);
        let counted: Vec<u64> =
            self.dataplane(index).counters().iter().zip(before).map(|(after, before)| after - before).collect();
        // A drop, or a packet that is none of ours, is quick, and would look good.
        let others: Vec<_> = counted.iter().enumerate().filter(|(_, count)| **count != 0).collect();
        let expected = verdict_index(hook, verdict) as usize;
        assert_eq!(counted[expected], u64::from(repeat), "{name}: other outcomes than {verdict:?}: {others:?}");
        assert_eq!(returned, code, "{name}: the packet is refused");
        time
    }

    fn dataplane_mut(&mut self, index: usize) -> &mut Dataplane {
        match ROWS[index].tables {
            Tables::Quiet => &mut self.quiet,
            Tables::QuietV6 => &mut self.quiet_v6,
            Tables::Full => &mut self.full,
        }
    }

    fn dataplane(&self, index: usize) -> &Dataplane {
        match ROWS[index].tables {
            Tables::Quiet => &self.quiet,
            Tables::QuietV6 => &self.quiet_v6,
            Tables::Full => &self.full,
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
        let (time, returned) = self.run_tc(&program, frame, repeat);
        assert_eq!(returned, NEXT, "{name}: the packet is refused");
        time
    }

    /// ns of CPU time for one packet, and what became of the last.
    fn run_tc(&mut self, program: &ProgramFd, frame: &[u8], repeat: u32) -> (f64, u32) {
        self.tc.set(0, program, 0).unwrap();
        let wrapper: &SchedClassifier = self.baseline.program("tc_restore").unwrap().try_into().unwrap();
        let mut context = [0_u8; CONTEXT];
        context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&CLIENT_IFINDEX.to_ne_bytes());
        let mut returned = 0;
        let time = timed(repeat, || {
            let options =
                TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), repeat, ..TestRunOptions::default() };
            returned = wrapper.test_run(options).unwrap().return_value;
        });
        (time, returned)
    }
}

/// The constants of a node with an overlay that masquerades.
pub fn node() -> Config {
    Config {
        node_v4: HOST,
        ports_first: HIDDEN.1,
        ports_count: 60_000,
        features: config().features | features::MASQUERADE,
        ..config()
    }
}

/// A service on each kind of backend, with `connections` established ones each, and a masqueraded flow.
fn filled(flows: u32, connections: u32) -> Dataplane {
    let mut world = World::serving(&[LOCAL]);
    world.also_udp();
    world.frontend(FAR_VIP, 6);
    world.frontend(NEW_VIP, NEW_SERVICE);
    world.services.push((NEW_SERVICE, Service { row: row_word(BASE + 8, 1), ..Service::default() }));
    world.slots.push((BASE + 8, NEW_BACKEND));
    let far = world.backends.iter().find(|(id, _)| *id == FAR).unwrap().1;
    world.backends.push((NEW_BACKEND, Backend { port: NEW_END.1.to_be_bytes(), ..far }));
    let mut dataplane = Dataplane::load(&node(), flows);
    dataplane.fill(&world, 0);
    let datagrams = connection(POD, LOCAL, LOCAL_END, 1).map(|(tuple, flow)| {
        let tuple = Tuple { protocol: protocol::UDP, ..tuple };
        (tuple, Flow { tag: tuple.hash(), ..flow })
    });
    dataplane.add_flows(&datagrams);
    for port in (0..connections).map(|port| port as u16) {
        dataplane.add_flows(&connection((CLIENT, port), LOCAL, LOCAL_END, 1));
        let (mut tuple, mut flow) = forward((CLIENT, port), FAR, 1);
        tuple.destination = address(FAR_VIP.0);
        flow.tag = tuple.hash();
        dataplane.add_flows(&[(tuple, flow), reply((CLIENT, port), FAR_VIP, FAR, FAR_END, 1)]);
    }
    if connections == 1 {
        dataplane.add_flows(&[reply(POD, VIP, HOST_NETWORK, HOST_END, 1)]);
        let leaving = Tuple { direction: direction::OUTSIDE, ..tuple(HIDDEN_POD, WEB) };
        dataplane.add_flows(&masqueraded(leaving, address(HOST), HIDDEN.1));
    }
    dataplane
}

/// What the opening of a flow to [`NEW_VIP`] leaves in conntrack.
fn opened(port: u16) -> [Tuple; 2] {
    [tuple((CLIENT, port), NEW_VIP), tuple(NEW_END, (CLIENT, port))]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// ns of CPU time of this thread for one repeat.
fn timed(repeat: u32, run: impl FnOnce()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
    };
    let start = now();
    run();
    (now() - start) / f64::from(repeat)
}
