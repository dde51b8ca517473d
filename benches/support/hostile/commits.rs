//! Commits of transactions.

use xenstored::store::{Transaction, Verb};
use xenstored::types::{Access, Domid};

use super::{
    Act, CHANGES, LEVELS, Stage, caller, home, level, node, others_of, partition_below, perms_of,
    write_of,
};

/// The number of trees of [`LEVELS`] nodes that the quota `memory` lets one transaction create.
const TREES: usize = 18;

/// Prepares a guest's transaction that writes all its nodes; measures its END.
fn write_all(mut stage: Stage, path: impl Fn(usize) -> String) -> Act {
    let guest = stage.guest.clone();
    let mut transaction = Transaction::default();
    for number in 0..CHANGES {
        stage.run_in(&mut transaction, &guest, &path(number), write_of(b"value"));
    }
    Box::new(move || {
        assert!(stage.commit(transaction, &guest, |_| ()));
        Box::new(stage)
    })
}

pub fn each_watched() -> Act {
    let mut stage = Stage::of(8, true);
    stage.watch(8, (0..CHANGES).map(node));
    write_all(stage, node)
}

fn below_watched(readable: bool) -> Act {
    let stage = Stage::of(64, readable);
    others_of(64).for_each(|domid| stage.watch_often(domid, &home(), 0));
    write_all(stage, node)
}

pub fn all_below_watched() -> Act {
    below_watched(true)
}

pub fn all_below_unreadable() -> Act {
    below_watched(false)
}

pub fn below_watched_levels() -> Act {
    let mut stage = Stage::of(30, true);
    stage.watch(30, (1..=30).map(level));
    write_all(stage, |number| format!("{}/n{}/n{}", level(30), number / 30, number % 30))
}

pub fn created_and_removed() -> Act {
    let mut stage = Stage::of(8, true);
    stage.watch(8, (1..LEVELS).map(level));
    let guest = stage.guest.clone();
    let mut transaction = Transaction::default();
    // As often as the quota `memory` allows.
    for _ in 0..TREES {
        stage.run_in(&mut transaction, &guest, &level(LEVELS), write_of(b""));
        stage.run_in(&mut transaction, &guest, &level(1), Verb::Rm);
    }
    Box::new(move || {
        assert!(stage.commit(transaction, &guest, |_| ()));
        Box::new(stage)
    })
}

pub fn partitions() -> Act {
    let stage = Stage::of(1, true);
    write_all(stage, partition_below)
}

/// Another guest's node, which that one keeps rewriting with the same value.
const REWRITTEN: &str = "/local/domain/3/x";

/// Prepares a transaction that reads it, then writes `count` nodes; measures its END, which always finds the node
/// changed.
fn lose_races(count: usize, is_toolstack: bool) -> Act {
    let mut stage = Stage::of(3, true);
    let rival = caller(&stage.world, Domid(3));
    let perms = perms_of(&stage.world, Domid(3), Access::READ);
    stage.run(&rival, REWRITTEN, write_of(b"same"));
    stage.run(&rival, REWRITTEN, Verb::SetPerms(perms));
    let caller = if is_toolstack { stage.world.control.clone() } else { stage.guest.clone() };
    let mut transaction = Transaction::default();
    stage.run_in(&mut transaction, &caller, REWRITTEN, Verb::Read);
    for number in 0..count {
        stage.run_in(&mut transaction, &caller, &node(number % CHANGES), write_of(b"value"));
    }
    let rewrite = move |stage: &mut Stage| stage.run(&rival, REWRITTEN, write_of(b"same"));
    rewrite(&mut stage);
    Box::new(move || {
        assert_eq!(stage.commit(transaction, &caller, rewrite), is_toolstack);
        Box::new(stage)
    })
}

pub fn guest_loses_races() -> Act {
    lose_races(1000, false)
}

pub fn toolstack_loses_races() -> Act {
    lose_races(500, true)
}
