//! Xen's security advisories about its two daemons, as behaviour: at least one test for each.

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod depth;
mod incarnations;
mod limits;
mod permissions;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::client::Link;
use common::ring::at;
use common::{Client, Control, Daemon, HANG, Message, SetOnDrop, World, check, check_with, op};

fn each_world(test: impl Fn(&mut World)) {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            test(&mut world);
            world.check_store();
        }
    }
}

/// Returns how often to repeat: `full` times, as the advisory's row asks, with `XENSTORED_FULL_ROWS` in the
/// environment, which `.ci/run rows` sets for an optimised build; else `short` times, which take a debug build seconds.
fn rounds(full: usize, short: usize) -> usize {
    if std::env::var_os("XENSTORED_FULL_ROWS").is_some() { full } else { short }
}

fn error_is(world: &mut World, domid: u16, error: u32) {
    let guest = world.guest(domid);
    while guest.ring().page().load(at::ERROR) == 0 {
        assert!(guest.ring().wait(HANG), "the ring indicates no error");
    }
    assert_eq!(guest.ring().page().load(at::ERROR), error);
}
