//! Links: which program runs where. Each is pinned, and its program is replaced in place.
//!
//! On kernels without tcx a device's program stands in a clsact filter, and the program itself is pinned under the
//! link's name, so that the directory says on either kernel what is attached.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya_obj::generated::bpf_attach_type::{self, BPF_TCX_EGRESS, BPF_TCX_INGRESS};

use super::clsact::{self, Direction};
use super::layouts::Layouts;
use super::object::{Programs, SOCKET_HOOKS};
use super::syscall::{self, LinkTarget};
use crate::dataplane::{Error, Result};

/// A program of a device, and how the pins of its links end.
struct Point {
    program: &'static str,
    suffix: &'static str,
    direction: Direction,
}

/// The way out first: no packet of a pod is translated before its replies can be, and new programs are put in place
/// where packets leave before where they enter.
const POD: [Point; 2] = [
    Point { program: "to_container", suffix: "_to", direction: Direction::Egress },
    Point { program: "from_container", suffix: "_from", direction: Direction::Ingress },
];
/// The way in first: no packet leaves under the node's address before its replies find back.
const NETDEV: [Point; 2] = [
    Point { program: "from_netdev", suffix: "_ingress", direction: Direction::Ingress },
    Point { program: "to_netdev", suffix: "_egress", direction: Direction::Egress },
];
/// Of the one overlay device: here the name is all of the pin.
const OVERLAY: [Point; 2] = [
    Point { program: "to_overlay", suffix: "to_overlay", direction: Direction::Egress },
    Point { program: "from_overlay", suffix: "from_overlay", direction: Direction::Ingress },
];
/// A link on its way to its name.
const FRESH: &str = "~";

/// How programs get onto devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    /// Links (Linux 6.6).
    Tcx,
    /// Filters.
    Clsact,
}

/// Whose device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Pod,
    Node,
}

impl Owner {
    fn points(self) -> &'static [Point; 2] {
        match self {
            Self::Pod => &POD,
            Self::Node => &NETDEV,
        }
    }
}

/// The pinned links of a node.
pub(super) struct Links {
    directory: PathBuf,
    others: Layouts,
    cgroup: File,
    cgroup_path: PathBuf,
    overlay: u32,
    mechanism: Mechanism,
}

impl Links {
    pub(super) fn open(
        directory: PathBuf,
        others: Layouts,
        cgroup_path: &Path,
        overlay: u32,
        mechanism: Mechanism,
    ) -> Result<Self> {
        let failed = |source| Error::Path { operation: "open", path: cgroup_path.into(), source };
        let cgroup = File::open(cgroup_path).map_err(failed)?;
        Ok(Self { directory, others, cgroup, cgroup_path: cgroup_path.into(), overlay, mechanism })
    }

    /// Whether programs over the present maps are what runs: an agent of this layout was here, and no other is left.
    pub(super) fn in_place(&self) -> Result<bool> {
        let names = self.names()?;
        Ok(self.others.is_empty() && SOCKET_HOOKS.iter().any(|hook| names.iter().any(|name| name == hook.name)))
    }

    /// Puts the programs in place of those that run, of whatever layout, and of none. After that nothing is left of
    /// another layout.
    pub(super) fn put_in_place(&self, programs: &Programs) -> Result<()> {
        self.others.hand_over_links(&self.directory)?;
        let names = self.names()?;
        for fresh in names.iter().filter(|name| name.ends_with(FRESH)) {
            self.remove(fresh)?;
        }
        for point in POD.iter().chain(&NETDEV) {
            for pin in names.iter().filter(|name| name.ends_with(point.suffix)) {
                self.replace(pin, point, programs.get(point.program)?)?;
            }
        }
        if self.overlay != 0 {
            for point in &OVERLAY {
                self.device(point.suffix.to_owned(), point, programs.get(point.program)?, self.overlay)?;
            }
        }
        for hook in &SOCKET_HOOKS {
            self.cgroup(hook.name, programs.get(hook.name)?, hook.attach)?;
        }
        self.others.remove()
    }

    /// Lets the programs of its kind run on a device.
    pub(super) fn attach_device(&self, owner: Owner, ifname: &str, ifindex: u32, programs: &Programs) -> Result<()> {
        for point in owner.points() {
            self.device(pin(ifname, point), point, programs.get(point.program)?, ifindex)?;
        }
        Ok(())
    }

    /// Whether all links of a device are there, of this layout or another.
    pub(super) fn has_device(&self, owner: Owner, ifname: &str) -> Result<bool> {
        let names = self.names()?;
        Ok(owner.points().iter().all(|point| names.contains(&pin(ifname, point))))
    }

    /// Takes the programs off a device: no packet enters by one that could not leave by the other.
    pub(super) fn detach_device(&self, owner: Owner, ifname: &str) -> Result<()> {
        owner.points().iter().rev().try_for_each(|point| self.remove(&pin(ifname, point)))
    }

    /// The names of the devices that have links, of this layout or another, sorted.
    pub(super) fn devices(&self, owner: Owner) -> Result<Vec<String>> {
        let names = self.names()?;
        let stems = names.iter().filter_map(|name| owner.points().iter().find_map(|p| name.strip_suffix(p.suffix)));
        let mut devices: Vec<String> = stems.map(from_stem).collect();
        devices.sort_unstable();
        devices.dedup();
        Ok(devices)
    }

