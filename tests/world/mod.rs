//! A store without threads, sockets or rings, and the invariants that hold whenever no request is running. Shared by
//! the tests that use the library directly.
#![allow(dead_code)] // Each test uses a part.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Mutex;

use crossbeam::channel::Receiver;
use xenstored::domain::{Domain, Limits, Quota, Registry};
use xenstored::store::{
    Caller, Executed, Generations, Invocation, Node, NodeArc, Op, Sizes, Store, Transaction, Tree,
    Verb,
};
use xenstored::store::{
    CommitError, Delivering, Done, Removed, Settlement, StoreError, Unblocked, Unmatched, matcher,
    reaper, sweep,
};
use xenstored::sync::Arc;
use xenstored::types::{Domid, Entry as PermEntry, Errno, Layout, Path, PathBuf, PermSet, Perms};
use xenstored::watch::{Batch, Entry, Event, Outlet, Watcher};

/// A recorder of pushed batches, in order. The lock is not shuttle's: a push is one step, as in the lock-free queue of
/// a mailbox.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<(u16, Batch)>>);

impl Recorder {
    /// Takes everything that was pushed.
    pub fn take(&self) -> Vec<(u16, Batch)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Takes everything that was pushed and returns the events, as (number of the watch, path).
    pub fn take_events(&self) -> Vec<(u64, String)> {
        let batches = self.take().into_iter().flat_map(|(_, mut batch)| {
            batch.take_found();
            assert!(!batch.is_pending(), "events are still being matched");
            batch.events
        });
        let shown = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
        let path = |event: &Event| event.path.as_deref().map_or("its own".into(), shown);
        batches.map(|event| (event.watcher.seq, path(&event))).collect()
    }
}

impl Outlet for Recorder {
    fn push(&self, thread: u16, batch: Batch) {
        self.0.lock().unwrap().push((thread, batch));
    }

    fn wake(&self, _thread: u16) {}
}

/// A store with its registry, and a recorder of everything that it pushes.
pub struct World {
    pub store: Arc<Store>,
    pub registry: Arc<Registry>,
    pub outlet: Arc<Recorder>,
    /// Work left to the reaper; no thread takes it unless a test starts one.
    pub queue: Receiver<(Settlement, Done)>,
    /// Work left to the matcher; no thread takes it unless a test starts one.
    pub unmatched: Receiver<Unmatched>,
    next_life: Mutex<u64>,
}

impl World {
    /// Creates a store of two shards: domains with even numbers are in the first, odd ones in the second.
    pub fn new() -> World {
        let registry = Arc::new(Registry::new(Limits::defaults(), None));
        let outlet = Arc::new(Recorder::default());
        let ((reaper, queue), (matcher, unmatched)) = (reaper(), matcher());
        let (to_store, to_outlet) = (Arc::clone(&registry), Arc::clone(&outlet));
        let store = Store::new(Layout::new(2), to_store, to_outlet, reaper, matcher);
        let (store, next_life) = (Arc::new(store), Mutex::new(1));
        World { store, registry, outlet, queue, unmatched, next_life }
    }

    /// Creates a world with domain 5, which may write below `/tool/x`.
    pub fn with_guest() -> (World, Arc<Domain>) {
        let world = World::new();
        let guest = world.admit(5);
        world.control().write("/tool/x", "").unwrap();
        world.control().set_perms("/tool/x", "b0").unwrap();
        (world, guest)
    }

    /// Returns the sizes of all shards, the root shard last.
    pub fn sizes(&self) -> impl Iterator<Item = Sizes> {
        self.store.layout().all().map(|shard| Sizes::of(&self.store, shard))
    }

    /// Finds the events that were left to the matcher; returns the number of their commits.
    pub fn find_events(&self) -> usize {
        let found = |unmatched| drop(Delivering::default().find_events(&self.store, unmatched));
        self.unmatched.try_iter().map(found).count()
    }

    /// Registers a domain and returns it.
    pub fn admit(&self, domid: u16) -> Arc<Domain> {
        let mut next = self.next_life.lock().unwrap();
        *next += 1;
        let birth = *next;
        drop(next);
        self.registry.admit(Domid(domid), birth).unwrap()
    }

