//! The maps, and the logic's view of them.

use core::arch::asm;
use core::ptr::{null_mut, read_volatile, write_volatile};

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_jiffies64};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::programs::SockAddrContext;
use diolkos_abi::address::Address;
use diolkos_abi::config::{Config, Lifetimes, features};
use diolkos_abi::conntrack::{
    self, CONNECTED_UDPS, ConnectedUdp, FLOWS, FRAGMENTS, Flow, Fragment, FragmentKey, KnownLine, MARKS_PER_LINE,
    PEERS, Peer, PeerKey, SocketFlow, TIME_SHIFT, Tuple, known_index, may_live, udp_index,
};
use diolkos_abi::counter::COUNTERS;
use diolkos_abi::event::{ANSWER_WINDOWS, ANSWERS_PER_TICK, Answers};
use diolkos_abi::pod::{
    ENDPOINTS, Endpoint, HINTS, NETNSES, NODES, Netns, Node, ROUTES, Route, RouteKey, SOURCES, Source,
};
use diolkos_abi::service::{
    AFFINITIES, Affinity, AffinityKey, BACKENDS, Backend, FRONTENDS, FrontendKey, MEMBERS, MemberKey, SERVICES, SLOTS,
    SLOTS_PER_LINE, Service, SlotLine,
};
use diolkos_datapath::{Insert, InsertError, Scratch, Tables, expired};

#[map]
static FRONTEND: HashMap<FrontendKey, u64> = HashMap::with_max_entries(FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
static SERVICE: Array<Service> = Array::with_max_entries(SERVICES, BPF_F_MMAPABLE);
#[map]
static SLOT: Array<SlotLine> = Array::with_max_entries(SLOTS / SLOTS_PER_LINE, BPF_F_MMAPABLE);
#[map]
static BACKEND: Array<Backend> = Array::with_max_entries(BACKENDS, BPF_F_MMAPABLE);
#[map]
static MEMBER: HashMap<MemberKey, u64> = HashMap::with_max_entries(MEMBERS, BPF_F_NO_PREALLOC);
#[map]
static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(AFFINITIES, 0);
#[map]
static CONNTRACK: LruHashMap<Tuple, Flow> = LruHashMap::with_max_entries(FLOWS, BPF_F_NO_COMMON_LRU);
#[map]
static KNOWN: Array<KnownLine> = Array::with_max_entries(conntrack::KNOWN / MARKS_PER_LINE, 0);
#[map]
static FRAGMENT: LruHashMap<FragmentKey, Fragment> = LruHashMap::with_max_entries(FRAGMENTS, BPF_F_NO_COMMON_LRU);
#[map]
static ENDPOINT: HashMap<Address, Endpoint> = HashMap::with_max_entries(ENDPOINTS, BPF_F_NO_PREALLOC);
#[map]
static SOURCE: Array<Source> = Array::with_max_entries(SOURCES, 0);
#[map]
static HINT: Array<u32> = Array::with_max_entries(HINTS, 0);
#[map]
static NODE: Array<Node> = Array::with_max_entries(NODES, 0);
#[map]
static ROUTE: HashMap<RouteKey, Route> = HashMap::with_max_entries(ROUTES, BPF_F_NO_PREALLOC);
#[map]
static NETNS: HashMap<u64, Netns> = HashMap::with_max_entries(NETNSES, BPF_F_NO_PREALLOC);
#[map]
static ANSWER: PerCpuArray<Answers> = PerCpuArray::with_max_entries(ANSWER_WINDOWS, 0);
#[map]
static COUNTER: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);
#[map]
static PEER: LruHashMap<PeerKey, Peer> = LruHashMap::with_max_entries(PEERS, 0);
#[map]
static UDP: Array<ConnectedUdp> = Array::with_max_entries(CONNECTED_UDPS, 0);
#[btf_map]
static SOCKET: SkStorage<SocketFlow> = SkStorage::new();

/// The state of each core's dice; 0 before the first throw. The programs' own.
#[map]
static DICE: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// What does not fit the stack. The programs' own, for the time of one packet.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Written by the agent before loading; the verifier takes each word for a constant.
#[unsafe(no_mangle)]
static CONFIG: Global<Config> = Global::new(Config::EMPTY);

/// The load-time constants. The compiler must not take the initial value for the final one, so it is not told where
/// the pointer comes from.
#[inline(always)]
pub(crate) fn config() -> &'static Config {
    let config: *const Config;
    // SAFETY: a move from one register to another.
    unsafe {
        asm!("{to} = {from}", to = out(reg) config, from = in(reg) &raw const CONFIG,
            options(pure, nomem, nostack, preserves_flags));
    }
    // SAFETY: `Global` is a transparent wrapper of an initialised value, in read-only memory while the program runs.
    unsafe { &*config }
}

