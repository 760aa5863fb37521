//! A commit as one etcd transaction: on a conflict its else-branch reads what is there, in the same round trip.

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::range::entry;
use crate::{Commit, Expect, StoreError, Write};

pub(super) fn request(expects: &[Expect], writes: &[Write]) -> Txn {
    let compares: Vec<Compare> = expects.iter().map(compare).collect();
    let operations: Vec<TxnOp> = writes.iter().map(operation).collect();
    let reads: Vec<TxnOp> = expects.iter().map(|expect| TxnOp::get(key(expect), None)).collect();
    Txn::new().when(compares).and_then(operations).or_else(reads)
}

pub(super) fn outcome(expects: &[Expect], answer: TxnResponse) -> Result<Commit, StoreError> {
    if answer.succeeded() {
        let revision = answer.header().map_or(0, |header| header.revision());
        return Ok(Commit::Done(revision));
    }
    for (expect, read) in expects.iter().zip(answer.op_responses()) {
        let TxnOpResponse::Get(mut read) = read else { break };
        let current = read.take_kvs().into_iter().next().map(|kv| entry(kv.0));
        if current.as_ref().map(|entry| entry.revision) != wanted(expect) {
            return Ok(Commit::Conflict { key: key(expect).to_owned(), current });
        }
    }
    let cause = "etcd found a conflict that its own answer does not show: this is a fault of etcd".to_owned();
    Err(StoreError::Refused { operation: "commit", cause })
}

fn compare(expect: &Expect) -> Compare {
    Compare::mod_revision(key(expect), CompareOp::Equal, wanted(expect).unwrap_or(0))
}

fn operation(write: &Write) -> TxnOp {
    match write {
        Write::Put { key, value } => TxnOp::put(key.as_str(), value.as_ref(), None),
        Write::Delete { key } => TxnOp::delete(key.as_str(), None),
    }
}

fn key(expect: &Expect) -> &str {
    match expect {
        Expect::Absent { key } | Expect::At { key, .. } => key,
    }
}

/// The revision of the last change that is expected; an absent key has none.
fn wanted(expect: &Expect) -> Option<i64> {
    match expect {
        Expect::Absent { .. } => None,
        Expect::At { revision, .. } => Some(*revision),
    }
}
