//! An open transaction as data, with which another process goes on: its log. The process replays the log on its store
//! before the transaction's next request, as after [`Transaction::give_up`], so the transaction commits if each reply
//! is the same there.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::op::{LoggedOp, Op, Verb};
use super::outcome::Outcome;
use super::transaction::{Conflict, Logged, Transaction};
use crate::sync::Arc;
use crate::types::{Access, Births, Domid, Entry, Errno, Path, PathBuf, PermSet};

/// A transaction's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTransaction {
    /// The requests, with their replies.
    log: Vec<SavedRequest>,
    /// Whether a reply was ENOSPC.
    saw_quota: bool,
    /// The path at which the transaction is known to conflict, and with which domain's change.
    doomed: Option<(Verbatim, Option<u16>)>,
}

/// Bytes, which the encoding keeps as one string.
type Verbatim = serde_bytes::ByteBuf;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedRequest(Verbatim, SavedVerb, SavedOutcome);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum SavedVerb {
    Read,
    Directory,
    DirectoryPart(u64),
    GetPerms,
    Write(Verbatim),
    Mkdir,
    Rm,
    SetPerms(Vec<SavedEntry>),
}

/// A permission entry: the access as its letter, the domid, and whether the entry is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedEntry(u8, u16, bool);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum SavedOutcome {
    Refused(Errno),
    Replied(u64, [u8; 16]),
}

/// Returns a transaction as data. Cost: linear in its log.
pub fn save_transaction(transaction: &Transaction, births: &Births) -> SavedTransaction {
    let saved = |logged: &Logged| {
        let op = logged.op.op();
        let outcome = match logged.outcome {
            Outcome::Refused(errno) => SavedOutcome::Refused(errno),
            Outcome::Replied(len, kept) => SavedOutcome::Replied(len as u64, kept),
        };
        SavedRequest(Verbatim::from(op.path.bytes()), saved_verb(&op.verb, births), outcome)
    };
    let doomed = transaction.doomed.as_ref().map(|conflict| {
        let path = Verbatim::from(conflict.path.as_path().bytes());
        (path, conflict.changed_by.map(|domid| domid.0))
    });
    let log = transaction.log.iter().map(saved).collect();
    SavedTransaction { log, saw_quota: transaction.saw_quota, doomed }
}

/// Returns a transaction that goes on with a saved log; `now` is the birth clock. `None` if the data is no transaction.
/// Cost: linear in the log.
pub fn restore_transaction(saved: &SavedTransaction, now: u64) -> Option<Transaction> {
    let mut transaction = Transaction { saw_quota: saved.saw_quota, ..Transaction::default() };
    for SavedRequest(path, verb, outcome) in &saved.log {
        let op = Op { path: Path::parse(path).ok()?, verb: restored_verb(verb, now)? };
        let outcome = match *outcome {
            SavedOutcome::Refused(errno) => Outcome::Refused(errno),
            SavedOutcome::Replied(len, kept) => Outcome::Replied(usize::try_from(len).ok()?, kept),
        };
        transaction.log_bytes += Transaction::bytes_of(&op);
        let op = LoggedOp::of(&op, op.path.to_buf(), None);
        transaction.log.push(Logged { op, outcome });
    }
    if let Some((path, changed_by)) = &saved.doomed {
        let path: PathBuf = Path::parse(path).ok()?.to_buf();
        let changed_by = changed_by.map(Domid);
        transaction.doomed = Some(Conflict { verb: "TRANSACTION_START", path, changed_by });
    }
    // Without requests there is nothing to replay, and START has read nothing.
    transaction.behind = (!transaction.log.is_empty()).then_some(0);
    Some(transaction)
}

fn saved_verb(verb: &Verb<'_>, births: &Births) -> SavedVerb {
    match verb {
        Verb::Read => SavedVerb::Read,
        Verb::Directory => SavedVerb::Directory,
        Verb::DirectoryPart(offset) => SavedVerb::DirectoryPart(*offset as u64),
        Verb::GetPerms => SavedVerb::GetPerms,
        Verb::Write(value) => SavedVerb::Write(Verbatim::from(&**value)),
        Verb::Mkdir => SavedVerb::Mkdir,
        Verb::Rm => SavedVerb::Rm,
        Verb::SetPerms(perms) => {
            let entry =
                |entry: Entry| SavedEntry(entry.access.letter(), entry.domid.0, entry.ignored);
            SavedVerb::SetPerms(perms.lasting(births).map(entry).collect())
        }
    }
}

fn restored_verb(saved: &SavedVerb, now: u64) -> Option<Verb<'_>> {
    Some(match saved {
        SavedVerb::Read => Verb::Read,
        SavedVerb::Directory => Verb::Directory,
        SavedVerb::DirectoryPart(offset) => Verb::DirectoryPart(usize::try_from(*offset).ok()?),
        SavedVerb::GetPerms => Verb::GetPerms,
        SavedVerb::Write(value) => Verb::Write(Cow::Borrowed(value)),
        SavedVerb::Mkdir => Verb::Mkdir,
        SavedVerb::Rm => Verb::Rm,
        SavedVerb::SetPerms(entries) => {
            let entry = |&SavedEntry(letter, domid, ignored): &SavedEntry| {
                Some(Entry { access: Access::from_letter(letter)?, domid: Domid(domid), ignored })
            };
            let entries: Vec<Entry> = entries.iter().map(entry).collect::<Option<_>>()?;
            let (owner, others) = entries.split_first()?;
            Verb::SetPerms(Arc::new(PermSet::new(now, *owner, others)))
        }
    })
}