/// Adds one to a counter of this core.
#[inline(always)]
pub(crate) fn count(index: u32) {
    if let Some(counter) = COUNTER.get_ptr_mut(index) {
        // SAFETY: the element is this core's own, and tc and cgroup programs are not preempted by each other.
        unsafe { *counter += 1 };
    }
}

/// Nothing but counters is written.
#[inline(always)]
fn dry() -> bool {
    config().features & features::DRY_RUN != 0
}

/// Notes that an entry of conntrack is made or used.
///
/// A BPF subprogram: a busy flow comes here about once a second.
#[inline(never)]
fn mark(tag: u32, now: u32) {
    let index = known_index(tag);
    if let Some(line) = KNOWN.get_ptr_mut(index / MARKS_PER_LINE) {
        // SAFETY: as for `may_have_flow`; the last writer wins, and all write about the same.
        unsafe { write_volatile(line.cast::<u8>().add((index % MARKS_PER_LINE) as usize), conntrack::mark(now)) };
    }
}

/// The kernel's maps, on behalf of a packet or of a socket.
pub(crate) struct Kernel {
    socket: Option<SockAddrContext>,
    /// The socket's storage, once it was looked up and was there.
    stored: *mut SocketFlow,
}

impl Kernel {
    #[inline(always)]
    pub(crate) fn of_packet() -> Self {
        Self { socket: None, stored: null_mut() }
    }

    #[inline(always)]
    pub(crate) fn of_socket(ctx: SockAddrContext) -> Self {
        Self { socket: Some(ctx), stored: null_mut() }
    }
}

impl Tables for Kernel {
    #[inline(always)]
    fn frontend(&mut self, key: &FrontendKey) -> Option<u64> {
        // SAFETY: one volatile load of an aligned word, which is never torn; the caller compares the tag.
        FRONTEND.get_ptr(key).map(|word| unsafe { read_volatile(word) })
    }

    #[inline(always)]
    fn affinity_lifetime(&mut self, service: u32) -> u32 {
        // SAFETY: one volatile load of an aligned word that the agent writes by one aligned store.
        SERVICE.get_ptr(service).map_or(0, |service| unsafe { read_volatile(&raw const (*service).affinity) })
    }

    #[inline(always)]
    fn affinity(&mut self, key: &AffinityKey) -> Option<Affinity> {
        let entry = AFFINITY.get_ptr(key)?;
        // SAFETY: the element's memory stays while the program runs. The tag is read last, so that a value replaced
        // meanwhile is found out.
        unsafe {
            let backend = read_volatile(&raw const (*entry).backend);
            let seen = read_volatile(&raw const (*entry).seen);
            Some(Affinity { backend, seen, tag: read_volatile(&raw const (*entry).tag) })
        }
    }

    #[inline(always)]
    fn remember_affinity(&mut self, key: &AffinityKey, affinity: &Affinity) {
        if dry() {
            return;
        }
        let Some(entry) = AFFINITY.get_ptr_mut(key) else {
            let _ = AFFINITY.insert(key, affinity, BPF_NOEXIST.into());
            return;
        };
        // SAFETY: as for `affinity`. The time is written last: whoever reads in between meets an entry that is no
        // fresher than its backend.
        unsafe {
            if read_volatile(&raw const (*entry).tag) != affinity.tag {
                return;
            }
            if read_volatile(&raw const (*entry).backend) != affinity.backend {
                write_volatile(&raw mut (*entry).backend, affinity.backend);
            }
            if read_volatile(&raw const (*entry).seen) != affinity.seen {
                write_volatile(&raw mut (*entry).seen, affinity.seen);
            }
        }
    }

    #[inline(always)]
    fn member(&mut self, key: &MemberKey) -> Option<u64> {
        // SAFETY: as for `frontend`.
        MEMBER.get_ptr(key).map(|word| unsafe { read_volatile(word) })
    }

    #[inline(always)]
    fn row(&mut self, service: u32) -> Option<u64> {
        // SAFETY: one volatile load of an aligned word that the agent writes by one aligned store.
        SERVICE.get_ptr(service).map(|service| unsafe { read_volatile(&raw const (*service).row) })
    }

    #[inline(always)]
    fn slot(&mut self, index: u32) -> Option<u32> {
        let line = SLOT.get_ptr(index / SLOTS_PER_LINE)?.cast::<u32>();
        // SAFETY: a line has `SLOTS_PER_LINE` aligned words.
        Some(unsafe { read_volatile(line.add((index % SLOTS_PER_LINE) as usize)) })
    }

    #[inline(always)]
    fn backend(&mut self, id: u32) -> Option<Backend> {
        // SAFETY: array elements never move, and the agent reuses an id only after its quarantine.
        BACKEND.get_ptr(id).map(|backend| unsafe { *backend })
    }