    /// Ends a domain's incarnation and sweeps the nodes that it owned.
    pub fn die(&self, domain: &Arc<Domain>) {
        assert!(self.registry.bury(domain));
        self.sweep(domain);
    }

    /// Removes and settles the nodes that a dead domain owned.
    pub fn sweep(&self, domain: &Arc<Domain>) {
        let by = self.control();
        for executed in sweep(&self.store, domain, &by.caller, &mut Generations::default()) {
            assert!(self.store.settle(executed.removed).is_none());
        }
    }

    /// Returns a client with the control domain's rights.
    pub fn control(&self) -> Client {
        self.client(&self.registry.get(Domid::CONTROL).unwrap())
    }

    /// Returns a client with this domain's rights.
    pub fn client(&self, domain: &Arc<Domain>) -> Client {
        self.throttled(domain, None)
    }

    /// Returns a client with a function that is called when its requests may be read again.
    pub fn throttled(&self, domain: &Arc<Domain>, unblocked: Option<Unblocked>) -> Client {
        let subject = self.registry.subject(domain);
        let caller = Caller { domain: Arc::clone(domain), subject, epoch: 0, unblocked };
        let generations = Generations::default();
        Client { store: Arc::clone(&self.store), caller, generations }
    }

    /// Sets a watch of the control domain, numbered `seq`, on thread 0.
    pub fn watch(&self, path: &str, seq: u64) -> Watcher {
        self.watch_as(Domid::CONTROL, path, seq, None)
    }

    /// Sets a watch of a domain, numbered `seq`, on thread 0.
    pub fn watch_as(&self, domid: Domid, path: &str, seq: u64, depth: Option<u16>) -> Watcher {
        let watcher = Watcher { thread: 0, connection: 0, group: u32::try_from(seq).unwrap(), seq };
        self.store.watch(at(path), Entry { watcher, domid, depth, watches: 1 });
        watcher
    }