    fn device(&self, pin: String, point: &Point, program: BorrowedFd<'_>, ifindex: u32) -> Result<()> {
        let run = || match self.mechanism {
            Mechanism::Tcx => {
                let attach = match point.direction {
                    Direction::Ingress => BPF_TCX_INGRESS,
                    Direction::Egress => BPF_TCX_EGRESS,
                };
                self.attach(&pin, program, attach, LinkTarget::Device(ifindex), ifindex)
            }
            Mechanism::Clsact => {
                clsact::attach(ifindex, point.direction, program, point.program)?;
                self.pin(&pin, program)
            }
        };
        run().map_err(explain(point.program, format!("network device {ifindex} ({pin})")))
    }

    /// Takes a link off its target and removes its pin. After that the same program may be attached there again.
    fn remove(&self, pin: &str) -> Result<()> {
        let run = |path: &Path| {
            match (self.mechanism, device_of(pin)) {
                (Mechanism::Clsact, Some((point, ifname))) => {
                    if let Ok(ifindex) = nix::net::if_::if_nametoindex(ifname.as_str()) {
                        clsact::detach(ifindex, point.direction)?;
                    }
                }
                // Here a fresh pin of a device is a program, not a link; what it replaces is in its place already.
                (Mechanism::Clsact, None) => {}
                (Mechanism::Tcx, _) => {
                    if let Some(link) = open(path)? {
                        syscall::link_detach(link.as_fd())?;
                    }
                }
            }
            unlink(path)
        };
        for directory in self.others.links().chain([self.directory.clone()]) {
            let path = directory.join(pin);
            run(&path).map_err(|source| Error::Path { operation: "detach the link", path: path.clone(), source })?;
        }
        Ok(())
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
        if let Some(link) = open(&self.directory.join(pin))? {
            let is_device = matches!(wanted, LinkTarget::Device(_));
            if syscall::link_target(link.as_fd(), is_device)? == wanted {
                return syscall::link_update(link.as_fd(), program);
            }
        }
        let link = syscall::link_create(program, target, attach)?;
        self.pin(pin, link.as_fd())
    }

    /// Pins under a name that may be taken.
    fn pin(&self, pin: &str, object: BorrowedFd<'_>) -> io::Result<()> {
        let fresh = self.directory.join(format!("{pin}{FRESH}"));
        unlink(&fresh)?;
        syscall::object_pin(object, &fresh)?;
        fs::rename(&fresh, self.directory.join(pin))
    }

    /// A device's link goes with it: then the pin is all that is left of it.
    fn replace(&self, pin: &str, point: &Point, program: BorrowedFd<'_>) -> Result<()> {
        let run = || match self.mechanism {
            Mechanism::Tcx => self.replace_link(pin, program),
            Mechanism::Clsact => {
                let ifname = device_of(pin).map(|(_, ifname)| ifname).unwrap_or_default();
                let Ok(ifindex) = nix::net::if_::if_nametoindex(ifname.as_str()) else { return Ok(false) };
                clsact::attach(ifindex, point.direction, program, point.program)?;
                self.pin(pin, program).map(|()| true)
            }
        };
        match run().map_err(explain(point.program, pin.to_owned())) {
            Ok(true) => Ok(()),
            Ok(false) => self.remove(pin),
            Err(error) => Err(error),
        }
    }

    /// False when the device is gone.
    fn replace_link(&self, pin: &str, program: BorrowedFd<'_>) -> io::Result<bool> {
        let Some(link) = open(&self.directory.join(pin))? else { return Ok(true) };
        if syscall::link_target(link.as_fd(), true)? == LinkTarget::Device(0) {
            return Ok(false);
        }
        match syscall::link_update(link.as_fd(), program) {
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// The names of all pins, of this layout and others.
    fn names(&self) -> Result<Vec<String>> {
        let mut names = list(&self.directory)?;
        for directory in self.others.links() {
            names.extend(list(&directory)?);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }
}

/// Takes the filters off all devices that are named by pins below a node's directory.
pub(super) fn take_filters_off(node: &Path) -> Result<()> {
    let Ok(layouts) = fs::read_dir(node) else { return Ok(()) };
    for layout in layouts.flatten() {
        let directory = layout.path().join("links");
        for pin in list(&directory).unwrap_or_default() {
            let Some((point, ifname)) = device_of(&pin) else { continue };
            let Ok(ifindex) = nix::net::if_::if_nametoindex(ifname.as_str()) else { continue };
            clsact::detach(ifindex, point.direction).map_err(explain(point.program, ifname))?;
        }
    }
    Ok(())
}

/// bpffs refuses names with a dot, and a device's name has no colon.
fn pin(ifname: &str, point: &Point) -> String {
    format!("{}{}", ifname.replace('.', ":"), point.suffix)
}

fn from_stem(stem: &str) -> String {
    stem.replace(':', ".")
}

/// The device a pin is about, when it is a pod's or the node's.
fn device_of(pin: &str) -> Option<(&'static Point, String)> {
    let mut points = POD.iter().chain(&NETDEV);
    points.find_map(|point| Some((point, from_stem(pin.strip_suffix(point.suffix)?))))
}

fn list(directory: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::Path { operation: "list", path: directory.into(), source };
    let entries = fs::read_dir(directory).map_err(failed)?;
    let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<io::Result<_>>().map_err(failed)
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
