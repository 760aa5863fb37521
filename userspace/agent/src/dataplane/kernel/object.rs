//! The embedded object: its maps compared with what is pinned, its programs loaded.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::{CgroupSockAddr, Program, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::bpf_attach_type;
use diolkos_abi::config::{self, Config};

use super::syscall;
use crate::dataplane::{Error, Result, map};

/// The object `cargo xtask build` makes; empty in a build without it.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane.o"));

/// A program of the cgroup's sockets.
pub(super) struct SocketHook {
    pub(super) name: &'static str,
    pub(super) attach: bpf_attach_type,
}

/// In the order in which they are attached: what translates back comes before what translates.
pub(super) const SOCKET_HOOKS: [SocketHook; 8] = [
    SocketHook { name: "getpeername4", attach: bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME },
    SocketHook { name: "getpeername6", attach: bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME },
    SocketHook { name: "recvmsg4", attach: bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG },
    SocketHook { name: "recvmsg6", attach: bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG },
    SocketHook { name: "sendmsg4", attach: bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG },
    SocketHook { name: "sendmsg6", attach: bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG },
    SocketHook { name: "connect4", attach: bpf_attach_type::BPF_CGROUP_INET4_CONNECT },
    SocketHook { name: "connect6", attach: bpf_attach_type::BPF_CGROUP_INET6_CONNECT },
];
/// The programs of devices.
const CLASSIFIERS: [&str; 6] =
    ["from_container", "to_container", "from_overlay", "to_overlay", "from_netdev", "to_netdev"];

/// The loaded programs.
pub(super) struct Programs(BTreeMap<&'static str, OwnedFd>);

/// The maps of the object, pinned.
pub(super) struct Maps(Ebpf);

/// Loads everything over the maps pinned in `pins`; a map that is not pinned yet is created and pinned.
pub(super) fn load(pins: &Path, config: &Config) -> Result<(Programs, Maps)> {
    if OBJECT.is_empty() {
        return Err(Error::Load("this agent was built without its eBPF programs: run cargo xtask build".into()));
    }
    compare(pins)?;
    let mut loader = EbpfLoader::new();
    loader.override_global(config::NAME, config, true);
    for name in map::ALL {
        loader.map_pin_path(name, pins.join(name));
    }
    let mut object = loader.load(OBJECT).map_err(|error| Error::Load(explain(&error)))?;
    let mut programs = BTreeMap::new();
    for name in CLASSIFIERS {
        programs.insert(name, classifier(&mut object, name)?);
    }
    for hook in &SOCKET_HOOKS {
        programs.insert(hook.name, socket_hook(&mut object, hook.name)?);
    }
    Ok((Programs(programs), Maps(object)))
}

impl Programs {
    pub(super) fn get(&self, name: &str) -> Result<BorrowedFd<'_>> {
        self.0.get(name).map(AsFd::as_fd).ok_or_else(|| missing_program(name))
    }
}

impl Maps {
    /// A descriptor of a map.
    pub(super) fn fd(&self, name: &'static str) -> Result<OwnedFd> {
        let missing = || Error::Load(format!("the eBPF object has no map {name}: build both from one tree"));
        let data = match self.0.map(name).ok_or_else(missing)? {
            Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuArray(data) => data,
            _ => return Err(missing()),
        };
        let duplicate = data.fd().as_fd().try_clone_to_owned();
        duplicate.map_err(|error| Error::Load(format!("duplicate the descriptor of map {name}: {error}")))
    }

    pub(super) fn counters(&mut self) -> Result<PerCpuArray<MapData, u64>> {
        let missing = || Error::Load(format!("the eBPF object has no map {}", map::COUNTER));
        let counters = self.0.take_map(map::COUNTER).ok_or_else(missing)?;
        PerCpuArray::try_from(counters).map_err(|error| Error::Load(error.to_string()))
    }
}

/// What must be equal for a map to be used again.
#[derive(PartialEq, Eq)]
struct Shape {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key_size, value_size, max_entries, flags } = self;
        write!(f, "of type {kind}, {key_size} B keys, {value_size} B values, {max_entries} entries, flags {flags:#x}")
    }
}

/// aya uses whatever is pinned under a map's name; this looks first.
fn compare(pins: &Path) -> Result<()> {
    let parsed = aya_obj::Object::parse(OBJECT).map_err(|error| Error::Load(error.to_string()))?;
    let wanted: HashMap<&str, &aya_obj::Map> = parsed.maps.iter().map(|(name, map)| (name.as_str(), map)).collect();
    for name in map::ALL {
        let path = pins.join(name);
        let Some(wanted) = wanted.get(name) else {
            return Err(Error::Load(format!("the eBPF object has no map {name}: build both from one tree")));
        };
        if !path.exists() {
            continue;
        }
        let failed = |source| Error::Path { operation: "open the pinned map", path: path.clone(), source };
        let pinned = syscall::object_get(&path).map_err(failed)?;
        let info = syscall::map_info(pinned.as_fd()).map_err(failed)?;
        let found = Shape {
            kind: info.type_,
            key_size: info.key_size,
            value_size: info.value_size,
            max_entries: info.max_entries,
            flags: info.map_flags,
        };
        let wanted = Shape {
            kind: wanted.map_type(),
            key_size: wanted.key_size(),
            value_size: wanted.value_size(),
            max_entries: wanted.max_entries(),
            flags: wanted.map_flags(),
        };
        if found != wanted {
            return Err(Error::Shape { path, found: found.to_string(), wanted: wanted.to_string() });
        }
    }
    Ok(())
}

fn classifier(object: &mut Ebpf, name: &'static str) -> Result<OwnedFd> {
    let program: &mut SchedClassifier = program(object, name)?.try_into().map_err(|error| load_error(name, &error))?;
    program.load().map_err(|error| load_error(name, &error))?;
    duplicate(name, program.fd())
}

fn socket_hook(object: &mut Ebpf, name: &'static str) -> Result<OwnedFd> {
    let program: &mut CgroupSockAddr = program(object, name)?.try_into().map_err(|error| load_error(name, &error))?;
    program.load().map_err(|error| load_error(name, &error))?;
    duplicate(name, program.fd())
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    object.program_mut(name).ok_or_else(|| missing_program(name))
}

fn missing_program(name: &str) -> Error {
    Error::Load(format!("the eBPF object has no program {name}: build both from one tree"))
}

fn duplicate(name: &str, fd: std::result::Result<&aya::programs::ProgramFd, ProgramError>) -> Result<OwnedFd> {
    let fd = fd.map_err(|error| load_error(name, &error))?;
    fd.as_fd().try_clone_to_owned().map_err(|error| Error::Load(format!("duplicate program {name}: {error}")))
}

fn load_error(name: &str, error: &ProgramError) -> Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            Error::Load(format!("program {name}: {io_error}; the verifier says:\n{verifier_log}"))
        }
        other => Error::Load(format!("program {name}: {}", explain(other))),
    }
}

/// An error with its causes.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
