//! The steps of a run, drawn from a seed.

use crate::client::Action;
use crate::common::Random;
use crate::naive::{Op, PERMS};

/// The socket clients.
pub const SOCKETS: usize = 2;
/// The clients of the control domain: sockets, then its kernel.
pub const CONTROL: usize = SOCKETS + 1;
/// The domids of guests.
pub const GUESTS: [u16; 3] = [5, 6, 7];
/// All clients: those of the control domain, then guests.
pub const CLIENTS: usize = CONTROL + GUESTS.len();
/// The steps of one seed.
pub const STEPS: usize = 300;

/// What is the same for a whole run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub workers: u16,
    /// The quota `outstanding`.
    pub outstanding: u32,
    /// The nodes that a worker settles before it leaves the rest of a removal to the reaper.
    pub inline_nodes: usize,
    /// The looks for watches before a commit leaves the rest to the matcher.
    pub looks: u64,
    /// The number of paths in use: with few, clients meet.
    pub paths: usize,
    /// The microseconds that pass with each look at the clock.
    pub look_us: u64,
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A client queues a request, in its transaction if it knows one and the flag is set.
    Queue(usize, Action, bool),
    /// A client sends up to this number of bytes.
    Send(usize, usize),
    /// A guest sends everything without a notification, as some old drivers do.
    Silence(usize),
    /// A client receives up to this number of bytes.
    Receive(usize, usize),
    /// A worker runs a pass, if it has a reason to.
    Pass(usize),
    /// The reaper runs a slice.
    Reap,
    /// The matcher finds the events of a commit.
    Match,
    /// A client sends everything, all workers run a pass, and it receives everything.
    Turn(usize),
    /// This number of milliseconds passes.
    Advance(u64),
    /// A worker has a full mailbox, or no longer.
    Load(usize),
    /// A domain of the host dies, or is created if there is none.
    Live(u16),
    /// A socket client closes its connection, and connects again to this worker.
    Reconnect(usize, usize),
    /// Another server goes on with the state of this one.
    Update,
    /// Everything goes on until nothing is left to do.
    Calm,
}

pub fn random_setup(random: &mut Random) -> Setup {
    Setup {
        workers: *random.pick(&[1, 2, 3, 4]),
        outstanding: *random.pick(&[0, 1, 2, 20]),
        inline_nodes: *random.pick(&[1, 2, 4096]),
        looks: *random.pick(&[1, 3, 10, 4096]),
        paths: *random.pick(&[2, 5, PATHS.len()]),
        look_us: *random.pick(&[0, 0, 150]),
    }
}

/// Watches that are set before anything else.
const WATCHES: usize = 8;

pub fn random_steps(random: &mut Random, setup: &Setup) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..WATCHES {
        let who = random.below(CLIENTS);
        steps.push(Step::Queue(who, random_watch(random, setup, who), false));
    }
    while steps.len() < STEPS {
        match random.below(100) {
            0 => steps.extend(conflicts(random, setup)),
            1 => steps.extend(stall(random, setup)),
            _ => steps.push(random_step(random, setup)),
        }
    }
    steps
}

/// Returns the stall of a guest: it does not read its replies, so that its events wait until they expire or it reads.
fn stall(random: &mut Random, setup: &Setup) -> Vec<Step> {
    let (guest, writer) = (CONTROL + random.below(GUESTS.len()), random.below(CLIENTS));
    // Its own, so that it may read the value that fills the ring.
    let path = "x".to_owned();
    let request = |op| Step::Queue(guest, Action::Store(op), false);
    let mut steps = vec![
        Step::Queue(guest, Action::Watch("/".to_owned(), "s".to_owned(), None), false),
        request(Op::Write(path.clone(), "v".repeat(200))),
        Step::Turn(guest),
    ];
    steps.extend((0..8).map(|_| request(Op::Read(path.clone()))));
    steps.push(Step::Send(guest, usize::MAX));
    for _ in 0..3 {
        let path = random_path(random, setup, writer);
        let write = Action::Store(Op::Write(path, random.pick(&["1", "2"]).to_string()));
        steps.extend([Step::Queue(writer, write, false), Step::Turn(writer)]);
    }
    if random.chance(40) {
        let domid = GUESTS[guest - CONTROL];
        for (action, time) in [(Action::Quiesce(domid), 21_000), (Action::Unquiesce(domid), 0)] {
            steps.extend([Step::Queue(0, action, false), Step::Turn(0), Step::Turn(0)]);
            steps.push(Step::Advance(time));
        }
    }
    for _ in 0..2 {
        steps.extend([Step::Advance(*random.pick(&[300, 11_000, 21_000])), Step::Turn(writer)]);
        steps.push(random_step(random, setup));
    }
    steps.extend([Step::Turn(writer), Step::Receive(guest, usize::MAX >> 48), Step::Turn(guest)]);
    steps
}

