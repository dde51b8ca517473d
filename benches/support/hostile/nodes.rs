//! Deep, large or many nodes.

use xenstored::store::{self, Generations, Transaction, Verb};
use xenstored::types::Access;

use super::{
    Act, CHANGES, LEVELS, Stage, WATCHED, caller, home, level, node, partition_below, perms_of,
    write_of,
};

/// Creates a chain of nodes with values as long as the quotas allow.
fn values() -> Stage {
    const DEEP: usize = 900;
    let mut stage = Stage::of(1, true);
    let value = [b'v'; 2000];
    (1..=DEEP).for_each(|depth| stage.run_as_guest(&level(depth), write_of(&value)));
    stage
}

pub fn write_below_values() -> Act {
    let mut stage = values();
    Box::new(move || {
        stage.run_as_guest(&level(900), write_of(b"v"));
        Box::new(stage)
    })
}

pub fn write_below_values_beside_snapshot() -> Act {
    let mut stage = values();
    let mut transaction = Transaction::default();
    let guest = stage.guest.clone();
    stage.run_in(&mut transaction, &guest, &home(), Verb::Read);
    Box::new(move || {
        stage.run_as_guest(&level(900), write_of(b"v"));
        Box::new((stage, transaction))
    })
}

pub fn create_levels() -> Act {
    let mut stage = Stage::of(1, true);
    Box::new(move || {
        stage.run_as_guest(&level(LEVELS), write_of(b"v"));
        Box::new(stage)
    })
}

pub fn remove_partitions() -> Act {
    let mut stage = Stage::of(1, true);
    for number in 0..CHANGES {
        stage.run_as_guest(&partition_below(number), write_of(b""));
    }
    Box::new(move || {
        stage.run_as_control(&home(), Verb::Rm);
        Box::new(stage)
    })
}

pub fn new_owner() -> Act {
    let mut stage = Stage::of(1, true);
    let parent = format!("{}/{}", home(), "p".repeat(900));
    for number in 0..250 {
        stage.run_as_guest(&format!("{parent}/{number}"), write_of(b""));
    }
    Box::new(move || {
        let perms = perms_of(&stage.world, super::Domid(2), Access::NONE);
        stage.run_as_control(&parent, Verb::SetPerms(perms));
        Box::new(stage)
    })
}

/// Sweeps after the guest's death.
fn sweep(stage: Stage) -> Act {
    Box::new(move || {
        let domain = stage.guest.domain.clone();
        assert!(stage.world.store.registry().bury(&domain), "domain {WATCHED} is known");
        let control = stage.world.control.clone();
        let mut generations = Generations::default();
        for done in store::sweep(&stage.world.store, &domain, &control, &mut generations) {
            super::settle(&stage.world.store, done.removed);
        }
        stage.world.match_the_rest();
        Box::new(stage)
    })
}

pub fn sweep_watched() -> Act {
    let mut stage = Stage::of(8, true);
    (0..CHANGES).for_each(|number| stage.run_as_guest(&node(number), write_of(b"")));
    stage.watch(8, (0..CHANGES).map(node));
    sweep(stage)
}

pub fn sweep_scattered() -> Act {
    let mut stage = Stage::of(3, true);
    let other = caller(&stage.world, super::Domid(3));
    let perms = perms_of(&stage.world, other.domain.domid, Access::WRITE);
    let deep = format!("/local/domain/{}{}", other.domain.domid, "/a".repeat(900));
    stage.run(&other, &deep, write_of(b""));
    stage.run(&other, &deep, Verb::SetPerms(perms));
    for number in 0..300 {
        stage.run_as_guest(&format!("{deep}/{number}"), write_of(b""));
    }
    let mut transaction = Transaction::default();
    let control = stage.world.control.clone();
    stage.run_in(&mut transaction, &control, &deep, Verb::Directory);
    let act = sweep(stage);
    Box::new(move || Box::new((act(), transaction)))
}
