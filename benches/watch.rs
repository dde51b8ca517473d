//! Times of matching, setting and removing watches: `cargo bench --bench watch`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use xenstored::types::{Domid, Path, PathBuf};
use xenstored::watch::{Entry, Matches, Trie, Watcher};

/// Number of paths with one watch each.
const WATCHES: u32 = 100_000;
/// Paths in one directory.
const SIBLINGS: u32 = 100;
const CROWD: u32 = 1000;

fn path(number: u32) -> PathBuf {
    let (domid, leaf) = (number / SIBLINGS, number % SIBLINGS);
    path_of(&format!("/local/domain/{domid}/device/vif/0/n{leaf}"))
}

fn path_of(text: &str) -> PathBuf {
    Path::parse(text.as_bytes()).expect("a path").to_buf()
}

fn entry(number: u32) -> Entry {
    let watcher = Watcher { thread: 0, connection: 0, group: number, seq: number.into() };
    Entry { watcher, domid: Domid(1), depth: None, watches: 1 }
}

fn watches(criterion: &mut Criterion) {
    let mut trie = Trie::default();
    for number in 0..WATCHES {
        trie.insert(path(number).as_path(), entry(number));
    }
    let crowded = path_of("/local/domain/7/crowded");
    for number in 0..CROWD {
        trie.insert(crowded.as_path(), entry(WATCHES + number));
    }
    let mut group = criterion.benchmark_group("watch");
    for (what, at) in [
        ("match none of 100,000", path_of("/local/domain/7/device/vif/0/absent")),
        ("match 1 of 100,000", path(WATCHES / 2)),
        ("match 1,000 on one path", crowded),
    ] {
        group.bench_function(what, |bench| {
            bench.iter(|| {
                Matches::default().of(&trie, black_box(at.as_path()), usize::MAX, |matched| {
                    matched.entries.iter().for_each(|entry| _ = black_box(entry));
                })
            });
        });
    }
    let at = path_of("/local/domain/7/device/vif/0/new");
    let new = entry(u32::MAX);
    group.bench_function("insert and remove", |bench| {
        bench.iter(|| {
            trie.insert(at.as_path(), new);
            assert!(trie.remove(at.as_path(), new.watcher));
        });
    });
    group.bench_function("insert and remove beside a snapshot", |bench| {
        bench.iter(|| {
            let snapshot = trie.clone();
            trie.insert(at.as_path(), new);
            assert!(trie.remove(at.as_path(), new.watcher));
            snapshot
        });
    });
    group.finish();
}

criterion_group!(benches, watches);
criterion_main!(benches);
