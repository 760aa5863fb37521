//! What this machine offers the dataplane: each feature used, which fallback is taken where it is missing, and what that
//! costs. `diolkos check` shows it.

use std::fmt::Write as _;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use serde::Serialize;

use crate::dataplane::kernel::{Facts, OLDEST};
use crate::options::local_ports;

/// What was found out.
#[derive(Clone, Debug)]
pub struct Probe {
    pub kernel: Facts,
    pub bpffs: PathBuf,
    pub is_bpffs: bool,
    /// None when no cgroup2 hierarchy is mounted.
    pub cgroup: Option<PathBuf>,
    pub is_cgroup2: bool,
    /// Content of files below /proc/sys; absent ones are left out.
    pub settings: Vec<(&'static str, String)>,
    /// Devices that are up and no loopback, with their MTU in bytes.
    pub mtus: Vec<(String, u32)>,
    /// The ports the agent is to translate sources to.
    pub masquerade_ports: RangeInclusive<u16>,
}

/// What a row means for the dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It works, in another way or with a loss that the row names.
    Fallback,
    /// It cannot work.
    Fails,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub what: &'static str,
    pub found: String,
    pub verdict: Verdict,
    /// Which fallback is taken and what is lost, or what to do; empty when all is well.
    pub note: String,
}

const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
const RP_FILTER: &str = "net/ipv4/conf/all/rp_filter";
const LOCAL_PORTS: &str = "net/ipv4/ip_local_port_range";
const JIT: &str = "net/core/bpf_jit_enable";
/// Of the pods' network: IPv6 asks for it (RFC 8200), and the tunnel takes 70 bytes.
const SMALLEST_MTU: u32 = 1280 + 70;

/// Looks at the machine.
pub fn probe(bpffs: &Path, cgroup_root: Option<&Path>, masquerade_ports: RangeInclusive<u16>) -> Probe {
    let cgroup =
        cgroup_root.map(Path::to_owned).or_else(|| crate::run::cgroup2_root(Path::new("/proc/self/mountinfo")).ok());
    let names = [FORWARDING[0], FORWARDING[1], RP_FILTER, LOCAL_PORTS, JIT];
    let read =
        |name| fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|text| (name, text.trim().to_owned()));
    Probe {
        kernel: Facts::of_kernel(),
        is_bpffs: is_on(bpffs, BPF_FS_MAGIC),
        bpffs: bpffs.to_owned(),
        is_cgroup2: cgroup.as_deref().is_some_and(|cgroup| is_on(cgroup, CGROUP2_SUPER_MAGIC)),
        cgroup,
        settings: names.into_iter().filter_map(read).collect(),
        mtus: mtus(Path::new("/sys/class/net")),
        masquerade_ports,
    }
}

/// The table: kernel features, then settings of the machine.
pub fn table(probe: &Probe) -> Vec<Row> {
    let mut rows = kernel(&probe.kernel);
    rows.extend(mounts(probe));
    rows.extend(settings(probe));
    rows
}

/// Whether the dataplane can work, maybe with fallbacks.
pub fn works(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.verdict != Verdict::Fails)
}

