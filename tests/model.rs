//! Random operations against the naive model, in lock-step: every reply and every event must equal the model's. A
//! failure prints its seed and a minimal list of steps that still fails.
//!
//! For every fourth seed each state is also serialised, parsed and compared with the model's, open transactions
//! included.
//!
//! `XENSTORED_SEED=<n>` runs one seed.

mod common;
mod naive;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::bulk::{self, Bulk};
use common::random::seeds;
use common::wire::show;
use common::{Control, Random, World, op};
use naive::{Carried, Events, Model, Op, PERMS};
use xenstored::migration::stream::state::State;
use xenstored::migration::stream::{Node, Reader};
use xenstored::types::{Domid, Entry};

/// The connections: two of the control domain, and those of guests. Domain 7 dies and returns.
const NAMES: [&str; 5] = ["dom0", "dom0.b", "dom5", "dom6", "dom7"];
const DOMIDS: [u16; 5] = [0, 0, 5, 6, 7];
const MORTAL: usize = 4;
/// The guests among the connections.
const GUESTS: std::ops::Range<usize> = 2..5;
/// For one seed in this many, each state is serialised.
const SEEDS_PER_STREAM: u64 = 4;

#[derive(Clone, Debug)]
enum Step {
    Store(usize, Op),
    Watch(usize, String, String, Option<usize>),
    Unwatch(usize, String, String),
    Reset(usize),
    Start(usize),
    End(usize, bool),
    /// Destroys domain 7 and creates another one with the same domid.
    Rebirth,
    /// Exports, releases and reintroduces a guest.
    Move(usize),
}

fn random_step(random: &mut Random) -> Step {
    const PATHS: [&str; 20] = [
        "/a",
        "/a/b",
        "/a/b/c",
        "/a/d",
        "/local/domain/5/x",
        "/local/domain/5/x/y",
        "/local/domain/6/x",
        "/local/domain/6",
        "/local/domain/7",
        "/local/domain/7/x",
        "/local/domain/0/backend",
        "/local/domain/0/backend/vif",
        "/local/domain/0/backend/vif/7/0",
        "/local/domain/0/backend/vif/5",
        "/local/domain/0/device-model/6/s",
        "/libxl/6/q",
        "/libxl",
        "/vm/u/v",
        "x",
        "x/y",
    ];
    let who = random.below(NAMES.len());
    let mut path = (*random.pick(&PATHS)).to_owned();
    // All connections use any path; guests mostly use relative ones, below their own partition roots.
    if who > 1 && random.chance(40) {
        path = ["x", "x/y", "z", "x/y/w"][random.below(4)].to_owned();
    }
    let token = (*random.pick(&["t", "u"])).to_owned();
    match random.below(100) {
        0..15 => Step::Store(who, Op::Read(path)),
        15..23 => Step::Store(who, Op::Directory(path)),
        23..27 => Step::Store(who, Op::GetPerms(path)),
        27..47 => Step::Store(who, Op::Write(path, (*random.pick(&["1", "2", ""])).to_owned())),
        47..54 => Step::Store(who, Op::Mkdir(path)),
        54..61 => Step::Store(who, Op::Rm(path)),
        61..70 => Step::Store(who, Op::SetPerms(path, (*random.pick(&PERMS)).to_owned())),
        70..78 => {
            let path = if random.chance(20) { "/".to_owned() } else { path };
            let depth = if random.chance(25) { Some(random.below(3)) } else { None };
            Step::Watch(who, path, token, depth)
        }
        78..82 => Step::Unwatch(who, path, token),
        82..83 => Step::Reset(who),
        83..91 => Step::Start(who),
        91..97 => Step::End(who, random.chance(85)),
        97..99 => Step::Move(GUESTS.start + random.below(GUESTS.len())),
        _ => Step::Rebirth,
    }
}

/// Formats a reply as the model does.
fn shown(op: &Op, reply: common::Reply) -> Result<String, String> {
    let text = show(&reply?);
    if !matches!(op, Op::Directory(_)) {
        return Ok(text);
    }
    let mut names: Vec<_> = text.split_inclusive('|').collect();
    names.sort_unstable();
    Ok(names.concat())
}

/// Returns the type and the payload of a request.
fn wire(op: &Op) -> (u32, String) {
    match op {
        Op::Read(path) => (op::READ, format!("{path}\0")),
        Op::Directory(path) => (op::DIRECTORY, format!("{path}\0")),
        Op::GetPerms(path) => (op::GET_PERMS, format!("{path}\0")),
        Op::Write(path, value) => (op::WRITE, format!("{path}\0{value}")),
        Op::Mkdir(path) => (op::MKDIR, format!("{path}\0")),
        Op::Rm(path) => (op::RM, format!("{path}\0")),
        Op::SetPerms(path, perms) => {
            (op::SET_PERMS, format!("{path}\0{}\0", perms.replace(' ', "\0")))
        }
    }
}

/// The daemon and the model side by side.
struct Pair {
    world: World,
    model: Model,
    open: [Option<u32>; NAMES.len()],
    bulk: Bulk,
}

