//! Links: which program runs where. Each is pinned, and its program is replaced in place.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME, BPF_TCX_EGRESS, BPF_TCX_INGRESS,
};

use super::object::Programs;
use super::syscall::{self, LinkTarget};
use crate::dataplane::{Error, Result};

const FROM: &str = "_from";
const TO: &str = "_to";
const INGRESS: &str = "_ingress";
const EGRESS: &str = "_egress";
/// A link on its way to its name.
const FRESH: &str = "~";

/// The pin of `from_container` on a pod's host device.
pub(super) fn from_pin(host_ifname: &str) -> String {
    format!("{host_ifname}{FROM}")
}

/// The pin of `to_container` on a pod's host device.
pub(super) fn to_pin(host_ifname: &str) -> String {
    format!("{host_ifname}{TO}")
}

/// The pin of `from_netdev` on a device that holds an address of the node.
pub(super) fn ingress_pin(ifname: &str) -> String {
    format!("{ifname}{INGRESS}")
}

/// The pin of `to_netdev` on such a device.
pub(super) fn egress_pin(ifname: &str) -> String {
    format!("{ifname}{EGRESS}")
}

/// The pinned links of a node.
pub(super) struct Links {
    directory: PathBuf,
    cgroup: File,
    cgroup_path: PathBuf,
    overlay: u32,
}

impl Links {
    pub(super) fn open(directory: PathBuf, cgroup_path: &Path, overlay: u32) -> Result<Self> {
        let failed = |source| Error::Path { operation: "open", path: cgroup_path.into(), source };
        let cgroup = File::open(cgroup_path).map_err(failed)?;
        Ok(Self { directory, cgroup, cgroup_path: cgroup_path.into(), overlay })
    }

    /// Puts the programs in place of those that run: pods first, so that a packet that enters by new programs also
    /// leaves by new ones.
    pub(super) fn put_in_place(&self, programs: &Programs) -> Result<()> {
        for name in self.names()? {
            if name.ends_with(FRESH) {
                self.remove(&name)?;
            } else if name.ends_with(TO) {
                self.replace(&name, "to_container", programs.to_container.as_fd())?;
            } else if name.ends_with(FROM) {
                self.replace(&name, "from_container", programs.from_container.as_fd())?;
            } else if name.ends_with(EGRESS) {
                self.replace(&name, "to_netdev", programs.netdev_egress()?)?;
            } else if name.ends_with(INGRESS) {
                self.replace(&name, "from_netdev", programs.netdev_ingress()?)?;
            }
        }
        if self.overlay != 0 {
            let (from, to) = (programs.from_overlay.as_fd(), programs.to_overlay.as_fd());
            self.device("to_overlay", "to_overlay", to, BPF_TCX_EGRESS, self.overlay)?;
            self.device("from_overlay", "from_overlay", from, BPF_TCX_INGRESS, self.overlay)?;
        }
        self.cgroup("getpeername4", programs.getpeername4.as_fd(), BPF_CGROUP_INET4_GETPEERNAME)?;
        self.cgroup("connect4", programs.connect4.as_fd(), BPF_CGROUP_INET4_CONNECT)
    }

    /// Lets a program run on a network device.
    pub(super) fn device(
        &self,
        pin: &str,
        program: &'static str,
        fd: BorrowedFd<'_>,
        attach: bpf_attach_type,
        ifindex: u32,
    ) -> Result<()> {
        let target = format!("network device {ifindex} ({pin})");
        self.attach(pin, fd, attach, LinkTarget::Device(ifindex), ifindex).map_err(explain(program, target))
    }

    /// Takes a link off its target and removes its pin. After that the same program may be attached there again.
    pub(super) fn remove(&self, pin: &str) -> Result<()> {
        let path = self.directory.join(pin);
        let run = || {
            if let Some(link) = open(&path)? {
                syscall::link_detach(link.as_fd())?;
            }
            unlink(&path)
        };
        run().map_err(|source| Error::Path { operation: "detach the link", path: path.clone(), source })
    }

    /// The names of the pods' host devices that have a link, sorted.
    pub(super) fn pods(&self) -> Result<Vec<String>> {
        self.devices([FROM, TO])
    }

    /// The names of the devices with a node address that have a link, sorted.
    pub(super) fn netdevs(&self) -> Result<Vec<String>> {
        self.devices([INGRESS, EGRESS])
    }

    fn devices(&self, suffixes: [&str; 2]) -> Result<Vec<String>> {
        let names = self.names()?;
        let devices = names.iter().filter_map(|name| suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)));
        let mut devices: Vec<String> = devices.map(str::to_owned).collect();
        devices.sort_unstable();
        devices.dedup();
        Ok(devices)
    }

    fn cgroup(&self, program: &'static str, fd: BorrowedFd<'_>, attach: bpf_attach_type) -> Result<()> {
        let run = || {
            let id = self.cgroup.metadata()?.ino();
            self.attach(program, fd, attach, LinkTarget::Cgroup(id), self.cgroup.as_raw_fd() as u32)
        };
        run().map_err(explain(program, format!("cgroup {}", self.cgroup_path.display())))
    }

    /// Replaces the program of the pinned link if it hangs on this target. Otherwise a new link is made and takes the
    /// pin's name in one step, so that there is one at every moment.
    fn attach(
        &self,
        pin: &str,
        program: BorrowedFd<'_>,
        attach: bpf_attach_type,
        wanted: LinkTarget,
        target: u32,
    ) -> io::Result<()> {
        let path = self.directory.join(pin);
        if let Some(link) = open(&path)? {
            let is_device = matches!(wanted, LinkTarget::Device(_));
            if syscall::link_target(link.as_fd(), is_device)? == wanted {
                return syscall::link_update(link.as_fd(), program);
            }
        }
        let link = syscall::link_create(program, target, attach)?;
        let fresh = self.directory.join(format!("{pin}{FRESH}"));
        unlink(&fresh)?;
        syscall::object_pin(link.as_fd(), &fresh)?;
        fs::rename(&fresh, &path)
    }

    /// A device's link goes with it: then the pin is all that is left of it.
    fn replace(&self, pin: &str, program: &'static str, fd: BorrowedFd<'_>) -> Result<()> {
        let run = || {
            let Some(link) = open(&self.directory.join(pin))? else { return Ok(true) };
            if syscall::link_target(link.as_fd(), true)? == LinkTarget::Device(0) {
                return Ok(false);
            }
            match syscall::link_update(link.as_fd(), fd) {
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
                result => result.map(|()| true),
            }
        };
        match run().map_err(explain(program, pin.to_owned())) {
            Ok(true) => Ok(()),
            Ok(false) => self.remove(pin),
            Err(error) => Err(error),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        let failed = |source| Error::Path { operation: "list", path: self.directory.clone(), source };
        let entries = fs::read_dir(&self.directory).map_err(failed)?;
        let name =
            |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
        entries.map(name).collect::<io::Result<_>>().map_err(failed)
    }
}

fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    match syscall::object_get(path) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn unlink(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn explain(program: &'static str, target: String) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Attach { program, target, source: source.into() }
}