/// The table for people.
pub fn render(rows: &[Row]) -> String {
    let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or_default();
    let (what, found) = (width(|row| row.what.len()), width(|row| row.found.len()));
    let mut text = String::new();
    for row in rows {
        let verdict = match row.verdict {
            Verdict::Ok => "ok",
            Verdict::Fallback => "fallback",
            Verdict::Fails => "FAILS",
        };
        let line = format!("{verdict:8}  {:what$}  {:found$}  {}", row.what, row.found, row.note);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push_str(if works(rows) { "Diolkos works here.\n" } else { "Diolkos cannot work here.\n" });
    text
}

fn kernel(facts: &Facts) -> Vec<Row> {
    let kernel = match facts.require() {
        Ok(()) => row("kernel", facts.release.clone(), Verdict::Ok, ""),
        Err(error) => row("kernel", facts.release.clone(), Verdict::Fails, &error.to_string()),
    };
    let feature = |what, present: bool, note: &str| {
        let (found, verdict) = if present { ("yes", Verdict::Ok) } else { ("no", Verdict::Fallback) };
        row(what, found.into(), verdict, if present { "" } else { note })
    };
    let base = facts.version() >= OLDEST;
    let needed = |what, since: &str| {
        let (found, verdict) = if base { ("yes", Verdict::Ok) } else { ("no", Verdict::Fails) };
        row(
            what,
            found.into(),
            verdict,
            &if base { String::new() } else { format!("Linux {since} or newer is needed") },
        )
    };
    vec![
        kernel,
        needed("arrays in user memory", "5.5"),
        needed("batches of map elements", "5.6"),
        needed("cgroup links", "5.7"),
        needed("ring buffer", "5.8"),
        needed("redirect to a pod (redirect_peer)", "5.10"),
        feature(
            "tcx",
            facts.tcx(),
            "before Linux 6.6: programs of devices are clsact filters. Nothing is lost but links: removing the pins does \
             not detach",
        ),
        feature(
            "result of system calls (set_retval)",
            facts.set_retval,
            "before Linux 5.18: what a socket is refused is refused to its packets, by RST or ICMP; connect() says the \
             same a moment later",
        ),
        feature(
            "cookie of network namespaces (SO_NETNS_COOKIE)",
            facts.netns_cookie,
            "before Linux 5.14: whose a socket is stays unknown to the socket hooks. Pods cannot opt out of socket \
             translation, and session affinity holds for packets only",
        ),
    ]
}

fn mounts(probe: &Probe) -> [Row; 2] {
    let bpffs = match probe.is_bpffs {
        true => row("bpf file system", probe.bpffs.display().to_string(), Verdict::Ok, ""),
        false => row(
            "bpf file system",
            format!("not at {}", probe.bpffs.display()),
            Verdict::Fails,
            "mount -t bpf bpf <directory>, or name another with --bpffs",
        ),
    };
    let cgroup = match &probe.cgroup {
        Some(cgroup) if probe.is_cgroup2 => row("cgroup2", cgroup.display().to_string(), Verdict::Ok, ""),
        Some(cgroup) => {
            let advice = "name a cgroup2 directory with --cgroup-root; findmnt -t cgroup2 shows where it is mounted";
            row("cgroup2", format!("not at {}", cgroup.display()), Verdict::Fails, advice)
        }
        None => row("cgroup2", "not mounted".into(), Verdict::Fails, "mount -t cgroup2 cgroup2 <directory>"),
    };
    [bpffs, cgroup]
}

fn settings(probe: &Probe) -> Vec<Row> {
    let value = |name| probe.settings.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str());
    let mut rows = Vec::new();
    for name in FORWARDING {
        rows.push(match value(name) {
            Some("0") => row(name, "0".into(), Verdict::Ok, "the agent sets it to 1"),
            Some(on) => row(name, on.into(), Verdict::Ok, ""),
            None => row(name, "absent".into(), Verdict::Fallback, "the kernel lacks this family: it is not served"),
        });
    }
    let strict = value(RP_FILTER) == Some("1");
    let loosened = if strict { "strict filtering drops what is redirected: the agent sets it to 2" } else { "" };
    rows.push(row(RP_FILTER, value(RP_FILTER).unwrap_or("absent").into(), Verdict::Ok, loosened));
    rows.push(ports(value(LOCAL_PORTS).unwrap_or_default(), &probe.masquerade_ports));
    if value(JIT) == Some("0") {
        let note = "programs are interpreted, several times slower: sysctl net.core.bpf_jit_enable=1";
        rows.push(row(JIT, "0".into(), Verdict::Fallback, note));
    }
    for (name, mtu) in &probe.mtus {
        let small = *mtu < SMALLEST_MTU;
        let note = if small { "too small for IPv6 in a tunnel: pods get less than 1280 bytes" } else { "" };
        let verdict = if small { Verdict::Fallback } else { Verdict::Ok };
        rows.push(row("MTU", format!("{name} {mtu}"), verdict, note));
    }
    rows
}

fn ports(local: &str, masquerade: &RangeInclusive<u16>) -> Row {
    let found = local.split_whitespace().collect::<Vec<_>>().join("-");
    match local_ports(local) {
        Some(range) if range.start() <= masquerade.end() && masquerade.start() <= range.end() => row(
            LOCAL_PORTS,
            found,
            Verdict::Fails,
            &format!(
                "meets the ports of masqueraded pods, {}-{}: choose others with --masquerade-ports",
                masquerade.start(),
                masquerade.end()
            ),
        ),
        Some(_) => row(LOCAL_PORTS, found, Verdict::Ok, ""),
        None => row(LOCAL_PORTS, found, Verdict::Fails, "says no range: the agent cannot tell its ports from others'"),
    }
}

fn row(what: &'static str, found: String, verdict: Verdict, note: &str) -> Row {
    Row { what, found, verdict, note: note.to_owned() }
}

fn is_on(path: &Path, magic: FsType) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == magic)
}