impl Pair {
    fn new(control: Control, shards: u16) -> Pair {
        let mut world = World::new(control, shards);
        let mut model = Model::new(&DOMIDS);
        // The world's own node for barriers.
        let barrier = "/barrier".to_owned();
        model.request(0, &Op::Mkdir(barrier.clone())).0.unwrap();
        model.request(0, &Op::SetPerms(barrier, "r0".to_owned())).0.unwrap();
        for (name, domid) in NAMES.iter().zip(DOMIDS) {
            world.client(name);
            if domid != 0 {
                model.create(domid);
            }
        }
        let bulk = Bulk::connect(&world.daemon);
        Pair { world, model, open: [None; NAMES.len()], bulk }
    }

    /// Executes a step on the daemon and on the model, and compares the outcomes.
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let events = self.replies(step)?;
        self.compare_events(events)
    }

    fn replies(&mut self, step: &Step) -> Result<Events, String> {
        let equal = |got: Result<String, String>, wanted: naive::Reply| {
            if got == wanted.clone().map_err(str::to_owned) {
                Ok(())
            } else {
                Err(format!("replied {got:?}, the model {wanted:?}"))
            }
        };
        let plain = |reply: common::Reply| reply.map(|payload| show(&payload));
        match step {
            Step::Store(who, op) => {
                let client = self.world.client(NAMES[*who]);
                let (kind, payload) = wire(op);
                let tx = self.open[*who];
                let got = shown(op, client.request(kind, tx.unwrap_or(0), payload));
                if tx.is_none() {
                    let (wanted, events) = self.model.request(*who, op);
                    return equal(got, wanted).map(|()| events);
                }
                let got: naive::Reply = match got {
                    Ok(payload) => Ok(payload),
                    Err(error) => {
                        let known = common::wire::ERRORS.iter().find(|known| **known == error);
                        Err(known.unwrap())
                    }
                };
                let checked = self.model.in_transaction_request(*who, op, got.clone());
                checked.map_err(|wanted| format!("replied {got:?}, the model {wanted:?}"))?;
                Ok(Events::new())
            }
            Step::Watch(who, path, token, depth) => {
                let depth_text = depth.map_or(String::new(), |depth| format!("{depth}\0"));
                let payload = format!("{path}\0{token}\0{depth_text}");
                let got = self.world.client(NAMES[*who]).request(op::WATCH, 0, payload);
                let (wanted, events) = self.model.watch(*who, path, token, *depth);
                equal(plain(got), wanted).map(|()| events)
            }
            Step::Unwatch(who, path, token) => {
                let got = self.world.client(NAMES[*who]).unwatch(path, token);
                let wanted = self.model.unwatch(*who, path, token);
                equal(plain(got), wanted).map(|()| Events::new())
            }
            Step::Reset(who) => {
                self.world.client(NAMES[*who]).request(op::RESET_WATCHES, 0, "\0")?;
                self.world.watches_were_reset(NAMES[*who]);
                self.model.reset(*who);
                self.open[*who] = None;
                Ok(Events::new())
            }
            Step::Start(who) => {
                if self.open[*who].is_none() {
                    self.open[*who] = Some(self.world.client(NAMES[*who]).start()?);
                    self.model.start(*who);
                }
                Ok(Events::new())
            }
            Step::End(who, commit) => {
                let Some(tx) = self.open[*who].take() else { return Ok(Events::new()) };
                let argument = if *commit { "T\0" } else { "F\0" };
                let client = self.world.client(NAMES[*who]);
                let got = client.request(op::TRANSACTION_END, tx, argument);
                let (wanted, events) = self.model.end(*who, *commit);
                equal(plain(got), wanted).map(|()| events)
            }
            Step::Rebirth => {
                // The advisories' tests cover commits of transactions during which a domain died.
                for who in 0..NAMES.len() {
                    self.replies(&Step::End(who, false))?;
                }
                let domid = DOMIDS[MORTAL];
                self.world.until_released(domid);
                self.world.close(NAMES[MORTAL]);
                self.open[MORTAL] = None;
                let events = self.model.destroy(domid);
                self.compare_events(events)?;
                self.world.client(NAMES[MORTAL]);
                Ok(self.model.create(domid))
            }
            Step::Move(who) => {
                let domid = DOMIDS[*who];
                let (_, said) = self.bulk.export(&format!("{domid}|"));
                let release = format!("{domid}\0{}\0", bulk::mark(&said));
                self.world.admin.request(op::RELEASE, 0, release)?;
                let introduce = format!("{domid}\x001\0{}\0", self.world.ports[&domid]);
                self.world.admin.request(op::INTRODUCE, 0, introduce)?;
                self.world.admin.request(op::UNQUIESCE, 0, format!("force\0{domid}\0"))?;
                Ok(self.model.moved(*who))
            }
        }
    }

    /// Compares the guests' exported streams with the model.
    fn compare_streams(&mut self) -> Result<(), String> {
        let (stream, said) = self.bulk.export("5|6|7|");
        let state = Reader::new(&*stream).and_then(|mut reader| State::read(&mut reader));
        let state = state.map_err(|error| format!("{error}\n{said}"))?;
        for who in GUESTS {
            let (got, wanted) = (carried(&state, DOMIDS[who]), self.model.carried(who));
            if got != wanted {
                return Err(format!("{} is exported as {got:?}, the model {wanted:?}", NAMES[who]));
            }
            let tx_ids = state.client_of(Domid(DOMIDS[who])).map(|client| &client.transactions);
            let tx_ids: Vec<u32> =
                tx_ids.into_iter().flat_map(|them| them.keys().copied()).collect();
            if tx_ids != self.open[who].into_iter().collect::<Vec<_>>() {
                return Err(format!("{}'s exported transactions are {tx_ids:?}", NAMES[who]));
            }
        }
        self.world.admin.request(op::UNQUIESCE, 0, "5\x006\x007\0").map(drop)
    }

    fn compare_events(&mut self, wanted: Events) -> Result<(), String> {
        for (number, name) in NAMES.iter().enumerate() {
            if !self.world.names().contains(&(*name).to_owned()) {
                continue;
            }
            let mut got = self.world.events_until_now(name);
            let mut wanted = wanted.get(&number).cloned().unwrap_or_default();
            got.sort();
            wanted.sort();
            // The daemon may have merged equal events of two requests.
            if wanted.windows(2).any(|pair| pair[0] == pair[1]) {
                got.dedup();
                wanted.dedup();
            }
            if got != wanted {
                return Err(format!("{name} got events {got:?}, the model {wanted:?}"));
            }
        }
        Ok(())
    }
}