    #[inline(always)]
    fn flow(&mut self, key: &Tuple, tag: u32, flags: u16, lifetimes: &Lifetimes) -> Option<Flow> {
        let mut entry = CONNTRACK.get_ptr_mut(key)?;
        // SAFETY: as below.
        if unsafe { read_volatile(&raw const (*entry).tag) } != tag {
            entry = CONNTRACK.get_ptr_mut(key)?;
        }
        // SAFETY: the kernel keeps the element's memory while the program runs, though it may come to hold another
        // key's value. The tag is read last, so that a value replaced meanwhile is found out.
        unsafe {
            let backend = read_volatile(&raw const (*entry).backend);
            let known = (*entry).flags;
            let seen = (*entry).seen;
            let present = read_volatile(&raw const (*entry).tag);
            let now = self.now();
            if present != tag || expired(lifetimes, key.protocol, known, seen, now) {
                return None;
            }
            if seen != now && !dry() {
                (*entry).seen = now;
                mark(tag, now);
            }
            if flags & !known != 0 && !dry() {
                (*entry).flags = known | flags;
            }
            Some(Flow { backend, tag: present, seen, ..*entry })
        }
    }

    #[inline(always)]
    fn may_have_flow(&mut self, tag: u32, lifetimes: &Lifetimes) -> bool {
        let index = known_index(tag);
        let Some(line) = KNOWN.get_ptr(index / MARKS_PER_LINE) else { return true };
        // SAFETY: a line has `MARKS_PER_LINE` bytes.
        let known = unsafe { read_volatile(line.cast::<u8>().add((index % MARKS_PER_LINE) as usize)) };
        may_live(known, self.now(), lifetimes)
    }

    type Scratch = &'static mut Scratch;

