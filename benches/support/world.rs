//! A store with domains, without the daemon.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use crossbeam::channel::Receiver;
use xenstored::domain::{Limits, Registry};
use xenstored::protocol::append_event;
use xenstored::store::{
    Caller, Delivering, Executed, Generations, Invocation, Op, Store, Transaction, Unmatched, Verb,
    matcher, reaper, run_reaper,
};
use xenstored::types::{Access, Domid, Entry as PermEntry, Layout, Path, PermSet, Perms, Subject};
use xenstored::watch::{Batch, Entry, Outlet, Watcher};

/// Nodes of a domain: its partition root, three directories, the rest leaves.
pub const NODES: usize = 30;
/// Leaves of a domain, `/local/domain/<d>/device/vif/0/n<i>`.
pub const LEAVES: usize = NODES - 4;
/// Watches of a domain on its own leaves, one each. It has two more, on its directory of backends, as a driver domain
/// has, and on `@releaseDomain`.
const LEAF_WATCHES: usize = 8;
const VALUE: &[u8] = b"/local/domain/0/backend/vif/0/0";

/// A consumer of events that encodes them for the wire as a serving thread does, and drops the bytes.
#[derive(Default)]
struct Wire(Mutex<Vec<u8>>);

impl Outlet for Wire {
    fn push(&self, _: u16, batch: Batch) {
        let mut out = self.0.lock().expect("the thread does not panic");
        out.clear();
        for event in batch.events {
            append_event(&mut out, event.path.as_deref().unwrap_or_default(), b"token");
        }
    }

    fn wake(&self, _: u16) {}
}

/// The store and its callers.
pub struct World {
    pub store: Arc<Store>,
    pub control: Caller,
    pub domains: u16,
    unmatched: Receiver<Unmatched>,
    generations: Generations,
    reply: Vec<u8>,
    watches: u64,
}

impl World {
    /// Makes a store of two shards and `domains` domains with [`NODES`] nodes and ten watches each.
    pub fn of(domains: u16) -> World {
        World::with_outlet(domains, Arc::new(Wire::default()))
    }

    /// The same, whose events go to `outlet`.
    pub fn with_outlet(domains: u16, outlet: Arc<dyn Outlet>) -> World {
        let registry = Arc::new(Registry::new(Limits::defaults(), None));
        let ((reaper, queue), (matcher, unmatched)) = (reaper(), matcher());
        let store =
            Arc::new(Store::new(Layout::new(2), Arc::clone(&registry), outlet, reaper, matcher));
        let weak = Arc::downgrade(&store);
        std::thread::spawn(move || run_reaper(&weak, &queue));
        let domain = registry.get(Domid::CONTROL).expect("the control domain");
        let control = Caller { domain, subject: Subject::CONTROL, epoch: 0, unblocked: None };
        let (generations, reply) = (Generations::default(), Vec::new());
        let mut world =
            World { store, control, domains, unmatched, generations, reply, watches: 0 };
        (1..=domains).for_each(|domid| world.add(Domid(domid)));
        world
    }

    fn add(&mut self, domid: Domid) {
        self.store.registry().admit(domid, u64::from(domid.0));
        let home = format!("/local/domain/{domid}");
        self.run(&home, Verb::Mkdir);
        let perms = self.owned_by(domid);
        self.run(&home, Verb::SetPerms(perms));
        for leaf in 0..LEAVES {
            self.run(&leaf_of(domid, leaf), write());
        }
        for leaf in 0..LEAF_WATCHES {
            self.watch(domid, &leaf_of(domid, leaf));
        }
        self.watch(domid, &backends_of(domid));
        self.watch(domid, "@releaseDomain");
    }

    /// Returns the domain as the caller of a request.
    pub fn guest(&self, domid: Domid) -> Caller {
        let domain = self.store.registry().get(domid).expect("the domain is known");
        Caller { domain, subject: Subject::guest(domid), epoch: 0, unblocked: None }
    }