/// Returns transactions of a socket client that read what another client writes.
fn conflicts(random: &mut Random, setup: &Setup) -> Vec<Step> {
    let (reader, writer) = (random.below(CONTROL), random.below(CLIENTS));
    let path = random_path(random, setup, reader);
    let mut steps = Vec::new();
    for value in ["1", "2", "", "1"] {
        steps.extend([
            Step::Queue(reader, Action::Start, false),
            Step::Turn(reader),
            Step::Queue(reader, Action::Store(Op::Read(path.clone())), true),
            Step::Turn(reader),
            Step::Queue(writer, Action::Store(Op::Write(path.clone(), value.to_owned())), false),
            Step::Turn(writer),
            Step::Queue(reader, Action::End(true), true),
            random_step(random, setup),
            Step::Turn(reader),
        ]);
    }
    steps
}

fn random_step(random: &mut Random, setup: &Setup) -> Step {
    let who = random.below(CLIENTS);
    let worker = random.below(usize::from(setup.workers));
    let domid = *random.pick(&GUESTS);
    match random.below(1000) {
        0..260 => Step::Queue(who, random_action(random, setup, who), random.chance(70)),
        260..340 => Step::Turn(who),
        340..480 => Step::Send(who, random_count(random)),
        480..640 => Step::Receive(who, random_count(random)),
        640..850 => Step::Pass(worker),
        850..880 => Step::Reap,
        880..910 => Step::Match,
        910..940 => Step::Advance(*random.pick(&[1, 10, 60, 300, 1_100, 5_000, 25_000, 40_000])),
        940..943 => Step::Load(worker),
        943..945 => Step::Silence(who),
        945..960 => Step::Live(domid),
        960..965 => Step::Reconnect(random.below(SOCKETS), worker),
        965..985 => Step::Queue(random.below(CONTROL), random_management(random, domid), false),
        985..990 => Step::Update,
        _ => Step::Calm,
    }
}

/// Returns a number of bytes: a part of a message, or everything.
fn random_count(random: &mut Random) -> usize {
    if random.chance(30) { 1 + random.below(60) } else { 1 << 16 }
}

/// Returns a toolstack's request about a domain.
fn random_management(random: &mut Random, domid: u16) -> Action {
    match random.below(10) {
        0..5 => Action::Introduce(domid),
        5..7 => Action::Release(domid),
        7..8 => Action::Quiesce(domid),
        _ => Action::Unquiesce(domid),
    }
}

fn random_action(random: &mut Random, setup: &Setup, who: usize) -> Action {
    let path = random_path(random, setup, who);
    match random.below(100) {
        0..15 => Action::Store(Op::Read(path)),
        15..20 => Action::Store(Op::Directory(path)),
        20..24 => Action::Store(Op::GetPerms(path)),
        24..46 => {
            let long = "v".repeat(200);
            Action::Store(Op::Write(path, (*random.pick(&["1", "2", "", &long])).to_owned()))
        }
        46..53 => Action::Store(Op::Mkdir(path)),
        53..60 => Action::Store(Op::Rm(path)),
        60..67 => Action::Store(Op::SetPerms(path, (*random.pick(&PERMS)).to_owned())),
        67..76 => random_watch(random, setup, who),
        76..80 => Action::Unwatch(path, random_token(random)),
        80..81 => Action::Reset,
        81..90 => Action::Start,
        _ => Action::End(random.chance(85)),
    }
}

fn random_watch(random: &mut Random, setup: &Setup, who: usize) -> Action {
    let path = match random.below(10) {
        0..2 => "/".to_owned(),
        2..4 => "/local/domain".to_owned(),
        4 => return Action::Watch("@releaseDomain".to_owned(), random_token(random), None),
        5 => return Action::Watch("@introduceDomain".to_owned(), random_token(random), None),
        _ => random_path(random, setup, who),
    };
    let depth = if random.chance(25) { Some(random.below(3)) } else { None };
    Action::Watch(path, random_token(random), depth)
}

fn random_token(random: &mut Random) -> String {
    random.pick(&["t", "u"]).to_string()
}

/// The paths of requests; the first ones are used most.
const PATHS: [&str; 16] = [
    "/local/domain/5/x",
    "/a/b",
    "/local/domain/6/x/y",
    "/a",
    "/local/domain/7/x",
    "/local/domain/0/backend/vif/7/0",
    "/a/b/c",
    "/a/d",
    "/local/domain/5/x/y",
    "/local/domain/6/x",
    "/local/domain/6",
    "/local/domain/7",
    "/local/domain/0/backend/vif",
    "/local/domain/0/backend/vif/5",
    "/libxl/6/q",
    "x/y",
];

fn random_path(random: &mut Random, setup: &Setup, who: usize) -> String {
    let own = ["x", "x/y", "z", "x/y/w"];
    let path = if who >= CONTROL && random.chance(40) {
        own[random.below(own.len().min(setup.paths))]
    } else {
        PATHS[random.below(setup.paths)]
    };
    path.to_owned()
}