    /// Returns every node, sorted by path.
    pub fn nodes(&self) -> Vec<(PathBuf, Node)> {
        let mut found = Vec::new();
        let layout = self.store.layout();
        let mut todo: Vec<(PathBuf, NodeArc)> = Vec::new();
        for shard in layout.all() {
            let tree = self.store.snapshot(shard);
            todo.extend(tree.partitions().map(|(path, root)| (path.clone(), NodeArc::clone(root))));
        }
        while let Some((path, node)) = todo.pop() {
            for (name, child) in node.children().iter() {
                let below = path.as_path().child(name.bytes());
                todo.extend(child.as_ref().map(|child| (below, NodeArc::clone(child))));
            }
            found.push((path, Node::clone(&node)));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }

    /// Returns whether a node exists, according to the trees rather than the store's operations.
    pub fn has(&self, path: &str) -> bool {
        self.nodes().iter().any(|(other, _)| *other == at(path).to_buf())
    }

    /// Checks the invariants that hold whenever no request is running.
    pub fn check(&self) {
        let nodes = self.nodes();
        self.check_links(&nodes);
        self.check_owners(&nodes);
        self.check_accounts(&nodes);
    }

    /// Checks that every partition root is named by its parent, and that every name of a partition has its root.
    fn check_links(&self, nodes: &[(PathBuf, Node)]) {
        let find = |path: Path<'_>| node_at(nodes, path);
        for (path, node) in nodes {
            let path = path.as_path();
            if let Some(parent) = path.parent().filter(|_| !path.is_special()) {
                let (_, parent) = find(parent).unwrap_or_else(|| panic!("{path} has no parent"));
                assert!(
                    parent.children().get(path.name()).is_some(),
                    "{path} is missing from its parent's children"
                );
            }
            for (name, child) in node.children().iter() {
                let below = path.child(name.bytes());
                let is_partition =
                    self.store.layout().partition(below.as_path()).root == below.as_path();
                assert_eq!(is_partition, child.is_none(), "{below:?} is in the wrong partition");
                assert!(find(below.as_path()).is_some(), "{below:?} is a name without a node");
            }
        }
    }

    /// Checks that every node's owner lives, and that the index of owners says where their nodes begin.
    fn check_owners(&self, nodes: &[(PathBuf, Node)]) {
        let mut boundaries = BTreeSet::new();
        for (path, node) in nodes {
            let owner = node.perms.owner();
            let is_alive = self.registry.owner(owner, node.perms.stamp()).is_some();
            assert!(is_alive, "{path:?} is owned by domain {owner}, which is dead");
            let above = self.above(nodes, path.as_path());
            if owner != Domid::CONTROL && above.is_none_or(|(_, up)| up.perms.owner() != owner) {
                boundaries.insert((owner, path.clone()));
            }
        }
        let trees = self.store.layout().all().map(|shard| self.store.snapshot(shard));
        let index: BTreeSet<_> = trees.flat_map(|tree| owned(&tree)).collect();
        assert_eq!(index, boundaries, "index of owners: found (left), expected (right)");
    }

    /// Returns the node above `path` in its partition.
    fn above<'n>(
        &self,
        nodes: &'n [(PathBuf, Node)],
        path: Path<'_>,
    ) -> Option<&'n (PathBuf, Node)> {
        let is_partition = self.store.layout().partition(path).root == path;
        path.parent().filter(|_| !is_partition).and_then(|parent| node_at(nodes, parent))
    }

    /// Checks that each domain is charged for exactly the nodes that it owns.
    fn check_accounts(&self, nodes: &[(PathBuf, Node)]) {
        for domid in self.registry.known() {
            let domain = self.registry.get(domid).unwrap();
            let own = nodes.iter().filter(|(_, node)| node.perms.owner() == domid);
            let (mut count, mut bytes) = (0, 0);
            // No domain is charged for the nodes of a new store.
            for (path, node) in own.filter(|_| domid != Domid::CONTROL) {
                let (path, path_bytes) = (path.as_path(), path.as_path().bytes().len());
                let above = self.above(nodes, path).map(|(_, above)| above.perms.owner());
                count += 1;
                bytes += node.charge_bytes(path.name()) + node.index_bytes(path_bytes, above);
            }
            if domid != Domid::CONTROL {
                assert_eq!(
                    domain.account.used(Quota::Nodes),
                    count,
                    "nodes charged to domain {domid}"
                );
                assert_eq!(
                    domain.account.used(Quota::Memory),
                    bytes,
                    "bytes charged to domain {domid}"
                );
            }
        }
    }
}

/// Finds a node by its path; `nodes` is sorted by path.
fn node_at<'n>(nodes: &'n [(PathBuf, Node)], path: Path<'_>) -> Option<&'n (PathBuf, Node)> {
    nodes.binary_search_by(|(other, _)| other.as_path().cmp(&path)).ok().map(|at| &nodes[at])
}

fn owned(tree: &Tree) -> Vec<(Domid, PathBuf)> {
    tree.owned().cloned().collect()
}

/// Returns the errno of a reply; panics on another error.
fn refusal(error: StoreError) -> Errno {
    match error {
        StoreError::Refused(errno) => errno,
        StoreError::StaleEpoch | StoreError::NeedsLock(..) => panic!("{error}"),
    }
}

/// Returns the errno of the reply to a failed commit.
pub fn commit_error(failure: &CommitError) -> Errno {
    match failure {
        CommitError::Conflict(_) => Errno::EAGAIN,
        CommitError::Quota => Errno::ENOSPC,
        CommitError::StaleEpoch(_) | CommitError::Unfinished(_) | CommitError::Contended(_) => {
            panic!("{failure:?}")
        }
    }
}

/// The requests of one client, executed as by a worker.
pub struct Client {
    store: Arc<Store>,
    pub caller: Caller,
    generations: Generations,
}

impl Client {
    /// Runs a request and settles removed nodes, as the daemon does before it replies.
    pub fn run(&mut self, path: &str, verb: Verb<'_>) -> Result<Vec<u8>, Errno> {
        self.execute(path, verb).map(|(reply, _)| reply)
    }

