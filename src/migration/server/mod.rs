//! The server's part of a migration: the migration socket, of which one request exports or imports many domains
//! (docs/MIGRATION.md).
//!
//! ```text
//!   client -- request, descriptors --> clients --> requests --+--> export_domains --> streams
//!   client <-- an answer per domain -- clients <-- requests <-+--> import_domains <-- streams
//!                                                   |         +--> discard_domains, domain_states
//!                                                 OwnerThreads: each domain's home thread
//! ```
//!
//! A client has a thread of its own, which may wait: for home threads, for the other end of a pipe
//! (timed_file.rs), for a disk; and if its request has several descriptors, one for each core meanwhile
//! (run_parallel.rs). No lock of the store is held meanwhile, and no other thread waits for it.

mod clients;
mod discard_domains;
mod domain_states;
mod export_domains;
mod import_domains;
mod message;
mod requests;
mod run_parallel;
mod timed_file;

pub use clients::serve;

use crate::words::{Domid, Errno};

/// How often something is tried again because a transaction's turn began while it waited for locks. Turns
/// begin some thousand times a second at most, so a few tries do.
const TRIES_MAX: u32 = 100;

/// Does something once, and again as often as that while its error is that an epoch began; returns the last result.
fn try_often<T, E>(
    mut once: impl FnMut() -> Result<T, E>,
    is_stale: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut tries = 1;
    loop {
        match once() {
            Err(error) if tries < TRIES_MAX && is_stale(&error) => tries += 1,
            other => return other,
        }
    }
}

/// What became of one domain: words that say more of it, or why nothing was done.
pub struct Outcome {
    /// The domain; `None` if it is about a stream of which nothing was read.
    pub domid: Option<Domid>,
    /// The words, or the error and a sentence.
    pub result: Result<Vec<String>, (Errno, String)>,
}

/// Returns the domains for which something was done, and those for which nothing was.
fn divided(outcomes: &[Outcome]) -> (Vec<Domid>, Vec<Domid>) {
    let known = outcomes.iter().filter_map(|outcome| Some((outcome.domid?, outcome)));
    let (done, failed): (Vec<_>, Vec<_>) = known.partition(|(_, outcome)| outcome.result.is_ok());
    let domids = |some: Vec<(Domid, &Outcome)>| some.into_iter().map(|(domid, _)| domid).collect();
    (domids(done), domids(failed))
}

impl Outcome {
    /// It worked out.
    fn done(domid: Domid, numbers: &[u64]) -> Outcome {
        Outcome::said(domid, numbers.iter().map(u64::to_string).collect())
    }

    /// It worked out, and this is said of it.
    fn said(domid: Domid, words: Vec<String>) -> Outcome {
        Outcome { domid: Some(domid), result: Ok(words) }
    }

    /// It did not.
    fn failed(domid: Domid, errno: Errno, why: impl ToString) -> Outcome {
        Outcome { domid: Some(domid), result: Err((errno, why.to_string())) }
    }
}

#[cfg(test)]
mod tests;
