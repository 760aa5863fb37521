//! What the agent has programmed, read from the pinned maps of a node.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use diolkos_abi::address::Address;
use diolkos_abi::pod::{Endpoint, Node as NodeEntry, Route, RouteKey};
use diolkos_abi::service::{Backend, FrontendKey, Service, SlotLine};
use diolkos_tests::Node;
use nix::sched::{CloneFlags, setns, unshare};

/// Every entry of the maps that hold configuration, as bytes or text; conntrack and counters live.
#[derive(Debug, PartialEq)]
pub(crate) struct Dump(BTreeMap<&'static str, Vec<String>>);

impl Dump {
    /// Enters the node's mount namespace, where its bpffs is, with a thread of its own.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        let namespace = File::open(node.space().mount_namespace()).context("cannot open the mount namespace")?;
        let name = node.name().to_owned();
        let read = move || {
            unshare(CloneFlags::CLONE_FS)?;
            setns(&namespace, CloneFlags::CLONE_NEWNS).context("cannot enter the mount namespace")?;
            Self::read(&directory(&name)?)
        };
        std::thread::spawn(read).join().map_err(|_| anyhow::anyhow!("reading the maps panicked"))?
    }

    fn read(maps: &Path) -> Result<Self> {
        let mut dump = BTreeMap::new();
        dump.insert("frontend", hash::<FrontendKey, u64>(maps, "FRONTEND")?);
        dump.insert("endpoint", hash::<Address, Endpoint>(maps, "ENDPOINT")?);
        dump.insert("route", hash::<RouteKey, Route>(maps, "ROUTE")?);
        dump.insert("node", array::<NodeEntry>(maps, "NODE")?);
        dump.insert("service", array::<Service>(maps, "SERVICE")?);
        dump.insert("slot", array::<SlotLine>(maps, "SLOT")?);
        dump.insert("backend", array::<Backend>(maps, "BACKEND")?);
        Ok(Self(dump))
    }
}

/// The directory of pins: there is one layout on a node.
fn directory(node: &str) -> Result<PathBuf> {
    let base = Path::new("/sys/fs/bpf/diolkos").join(node);
    let entries = base.read_dir().with_context(|| format!("nothing is pinned in {}", base.display()))?;
    let first = entries.flatten().next().context("no layout is pinned")?;
    Ok(first.path().join("maps"))
}

fn hash<K: Pod + std::fmt::Debug, V: Pod + std::fmt::Debug>(maps: &Path, name: &str) -> Result<Vec<String>> {
    let map: HashMap<_, K, V> = HashMap::try_from(Map::HashMap(open(maps, name)?))?;
    let mut entries = Vec::new();
    for entry in map.iter() {
        let (key, value) = entry?;
        entries.push(format!("{key:?} {value:?}"));
    }
    entries.sort();
    Ok(entries)
}

/// Elements that are not all zero.
fn array<V: Pod + std::fmt::Debug + Default + PartialEq>(maps: &Path, name: &str) -> Result<Vec<String>> {
    let map: Array<_, V> = Array::try_from(Map::Array(open(maps, name)?))?;
    let mut entries = Vec::new();
    for index in 0..map.len() {
        let value = map.get(&index, 0)?;
        if value != V::default() {
            entries.push(format!("{index} {value:?}"));
        }
    }
    Ok(entries)
}

fn open(maps: &Path, name: &str) -> Result<MapData> {
    MapData::from_pin(maps.join(name)).with_context(|| format!("cannot open the map {name} in {}", maps.display()))
}
