//! Times of single requests: `cargo bench --bench store`.

#[path = "support/world.rs"]
#[allow(dead_code)] // Each benchmark uses a part of it.
mod world;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use world::{LEAVES, UNWATCHED, World, leaf_of, write};
use xenstored::store::Verb;
use xenstored::types::Domid;

const DOMAINS: u16 = 1000;
const DOMID: Domid = Domid(500);

fn requests(criterion: &mut Criterion) {
    let mut world = World::of(DOMAINS);
    let (quiet, watched) = (leaf_of(DOMID, UNWATCHED), leaf_of(DOMID, 0));
    let new = leaf_of(DOMID, LEAVES);
    let directory = format!("/local/domain/{DOMID}/device/vif/0");
    let mut group = criterion.benchmark_group("store");
    group.bench_function("read", |bench| {
        bench.iter(|| black_box(world.run(&quiet, Verb::Read)));
    });
    group.bench_function("write what is there", |bench| {
        bench.iter(|| black_box(world.run(&quiet, write())));
    });
    group.bench_function("write, one event", |bench| {
        bench.iter(|| black_box(world.run(&watched, write())));
    });
    group.bench_function("create and remove", |bench| {
        bench.iter(|| {
            world.run(&new, write());
            let removed = world.run(&new, Verb::Rm).removed;
            black_box(world.store.settle(removed))
        });
    });
    group.bench_function("directory of 26", |bench| {
        bench.iter(|| black_box(world.run(&directory, Verb::Directory)));
    });
    group.bench_function("set_perms", |bench| {
        let perms = world.owned_by(DOMID);
        bench.iter(|| black_box(world.run(&quiet, Verb::SetPerms(perms.clone()))));
    });
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
