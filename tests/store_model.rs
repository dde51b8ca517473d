//! Random operations on the store through its library interface, without threads, against the naive model. Fast enough
//! to run for every mutant of src/store.

mod naive;
mod world;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use naive::{Events, Model, Op, PERMS};
use proptest::prelude::*;
use world::{Client, World, commit_error, perms};
use xenstored::store::{LONG_PATH_BYTES, Transaction, Verb, check};
use xenstored::types::{Domid, Errno, Path, PathSpace, REL_PATH_MAX};
use xenstored::watch::Watcher;

/// The connections: one of the control domain, and those of guests. Domain 7 dies and returns.
const DOMIDS: [u16; 4] = [0, 5, 6, 7];
const MORTAL: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Store(usize, Op),
    Watch(usize, String, Option<usize>),
    Unwatch(usize),
    Start(usize),
    End(usize, bool),
    Rebirth,
}

fn arb_path() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "/a",
        "/a/b",
        "/a/b/c",
        "/a/d",
        "/local/domain/5/x",
        "/local/domain/5/x/y",
        "/vm/u/v",
        "/local/domain/6",
        "/local/domain/7",
        "/local/domain/7/x",
        "/local/domain/0/backend",
        "/local/domain/0/backend/vif",
        "/local/domain/0/backend/vif/7/0",
        "/libxl/6/q",
        "/libxl",
        "/local/domain/0/backend/vif/5",
        "/local/domain/0/device-model/6/s",
        "x",
        "x/y",
        "x/y/z",
    ])
    .prop_map(str::to_owned)
}

fn arb_perms() -> impl Strategy<Value = String> {
    prop::sample::select(&PERMS[..]).prop_map(str::to_owned)
}

fn arb_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => arb_path().prop_map(Op::Read),
        2 => arb_path().prop_map(Op::Directory),
        1 => arb_path().prop_map(Op::GetPerms),
        6 => (arb_path(), "[12]{0,20}").prop_map(|(path, value)| Op::Write(path, value)),
        2 => arb_path().prop_map(Op::Mkdir),
        2 => arb_path().prop_map(Op::Rm),
        3 => (arb_path(), arb_perms()).prop_map(|(path, perms)| Op::SetPerms(path, perms)),
    ]
}

fn arb_step() -> impl Strategy<Value = Step> {
    let who = || 0..DOMIDS.len();
    prop_oneof![
        20 => (who(), arb_op()).prop_map(|(who, op)| Step::Store(who, op)),
        3 => (who(), arb_path(), prop::option::of(0usize..3))
            .prop_map(|(who, path, depth)| Step::Watch(who, path, depth)),
        1 => who().prop_map(Step::Unwatch),
        2 => who().prop_map(Step::Start),
        2 => (who(), prop::bool::weighted(0.8)).prop_map(|(who, commit)| Step::End(who, commit)),
        1 => Just(Step::Rebirth),
    ]
}

/// A watch of the store, with its connection and path in the model.
struct Watched {
    connection: usize,
    path: String,
    watcher: Watcher,
}

/// The store and the model side by side.
struct Pair {
    world: World,
    model: Model,
    clients: Vec<Client>,
    open: [Option<Transaction>; DOMIDS.len()],
    watches: BTreeMap<u64, Watched>,
    next: u64,
}

impl Pair {
    /// Creates a pair whose commits spend a budget of `looks` on matching under their locks; the matcher gets the rest.
    /// Paths from `long_path` bytes on are written without them.
    fn new(looks: u64, long_path: usize) -> Pair {
        let (mut world, model) = (World::new(), Model::new(&DOMIDS));
        let store = Arc::get_mut(&mut world.store).unwrap();
        store.set_looks_max(looks, looks);
        store.set_long_path_bytes(long_path);
        let clients = vec![world.control()];
        let (open, watches) = (Default::default(), BTreeMap::new());
        let mut pair = Pair { world, model, clients, open, watches, next: 0 };
        for domid in &DOMIDS[1..] {
            let client = pair.create(*domid);
            pair.clients.push(client);
        }
        pair
    }

