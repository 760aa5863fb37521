//! Where a node's maps and links are pinned, and how they are read.

use std::io;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{Map, MapData, PerCpuArray};
use diolkos_abi::LAYOUT;
use diolkos_abi::counter::{COUNTERS, DropReason, Hook, Verdict, drop_index, verdict_index};

use super::ObserveError;
use crate::dataplane::{kernel, map};

/// The pins of one node's dataplane.
#[derive(Clone, Debug)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Those of a node of this name, there or not.
    pub fn of(bpffs: &Path, node: &str) -> Self {
        Self { directory: kernel::node_directory(bpffs, node).join(format!("v{LAYOUT}")) }
    }

    /// Those of a node, or of the only one that is there.
    pub fn find(bpffs: &Path, node: Option<&str>) -> Result<Self, ObserveError> {
        let root = bpffs.join("diolkos");
        let found = match node {
            Some(node) => kernel::node_directory(bpffs, node),
            None => match names(&root).unwrap_or_default().as_slice() {
                [] => return Err(ObserveError::NoNode(root)),
                [only] => root.join(only),
                several => return Err(ObserveError::SeveralNodes { path: root, names: several.join(", ") }),
            },
        };
        let directory = found.join(format!("v{LAYOUT}"));
        if directory.is_dir() {
            return Ok(Self { directory });
        }
        let others = names(&found).unwrap_or_default();
        let found = match others.is_empty() {
            true => String::new(),
            false => {
                format!(", but has {}: another release of diolkos runs here, use its own command", others.join(", "))
            }
        };
        Err(ObserveError::NoLayout { path: directory, layout: LAYOUT, found })
    }

    /// The node's name, with `_` for each dot.
    pub fn node(&self) -> String {
        let node = self.directory.parent().and_then(Path::file_name);
        node.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Where everything is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.directory.join("maps")
    }

    /// The names of the links' pins, sorted.
    pub fn links(&self) -> Result<Vec<String>, ObserveError> {
        let path = self.directory.join("links");
        names(&path).map_err(|source| ObserveError::Path { operation: "list", path, source })
    }

    /// The path of a link's pin.
    pub fn link(&self, name: &str) -> PathBuf {
        self.directory.join("links").join(name)
    }

    /// A pinned map.
    pub fn map(&self, name: &str) -> Result<Map, ObserveError> {
        let path = self.maps().join(name);
        let failed = |reason: String| ObserveError::Kernel { operation: format!("open {}", path.display()), reason };
        let data = MapData::from_pin(&path).map_err(|error| failed(chain(&error)))?;
        Map::from_map_data(data).map_err(|error| failed(chain(&error)))
    }

    /// A pinned map, as a type of aya.
    pub(crate) fn typed<M>(&self, name: &str) -> Result<M, ObserveError>
    where
        M: TryFrom<Map>,
        M::Error: std::error::Error,
    {
        M::try_from(self.map(name)?).map_err(|error| unreadable(name, &error))
    }

    /// All elements of a hash or array.
    pub(crate) fn dump<K: Pod, V: Pod>(&self, name: &str) -> Result<Vec<(K, V)>, ObserveError> {
        let path = self.maps().join(name);
        kernel::dump_pinned(&path).map_err(|source| ObserveError::Path { operation: "read", path, source })
    }

    /// All counters that have a meaning, by [`diolkos_abi::counter`]'s index, summed over the cores.
    pub fn counters(&self) -> Result<Vec<u64>, ObserveError> {
        let counters: PerCpuArray<MapData, u64> = self.typed(map::COUNTER)?;
        let mut sums = vec![0; COUNTERS as usize];
        for hook in Hook::ALL {
            let verdicts = Verdict::ALL.map(|verdict| verdict_index(hook, verdict));
            let drops = DropReason::ALL.map(|reason| drop_index(hook, reason));
            for index in verdicts.into_iter().chain(drops) {
                let cores = counters.get(&index, 0).map_err(|error| unreadable(map::COUNTER, &error))?;
                sums[index as usize] = cores.iter().sum();
            }
        }
        Ok(sums)
    }
}

/// An error about a map that is open already.
pub(crate) fn unreadable(map: &str, error: &dyn std::error::Error) -> ObserveError {
    ObserveError::Kernel { operation: format!("read map {map}"), reason: chain(error) }
}

/// An error and its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(directory)?;
    let name = |entry: io::Result<std::fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = entries.map(name).collect::<io::Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_only_node_is_found_and_several_are_named() {
        let bpffs = tempfile::tempdir().unwrap();
        let find = |node| Pins::find(bpffs.path(), node).map(|pins| pins.node()).map_err(|error| error.to_string());
        assert!(find(None).unwrap_err().contains("no dataplane is pinned"));
        let make = |path: String| std::fs::create_dir_all(bpffs.path().join("diolkos").join(path)).unwrap();
        make(format!("n1_example/v{LAYOUT}"));
        assert_eq!(find(None).unwrap(), "n1_example");
        make("n2/v1".into());
        let several = find(None).unwrap_err();
        assert!(several.contains("n1_example, n2") && several.contains("--node-name"), "{several}");
        assert_eq!(find(Some("n1.example")).unwrap(), "n1_example");
        let other = find(Some("n2")).unwrap_err();
        assert!(other.contains("has v1") && other.contains("another release"), "{other}");
    }
}