    /// Runs a request; also returns the ticket of its outcome.
    pub fn execute(&mut self, path: &str, verb: Verb<'_>) -> Result<(Vec<u8>, Executed), Errno> {
        self.attempt(path, verb).map_err(refusal)
    }

    /// Runs a request of a client whose epoch may be stale.
    pub fn attempt(
        &mut self,
        path: &str,
        verb: Verb<'_>,
    ) -> Result<(Vec<u8>, Executed), StoreError> {
        let mut reply = Vec::new();
        let op = Op { path: at(path), verb };
        let mut executed =
            self.store.execute(&self.caller, &op, &mut self.generations, &mut reply)?;
        assert!(self.store.settle(std::mem::take(&mut executed.removed)).is_none());
        Ok((reply, executed))
    }

    /// Writes a value, unless the client's epoch is stale.
    pub fn attempt_write(&mut self, path: &str, value: &str) -> Result<(), StoreError> {
        self.attempt(path, Verb::Write(Cow::Borrowed(value.as_bytes()))).map(drop)
    }

    pub fn read(&mut self, path: &str) -> Result<String, Errno> {
        self.run(path, Verb::Read).map(|value| String::from_utf8(value).unwrap())
    }

    pub fn write(&mut self, path: &str, value: &str) -> Result<(), Errno> {
        self.run(path, Verb::Write(Cow::Borrowed(value.as_bytes()))).map(drop)
    }

    pub fn rm(&mut self, path: &str) -> Result<(), Errno> {
        self.run(path, Verb::Rm).map(drop)
    }

    /// Runs RM; the caller must settle the removed nodes.
    pub fn begin_rm(&mut self, path: &str) -> Result<Vec<Removed>, Errno> {
        let op = Op { path: at(path), verb: Verb::Rm };
        let reply = &mut Vec::new();
        let executed = self.store.execute(&self.caller, &op, &mut self.generations, reply);
        Ok(executed.map_err(refusal)?.removed)
    }

    /// Sets permissions like `n0 r5`, stamped with the present.
    pub fn set_perms(&mut self, path: &str, entries: &str) -> Result<(), Errno> {
        let perms = perms(self.store.registry().now(), entries);
        self.run(path, Verb::SetPerms(perms)).map(drop)
    }

    /// Runs a request in a transaction.
    pub fn run_in(
        &mut self,
        transaction: &mut Transaction,
        path: &str,
        verb: Verb<'_>,
    ) -> Result<Vec<u8>, Errno> {
        let mut reply = Vec::new();
        let op = Op { path: at(path), verb };
        let request = Invocation { caller: &self.caller, op: &op, reply: &mut reply };
        transaction.execute(&self.store, request, &mut self.generations)?;
        Ok(reply)
    }

    pub fn write_in(
        &mut self,
        transaction: &mut Transaction,
        path: &str,
        value: &str,
    ) -> Result<(), Errno> {
        let value = Cow::Borrowed(value.as_bytes());
        self.run_in(transaction, path, Verb::Write(value)).map(drop)
    }

    /// Commits a transaction and settles removed nodes; goes on without a reservation if it loses many races.
    pub fn commit(&mut self, transaction: Transaction) -> Result<(), CommitError> {
        let mut end = self.attempt_commit(transaction);
        while let Err(CommitError::Contended(again)) = end {
            end = self.attempt_commit(*again);
        }
        end
    }

    /// Like [`Client::commit`], but fails if it loses many races.
    pub fn attempt_commit(&mut self, transaction: Transaction) -> Result<(), CommitError> {
        let executed = transaction.commit(&self.store, &self.caller, &mut self.generations)?;
        assert!(self.store.settle(executed.removed).is_none());
        Ok(())
    }
}

/// Parses a well-formed path.
pub fn at(path: &str) -> Path<'_> {
    Path::parse(path.as_bytes()).unwrap()
}

/// Parses permissions like `n0 r5`.
pub fn perms(stamp: u64, entries: &str) -> Perms {
    let parse = |text: &str| PermEntry::parse(text.as_bytes()).unwrap();
    let entries: Vec<_> = entries.split(' ').map(parse).collect();
    Arc::new(PermSet::new(stamp, entries[0], &entries[1..]))
}
