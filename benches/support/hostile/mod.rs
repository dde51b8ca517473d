//! Scenarios in which guests within their quotas make requests hold locks for long.

mod commits;
mod nodes;
mod watches;

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use crossbeam::queue::SegQueue;
use xenstored::store::{Caller, CommitError, Generations, Invocation, Op, Transaction, Verb};
use xenstored::types::{Access, Domid, Entry as PermEntry, Path, PermSet, Perms};
use xenstored::watch::{Batch, Entry, Outlet, Watcher};

use super::world::World;
use super::{HOLD_MAX, settle};

/// The measured part. It returns what is dropped after the measurement.
pub type Act = Box<dyn FnOnce() -> Box<dyn Any>>;

/// A scenario in which guests make others' requests, or their own, long.
pub struct Scenario {
    pub name: &'static str,
    /// The limit on the instructions of its longest hold: that of all holds, or the count after its last improvement
    /// plus some per cent.
    pub hold_max: u64,
    pub prepare: fn() -> Act,
}

const fn scenario(name: &'static str, hold_max: u64, prepare: fn() -> Act) -> Scenario {
    Scenario { name, hold_max, prepare }
}

pub const SCENARIOS: [Scenario; 24] = [
    scenario("a commit of 900 changes, each watched by 8 guests", HOLD_MAX, commits::each_watched),
    scenario(
        "a commit of 900 changes below what 64 guests watch",
        HOLD_MAX,
        commits::all_below_watched,
    ),
    scenario("the same where they may read nothing", HOLD_MAX, commits::all_below_unreadable),
    scenario(
        "a commit of 900 changes below 30 levels that 30 guests watch",
        110_000,
        commits::below_watched_levels,
    ),
    scenario(
        "a commit that creates and removes a tree of 960 levels 18 times",
        HOLD_MAX,
        commits::created_and_removed,
    ),
    scenario("a commit of 900 partitions", 3_400_000, commits::partitions),
    scenario(
        "a guest's commit of 1000 requests that loses every race",
        HOLD_MAX,
        commits::guest_loses_races,
    ),
    scenario(
        "a toolstack's commit of 500 requests that loses every race",
        146_000,
        commits::toolstack_loses_races,
    ),
    scenario(
        "a WRITE below 960 levels that 8 guests watch",
        HOLD_MAX,
        watches::write_below_watched_levels,
    ),
    scenario(
        "the same where they may read nothing of it",
        HOLD_MAX,
        watches::write_below_unreadable_levels,
    ),
    scenario(
        "a WRITE below what 64 guests watch above all partitions",
        HOLD_MAX,
        watches::write_below_upper_levels,
    ),
    scenario("a death that 64 guests watch 1024 times each", HOLD_MAX, watches::death),
    scenario("RM of 960 levels that 8 guests watch", HOLD_MAX, watches::remove_watched_levels),
    scenario("RM of 900 nodes, each watched by 8 guests", HOLD_MAX, watches::remove_watched_nodes),
    scenario(
        "RM of a partition below which 8 guests watch 1000 levels 1024 times",
        HOLD_MAX,
        watches::remove_above_deep_watches,
    ),
    scenario(
        "RESET_WATCHES of watches on each of 1000 levels, beside a snapshot",
        920_000,
        watches::reset_levels,
    ),
    scenario(
        "RESET_WATCHES of 1024 watches of 1000 levels, beside a snapshot",
        HOLD_MAX,
        watches::reset_deep,
    ),
    scenario("a WRITE below 900 levels of 2 KB values", HOLD_MAX, nodes::write_below_values),
    scenario("the same beside a snapshot", HOLD_MAX, nodes::write_below_values_beside_snapshot),
    scenario("a WRITE of a path of 960 levels", HOLD_MAX, nodes::create_levels),
    scenario("RM of a partition with 900 partitions below", 2_650_000, nodes::remove_partitions),
    scenario(
        "SET_PERMS of a new owner above 250 nodes with paths of 900 bytes",
        1_300_000,
        nodes::new_owner,
    ),
    scenario("the sweep of 900 nodes, each watched by 8 guests", HOLD_MAX, nodes::sweep_watched),
    scenario(
        "the sweep of 300 nodes below 900 levels of another's, beside a snapshot",
        980_000,
        nodes::sweep_scattered,
    ),
];

/// The guest whose nodes are watched, in shard 1.
const WATCHED: Domid = Domid(1);
/// The quota `watches`.
const WATCHES: u16 = 1024;
/// Levels of the longest path that the quotas `path-max` and `nodes` allow its owner, which has 30 other nodes.
const LEVELS: usize = 960;
/// Nodes that the quota `nodes` allows in directories of 30.
const CHANGES: usize = 900;

/// An outlet that queues batches like a mailbox.
#[derive(Default)]
struct Mailbox(SegQueue<Batch>);

impl Outlet for Mailbox {
    fn push(&self, _: u16, batch: Batch) {
        self.0.push(batch);
    }

    fn wake(&self, _: u16) {}
}

/// A world with a guest that makes requests, and others.
struct Stage {
    world: World,
    guest: Caller,
    generations: Generations,
}