    /// Creates a domain with its partition root.
    fn create(&mut self, domid: u16) -> Client {
        let domain = self.world.admit(domid);
        let partition = format!("/local/domain/{domid}");
        self.world.control().run(&partition, Verb::Mkdir).unwrap();
        self.world.control().set_perms(&partition, &format!("n{domid}")).unwrap();
        let wanted = self.model.create(domid);
        self.compare_events(wanted);
        self.world.client(&domain)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Store(who, op) => self.request(*who, op),
            Step::Watch(who, path, depth) => self.watch(*who, path, *depth),
            Step::Unwatch(who) => self.unwatch_all(*who, 1),
            Step::Start(who) if self.open[*who].is_none() => {
                self.open[*who] = Some(Transaction::default());
                self.model.start(*who);
            }
            Step::Start(_) => {}
            Step::End(who, commit) => self.end(*who, *commit),
            Step::Rebirth => self.rebirth(),
        }
        self.world.check();
    }

    fn request(&mut self, who: usize, op: &Op) {
        let mut space = PathSpace::new();
        let (raw, verb) = self.verb(op);
        let domid = Domid(DOMIDS[who]);
        let path = Path::resolve(raw.as_bytes(), domid, REL_PATH_MAX, &mut space).unwrap();
        let (path, writes) = (path.to_string(), verb.writes());
        let client = &mut self.clients[who];
        let Some(transaction) = &mut self.open[who] else {
            let got = shown(client.run(&path, verb), writes);
            let (wanted, events) = self.model.request(who, op);
            assert_eq!(got, wanted, "{op:?} of {domid}");
            return self.compare_events(events);
        };
        let got = shown(client.run_in(transaction, &path, verb), writes);
        let checked = self.model.in_transaction_request(who, op, got.clone());
        assert_eq!(checked, Ok(()), "{op:?} of {domid} in a transaction returned {got:?}");
    }

    fn verb<'o>(&self, op: &'o Op) -> (&'o str, Verb<'o>) {
        match op {
            Op::Read(path) => (path, Verb::Read),
            Op::Directory(path) => (path, Verb::Directory),
            Op::GetPerms(path) => (path, Verb::GetPerms),
            Op::Write(path, value) => (path, Verb::Write(Cow::Borrowed(value.as_bytes()))),
            Op::Mkdir(path) => (path, Verb::Mkdir),
            Op::Rm(path) => (path, Verb::Rm),
            Op::SetPerms(path, entries) => {
                (path, Verb::SetPerms(perms(self.world.registry.now(), entries)))
            }
        }
    }

    fn watch(&mut self, connection: usize, path: &str, depth: Option<usize>) {
        self.next += 1;
        let (seq, domid) = (self.next, Domid(DOMIDS[connection]));
        let mut space = PathSpace::new();
        let at = Path::resolve(path.as_bytes(), domid, REL_PATH_MAX, &mut space).unwrap();
        let levels = depth.map(|depth| u16::try_from(depth).unwrap());
        let watcher = self.world.watch_as(domid, &at.to_string(), seq, levels);
        let path = path.to_owned();
        // The initial event of a WATCH is not sent by the store.
        self.model.watch(connection, &path, &seq.to_string(), depth).0.unwrap();
        self.watches.insert(seq, Watched { connection, path, watcher });
    }

    /// Removes up to `count` watches of a connection.
    fn unwatch_all(&mut self, connection: usize, count: usize) {
        let own = self.watches.iter().filter(|(_, watch)| watch.connection == connection);
        for seq in own.map(|(seq, _)| *seq).take(count).collect::<Vec<_>>() {
            let watch = self.watches.remove(&seq).unwrap();
            let domid = Domid(DOMIDS[connection]);
            let mut space = PathSpace::new();
            let path = watch.path.as_bytes();
            let path = Path::resolve(path, domid, REL_PATH_MAX, &mut space).unwrap();
            assert!(self.world.store.unwatch(path, watch.watcher));
            assert!(!self.world.store.unwatch(path, watch.watcher));
            self.model.unwatch(connection, &watch.path, &seq.to_string()).unwrap();
        }
    }

    fn end(&mut self, who: usize, commit: bool) {
        let Some(transaction) = self.open[who].take() else { return };
        let (wanted, events) = self.model.end(who, commit);
        if commit {
            let got =
                self.clients[who].commit(transaction).map_err(|failure| commit_error(&failure));
            assert_eq!(shown(got.map(|()| Vec::new()), true), wanted, "END of {who}");
        }
        self.compare_events(events);
    }

    fn rebirth(&mut self) {
        for who in 0..DOMIDS.len() {
            self.end(who, false);
        }
        self.unwatch_all(MORTAL, usize::MAX);
        self.world.die(&Arc::clone(&self.clients[MORTAL].caller.domain));
        let wanted = self.model.destroy(DOMIDS[MORTAL]);
        self.compare_events(wanted);
        self.clients[MORTAL] = self.create(DOMIDS[MORTAL]);
    }

    fn compare_events(&mut self, wanted: Events) {
        let mut got = Events::new();
        self.world.find_events();
        for (seq, path) in self.world.outlet.take_events() {
            let watch = &self.watches[&seq];
            let prefix = format!("/local/domain/{}/", DOMIDS[watch.connection]);
            let relative = !watch.path.starts_with('/');
            let shown = if relative { path.strip_prefix(&prefix).unwrap() } else { &path };
            got.entry(watch.connection).or_default().push(format!("{shown}|{seq}"));
        }
        let sorted = |mut events: Events| {
            events.values_mut().for_each(|events| events.sort());
            events.retain(|_, events| !events.is_empty());
            events
        };
        assert_eq!(
            sorted(got),
            sorted(wanted),
            "events of the store (left) and of the model (right)"
        );
    }
}

/// Formats a reply as the model does.
fn shown(reply: Result<Vec<u8>, Errno>, writes: bool) -> naive::Reply {
    const NAMES: [(Errno, &str); 5] = [
        (Errno::EACCES, "EACCES"),
        (Errno::ENOENT, "ENOENT"),
        (Errno::EPERM, "EPERM"),
        (Errno::EAGAIN, "EAGAIN"),
        (Errno::ENOSPC, "ENOSPC"),
    ];
    match reply {
        Ok(_) if writes => Ok("OK|".to_owned()),
        Ok(payload) => Ok(String::from_utf8(payload).unwrap().replace('\0', "|")),
        Err(errno) => Err(NAMES.iter().find(|(known, _)| *known == errno).unwrap().1),
    }
}

proptest! {
    /// A failure prints a minimal list of steps, which is saved in a file next to this one.
    #[test]
    fn store_behaves_like_the_naive_model(
        steps in prop::collection::vec(arb_step(), 1..120),
        looks in prop::sample::select(&[0, 8, 32, 4096][..]),
        long_path in prop::sample::select(&[0, LONG_PATH_BYTES][..]),
    ) {
        let mut pair = Pair::new(looks, long_path);
        steps.iter().for_each(|step| pair.step(step));
        assert!(check(&pair.world.store).unwrap().findings.is_empty());
    }
}
