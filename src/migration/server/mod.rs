//! The server's part of a migration: the migration socket, on which one request exports or imports many domains
//! (docs/MIGRATION.md).
//!
//! ```text
//!   client -- request, descriptors --> clients --> requests --+--> export_domains --> streams
//!   client <-- a reply per domain --- clients <-- requests <--+--> import_domains <-- streams
//!                                                   |         +--> discard_domains, domain_states, check_export
//!                                                 OwnerThreads: each domain's owner thread
//! ```
//!
//! Each client has a thread, which may block: on owner threads, on the other end of a pipe (timed_file.rs), on a
//! disk. A request with several descriptors is handled by one thread for each core (run_parallel.rs). These threads
//! hold no lock of the store while they block, and no other thread waits for them.

mod check_export;
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

use crate::types::{Domid, Errno};

/// Maximum number of retries of an operation because an epoch began while it waited for locks. Reservations begin at
/// most some thousand times a second, so a few retries suffice.
const TRIES_MAX: u32 = 100;

/// Calls `once`, again up to [`TRIES_MAX`] times while its error is that an epoch began; returns the last result.
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

/// The result for one domain.
pub struct Outcome {
    /// The domain; `None` if the result is about a stream whose domains could not be read.
    pub domid: Option<Domid>,
    /// Words of the reply, or the error with an explanatory sentence.
    pub result: Result<Vec<String>, (Errno, String)>,
}

/// Returns the domains of successful and of failed outcomes.
fn divided(outcomes: &[Outcome]) -> (Vec<Domid>, Vec<Domid>) {
    let known = outcomes.iter().filter_map(|outcome| Some((outcome.domid?, outcome)));
    let (done, failed): (Vec<_>, Vec<_>) = known.partition(|(_, outcome)| outcome.result.is_ok());
    let domids = |some: Vec<(Domid, &Outcome)>| some.into_iter().map(|(domid, _)| domid).collect();
    (domids(done), domids(failed))
}

impl Outcome {
    /// Creates the outcome of a success, with numbers for the reply.
    fn done(domid: Domid, numbers: &[u64]) -> Outcome {
        Outcome::said(domid, numbers.iter().map(u64::to_string).collect())
    }

    /// Creates the outcome of a success, with words for the reply.
    fn said(domid: Domid, words: Vec<String>) -> Outcome {
        Outcome { domid: Some(domid), result: Ok(words) }
    }

    /// Creates the outcome of a failure.
    fn failed(domid: Domid, errno: Errno, why: impl ToString) -> Outcome {
        Outcome { domid: Some(domid), result: Err((errno, why.to_string())) }
    }
}

#[cfg(test)]
mod tests;
