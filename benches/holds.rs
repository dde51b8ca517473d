//! How long locks are held while 100,000 nodes are removed, and how long others wait:
//! `cargo bench --bench holds --features holds`, with `-- counted` only what gates, with `-- counted PART` of that only
//! the scenarios whose names contain the part.
//!
//! The trees are removed by RM outside transactions and settled, here and on the reaper's thread.
//! First in time, while one thread reads and one writes in the removed tree's own shard, and one
//! reads in the other; beside it a control does work of a known length without any lock, and shows
//! what the machine adds to that. Then in instructions, which do not depend on the machine, beside what guests
//! within their quotas can make requests do (support/hostile): it fails if a hold has more than [`HOLD_MAX`],
//! or one of a scenario that is known to be above it more than it had.

#[path = "support/hostile/mod.rs"]
mod hostile;
#[path = "support/instructions.rs"]
mod instructions;
#[path = "support/world.rs"]
#[allow(dead_code)] // Each benchmark uses a part of it.
mod world;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hostile::Scenario;
use instructions::Counted;
use world::{UNWATCHED, World, leaf_of, write};
use xenstored::store::{Generations, Op, Removed, Store, Transaction, Verb};
use xenstored::sync::holds::{self, Holds};
use xenstored::types::{Domid, Path};

const NODES: usize = 100_000;
/// Longer waits are recorded as this.
const LONGEST_NANOS: u64 = 60_000_000_000;
/// Maximum instructions of a hold: a millisecond on a core that executes one in ten nanoseconds, as one does that
/// misses the cache on every tenth instruction.
const HOLD_MAX: u64 = 100_000;
/// Steps of the control's work: about the time of a WRITE under its lock.
const CONTROL_STEPS: u64 = 5000;
const TREE: &str = "/local/domain/1/tree";
/// A domain of the tree's shard, and one of the other.
const BESIDE: Domid = Domid(3);
const ELSEWHERE: Domid = Domid(2);

type Build = fn(&mut World);

const SHAPES: [(&str, Build); 3] = [
    ("100 directories of 1,000", |world| build(world, 1000, None)),
    ("one directory", |world| build(world, NODES, None)),
    ("100 directories of 1,000 nodes of another owner", |world| {
        build(world, 1000, Some(Domid(5)));
    }),
];

fn main() -> ExitCode {
    if let Some(part) = instructions::counted() {
        be_counted(&part);
        return ExitCode::SUCCESS;
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "counted");
    let is_timed = arguments.next().is_none();
    let part = arguments.next().filter(|part| part != "--bench").unwrap_or_default();
    if is_timed {
        for (name, shape) in SHAPES {
            for snapshot in [false, true] {
                let mut world = World::of(10);
                shape(&mut world);
                println!("{name}{}:", if snapshot { ", beside a snapshot" } else { "" });
                remove_in_time(&mut world, snapshot);
            }
        }
    }
    match instructions::count(&part) {
        Ok(counted) => {
            let are_short: Vec<bool> = counted.iter().map(judge).collect();
            let is_sound = !are_short.is_empty() && are_short.iter().all(|is_short| *is_short);
            if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("not counted: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the longest hold of a scenario; returns whether it is short enough.
fn judge(counted: &Counted) -> bool {
    let Counted { scenario, holds, most, at } = counted;
    let hostile = hostile::SCENARIOS.iter().find(|hostile| hostile.name == scenario);
    let limit = hostile.map_or(HOLD_MAX, |hostile| hostile.hold_max);
    println!(
        "{scenario}: of {holds} holds the longest is {most} instructions, of the lock taken at {at}; at most {limit}"
    );
    *holds > 0 && *most <= limit
}

/// Under valgrind: removes every shape, each hold told; one of them beside a snapshot. Then what hostile guests do.
fn be_counted(part: &str) {
    holds::watch(instructions::tell);
    let shapes = SHAPES.into_iter().zip([false, true, false]);
    for ((name, shape), snapshot) in shapes.filter(|((name, _), _)| name.contains(part)) {
        let mut world = World::of(10);
        shape(&mut world);
        let mut transaction = Transaction::default();
        if snapshot {
            world.run_in(&mut transaction, TREE, Verb::Directory);
        }
        instructions::begin(name);
        remove(&mut world);
        instructions::end();
    }
    let scenarios = hostile::SCENARIOS.iter().filter(|scenario| scenario.name.contains(part));
    for Scenario { name, prepare, .. } in scenarios {
        let act = prepare();
        // At a large request glibc's allocator merges the small blocks that earlier scenarios freed, within a hold.
        drop(black_box(Vec::<u8>::with_capacity(64 << 10)));
        instructions::begin(name);
        let after = act();
        instructions::end();
        drop(after);
    }
}

/// Executes RM, and waits for the accounting that follows it.
fn remove(world: &mut World) {
    let removed = world.run(TREE, Verb::Rm).removed;
    settle(&world.store, removed);
}

/// Does what follows when something was removed, the reaper's part too.
fn settle(store: &Store, removed: Vec<Removed>) {
    if let Some(rest) = store.settle(removed) {
        let (over, is_over) = mpsc::channel();
        store.reap(rest, Box::new(move || over.send(()).expect("the receiver is alive")));
        is_over.recv().expect("the reaper is running");
    }
}

/// Builds [`NODES`] leaves in directories of `width`, owned by `owner`.
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

/// Removes the tree, and prints lock hold times and wait times.
fn remove_in_time(world: &mut World, snapshot: bool) {
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
    let control = spin(&stop);
    std::thread::sleep(Duration::from_millis(20));
    let _before = (holds::take(), holds::take_control());
    let start = Instant::now();
    remove(world);
    println!("  removed after {:?}", start.elapsed());
    show("holds", &holds::take());
    show("the control without a lock", &holds::take_control());
    stop.store(true, Ordering::Relaxed);
    control.join().expect("the thread does not panic");
    for (what, probe) in probes {
        let times = probe.join().expect("the thread does not panic");
        let at = |quantile| Duration::from_nanos(times.value_at_quantile(quantile));
        println!(
            "  {what}: {} times, p50 {:?}, p99.9 {:?}, max {:?}",
            times.len(),
            at(0.5),
            at(0.999),
            at(1.0)
        );
    }
}

fn show(what: &str, holds: &Holds) {
    let Holds { count, total_cpu, longest, longest_cpu, longest_cpu_at } = holds;
    let at = longest_cpu_at.map(ToString::to_string).unwrap_or_default();
    println!("  {what}: {count}, {total_cpu:?} CPU time in total, {longest_cpu:?} the longest");
    println!("    (taken at {at}), {longest:?} the longest by wall time");
}

/// Repeats the same work until `stop`, measured like a hold.
fn spin(stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            holds::control(|| {
                black_box((0..CONTROL_STEPS).fold(0, |sum, step| black_box(sum ^ step)));
            });
        }
    })
}

/// Sends requests one after the other until `stop`. Returns a histogram of their times in nanoseconds.
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
