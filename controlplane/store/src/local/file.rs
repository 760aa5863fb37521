//! The file: its tables, who may open it, and what its errors mean.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{Revision, StoreError};

/// "diol": marks the file as ours in its header.
const APPLICATION: i32 = 0x6469_6f6c;

/// The layout of the tables. Raised with every change of them.
const LAYOUT: i32 = 1;

/// How long a reader waits where SQLite must lock for a moment (opening the log of a crashed process).
const BUSY: Duration = Duration::from_secs(5);

/// Places in one commit: a change's id is its revision times this, plus its place.
pub(super) const PLACES: i64 = 256;

const _: () = assert!(crate::MAX_COMMIT_OPERATIONS <= PLACES as usize, "every operation of a commit has a place");

/// `change`: every version of every key since the last compaction. `value` is NULL for a deletion. `ended` is the
/// revision that replaced this version, NULL while it is the key's present one; a deletion is over when it is made.
const TABLES: &str = "
    CREATE TABLE number (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO number VALUES ('revision', 1), ('compacted', 0);
    CREATE TABLE change (id INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB, ended INTEGER);
    CREATE UNIQUE INDEX present ON change (key) WHERE ended IS NULL;
    CREATE INDEX version ON change (key, id);
    CREATE INDEX past ON change (ended) WHERE ended IS NOT NULL;
";

/// Takes the lock that one process at a time has, on a file beside the store: SQLite's own locks are on the store.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let place = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = place {
        fs::create_dir_all(parent).map_err(|error| refused(format!("{}: {error}", parent.display())))?;
    }
    let beside = PathBuf::from([path.as_os_str(), ".lock".as_ref()].into_iter().collect::<std::ffi::OsString>());
    let name = beside.display();
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&beside);
    let file = file.map_err(|error| refused(format!("{name}: {error}")))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(refused(format!(
            "{} is open in another process, which holds {name}: stop that one first",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(refused(format!("{name}: {error}"))),
    }
}

/// Opens the file for writing; a new one gets its tables.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let fail = |error: rusqlite::Error| failure(path, "open", &error);
    let connection = Connection::open(path).map_err(fail)?;
    // Secrets are in it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|error| refused(error.to_string()))?;
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, layout) = (number("application_id").map_err(fail)?, number("user_version").map_err(fail)?);
    match (application, layout) {
        (APPLICATION, LAYOUT) => {}
        (APPLICATION, later) => {
            return Err(refused(format!(
                "{} has layout {later} and this release knows {LAYOUT}: run the release that wrote it",
                path.display()
            )));
        }
        (0, 0) if is_empty(&connection).map_err(fail)? => make(&connection).map_err(fail)?,
        _ => return Err(refused(format!("{} is a database of another program: name another file", path.display()))),
    }
    tune(&connection).map_err(fail)?;
    Ok(connection)
}

/// Opens the file once more, for reading.
pub(super) fn open_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// The newest revision.
pub(super) fn revision(connection: &Connection) -> Result<Revision, rusqlite::Error> {
    number(connection, "revision")
}

/// The oldest revision that can be read; 0 when nothing was compacted.
pub(super) fn compacted(connection: &Connection) -> Result<Revision, rusqlite::Error> {
    number(connection, "compacted")
}

fn number(connection: &Connection, name: &str) -> Result<i64, rusqlite::Error> {
    connection.prepare_cached("SELECT value FROM number WHERE name = ?1")?.query_one([name], |row| row.get(0))
}

pub(super) fn set_number(connection: &Connection, name: &str, value: i64) -> Result<(), rusqlite::Error> {
    connection.prepare_cached("UPDATE number SET value = ?2 WHERE name = ?1")?.execute((name, value)).map(drop)
}

fn is_empty(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection.query_one("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

fn make(connection: &Connection) -> Result<(), rusqlite::Error> {
    // Room that compaction frees goes back to the file system; this must be set before the first table is made.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {LAYOUT}; COMMIT;"
    ))
}

fn tune(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY)?;
    // Every commit is flushed before it is acknowledged, and a log that grew is cut down again.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)
}

/// What an error of SQLite means to who asked.
pub(super) fn failure(path: &Path, operation: &'static str, error: &rusqlite::Error) -> StoreError {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full: make room",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "the file and its directory must be ours to write"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "the file is damaged or not a store: restore it from a backup"
        }
        _ => return unavailable(path, &error.to_string()),
    };
    StoreError::Refused { operation, cause: format!("{}: {error} ({advice})", path.display()) }
}

pub(super) fn unavailable(path: &Path, cause: &str) -> StoreError {
    StoreError::Unavailable { endpoints: path.display().to_string(), cause: cause.to_owned() }
}

fn refused(cause: String) -> StoreError {
    StoreError::Refused { operation: "open", cause }
}
