//! Container images from files of this machine, without Docker and without a registry: archives in the OCI image
//! layout, as `ctr images import` takes them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::tools;

/// Waits until it is told to end: what containerd runs in every sandbox.
pub const PAUSE: &str = "registry.local/diolkos/pause:1";
/// busybox with all its applets.
pub const BUSYBOX: &str = "registry.local/diolkos/busybox:1";
/// busybox and iperf3.
pub const IPERF3: &str = "registry.local/diolkos/iperf3:1";

/// Waits, and ends at once when asked: without a handler, TERM would pass by the first process of a namespace.
const WAIT: &str = "trap 'exit 0' TERM INT; while :; do sleep 2147483647 & wait $!; done";
const SEARCH_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What goes into an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSpec {
    /// Full name with a tag.
    pub name: String,
    /// Programs: path here, absolute path in the image. The shared libraries they need come along.
    pub programs: Vec<(PathBuf, String)>,
    /// Symbolic links: absolute path in the image, target.
    pub links: Vec<(String, String)>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
}

impl ImageSpec {
    /// [`PAUSE`]
    pub fn pause() -> Result<Self> {
        let wait = ["/bin/sh", "-c", WAIT].map(str::to_owned).to_vec();
        Ok(Self { name: PAUSE.into(), entrypoint: wait, ..Self::busybox()? })
    }

    /// [`BUSYBOX`]
    pub fn busybox() -> Result<Self> {
        let busybox = tools::find("busybox")?;
        let output = Command::new(&busybox).arg("--list").output().context("cannot run busybox")?;
        let applets = String::from_utf8(output.stdout).context("busybox --list is no text")?;
        let names = applets.lines().filter(|name| !name.is_empty() && *name != "busybox");
        let links = names.map(|name| (format!("/bin/{name}"), "busybox".to_owned())).collect();
        let programs = vec![(busybox, "/bin/busybox".to_owned())];
        let command = vec!["/bin/sh".to_owned()];
        Ok(Self { name: BUSYBOX.into(), programs, links, command, ..Self::default() })
    }

    /// [`IPERF3`]: serves unless it is told otherwise.
    pub fn iperf3() -> Result<Self> {
        let mut spec = Self { name: IPERF3.into(), ..Self::busybox()? };
        spec.programs.push((tools::find("iperf3")?, "/usr/bin/iperf3".to_owned()));
        spec.command = ["/usr/bin/iperf3", "--server"].map(str::to_owned).to_vec();
        Ok(spec)
    }

    /// The same content under another name.
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }
}

