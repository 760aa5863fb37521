//! Private files: mode 0600 in directories of mode 0700, written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::PkiError;

/// Writes a file of mode 0600 through a new file beside it, so that a reader sees the old or the new text, never half.
pub fn write_private(path: &Path, text: &[u8]) -> Result<(), PkiError> {
    let failed = |cause| PkiError::File { operation: "write", path: path.to_owned(), cause };
    let fresh = beside(path);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    })();
    if written.is_err() {
        // The rest of a failed write is of no use; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&fresh);
    }
    written.map_err(failed)
}

/// What is there of a certificate and its key.
pub(super) enum Pair {
    None,
    /// The key was written but its certificate was not: a first start that was cut short.
    Key {
        key_pem: String,
    },
    Whole {
        key_pem: String,
        cert_pem: String,
    },
}

impl Pair {
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Pair::None => None,
            Pair::Key { key_pem } | Pair::Whole { key_pem, .. } => Some(key_pem),
        }
    }
}

pub(super) fn load_pair(dir: &Path, name: &str) -> Result<Pair, PkiError> {
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    match (read(&cert)?, read(&key)?) {
        (Some(cert_pem), Some(key_pem)) => Ok(Pair::Whole { key_pem, cert_pem }),
        (None, Some(key_pem)) => Ok(Pair::Key { key_pem }),
        (Some(_), None) => Err(PkiError::KeyMissing { cert, key }),
        (None, None) => Ok(Pair::None),
    }
}

/// The key goes first: a certificate without its key could not be mended.
pub(super) fn save_pair(dir: &Path, name: &str, key_pem: &str, cert_pem: &str) -> Result<(), PkiError> {
    write_private(&dir.join(format!("{name}.key")), key_pem.as_bytes())?;
    write_private(&dir.join(format!("{name}.crt")), cert_pem.as_bytes())
}

/// Makes a directory, and those above it, that only its owner enters.
pub fn make_private_dir(dir: &Path) -> Result<(), PkiError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|cause| PkiError::File {
        operation: "make the directory",
        path: dir.to_owned(),
        cause,
    })
}

/// Held while files are made, so that processes that start together agree on one authority.
pub(super) fn lock(dir: &Path) -> Result<File, PkiError> {
    let path = dir.join(".lock");
    let failed = |cause| PkiError::File { operation: "lock", path: path.clone(), cause };
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// The files of a directory whose names begin and end so, in order.
pub(super) fn named(dir: &Path, begin: &str, end: &str) -> Result<Vec<PathBuf>, PkiError> {
    let failed = |cause| PkiError::File { operation: "list", path: dir.to_owned(), cause };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(begin) && name.ends_with(end)) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(PkiError::File { operation: "read", path: path.to_owned(), cause }),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}
