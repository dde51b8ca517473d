//! Bounds on the work and the memory that guests within their quotas can cause in the daemon.

#[path = "../common/mod.rs"]
mod common;

mod busy;
mod charges;
mod copies;
mod events;
mod limit_table;
mod matcher;
mod removals;
mod replays;
mod resets;

use common::{Client, Reply, op};

/// Checks that all succeed.
fn all_ok(replies: &[Reply]) {
    assert!(replies.iter().all(Result::is_ok), "{:?}", replies.iter().find(|reply| reply.is_err()));
}

/// Sets watches on these paths, as many as the quota allows, and takes their first events; returns their number.
fn watch_all(client: &mut Client, watches: impl Iterator<Item = (String, String)>) -> usize {
    let requests: Vec<_> = watches
        .map(|(path, token)| (op::WATCH, 0, format!("{path}\0{token}\0").into_bytes()))
        .collect();
    let replies = client.pipeline(&requests);
    let fit = replies.iter().filter(|reply| reply.is_ok()).count();
    let refused = replies.iter().filter(|reply| **reply == Err("ENOSPC".to_owned())).count();
    assert_eq!(fit + refused, replies.len());
    for _ in 0..fit {
        client.next_event();
    }
    fit
}
