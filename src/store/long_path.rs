//! WRITE and MKDIR of long paths, whose levels are created or copied without a lock.
//!
//! A guest's path may have a thousand levels. The creation of a level, or its copy while a snapshot holds it, takes about
//! a thousand instructions, which would be a millisecond under the shard's lock. So these requests run like a transaction
//! of one request: on a snapshot of the partition, whose root is compared and replaced under the lock.

use super::commit::CommitError;
use super::context::Caller;
use super::forest::Locked;
use super::op::{Op, Verb};
use super::transaction::{Invocation, Transaction};
use super::{Executed, Store, StoreError};
use crate::types::Errno;

/// The length from which on a path is long, in bytes: toolstacks and drivers use shorter ones, whose levels and events
/// together take less than 100,000 instructions.
pub const LONG_PATH_BYTES: usize = 128;
/// After this many attempts, each lost to another change of the partition, the request runs under the lock.
const TRIES_MAX: usize = 8;

/// Runs WRITE or MKDIR without the lock, except to take the snapshot and to replace the root. Returns `None` if it
/// has to run under the lock, because it is another request or has lost its races. Cost: a copy of each level.
pub(super) fn execute_long(
    store: &Store,
    caller: &Caller,
    op: &Op<'_>,
    generation: u64,
) -> Option<Result<Executed, StoreError>> {
    if !matches!(op.verb, Verb::Write(_) | Verb::Mkdir) {
        return None;
    }
    for _ in 0..TRIES_MAX {
        // The rights are read first, so that a death meanwhile makes the comparison fail.
        let rights = store.registry.rights();
        let mut transaction = Transaction::of_one(rights);
        let request = &mut Invocation { caller, op, reply: &mut Vec::new() };
        let result = transaction.replay_one(store, request, generation);
        let mut locked = Locked::take(&store.shards, &transaction.access_set.lock_set());
        if !transaction.is_current(store, &locked) {
            continue;
        }
        if let Err(errno) = result {
            return Some(Err(errno.into()));
        }
        let replaced = match transaction.install(store, &mut locked, caller) {
            Ok(replaced) => replaced,
            Err(failure) => {
                drop(locked); // Before the copies, which the failure may hold.
                return Some(Err(match failure {
                    CommitError::Quota => Errno::ENOSPC.into(),
                    _ => StoreError::StaleEpoch,
                }));
            }
        };
        // As one request it hides no intermediate state from watchers, so its events need no former partitions.
        let mut executed =
            store.record(&mut locked, None, &mut transaction.effects.changes, caller);
        drop(locked);
        executed.replaced = Some(replaced);
        store.publisher.conclude(&mut executed, caller);
        return Some(Ok(executed));
    }
    None
}
