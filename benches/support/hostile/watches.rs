//! Changes that match many watches, and changes of many watches.

use xenstored::store::{Transaction, Verb};
use xenstored::watch::Watcher;

use super::{
    Act, CHANGES, LEVELS, Stage, WATCHED, WATCHES, deep, home, level, node, others_of, parse,
    write_of,
};

/// Creates a chain of nodes, each watched by 8 guests.
fn watched_levels(readable: bool) -> Stage {
    let mut stage = Stage::of(8, readable);
    stage.run_as_guest(&level(LEVELS), write_of(b""));
    stage.watch(8, (1..=LEVELS).map(level));
    stage
}

fn write_below_levels(readable: bool) -> Act {
    let mut stage = watched_levels(readable);
    Box::new(move || {
        stage.run_as_guest(&level(LEVELS), write_of(b"v"));
        Box::new(stage)
    })
}

pub fn write_below_watched_levels() -> Act {
    write_below_levels(true)
}

pub fn write_below_unreadable_levels() -> Act {
    write_below_levels(false)
}

pub fn write_below_upper_levels() -> Act {
    let mut stage = Stage::of(64, true);
    for domid in others_of(64) {
        for (group, path) in (0..).zip(["/", "/local", "/local/domain"]) {
            stage.watch_often(domid, path, group);
        }
    }
    Box::new(move || {
        stage.run_as_guest(&node(0), write_of(b"v"));
        Box::new(stage)
    })
}

pub fn death() -> Act {
    let stage = Stage::of(64, true);
    others_of(64).for_each(|domid| stage.watch_often(domid, "@releaseDomain", 0));
    Box::new(move || {
        stage.world.store.publish_special(b"@releaseDomain", WATCHED);
        Box::new(stage)
    })
}

pub fn remove_watched_levels() -> Act {
    let mut stage = watched_levels(true);
    Box::new(move || {
        stage.run_as_control(&level(1), Verb::Rm);
        Box::new(stage)
    })
}

pub fn remove_watched_nodes() -> Act {
    let mut stage = Stage::of(8, true);
    (0..CHANGES).for_each(|number| stage.run_as_guest(&node(number), write_of(b"")));
    stage.watch(8, (0..CHANGES).map(node));
    Box::new(move || {
        stage.run_as_control(&home(), Verb::Rm);
        Box::new(stage)
    })
}

pub fn remove_above_deep_watches() -> Act {
    let mut stage = Stage::of(8, true);
    for domid in others_of(8) {
        for number in 0..WATCHES {
            stage.world.watch(domid, &deep(&format!("{number:x}_{domid}")));
        }
    }
    Box::new(move || {
        stage.run_as_control(&home(), Verb::Rm);
        Box::new(stage)
    })
}

/// Removes the watches of one guest one by one while the matcher holds a snapshot of them.
fn reset(mut stage: Stage, watches: Vec<(Watcher, String)>) -> Act {
    // A commit that exceeds its budgets waits in the matcher's queue.
    let guest = stage.guest.clone();
    let mut transaction = Transaction::default();
    for number in 0..CHANGES {
        stage.run_in(&mut transaction, &guest, &node(number), write_of(b""));
    }
    let watcher = Watcher { thread: 0, connection: 2, group: 1 << 21, seq: 1 << 21 };
    let done = transaction.commit(&stage.world.store, &guest, &mut stage.generations);
    assert!(done.is_ok() && !stage.world.store.unwatch(parse(&home()), watcher));
    Box::new(move || {
        for (watcher, path) in watches {
            assert!(stage.world.store.unwatch(parse(&path), watcher));
        }
        Box::new(stage)
    })
}

fn watch_all(stage: &mut Stage, paths: impl Iterator<Item = String>) -> Vec<(Watcher, String)> {
    // Each change of the commit left to the matcher takes a look at these, which may read nothing and never collapse.
    others_of(8).for_each(|domid| stage.watch_often(domid, &home(), 0));
    let watch =
        |path: String| (stage.world.watch(others_of(1).next().unwrap_or(WATCHED), &path), path);
    // Removed from the deepest up.
    let mut watches: Vec<_> = paths.map(watch).collect();
    watches.reverse();
    watches
}

pub fn reset_levels() -> Act {
    let mut stage = Stage::of(8, false);
    let watches = watch_all(&mut stage, (1..=1000).map(level));
    reset(stage, watches)
}

pub fn reset_deep() -> Act {
    let mut stage = Stage::of(8, false);
    let watches = watch_all(&mut stage, (0..WATCHES).map(|number| deep(&format!("{number:x}"))));
    reset(stage, watches)
}
