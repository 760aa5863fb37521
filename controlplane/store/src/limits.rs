//! What one commit may hold. etcd refuses more, and the model refuses the same.

use std::collections::BTreeSet;

use crate::{Expect, StoreError, Write};

/// Most bytes of keys and values in one commit: etcd's `--max-request-bytes` default (1.5 MiB) less
/// [`ENVELOPE_BYTES`] for what it wraps around them.
pub const MAX_COMMIT_BYTES: usize = 1536 * 1024 - ENVELOPE_BYTES;

/// Room for the fields of the request other than keys and values: 128 operations at most, below 64 bytes each.
const ENVELOPE_BYTES: usize = 8 * 1024;

/// Most expectations, and most writes, in one commit: etcd's `--max-txn-ops` default.
pub const MAX_COMMIT_OPERATIONS: usize = 128;

/// Refuses what etcd would refuse, with a message that says what to do.
pub(crate) fn check(expects: &[Expect], writes: &[Write]) -> Result<(), StoreError> {
    let operations = expects.len().max(writes.len());
    if operations > MAX_COMMIT_OPERATIONS {
        return refused(format!(
            "it has {operations} operations and a transaction holds {MAX_COMMIT_OPERATIONS}: split it"
        ));
    }
    let bytes: usize = writes.iter().map(size).sum::<usize>() + expects.iter().map(|e| key_of(e).len()).sum::<usize>();
    if bytes > MAX_COMMIT_BYTES {
        let key = writes.iter().max_by_key(|write| size(write)).map_or("", Write::key);
        return refused(format!(
            "{key} makes it {bytes} bytes and a transaction holds {MAX_COMMIT_BYTES}: make the object smaller, or \
             split it into several"
        ));
    }
    let mut keys = BTreeSet::new();
    if let Some(twice) = writes.iter().map(Write::key).find(|key| !keys.insert(*key)) {
        return refused(format!("it writes {twice} twice"));
    }
    if writes.iter().any(|write| write.key().is_empty()) || expects.iter().any(|expect| key_of(expect).is_empty()) {
        return refused("it names an empty key".to_owned());
    }
    Ok(())
}

fn refused(cause: String) -> Result<(), StoreError> {
    Err(StoreError::Refused { operation: "commit", cause })
}

fn size(write: &Write) -> usize {
    match write {
        Write::Put { key, value } => key.len() + value.len(),
        Write::Delete { key } => key.len(),
    }
}

fn key_of(expect: &Expect) -> &str {
    match expect {
        Expect::Absent { key } | Expect::At { key, .. } => key,
    }
}