    /// Returns permissions for the owner only.
    pub fn owned_by(&self, domid: Domid) -> Perms {
        let owner = PermEntry { domid, access: Access::NONE, ignored: false };
        Arc::new(PermSet::new(self.store.registry().now(), owner, &[]))
    }

    /// Executes a request of the control domain, which must not fail.
    pub fn run(&mut self, path: &str, verb: Verb<'_>) -> Executed {
        let (store, caller) = (Arc::clone(&self.store), self.control.clone());
        self.reply.clear();
        let op = Op { path: parse(path), verb };
        store.execute(&caller, &op, &mut self.generations, &mut self.reply).expect(path)
    }

    /// Executes a request in a transaction, which must not fail.
    pub fn run_in(&mut self, transaction: &mut Transaction, path: &str, verb: Verb<'_>) {
        let op = Op { path: parse(path), verb };
        self.reply.clear();
        let World { store, control, generations, reply, .. } = self;
        let request = Invocation { caller: control, op: &op, reply };
        transaction.execute(store, request, generations).expect(path);
    }

    /// Commits a transaction, which must not fail.
    pub fn commit(&mut self, transaction: Transaction) -> Executed {
        let World { store, control, generations, .. } = self;
        transaction.commit(store, control, generations).expect("the commit succeeds")
    }

    /// Does what the matcher does on a thread of its own.
    pub fn match_the_rest(&self) {
        for unmatched in self.unmatched.try_iter() {
            Delivering::default().find_events(&self.store, unmatched);
        }
    }

    /// Sets a watch of `domid`.
    pub fn watch(&mut self, domid: Domid, path: &str) -> Watcher {
        self.watches += 1;
        let watcher = Watcher {
            thread: domid.0 % 2,
            connection: u32::from(domid.0),
            group: u32::try_from(self.watches).expect("few watches"),
            seq: self.watches,
        };
        self.store.watch(parse(path), Entry { watcher, domid, depth: None, watches: 1 });
        watcher
    }

    /// Removes a watch.
    pub fn unwatch(&mut self, watcher: Watcher, path: &str) {
        assert!(self.store.unwatch(parse(path), watcher));
    }

    /// Returns an open transaction of as many reads as writes, on the leaves of one domain.
    pub fn transaction(&mut self, operations: usize, domid: Domid) -> Transaction {
        let mut transaction = Transaction::default();
        for operation in 0..operations {
            let verb = if operation % 2 == 0 { Verb::Read } else { write() };
            self.run_in(&mut transaction, &leaf_of(domid, UNWATCHED + operation / 2), verb);
        }
        transaction
    }

    /// Returns `count` domains in an order unrelated to their placement, each with the number of its earlier
    /// occurrences.
    pub fn some(&self, count: usize) -> impl Iterator<Item = (Domid, usize)> + use<> {
        let domains = usize::from(self.domains);
        // A prime, so that all domains are visited before any is visited again.
        let domid = move |i| u16::try_from(1 + i * 7919 % domains).expect("a domid");
        (0..count).map(move |i| (Domid(domid(i)), i / domains))
    }
}

/// Returns the path of a domain's leaf.
pub fn leaf_of(domid: Domid, leaf: usize) -> String {
    format!("/local/domain/{domid}/device/vif/0/n{leaf}")
}

/// Returns a path below which partitions can lie: watches on it are in the global watch trie.
pub fn backends_of(domid: Domid) -> String {
    format!("/local/domain/{domid}/backend")
}

/// The first leaf without a watch.
pub const UNWATCHED: usize = LEAF_WATCHES;

/// Returns a WRITE of a typical value.
pub fn write() -> Verb<'static> {
    Verb::Write(Cow::Borrowed(VALUE))
}

fn parse(path: &str) -> Path<'_> {
    Path::parse(path.as_bytes()).expect(path)
}
