//! Times of transactions: `cargo bench --bench transaction`.

#[path = "support/world.rs"]
#[allow(dead_code)] // Each benchmark uses a part of it.
mod world;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use world::{LEAVES, World, leaf_of, write};
use xenstored::types::Domid;

const DOMAINS: u16 = 1000;
const DOMID: Domid = Domid(500);
/// A domain of the same shard.
const OTHER: Domid = Domid(600);
const OPERATIONS: usize = 10;

fn transactions(criterion: &mut Criterion) {
    let mut world = World::of(DOMAINS);
    let mut group = criterion.benchmark_group("transaction");
    group.bench_function("10 operations, aborted", |bench| {
        bench.iter(|| black_box(world.transaction(OPERATIONS, DOMID)));
    });
    group.bench_function("10 operations, committed", |bench| {
        bench.iter(|| {
            let transaction = world.transaction(OPERATIONS, DOMID);
            black_box(world.commit(transaction))
        });
    });
    let beside = leaf_of(OTHER, LEAVES - 1);
    group.bench_function("10 operations, overtaken, replayed, committed", |bench| {
        bench.iter(|| {
            let transaction = world.transaction(OPERATIONS, DOMID);
            world.run(&beside, write());
            black_box(world.commit(transaction))
        });
    });
    // Shared by both closures of a batch.
    let world = std::cell::RefCell::new(world);
    group.bench_function("END, replayed", |bench| {
        let overtaken = || {
            let transaction = world.borrow_mut().transaction(OPERATIONS, DOMID);
            world.borrow_mut().run(&beside, write());
            transaction
        };
        let commit = |transaction| world.borrow_mut().commit(transaction);
        bench.iter_batched(overtaken, commit, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, transactions);
criterion_main!(benches);