/// Returns a domain's part of a stream, without barrier watches. A stream has one subtree after the other, so the nodes
/// are sorted by path as in the model.
fn carried(state: &State, domid: u16) -> Carried {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let entry = |entry: &Entry| {
        let stale = if entry.ignored { "!" } else { "" };
        format!("{}{}{stale}", char::from(entry.access.letter()), entry.domid)
    };
    let perms = |node: &Node| node.perms.iter().map(entry).collect::<Vec<_>>().join(" ");
    let nodes = state
        .nodes
        .iter()
        .map(|(path, node)| [text(path.as_path().bytes()), text(&node.value), perms(node)]);
    let mut nodes: Vec<_> = nodes.filter(|[path, ..]| naive::key(path) == Some(domid)).collect();
    nodes.sort();
    let client = state.client_of(Domid(domid)).expect("the domain is introduced");
    let set = client.watches.iter().filter(|watch| watch.path != b"/barrier");
    let watches =
        set.map(|watch| (text(&watch.path), text(&watch.token), watch.depth.map(usize::from)));
    Carried { nodes, watches: watches.collect(), open: !client.transactions.is_empty() }
}

/// Runs steps; on failure, returns the number of the step and the error.
fn run(
    steps: &[Step],
    control: Control,
    shards: u16,
    streams: bool,
) -> Result<(), (usize, String)> {
    let mut at = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut pair = Pair::new(control, shards);
        for step in steps {
            pair.step(step)?;
            if streams {
                pair.compare_streams()?;
            }
            at += 1;
        }
        pair.world.check_store();
        Ok(())
    }));
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err((at, why)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err((at, text.unwrap_or_else(|| "panic".to_owned())))
        }
    }
}

/// Removes steps, larger groups first, as long as the remaining ones still fail.
fn fewest(
    mut steps: Vec<Step>,
    control: Control,
    shards: u16,
    streams: bool,
) -> (Vec<Step>, String) {
    let (at, mut why) =
        run(&steps, control, shards, streams).expect_err("the failure is not reproducible");
    steps.truncate(at + 1);
    let mut part = steps.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(from..(from + part).min(steps.len()));
            match run(&fewer, control, shards, streams) {
                Err((at, still)) => {
                    fewer.truncate(at + 1);
                    (steps, why) = (fewer, still);
                }
                Ok(()) => from += part,
            }
        }
        part /= 2;
    }
    (steps, why)
}

/// Steps per seed.
const STEPS: usize = 250;

fn compare(control: Control, shards: u16) {
    for seed in seeds(12) {
        let mut random = Random::new(seed);
        let steps: Vec<Step> = (0..STEPS).map(|_| random_step(&mut random)).collect();
        let streams = seed.is_multiple_of(SEEDS_PER_STREAM);
        if let Err((at, why)) = run(&steps, control, shards, streams) {
            eprintln!("seed {seed}, step {at}: {why}\nshrinking");
            let (steps, why) = fewest(steps, control, shards, streams);
            let listed: Vec<_> = steps.iter().map(|step| format!("  {step:?}\n")).collect();
            panic!(
                "XENSTORED_SEED={seed}, control by {control:?}, {shards} shards\n{}{why}",
                listed.concat()
            );
        }
    }
}

#[test]
fn random_operations_by_socket_match_the_model_on_one_shard() {
    compare(Control::Socket, 1);
}

#[test]
fn random_operations_by_socket_match_the_model_on_four_shards() {
    compare(Control::Socket, 4);
}

#[test]
fn random_operations_by_ring_match_the_model_on_one_shard() {
    compare(Control::Ring, 1);
}

#[test]
fn random_operations_by_ring_match_the_model_on_four_shards() {
    compare(Control::Ring, 4);
}