impl Stage {
    /// Creates a stage with `others` more guests, which may read the first one's nodes if these are `readable`.
    fn of(others: u16, readable: bool) -> Stage {
        let mut world = World::with_outlet(others + 1, Arc::new(Mailbox::default()));
        let access = if readable { Access::READ } else { Access::NONE };
        let perms = perms_of(&world, WATCHED, access);
        world.run(&home(), Verb::SetPerms(perms));
        let guest = caller(&world, WATCHED);
        Stage { world, guest, generations: Generations::default() }
    }

    /// Runs a request that must succeed, and the work that follows it.
    fn run(&mut self, caller: &Caller, path: &str, verb: Verb<'_>) {
        let op = Op { path: parse(path), verb };
        let done = self.world.store.execute(caller, &op, &mut self.generations, &mut Vec::new());
        let done = done.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        settle(&self.world.store, done.removed);
        self.world.match_the_rest();
    }

    /// Runs a request of the guest that must succeed.
    fn run_as_guest(&mut self, path: &str, verb: Verb<'_>) {
        self.run(&self.guest.clone(), path, verb);
    }

    /// Runs a request of the control domain that must succeed.
    fn run_as_control(&mut self, path: &str, verb: Verb<'_>) {
        self.run(&self.world.control.clone(), path, verb);
    }

    /// Runs a request in a transaction that must succeed.
    fn run_in(
        &mut self,
        transaction: &mut Transaction,
        caller: &Caller,
        path: &str,
        verb: Verb<'_>,
    ) {
        let Stage { world, generations, .. } = self;
        let op = Op { path: parse(path), verb };
        let request = Invocation { caller, op: &op, reply: &mut Vec::new() };
        let done = transaction.execute(&world.store, request, generations);
        done.unwrap_or_else(|errno| panic!("{path}: {errno:?}"));
    }

    /// Runs END and the work that follows it; calls `between` wherever other requests may run, but not in a reservation,
    /// where other clients' writes wait. Returns whether it committed.
    fn commit(
        &mut self,
        mut transaction: Transaction,
        caller: &Caller,
        mut between: impl FnMut(&mut Stage),
    ) -> bool {
        let mut is_reserved = false;
        let end = loop {
            let end = transaction.commit(&self.world.store, caller, &mut self.generations);
            let (again, is_contended) = match end {
                Err(CommitError::Unfinished(again)) => (again, false),
                Err(CommitError::Contended(again)) => (again, true),
                end => break end,
            };
            is_reserved |= is_contended;
            if !is_reserved {
                between(self);
            }
            transaction = *again;
        };
        let is_done = end.is_ok();
        if let Ok(done) = end {
            settle(&self.world.store, done.removed);
            self.world.match_the_rest();
        }
        is_done
    }

    /// Sets watches of the other guests on each of the paths.
    fn watch(&mut self, others: u16, paths: impl Iterator<Item = String>) {
        for path in paths {
            others_of(others).for_each(|domid| _ = self.world.watch(domid, &path));
        }
    }

    /// Sets all watches that a guest may have on one path.
    fn watch_often(&self, domid: Domid, path: &str, group: u32) {
        let (thread, connection) = (domid.0 % 2, u32::from(domid.0));
        let watcher = Watcher { thread, connection, group: (1 << 20) + group, seq: 1 << 20 };
        let entry = Entry { watcher, domid, depth: None, watches: WATCHES };
        self.world.store.watch(parse(path), entry);
    }
}

fn parse(path: &str) -> Path<'_> {
    Path::parse(path.as_bytes()).expect("a path")
}

/// Returns a guest's caller whose requests hold tickets.
fn caller(world: &World, domid: Domid) -> Caller {
    Caller { unblocked: Some(Arc::new(|_| ())), ..world.guest(domid) }
}

fn perms_of(world: &World, domid: Domid, access: Access) -> Perms {
    let owner = PermEntry { domid, access, ignored: false };
    Arc::new(PermSet::new(world.store.registry().now(), owner, &[]))
}

fn others_of(count: u16) -> impl Iterator<Item = Domid> {
    (2..2 + count).map(Domid)
}

fn home() -> String {
    format!("/local/domain/{WATCHED}")
}

/// Returns the path at this depth of a chain.
fn level(depth: usize) -> String {
    format!("{}{}", home(), "/a".repeat(depth))
}

/// Returns one of [`CHANGES`] paths in directories of 30.
fn node(number: usize) -> String {
    format!("{}/n{}/n{}", home(), number / 30, number % 30)
}

/// Returns one of [`CHANGES`] partition roots of others' devices, as a driver domain creates them.
fn partition_below(number: usize) -> String {
    format!("{}/backend/kind{}/{}", home(), number / 300, 1000 + number)
}

/// Returns a path of the maximum length below the watched guest's partition root.
fn deep(first: &str) -> String {
    format!("{}/{first}{}", home(), "/a".repeat((2040 - first.len()) / 2))
}

fn write_of(value: &[u8]) -> Verb<'_> {
    Verb::Write(Cow::Borrowed(value))
}
