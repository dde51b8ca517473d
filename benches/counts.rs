//! Instructions of what is asked most, counted by valgrind: they gate where times cannot.
//!
//! Each benchmark does its operation [`ROUNDS`] times, on domains all over a store of [`FEW`] and
//! of [`MANY`] domains with 30 nodes and 10 watches each. Building the store and freeing it is not
//! counted. `.ci/counts` compares the sums with `counts.baseline`, and few with many.

#![allow(missing_docs)] // Of what gungraun's macros make.

#[path = "support/world.rs"]
#[allow(dead_code)] // Every benchmark uses a part of it.
mod world;

use std::hint::black_box;

use gungraun::{
    Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use world::{LEAVES, UNWATCHED, World, backends_of, leaf_of, write};
use xenstored::store::{Executed, Transaction, Verb};
use xenstored::words::Domid;

/// So many operations that the hash seeds of a process, which differ, do not show.
const ROUNDS: usize = 500;
/// Operations of a transaction: half of them reads.
const OPERATIONS: usize = 10;
const FEW: u16 = 100;
/// `XENSTORED_DOMAINS` in the environment overrides it.
const MANY: u16 = 3000;

/// A world, and where the operations go.
struct Asked {
    world: World,
    targets: Vec<(Domid, String)>,
    transactions: Vec<Transaction>,
    removals: Vec<Executed>,
}

/// Leaves from number `first` on.
fn leaves(domains: u16, first: usize) -> Asked {
    let world = World::of(domains);
    let target = |(domid, lap)| (domid, leaf_of(domid, first + lap));
    let targets = world.some(ROUNDS).map(target).collect();
    Asked { world, targets, transactions: Vec::new(), removals: Vec::new() }
}

fn many() -> u16 {
    std::env::var("XENSTORED_DOMAINS").map_or(MANY, |number| number.parse().expect("a number"))
}

fn few_quiet() -> Asked {
    leaves(FEW, UNWATCHED)
}

fn many_quiet() -> Asked {
    leaves(many(), UNWATCHED)
}

fn few_watched() -> Asked {
    leaves(FEW, 0)
}

fn upper(mut asked: Asked) -> Asked {
    asked.targets.iter_mut().for_each(|(domid, path)| *path = backends_of(*domid));
    asked
}

fn few_upper() -> Asked {
    upper(few_quiet())
}

fn many_upper() -> Asked {
    upper(many_quiet())
}

fn special(mut asked: Asked) -> Asked {
    asked.targets.iter_mut().for_each(|(_, path)| *path = "@releaseDomain".into());
    asked
}

fn few_special() -> Asked {
    special(few_quiet())
}

fn many_special() -> Asked {
    special(many_quiet())
}

/// Transactions that others overtook in their homes, so that END must run them again.
fn overtaken(mut asked: Asked) -> Asked {
    let domids: Vec<_> = asked.targets.iter().map(|(domid, _)| *domid).collect();
    let transaction = |&domid| asked.world.transaction(OPERATIONS, domid);
    asked.transactions = domids.iter().map(transaction).collect();
    for domid in domids {
        asked.world.run(&leaf_of(domid, LEAVES - 1), write());
    }
    asked
}

/// A tree of so many nodes below a watched home, in directories of a hundred.
fn tree(nodes: usize) -> Asked {
    let mut asked = few_quiet();
    let path = "/local/domain/1/data".to_owned();
    for node in 0..nodes {
        asked.world.run(&format!("{path}/d{}/n{node}", node / 100), write());
    }
    asked.targets = vec![(Domid(1), path)];
    asked
}

fn few_nodes() -> Asked {
    tree(100)
}

fn many_nodes() -> Asked {
    tree(20_000)
}

fn few_overtaken() -> Asked {
    overtaken(few_quiet())
}

fn many_overtaken() -> Asked {
    overtaken(many_quiet())
}

#[library_benchmark]
#[bench::few(setup = few_quiet)]
#[bench::many(setup = many_quiet)]
fn read(mut asked: Asked) -> Asked {
    for (_, path) in &asked.targets {
        black_box(asked.world.run(path, Verb::Read));
    }
    asked
}

#[library_benchmark]
#[bench::few(setup = few_quiet)]
#[bench::many(setup = many_quiet)]
fn write_silent(mut asked: Asked) -> Asked {
    for (_, path) in &asked.targets {
        black_box(asked.world.run(path, write()));
    }
    asked
}

// The event is found, its permissions are checked, it is pushed and becomes bytes.
#[library_benchmark]
#[bench::few(setup = few_watched)]
fn write_with_event(mut asked: Asked) -> Asked {
    for (_, path) in &asked.targets {
        black_box(asked.world.run(path, write()));
    }
    asked
}

#[library_benchmark]
#[bench::few(setup = few_quiet)]
#[bench::many(setup = many_quiet)]
#[bench::few_upper(setup = few_upper)]
#[bench::many_upper(setup = many_upper)]
#[bench::few_special(setup = few_special)]
#[bench::many_special(setup = many_special)]
fn watch(mut asked: Asked) -> Asked {
    for (domid, path) in &asked.targets {
        black_box(asked.world.watch(*domid, path));
    }
    asked
}

#[library_benchmark]
#[bench::few(setup = few_quiet)]
#[bench::many(setup = many_quiet)]
fn transaction_committed(mut asked: Asked) -> Asked {
    for (domid, _) in &asked.targets {
        let transaction = asked.world.transaction(OPERATIONS, *domid);
        black_box(asked.world.commit(transaction));
    }
    asked
}

// What RM does with locks held: the subtree is cut off, not yet settled.
#[library_benchmark]
#[bench::few(setup = few_nodes)]
#[bench::many(setup = many_nodes)]
fn remove(mut asked: Asked) -> Asked {
    for (_, path) in &asked.targets {
        asked.removals.push(asked.world.run(path, Verb::Rm));
    }
    asked
}

#[library_benchmark]
#[bench::few(setup = few_overtaken)]
#[bench::many(setup = many_overtaken)]
fn end_replayed(mut asked: Asked) -> Asked {
    for transaction in std::mem::take(&mut asked.transactions) {
        black_box(asked.world.commit(transaction));
    }
    asked
}

library_benchmark_group!(
    name = store,
    benchmarks =
        [read, write_silent, write_with_event, watch, remove, transaction_committed, end_replayed,]
);

// Only instructions gate, so the caches are not simulated: that halves the time.
main!(
    config = LibraryBenchmarkConfig::default()
        .pass_through_env("XENSTORED_DOMAINS")
        .tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = store
);