fn mtus(devices: &Path) -> Vec<(String, u32)> {
    const LOOPBACK: u32 = 0x8;
    const UP: u32 = 0x1;
    let names = fs::read_dir(devices).into_iter().flatten().flatten();
    let mut found: Vec<(String, u32)> = names
        .filter_map(|entry| {
            let read = |file| fs::read_to_string(entry.path().join(file)).ok().map(|text| text.trim().to_owned());
            let flags = u32::from_str_radix(read("flags")?.strip_prefix("0x")?, 16).ok()?;
            let counts = flags & UP != 0 && flags & LOOPBACK == 0;
            let mtu = read("mtu")?.parse().ok()?;
            counts.then(|| (entry.file_name().to_string_lossy().into_owned(), mtu))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn machine(release: &str) -> Probe {
        Probe {
            kernel: Facts {
                release: release.into(),
                bpf: Ok(true),
                set_retval: true,
                netns_cookie: true,
                socket_controllers: Vec::new(),
            },
            bpffs: "/sys/fs/bpf".into(),
            is_bpffs: true,
            cgroup: Some("/sys/fs/cgroup".into()),
            is_cgroup2: true,
            settings: vec![
                (FORWARDING[0], "1".into()),
                (FORWARDING[1], "1".into()),
                (RP_FILTER, "0".into()),
                (LOCAL_PORTS, "32768\t60999".into()),
                (JIT, "1".into()),
            ],
            mtus: vec![("eth0".into(), 1500)],
            masquerade_ports: 61_000..=65_535,
        }
    }

    fn not_ok(probe: &Probe) -> Vec<(&'static str, Verdict)> {
        table(probe).iter().filter(|row| row.verdict != Verdict::Ok).map(|row| (row.what, row.verdict)).collect()
    }

    #[test]
    fn a_machine_with_everything_has_no_note() {
        let rows = table(&machine("6.18.0"));
        assert!(works(&rows) && rows.iter().all(|row| row.note.is_empty()), "{rows:#?}");
    }

    #[test]
    fn every_missing_feature_has_its_fallback_and_says_what_is_lost() {
        let mut probe = machine("5.10.0-46-cloud-amd64");
        probe.kernel = Facts { bpf: Ok(false), set_retval: false, netns_cookie: false, ..probe.kernel };
        let rows = table(&probe);
        let lost: Vec<_> = rows.iter().filter(|row| row.verdict == Verdict::Fallback).collect();
        assert_eq!(lost.len(), 3, "{rows:#?}");
        for (row, part) in lost.iter().zip(["clsact", "RST or ICMP", "cannot opt out"]) {
            assert!(row.found == "no" && row.note.contains(part), "{row:?}");
        }
        assert!(works(&rows) && render(&rows).ends_with("Diolkos works here.\n"));
    }

    #[test]
    fn what_cannot_work_fails_and_says_what_to_do() {
        let fails = |change: fn(&mut Probe), what: &'static str, note: &str| {
            let mut probe = machine("6.1.0");
            change(&mut probe);
            let rows = table(&probe);
            let row = rows.iter().find(|row| row.verdict == Verdict::Fails).unwrap();
            assert!(row.what == what && row.note.contains(note), "{row:?}");
            assert!(!works(&rows) && render(&rows).contains("FAILS"));
        };
        fails(|probe| probe.kernel.release = "5.4.0".into(), "kernel", "5.10 or newer");
        fails(|probe| probe.kernel.bpf = Err(libc::EPERM), "kernel", "run as root");
        fails(|probe| probe.is_bpffs = false, "bpf file system", "mount -t bpf");
        fails(|probe| probe.cgroup = None, "cgroup2", "mount -t cgroup2");
        fails(|probe| probe.is_cgroup2 = false, "cgroup2", "--cgroup-root");
        fails(|probe| probe.masquerade_ports = 40_000..=50_000, LOCAL_PORTS, "--masquerade-ports");
    }

    #[test]
    fn settings_that_the_agent_changes_are_no_failure() {
        let mut probe = machine("6.1.0");
        probe.settings[0].1 = "0".into();
        probe.settings[2].1 = "1".into();
        assert!(not_ok(&probe).is_empty());
        assert_eq!(table(&probe).iter().filter(|row| row.note.starts_with("the agent sets it to 1")).count(), 1);
        probe.mtus[0].1 = 1300;
        probe.settings[4].1 = "0".into();
        assert_eq!(not_ok(&probe), [(JIT, Verdict::Fallback), ("MTU", Verdict::Fallback)]);
    }
}
