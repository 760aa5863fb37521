//! A range, read in pages at one revision.

use bytes::Bytes;
use etcd_client::GetOptions;
use etcd_client::proto::PbKeyValue;
use tokio::time::timeout;

use super::{Etcd, error};
use crate::{Entry, Range, Revision, Snapshot, StoreError};

/// Keys in one answer of etcd at first: 1.4 MiB of the pods we know.
const PAGE_KEYS: usize = 500;

/// By how much a page shrinks when it is larger than we read in one message. One key always fits.
const PAGE_SHRINK: usize = 8;

impl Etcd {
    pub(super) async fn read_pages(&self, range: Range) -> Result<Snapshot, StoreError> {
        let end = end_of_prefix(&range.prefix);
        let mut start = range.start.max(range.prefix).into_bytes();
        let mut snapshot = Snapshot { revision: range.at, ..Snapshot::default() };
        let mut page = PAGE_KEYS;
        loop {
            let left = if range.limit == 0 { usize::MAX } else { range.limit - snapshot.entries.len() };
            let asked = page.min(left);
            let Some((entries, count, revision)) = self.read_page(&start, &end, snapshot.revision, asked).await? else {
                page = (asked / PAGE_SHRINK).max(1);
                continue;
            };
            // The first page fixes the revision of all others.
            if snapshot.revision == 0 {
                snapshot.revision = revision;
            }
            let read = entries.len();
            snapshot.entries.extend(entries);
            snapshot.remaining = count.saturating_sub(read as u64);
            if snapshot.remaining == 0 || read == 0 || read == left {
                return Ok(snapshot);
            }
            if let Some(last) = snapshot.entries.last() {
                start = after(&last.key);
            }
        }
    }

    /// Up to `limit` keys of `[start, end)`, how many there are without the limit, and the store's revision; `None`
    /// when the answer was too large to be read.
    async fn read_page(
        &self,
        start: &[u8],
        end: &[u8],
        at: Revision,
        limit: usize,
    ) -> Result<Option<(Vec<Entry>, u64, Revision)>, StoreError> {
        let limit_wire = i64::try_from(limit).unwrap_or(i64::MAX);
        let options = GetOptions::new().with_range(end).with_limit(limit_wire).with_revision(at);
        let mut kv = self.kv.clone();
        let answer = match timeout(self.request_timeout, kv.get(first_key(start), Some(options))).await {
            Ok(Err(failure)) if limit > 1 && error::is_too_large(&failure) => return Ok(None),
            Ok(Err(failure)) => return Err(self.failure("range", at, &failure)),
            Err(_) => return Err(self.unavailable(format!("range got no answer within {:?}", self.request_timeout))),
            Ok(Ok(answer)) => answer.0,
        };
        let revision = answer.header.map_or(0, |header| header.revision);
        let entries = answer.kvs.into_iter().map(entry).collect();
        Ok(Some((entries, u64::try_from(answer.count).unwrap_or(0), revision)))
    }
}

/// etcd's key and value as ours. A key that is not UTF-8 cannot be one of ours; it stays visible, with replacements.
pub(super) fn entry(kv: PbKeyValue) -> Entry {
    Entry { key: key(kv.key), value: Bytes::from(kv.value), revision: kv.mod_revision }
}

pub(super) fn key(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// etcd has no empty key: `\0` is before all others.
fn first_key(start: &[u8]) -> Vec<u8> {
    if start.is_empty() { vec![0] } else { start.to_vec() }
}

fn after(key: &str) -> Vec<u8> {
    [key.as_bytes(), &[0]].concat()
}

/// The first key after all that begin with `prefix`; `\0` stands for "no end".
fn end_of_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}
