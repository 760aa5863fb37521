//! The initial file system of a machine: a shell, `ip`, the test binaries, what they need, and what to do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Archive;
use super::machine::{BINARY, Selection};
use super::packages::{Files, busybox, read_module};
use super::{Kernel, SUITE};
use crate::Result;
use crate::build::{OBJECTS, object};
use crate::test::Binary;
use crate::workspace::{on_path, output, target};

/// What the tests use that the cloud kernels have as modules. One that a kernel does not know is built in, or not used.
const MODULES: [&str; 10] =
    ["veth", "dummy", "bridge", "tun", "vxlan", "geneve", "cls_bpf", "sch_ingress", "tcp_diag", "udp_diag"];
const APPLETS: [&str; 12] =
    ["sh", "mount", "umount", "insmod", "poweroff", "cat", "ls", "mkdir", "sleep", "ping", "sysctl", "env"];

/// A test binary and the tests of it that run when none is asked for.
pub(super) type Inside<'a> = (&'a Binary, &'static [&'static str]);

/// Writes the image and returns where it is.
pub(super) fn build(kernel: &Kernel, files: &Files, binaries: &[Inside<'_>], selection: &Selection) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for directory in ["proc", "sys", "dev", "tmp", "run", "etc", "var"] {
        archive.directory(directory);
    }
    add(&mut archive, &busybox()?, "/bin/busybox")?;
    APPLETS.iter().for_each(|applet| archive.link(&format!("/bin/{applet}"), "busybox"));
    let ip = on_path("ip").ok_or("ip (iproute2) is missing: run setup")?;
    add_with_libraries(&mut archive, &ip, "/bin/ip")?;
    for (binary, _) in binaries {
        add_with_libraries(&mut archive, &binary.executable, &format!("/tests/{}", binary.name))?;
    }
    for name in OBJECTS {
        add(&mut archive, &object(name), &format!("/ebpf/{name}.o"))?;
    }
    let modules = modules(&files.modules)?;
    for (name, content) in &modules {
        archive.file(&format!("/modules/{name}.ko"), content);
    }
    let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    archive.file("/init", init(&names, binaries, selection).as_bytes());
    let path = target().join(SUITE).join(format!("{}.cpio", kernel.version));
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&path, archive.finish()))
        .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(path)
}

/// What the first process does. `@binary` lines tell the reader whose tests follow.
fn init(modules: &[&str], binaries: &[Inside<'_>], selection: &Selection) -> String {
    let mut script = String::from(
        "#!/bin/sh\nexport PATH=/bin HOME=/tmp RUSTC_BOOTSTRAP=1 DIOLKOS_EBPF_OBJECT=/ebpf/dataplane.o\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev\n\
         mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /run; mount -t bpf bpf /sys/fs/bpf\n\
         mount -t tmpfs tmpfs /sys/fs/cgroup; mkdir /sys/fs/cgroup/unified\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified\n",
    );
    modules.iter().for_each(|name| script.push_str(&format!("insmod /modules/{name}.ko\n")));
    script.push_str("ip link set lo up\ncd /tmp\n");
    let mut arguments = String::from("-Z unstable-options --format json --report-time --show-output --test-threads 1");
    if selection.exact {
        arguments.push_str(" --exact");
    }
    for (binary, usual) in binaries {
        let own = match (selection.exact, selection.tests.is_empty()) {
            (true, _) => binary.own(&selection.tests),
            (false, true) => usual.iter().map(|part| (*part).to_owned()).collect(),
            (false, false) => selection.tests.clone(),
        };
        if !selection.exact || !own.is_empty() {
            let (name, own) = (&binary.name, own.join(" "));
            script.push_str(&format!("echo; echo '{BINARY}{name}'; /tests/{name} {arguments} {own}\n"));
        }
    }
    script.push_str("poweroff -f\n");
    script
}

/// The wanted modules and those they need, each after what it needs.
fn modules(directory: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let listing = output(Command::new("find").arg(directory).args(["-name", "*.ko*"]))?;
    let files: Vec<&Path> = listing.lines().map(Path::new).collect();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for name in MODULES {
        visit(name, &files, &mut seen, &mut found)?;
    }
    Ok(found)
}

fn visit(name: &str, files: &[&Path], seen: &mut BTreeSet<String>, found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let is_it = |path: &&&Path| {
        let file = path.file_name().map(|file| file.to_string_lossy().replace('-', "_")).unwrap_or_default();
        file.split_once(".ko").is_some_and(|(stem, _)| stem == name)
    };
    let Some(path) = files.iter().find(is_it) else { return Ok(()) };
    let content = read_module(path)?;
    for needed in depends(&content) {
        visit(&needed, files, seen, found)?;
    }
    found.push((name.to_owned(), content));
    Ok(())
}

/// The modules one needs, from the `depends=` of its `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(list).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn add(archive: &mut Archive, file: &Path, path: &str) -> Result<()> {
    let content = fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    archive.file(path, &content);
    Ok(())
}

/// A program and the libraries it is linked with, at the places where its loader looks.
fn add_with_libraries(archive: &mut Archive, program: &Path, path: &str) -> Result<()> {
    add(archive, program, path)?;
    let text = output(Command::new("ldd").arg(program))?;
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        add(archive, Path::new(library), library)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_needs_are_read_from_the_file() {
        assert_eq!(
            depends(b"ELF\0license=GPL\0depends=udp_tunnel,ip6-udp-tunnel\0name=vxlan\0"),
            ["udp_tunnel", "ip6_udp_tunnel"]
        );
        assert!(depends(b"\0depends=\0name=veth").is_empty());
        assert!(depends(b"nothing").is_empty());
    }
}
