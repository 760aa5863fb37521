//! Attachments and resting addresses on disk: one small file each, written whole or not at all.
//!
//! ```text
//! <state_dir>/attachments/<container id>@<ifname>   an Attachment as JSON
//! <state_dir>/resting/<address>                     when it was released, milliseconds since 1970
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::attachment::Attachment;
use super::protocol::Key;

/// The files of one node.
#[derive(Debug)]
pub struct Records {
    attachments: PathBuf,
    resting: PathBuf,
}

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is no record of a pod ({reason}): look at it, then delete it and the pod it belongs to", path.display())]
    Corrupt { path: PathBuf, reason: String },
}

/// What was on disk.
#[derive(Debug, Default)]
pub struct Loaded {
    pub attachments: Vec<Attachment>,
    pub resting: Vec<(IpAddr, SystemTime)>,
}

impl Records {
    pub fn open(state_dir: &Path) -> Result<Self, RecordError> {
        let records = Self { attachments: state_dir.join("attachments"), resting: state_dir.join("resting") };
        for directory in [&records.attachments, &records.resting] {
            fs::create_dir_all(directory).map_err(failed("create the directory", directory))?;
        }
        Ok(records)
    }

    /// Reads all files; what a crash left half-written is removed.
    pub fn load(&self) -> Result<Loaded, RecordError> {
        let mut loaded = Loaded::default();
        for path in files(&self.attachments)? {
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            let attachment: Attachment = serde_json::from_slice(&bytes)
                .map_err(|error| RecordError::Corrupt { path: path.clone(), reason: error.to_string() })?;
            if attachment.addresses().iter().next().is_none() {
                return Err(RecordError::Corrupt { path, reason: "it has no address".into() });
            }
            loaded.attachments.push(attachment);
        }
        for path in files(&self.resting)? {
            let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
            match parse_resting(&path, &text) {
                Some(entry) => loaded.resting.push(entry),
                None => return Err(RecordError::Corrupt { path, reason: "not an address and a time".into() }),
            }
        }
        Ok(loaded)
    }

    /// On disk for good when it returns.
    pub fn save(&self, attachment: &Attachment) -> Result<(), RecordError> {
        let path = self.attachment_path(&attachment.key());
        let bytes = serde_json::to_vec_pretty(attachment)
            .map_err(|error| RecordError::Corrupt { path: path.clone(), reason: error.to_string() })?;
        write_whole(&path, &bytes)?;
        // The address is in use again, whatever was said of it before.
        attachment.addresses().iter().try_for_each(|address| self.forget_resting(address))
    }

    /// Turns an attachment into resting addresses, in this order: a crash in between leaves the attachment, which
    /// is then collected as one whose device is gone.
    pub fn release(&self, attachment: &Attachment, now: SystemTime) -> Result<(), RecordError> {
        let millis = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        for address in attachment.addresses().iter() {
            write_whole(&self.resting.join(address.to_string()), millis.to_string().as_bytes())?;
        }
        remove(&self.attachment_path(&attachment.key()))
    }

    /// Removes an attachment that never came to be.
    pub fn cancel(&self, attachment: &Attachment) -> Result<(), RecordError> {
        remove(&self.attachment_path(&attachment.key()))
    }

    fn forget_resting(&self, address: IpAddr) -> Result<(), RecordError> {
        remove(&self.resting.join(address.to_string()))
    }

    /// A key cannot contain a `/`, a container id no `@`.
    fn attachment_path(&self, key: &Key) -> PathBuf {
        self.attachments.join(format!("{}@{}", key.container_id, key.ifname))
    }
}

/// How files being written begin; no container id and no address does.
const UNFINISHED: &str = ".";

/// Writes a file that is there with all its content or not at all, even after a loss of power.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!("{UNFINISHED}{name}"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        sync_directory(path)
    };
    write().map_err(failed("write", path))
}

fn remove(path: &Path) -> Result<(), RecordError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(path).map_err(failed("remove", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, RecordError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let path = entry.map_err(failed("read", directory))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED)) {
            remove(&path)?;
        } else {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn parse_resting(path: &Path, text: &str) -> Option<(IpAddr, SystemTime)> {
    let address = path.file_name()?.to_str()?.parse().ok()?;
    let released = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(text.trim().parse().ok()?))?;
    Some((address, released))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::pods::attachment::Names;

    fn attachment(id: &str, last: u8) -> Attachment {
        let names = Names::of(&Key::new(id, "eth0").unwrap());
        Attachment {
            container_id: id.into(),
            ifname: "eth0".into(),
            network: "diolkos".into(),
            netns: "/run/netns/x".into(),
            netns_cookie: Some(7),
            v4: Some(Ipv4Addr::new(10, 244, 1, last)),
            v6: Some(Ipv6Addr::new(0xfd44, 1, 0, 0, 0, 0, 0, last.into())),
            host_ifname: names.host_ifname,
            host_mac: names.host_mac,
            pod_mac: names.pod_mac,
            mtu: 1450,
            socket_lb_off: false,
            socket_lb_unknown: false,
            tap: false,
            pod: "default/web".into(),
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_what_was_released_rests() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let (kept, gone) = (attachment("kept", 2), attachment("gone", 3));
        records.save(&kept).unwrap();
        records.save(&gone).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        records.release(&gone, now).unwrap();
        records.release(&gone, now).unwrap();
        let loaded = Records::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(loaded.attachments, [kept]);
        let addresses: Vec<IpAddr> = gone.addresses().iter().collect();
        assert_eq!(loaded.resting, [(addresses[0], now), (addresses[1], now)]);
        records.save(&attachment("next", 3)).unwrap();
        assert!(records.load().unwrap().resting.is_empty(), "the addresses have a pod again");
    }

    #[test]
    fn a_record_from_before_ipv6_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let text = r#"{
            "containerId": "c1", "ifname": "eth0", "network": "diolkos", "netns": "/run/netns/x",
            "netnsCookie": 4097, "address": "10.244.1.2", "hostIfname": "di00112233445",
            "hostMac": [10, 210, 1, 2, 3, 4], "podMac": [10, 211, 1, 2, 3, 4], "mtu": 1450,
            "socketLbOff": true, "pod": "default/web"
        }"#;
        fs::write(dir.path().join("attachments/c1@eth0"), text).unwrap();
        let read = &records.load().unwrap().attachments[0];
        assert_eq!((read.v4, read.v6), (Some(Ipv4Addr::new(10, 244, 1, 2)), None));
        assert!(read.socket_lb_off && !read.socket_lb_unknown && !read.tap);
    }

    #[test]
    fn a_record_without_an_address_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let none = Attachment { v4: None, v6: None, ..attachment("c1", 2) };
        records.save(&none).unwrap();
        let error = records.load().unwrap_err().to_string();
        assert!(error.contains("attachments/c1@eth0") && error.contains("address"), "{error}");
    }

    #[test]
    fn what_a_crash_left_half_written_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let half = dir.path().join("attachments/.c1@eth0");
        fs::write(&half, "{").unwrap();
        assert!(records.load().unwrap().attachments.is_empty());
        assert!(!half.exists());
    }

    #[test]
    fn a_corrupt_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        fs::write(dir.path().join("attachments/c1@eth0"), "{").unwrap();
        let error = records.load().unwrap_err().to_string();
        assert!(error.contains("attachments/c1@eth0"), "{error}");
    }
}
