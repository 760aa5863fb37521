//! A cpio archive in the format the kernel unpacks (`newc`, Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const TRAILER: &str = "TRAILER!!!";

#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// A directory and those above it. Paths are relative to the root.
    pub(super) fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str) {
            self.directory(parent);
        }
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY, &[]);
    }

    /// An executable file.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.parent_of(path);
        self.entry(path.trim_matches('/'), PROGRAM, content);
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.parent_of(path);
        self.entry(path.trim_matches('/'), LINK, target.as_bytes());
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn parent_of(&mut self, path: &str) {
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str) {
            self.directory(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        // Magic; then inode, mode, uid, gid, links, time, size, device and its device number twice, name length, sum.
        let size = content.len() as u32;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them_and_only_once() {
        let mut archive = Archive::default();
        archive.file("/bin/a", b"x");
        archive.file("/bin/b", b"yz");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<usize> = ["bin\0", "bin/a\0", "bin/b\0", TRAILER].iter().filter_map(|n| text.find(n)).collect();
        assert_eq!(names.len(), 4);
        assert!(names.is_sorted());
        assert_eq!(text.matches("070701").count(), 4);
        assert!(bytes.len().is_multiple_of(4));
    }
}