    #[inline(always)]
    fn scratch(&mut self) -> Option<&'static mut Scratch> {
        // SAFETY: the element is this core's own, tc programs are not preempted by each other, and no two borrows of it
        // live at one time.
        SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }

    #[inline(always)]
    fn insert_flow(&mut self, key: &Tuple, flow: &Flow, insert: Insert) -> Result<(), InsertError> {
        const EEXIST: i32 = -17;
        if dry() {
            let is_taken = insert == Insert::IfAbsent && CONNTRACK.get_ptr(key).is_some();
            return if is_taken { Err(InsertError::Exists) } else { Ok(()) };
        }
        let flags = match insert {
            Insert::IfAbsent => BPF_NOEXIST,
            Insert::Replace => BPF_ANY,
        };
        // First, or a packet of another core could miss the entry.
        mark(flow.tag, flow.seen);
        CONNTRACK
            .insert(key, flow, flags.into())
            .map_err(|error| if error == EEXIST { InsertError::Exists } else { InsertError::Full })
    }

    #[inline(always)]
    fn remove_flow(&mut self, key: &Tuple) {
        if !dry() {
            // That it is gone already is fine.
            let _ = CONNTRACK.remove(key);
        }
    }

    #[inline(always)]
    fn fragment(&mut self, key: &FragmentKey) -> Option<Fragment> {
        // SAFETY: as for `flow`; the caller compares the tag.
        unsafe { FRAGMENT.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_fragment(&mut self, key: &FragmentKey, fragment: &Fragment) {
        if !dry() {
            // Without room the later fragments are refused, and counted.
            let _ = FRAGMENT.insert(key, fragment, BPF_ANY.into());
        }
    }

    #[inline(always)]
    fn now(&mut self) -> u32 {
        // SAFETY: a helper without arguments.
        (unsafe { bpf_jiffies64() } >> TIME_SHIFT) as u32
    }

    #[inline(always)]
    fn endpoint(&mut self, address: &Address, tag: u32) -> Option<Endpoint> {
        let mut endpoint = ENDPOINT.get_ptr(address)?;
        // SAFETY: the element's memory stays while the program runs; another key's value has another tag.
        unsafe {
            if read_volatile(&raw const (*endpoint).tag) != tag {
                endpoint = ENDPOINT.get_ptr(address)?;
            }
            (read_volatile(&raw const (*endpoint).tag) == tag).then_some(*endpoint)
        }
    }

    #[inline(always)]
    fn source(&mut self, ifindex: u32) -> Option<Source> {
        // SAFETY: array elements never move; a value torn by another core matches no packet or the right one.
        SOURCE.get_ptr(ifindex & (SOURCES - 1)).map(|source| unsafe { *source })
    }

    #[inline(always)]
    fn remember_source(&mut self, source: &Source) {
        if dry() {
            return;
        }
        if let Some(element) = SOURCE.get_ptr_mut(source.ifindex & (SOURCES - 1)) {
            // SAFETY: as for `source`; the last writer wins.
            unsafe { *element = *source };
        }
    }

    #[inline(always)]
    fn route(&mut self, key: &RouteKey) -> Option<Route> {
        // SAFETY: the element's memory stays while the program runs; the caller compares the tag.
        unsafe { ROUTE.get(key) }.copied()
    }

    #[inline(always)]
    fn hint(&mut self, index: u32) -> u32 {
        HINT.get(index).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn remember_hint(&mut self, index: u32, node: u32) {
        if !dry()
            && let Some(hint) = HINT.get_ptr_mut(index)
        {
            // SAFETY: one aligned store; the last writer wins.
            unsafe { *hint = node };
        }
    }

    #[inline(always)]
    fn node(&mut self, id: u32) -> Option<Node> {
        NODE.get(id).copied()
    }

    #[inline(always)]
    fn netns_cookie(&mut self) -> u64 {
        match self.socket.as_ref() {
            // SAFETY: the context is the one the kernel passed in.
            Some(ctx) => unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) },
            None => 0,
        }
    }

    #[inline(always)]
    fn netns(&mut self, cookie: u64) -> Option<Netns> {
        // SAFETY: as for `route`.
        unsafe { NETNS.get(cookie) }.copied()
    }

    #[inline(always)]
    fn socket(&mut self) -> Option<SocketFlow> {
        let ctx = self.socket.as_ref()?;
        // SAFETY: the storage lives as long as the socket, and the system call holds the socket.
        unsafe {
            self.stored = SOCKET.get_ptr_mut(ctx);
            self.stored.as_ref().copied()
        }
    }

    #[inline(always)]
    fn remember_socket(&mut self, flow: &SocketFlow) -> Option<()> {
        // SAFETY: as for `socket`.
        if let Some(stored) = unsafe { self.stored.as_mut() } {
            *stored = *flow;
            return Some(());
        }
        let ctx = self.socket.as_ref()?;
        let mut flow = *flow;
        // SAFETY: as for `socket`; the kernel copies the initial value.
        let stored = unsafe { SOCKET.get_or_insert_ptr_mut(ctx, Some(&mut flow)).as_mut() }?;
        // The storage may be that of an earlier connection.
        *stored = flow;
        Some(())
    }

    #[inline(always)]
    fn forget_socket(&mut self) {
        self.stored = null_mut();
        if let Some(ctx) = self.socket.as_ref() {
            // SAFETY: the context's socket is valid while the program runs. There being nothing to forget is fine.
            let _ = unsafe { SOCKET.delete((*ctx.sock_addr).__bindgen_anon_1.sk) };
        }
    }

    #[inline(always)]
    fn socket_cookie(&mut self) -> u64 {
        match self.socket.as_ref() {
            // SAFETY: the context is the one the kernel passed in.
            Some(ctx) => unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) },
            None => 0,
        }
    }

    #[inline(always)]
    fn peer(&mut self, key: &PeerKey) -> Option<Peer> {
        // SAFETY: the element's memory stays while the program runs; the caller compares the tag.
        unsafe { PEER.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_peer(&mut self, key: &PeerKey, peer: &Peer) -> Option<()> {
        PEER.insert(key, peer, BPF_ANY.into()).ok()
    }

    #[inline(always)]
    fn remember_udp(&mut self, udp: &ConnectedUdp) {
        if let Some(place) = UDP.get_ptr_mut(udp_index(udp.cookie)) {
            // SAFETY: array elements never move; what two cores write at a time has a wrong check.
            unsafe { *place = *udp };
        }
    }

    #[inline(always)]
    fn forget_udp(&mut self, cookie: u64) {
        if let Some(place) = UDP.get_ptr_mut(udp_index(cookie)) {
            // SAFETY: as for `remember_udp`. Another socket may have taken the place.
            unsafe {
                if (*place).cookie == cookie {
                    (*place).cookie = 0;
                }
            }
        }
    }

    #[inline(always)]
    fn answers(&mut self) -> bool {
        let now = self.now();
        let Some(answers) = ANSWER.get_ptr_mut(0) else { return false };
        // SAFETY: the element is this core's own.
        unsafe {
            if (*answers).tick != now {
                *answers = Answers { tick: now, made: 0 };
            }
            if (*answers).made >= ANSWERS_PER_TICK {
                return false;
            }
            (*answers).made += 1;
        }
        true
    }

    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: a helper without arguments.
        let seed = || unsafe { bpf_get_prandom_u32() };
        let Some(dice) = DICE.get_ptr_mut(0) else { return seed() };
        // SAFETY: the element is this core's own. A call that interrupts another throws the same, which does no harm.
        unsafe {
            let mut state = *dice;
            if state == 0 {
                state = seed() | 1;
            }
            // Marsaglia, "Xorshift RNGs": a helper costs as much as a third of all else that a connect() needs.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            *dice = state;
            state
        }
    }
}
