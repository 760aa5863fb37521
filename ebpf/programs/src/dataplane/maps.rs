//! The maps, and the logic's view of them.

use core::arch::asm;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_jiffies64};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::programs::SockAddrContext;
use diolkos_abi::address::Address;
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{
    CONNECTED_UDPS, ConnectedUdp, FLOWS, Flow, PEERS, Peer, PeerKey, SocketFlow, TIME_SHIFT, Tuple,
};
use diolkos_abi::counter::COUNTERS;
use diolkos_abi::pod::{ENDPOINTS, Endpoint, NETNSES, NODES, Netns, Node, ROUTES, Route, RouteKey, SOURCES, Source};
use diolkos_abi::service::{
    AFFINITIES, Affinity, AffinityKey, BACKENDS, Backend, FRONTENDS, FrontendKey, MEMBERS, MemberKey, SERVICES, SLOTS,
    SLOTS_PER_LINE, Service, SlotLine,
};
use diolkos_datapath::{Insert, InsertError, Tables};

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
static ENDPOINT: HashMap<Address, Endpoint> = HashMap::with_max_entries(ENDPOINTS, BPF_F_NO_PREALLOC);
#[map]
static SOURCE: Array<Source> = Array::with_max_entries(SOURCES, 0);
#[map]
static NODE: Array<Node> = Array::with_max_entries(NODES, 0);
#[map]
static ROUTE: HashMap<RouteKey, Route> = HashMap::with_max_entries(ROUTES, BPF_F_NO_PREALLOC);
#[map]
static NETNS: HashMap<u64, Netns> = HashMap::with_max_entries(NETNSES, BPF_F_NO_PREALLOC);
#[map]
static COUNTER: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);
#[map]
static PEER: LruHashMap<PeerKey, Peer> = LruHashMap::with_max_entries(PEERS, 0);
#[map]
static UDP: LruHashMap<u64, ConnectedUdp> = LruHashMap::with_max_entries(CONNECTED_UDPS, 0);
#[btf_map]
static SOCKET: SkStorage<SocketFlow> = SkStorage::new();

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

/// The kernel's maps, on behalf of a packet or of a socket.
pub(crate) struct Kernel {
    socket: Option<SockAddrContext>,
}

impl Kernel {
    #[inline(always)]
    pub(crate) fn of_packet() -> Self {
        Self { socket: None }
    }

    #[inline(always)]
    pub(crate) fn of_socket(ctx: SockAddrContext) -> Self {
        Self { socket: Some(ctx) }
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
    fn flow(&mut self, key: &Tuple, tag: u32, flags: u16) -> Option<Flow> {
        let entry = CONNTRACK.get_ptr_mut(key)?;
        // SAFETY: the kernel keeps the element's memory while the program runs, though it may come to hold another
        // key's value. The tag is read last, so that a value replaced meanwhile is found out.
        unsafe {
            let backend = read_volatile(&raw const (*entry).backend);
            let present = read_volatile(&raw const (*entry).tag);
            let seen = (*entry).seen;
            if present == tag {
                let now = self.now();
                if seen != now {
                    (*entry).seen = now;
                }
                if flags != 0 {
                    (*entry).flags |= flags;
                }
            }
            let flow = Flow { backend, tag: present, seen, ..*entry };
            Some(flow)
        }
    }

    #[inline(always)]
    fn insert_flow(&mut self, key: &Tuple, flow: &Flow, insert: Insert) -> Result<(), InsertError> {
        const EEXIST: i32 = -17;
        let flags = match insert {
            Insert::IfAbsent => BPF_NOEXIST,
            Insert::Replace => BPF_ANY,
        };
        CONNTRACK
            .insert(key, flow, flags.into())
            .map_err(|error| if error == EEXIST { InsertError::Exists } else { InsertError::Full })
    }

    #[inline(always)]
    fn remove_flow(&mut self, key: &Tuple) {
        // That it is gone already is fine.
        let _ = CONNTRACK.remove(key);
    }

    #[inline(always)]
    fn now(&mut self) -> u32 {
        // SAFETY: a helper without arguments.
        (unsafe { bpf_jiffies64() } >> TIME_SHIFT) as u32
    }

    #[inline(always)]
    fn endpoint(&mut self, address: &Address) -> Option<Endpoint> {
        // SAFETY: the element's memory stays while the program runs; the caller compares the tag.
        unsafe { ENDPOINT.get(address) }.copied()
    }

    #[inline(always)]
    fn source(&mut self, ifindex: u32) -> Option<Source> {
        // SAFETY: array elements never move; a value torn by another core matches no packet or the right one.
        SOURCE.get_ptr(ifindex & (SOURCES - 1)).map(|source| unsafe { *source })
    }

    #[inline(always)]
    fn remember_source(&mut self, source: &Source) {
        if let Some(element) = SOURCE.get_ptr_mut(source.ifindex & (SOURCES - 1)) {
            // SAFETY: as for `source`; the last writer wins.
            unsafe { *element = *source };
        }
    }

    #[inline(always)]
    fn route(&mut self, key: &RouteKey) -> Option<Route> {
        // SAFETY: as for `endpoint`.
        unsafe { ROUTE.get(key) }.copied()
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
        // SAFETY: as for `endpoint`.
        unsafe { NETNS.get(cookie) }.copied()
    }

    #[inline(always)]
    fn socket(&mut self) -> Option<SocketFlow> {
        let ctx = self.socket.as_ref()?;
        // SAFETY: the storage lives as long as the socket, and the system call holds the socket.
        unsafe { SOCKET.get_ptr_mut(ctx).as_ref() }.copied()
    }

    #[inline(always)]
    fn remember_socket(&mut self, flow: &SocketFlow) -> Option<()> {
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
    fn remember_udp(&mut self, cookie: u64, udp: &ConnectedUdp) {
        let _ = UDP.insert(cookie, udp, BPF_ANY.into());
    }

    #[inline(always)]
    fn forget_udp(&mut self, cookie: u64) {
        // That it is gone already is fine.
        let _ = UDP.remove(cookie);
    }

    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }
}
