//! The store under a scheduler that explores the interleavings of its threads.
//!
//! `cargo test --features shuttle --test schedules`. The locks and atomics of the production code are shuttle's then
//! (src/sync.rs); everything else is unchanged. A failure prints its schedule: `SCHEDULE=<what was printed>` with the
//! test's name repeats only that schedule. `SCHEDULES=n` sets how many a test runs with each of the two schedulers,
//! instead of 1,000.
#![cfg(feature = "shuttle")]

mod incarnations;
mod nodes;
mod threads;
mod transactions;
#[path = "../world/mod.rs"]
mod world;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread::scope;
use world::{World, perms};
use xenstored::domain::{Domain, Quota};
use xenstored::server::{
    Claim, Joined, Part, ReplyTo, Reservations, SharedReservations, Signal, parts,
};
use xenstored::store::{CommitError, Removed, StoreError, Transaction, Verb};
use xenstored::types::{Domid, Errno};

/// Schedules that each scheduler tries in a test.
const SCHEDULES: usize = 1000;
/// Number of times that the PCT scheduler changes priorities: it finds every race that needs fewer changes with a known
/// probability.
const PRIORITY_CHANGES: usize = 3;

fn explore(test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let run = {
        let test = Arc::clone(&test);
        move || test()
    };
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        return shuttle::replay(run, &schedule);
    }
    let schedules = std::env::var("SCHEDULES").ok().and_then(|n| n.parse().ok());
    let schedules = schedules.unwrap_or(SCHEDULES);
    shuttle::check_pct(run, schedules, PRIORITY_CHANGES);
    shuttle::check_random(move || test(), schedules);
}

/// Runs two or three threads at once.
macro_rules! at_once {
    ($($work:expr),+ $(,)?) => {
        scope(|scope| { $(scope.spawn($work);)+ })
    };
}
use at_once;