/// Builds the image and writes it to `out`. The same files give the same bytes.
pub fn build(spec: &ImageSpec, out: &Path) -> Result<()> {
    ensure!(spec.name.contains('/') && spec.name.contains(':'), "{:?} is no full image name with a tag", spec.name);
    let work = tempfile::tempdir().context("cannot create a temporary directory")?;
    let root = work.path().join("root");
    let blobs = work.path().join("image/blobs/sha256");
    fs::create_dir_all(&blobs).context("cannot create the image's directory")?;
    fill(spec, &root).with_context(|| format!("cannot gather the files of {}", spec.name))?;
    let layer = work.path().join("layer.tar");
    archive(&root, &layer)?;
    let (layer_digest, layer_size) = add_blob(&blobs, &fs::read(&layer)?)?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Env": [SEARCH_PATH], "Entrypoint": spec.entrypoint, "Cmd": spec.command},
        // The layer is not compressed, so its digest is that of its content.
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        "history": [{"created_by": "diolkos"}],
    });
    let (config_digest, config_size) = add_blob(&blobs, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config_size),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer_digest, layer_size)],
    });
    let (manifest_digest, manifest_size) = add_blob(&blobs, manifest.to_string().as_bytes())?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest_digest, manifest_size);
    let tag = spec.name.rsplit(':').next().unwrap_or_default();
    entry["annotations"] = json!({"io.containerd.image.name": spec.name, "org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let image = work.path().join("image");
    fs::write(image.join("index.json"), index.to_string())?;
    fs::write(image.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    if let Some(parent) = out.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    archive(&image, out)
}

/// Builds each image into `directory`; the answer is the archives, in the same order.
pub fn build_all(specs: &[ImageSpec], directory: &Path) -> Result<Vec<PathBuf>> {
    let file = |spec: &ImageSpec| directory.join(format!("{}.tar", spec.name.replace(['/', ':'], "_")));
    specs.iter().map(|spec| build(spec, &file(spec)).map(|()| file(spec))).collect()
}

/// Lays the image's files out below `root`.
fn fill(spec: &ImageSpec, root: &Path) -> Result<()> {
    for directory in ["bin", "lib", "etc", "usr/bin", "tmp", "var", "root", "proc", "sys", "dev", "run"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    for (from, to) in &spec.programs {
        add_program(from, to, root)?;
    }
    for (path, target) in &spec.links {
        let path = inside(root, path);
        if path.symlink_metadata().is_err() {
            symlink(target, &path).with_context(|| format!("cannot link {}", path.display()))?;
        }
    }
    Ok(())
}

/// A static program as it is. Another one with its libraries in a directory of its own, started by a script that
/// names it: a static busybox that finds a C library on the usual path loads parts of it, and crashes.
fn add_program(from: &Path, to: &str, root: &Path) -> Result<()> {
    let libraries = libraries(from)?;
    if libraries.is_empty() {
        return copy(from, &inside(root, to));
    }
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let own = format!("/usr/lib/{name}");
    copy(from, &inside(root, &format!("{own}/{name}")))?;
    for library in libraries {
        // The loader is named in the program by its full path; the others are found by name.
        let file = library.file_name().unwrap_or_default().to_string_lossy();
        let place =
            if file.starts_with("ld-") { library.to_string_lossy().into_owned() } else { format!("{own}/{file}") };
        copy(&library, &inside(root, &place))?;
    }
    let script = inside(root, to);
    fs::write(&script, format!("#!/bin/sh\nLD_LIBRARY_PATH={own} exec {own}/{name} \"$@\"\n"))?;
    Ok(fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?)
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

/// The shared libraries of a program and its loader, from ldd; none for a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LD_LIBRARY_PATH", std::env::join_paths(tools::libraries())?);
    let output = ldd.output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        // A static program is not an error here.
        ensure!(text.contains("not a dynamic") || complaint.contains("not a dynamic"), "ldd: {text}{complaint}");
        return Ok(Vec::new());
    }
    parse_ldd(&text).with_context(|| format!("libraries of {}", program.display()))
}

/// Lines are `name => path (address)`, `path (address)` or, for what the kernel brings, `name (address)`.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.contains("statically linked") {
            continue;
        }
        let place = line.split_once("=> ").map_or(line, |(_, place)| place);
        if place.starts_with("not found") {
            bail!("{line}");
        }
        let path = place.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// A tar archive that depends on nothing but the content.
fn archive(directory: &Path, out: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=gnu", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]);
    let output = tar.arg("--file").arg(out).arg("--directory").arg(directory).arg(".").output();
    let output = output.context("cannot run tar")?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Stores a blob under its digest; the answer is digest and size.
fn add_blob(blobs: &Path, bytes: &[u8]) -> Result<(String, usize)> {
    let unnamed = blobs.join("unnamed");
    fs::write(&unnamed, bytes)?;
    let output = Command::new("sha256sum").arg(&unnamed).output().context("cannot run sha256sum")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let digest = text.split_whitespace().next().filter(|digest| digest.len() == 64);
    let digest = digest.with_context(|| format!("sha256sum said {text:?}"))?;
    fs::rename(&unnamed, blobs.join(digest))?;
    Ok((format!("sha256:{digest}"), bytes.len()))
}

fn descriptor(media_type: &str, digest: &str, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// The name that images, after Go, give this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_lines_give_paths_and_a_missing_library_is_an_error() {
        let text =
            "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let found = parse_ldd(text).ok();
        assert_eq!(found, Some(["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from).to_vec()));
        assert!(parse_ldd("\tlibiperf.so.0 => not found\n").is_err());
        assert_eq!(parse_ldd("\tstatically linked\n").ok(), Some(Vec::new()));
    }
}
