//! The longest hold of any lock while 100,000 nodes are removed, and how long others wait:
//! `cargo bench --bench holds --features holds`.
//!
//! The trees are removed by RM outside transactions and settled, here and on the reaper's thread,
//! while one thread reads and one writes in the removed tree's own shard, and one reads in the
//! other. It fails if a lock is held for more than [`HOLD_MAX`] of processor time.

#[path = "support/world.rs"]
#[allow(dead_code)] // Every benchmark uses a part of it.
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use world::{UNWATCHED, World, leaf_of, write};
use xenstored::store::{Generations, Op, Transaction, Verb};
use xenstored::sync::holds;
use xenstored::words::{Domid, Path};

const NODES: usize = 100_000;
/// What a wait is counted as at most.
const LONGEST_NANOS: u64 = 60_000_000_000;
const HOLD_MAX: Duration = Duration::from_millis(1);
const TREE: &str = "/local/domain/1/tree";
/// In the tree's shard, and in the other.
const BESIDE: Domid = Domid(3);
const ELSEWHERE: Domid = Domid(2);

fn main() -> ExitCode {
    let mut longest = Duration::ZERO;
    type Build = fn(&mut World);
    let shapes: [(&str, Build); 3] = [
        ("100 directories of 1,000", |world| build(world, 1000, None)),
        ("one directory", |world| build(world, NODES, None)),
        ("100 directories of 1,000 nodes of another owner", |world| {
            build(world, 1000, Some(Domid(5)));
        }),
    ];
    for (name, shape) in shapes {
        for snapshot in [false, true] {
            let mut world = World::of(10);
            shape(&mut world);
            println!("{name}{}:", if snapshot { ", beside a snapshot" } else { "" });
            longest = longest.max(remove(&mut world, snapshot));
        }
    }
    println!("the longest hold: {longest:?} of processor time, at most {HOLD_MAX:?}");
    if longest > HOLD_MAX { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// [`NODES`] leaves in directories of `width`, given to `owner`.
fn build(world: &mut World, width: usize, owner: Option<Domid>) {
    let perms = owner.map(|owner| world.owned_by(owner));
    for node in 0..NODES {
        let path = format!("{TREE}/{}/n{}", node / width, node % width);
        world.run(&path, write());
        if let Some(perms) = &perms {
            world.run(&path, Verb::SetPerms(Arc::clone(perms)));
        }
    }
}

/// Removes the tree; answers the longest hold.
fn remove(world: &mut World, snapshot: bool) -> Duration {
    let mut transaction = Transaction::default();
    if snapshot {
        world.run_in(&mut transaction, TREE, Verb::Directory);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let probes = [
        ("READ in its shard", probe(world, BESIDE, Verb::Read, &stop)),
        ("WRITE in its shard", probe(world, BESIDE, write(), &stop)),
        ("READ in the other shard", probe(world, ELSEWHERE, Verb::Read, &stop)),
    ];
    std::thread::sleep(Duration::from_millis(20));
    let _before = holds::take();
    let start = Instant::now();
    let removed = world.run(TREE, Verb::Rm).removed;
    let replied = start.elapsed();
    if let Some(rest) = world.store.settle(removed) {
        let (over, is_over) = mpsc::channel();
        world.store.reap(rest, Box::new(move || over.send(()).expect("somebody waits")));
        is_over.recv().expect("the reaper lives");
    }
    let settled = start.elapsed();
    let holds = holds::take();
    stop.store(true, Ordering::Relaxed);
    println!("  RM {replied:?}, settled after {settled:?}");
    println!(
        "  {} holds, the longest {:?} of processor time, {:?} by the clock",
        holds.count, holds.longest_cpu, holds.longest
    );
    for (what, probe) in probes {
        let times = probe.join().expect("no panic");
        let at = |quantile| Duration::from_nanos(times.value_at_quantile(quantile));
        println!(
            "  {what}: {} times, p50 {:?}, p99.9 {:?}, max {:?}",
            times.len(),
            at(0.5),
            at(0.999),
            at(1.0)
        );
    }
    holds.longest_cpu
}

/// Makes one request after another until `stop`; answers how long they took, in nanoseconds.
fn probe(
    world: &World,
    domid: Domid,
    verb: Verb<'static>,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<Histogram<u64>> {
    let (store, caller, stop) = (Arc::clone(&world.store), world.control.clone(), stop.clone());
    std::thread::spawn(move || {
        let path = leaf_of(domid, UNWATCHED);
        let op = Op { path: Path::parse(path.as_bytes()).expect("a path"), verb };
        let (mut generations, mut reply) = (Generations::default(), Vec::new());
        let mut times = Histogram::new_with_bounds(1, LONGEST_NANOS, 3).expect("sound bounds");
        while !stop.load(Ordering::Relaxed) {
            reply.clear();
            let start = Instant::now();
            let done = store.execute(&caller, &op, &mut generations, &mut reply);
            times.saturating_record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            assert!(done.is_ok());
        }
        times
    })
}
