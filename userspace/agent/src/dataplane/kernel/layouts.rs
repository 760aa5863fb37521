//! What agents of other layouts left: their links are taken over, their maps go.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::syscall;
use crate::dataplane::{Error, Result};

/// The directories of a node's other layouts.
pub(super) struct Layouts(Vec<PathBuf>);

impl Layouts {
    /// Those beside `own`, a directory `v<N>`.
    pub(super) fn beside(own: &Path) -> Result<Self> {
        let parent = own.parent().unwrap_or(own);
        let failed = |source| Error::Path { operation: "list", path: parent.into(), source };
        let entries = fs::read_dir(parent).map_err(failed)?.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        let mut others: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        others.retain(|path| path != own && is_layout(path));
        others.sort_unstable();
        Ok(Self(others))
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.links().any(|links| links.exists()) && !self.0.iter().any(|layout| layout.exists())
    }

    /// The directories of their links, as far as they exist.
    pub(super) fn links(&self) -> impl Iterator<Item = PathBuf> {
        self.0.iter().map(|layout| layout.join("links")).filter(|links| links.is_dir())
    }

    /// Moves the pins of their links to `own`: the links go on with their programs, which know the old maps. A link
    /// whose place is taken is taken off, or two programs would run there.
    pub(super) fn hand_over_links(&self, own: &Path) -> Result<()> {
        for directory in self.links() {
            let failed = |source| Error::Path { operation: "take over the links in", path: directory.clone(), source };
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let from = entry.map_err(failed)?.path();
                let to = own.join(from.file_name().unwrap_or_default());
                let moved = if to.exists() { take_off(&from) } else { fs::rename(&from, &to) };
                moved.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Forgets their maps.
    pub(super) fn remove(&self) -> Result<()> {
        for layout in &self.0 {
            match fs::remove_dir_all(layout) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Path { operation: "remove", path: layout.clone(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A pinned program has no target to be taken off: its filter was replaced in place.
fn take_off(pin: &Path) -> io::Result<()> {
    match syscall::link_detach(syscall::object_get(pin)?.as_fd()) {
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
        _ => fs::remove_file(pin),
    }
}

fn is_layout(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_prefix('v')).map(str::parse::<u32>);
    number.is_some_and(|number| number.is_ok()) && path.is_dir()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_numbered_directories_beside_ours_are_other_layouts() {
        let node = tempfile::tempdir().unwrap();
        for name in ["v1/links", "v2/links", "v3/maps", "vx", "other"] {
            fs::create_dir_all(node.path().join(name)).unwrap();
        }
        fs::write(node.path().join("v9"), "a file").unwrap();
        let layouts = Layouts::beside(&node.path().join("v2")).unwrap();
        assert_eq!(layouts.0, ["v1", "v3"].map(|name| node.path().join(name)));
        assert!(!layouts.is_empty());
        assert_eq!(layouts.links().collect::<Vec<_>>(), [node.path().join("v1/links")]);
        layouts.remove().unwrap();
        assert!(layouts.is_empty());
    }
}
