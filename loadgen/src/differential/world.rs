//! A daemon with its host and its clients.

use std::collections::{HashMap, HashSet};
use std::io;
use std::process::ExitStatus;

use xenstored::host::sim::{Reason, SimClient};
use xenstored::protocol::ERROR;
use xenstored::types::Domid;

use super::line::{Event, Line, Reply};
use super::step::{Step, Tx, Who, op};
use crate::target::{Options, Running, Target};

/// The node whose events prove that all earlier events have arrived; every client watches it.
const BARRIER: &[u8] = b"/barrier\0";
const BARRIER_WATCH: &[u8] = b"/barrier\0~\0";

/// The harness's own watch for domain deaths, and its events.
const RELEASED: &[u8] = b"@releaseDomain\0~\0";

/// A transaction id that is not in use: ids count from 1.
const UNKNOWN_TX: u32 = 0x00ff_fff0;

/// The result of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The reply, if a request was made.
    pub reply: Option<Reply>,
    /// The events up to the barrier after the step with their receivers, in order of arrival.
    pub events: Vec<(Who, Event)>,
}

/// A daemon and its environment.
pub struct World {
    /// The daemon under test.
    pub target: Target,
    running: Running,
    host: SimClient,
    admin: Line,
    lines: HashMap<Who, Line>,
    /// Domains that exist but are not introduced: their rings are not served.
    waiting: HashMap<Who, Line>,
    /// Whether the last step introduced a domain that was already introduced.
    pub again: bool,
    /// Domains that shut down.
    shut: HashSet<Who>,
    /// Transaction ids by the step that started them.
    transactions: HashMap<usize, u32>,
}

/// Small limits, equal for all daemons, so that they are hit often. The peers grant one watch and one transaction
/// more than configured (docs/COMPATIBILITY.md, quota-plus-one).
fn options(target: &Target) -> Options {
    let (watches, transactions) = if *target == Target::Ours { ("5", "2") } else { ("4", "1") };
    let arguments = match target {
        Target::OCaml => Vec::new(),
        _ => ["-E", "12", "-A", "5", "-S", "2048", "-M", "2048", "-W", watches, "-t", transactions]
            .map(String::from)
            .to_vec(),
    };
    let config = "quota-maxentity = 12\nquota-maxwatch = 4\nquota-transaction = 1\n\
                  quota-path-max = 2048\nquota-maxsize = 2048\n\
                  conflict-burst-limit = 1000000.0\n";
    Options { shards: Some(2), keeper: false, arguments, config: config.to_owned() }
}

impl World {
    /// Starts a daemon and creates the initial nodes of every sequence.
    pub fn start(target: &Target) -> io::Result<World> {
        let running = target.start(&options(target))?;
        let sim = running.sim.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let host = SimClient::connect(sim)?;
        let mut admin = Line::connect(&running.socket)?;
        must(admin.ask(op::MKDIR, 0, BARRIER)?)?;
        must(admin.ask(op::SET_PERMS, 0, b"/barrier\0r0\0")?)?;
        must(admin.ask(op::WATCH, 0, RELEASED)?)?;
        admin.wait_for(RELEASED)?;
        let target = target.clone();
        let mut world = World {
            target,
            running,
            host,
            admin,
            lines: HashMap::new(),
            waiting: HashMap::new(),
            again: false,
            shut: HashSet::new(),
            transactions: HashMap::new(),
        };
        world.begin()?;
        Ok(world)
    }

    /// Returns the daemon's output.
    pub fn log(&self) -> String {
        self.running.log()
    }

    /// Returns the exit status of the daemon if this error is due to its end: a daemon that sends malformed data is
    /// alive.
    pub fn ending(&mut self, error: &io::Error) -> Option<ExitStatus> {
        if error.kind() == io::ErrorKind::InvalidData { None } else { self.running.ending() }
    }

    /// Creates the nodes and sockets with which every sequence starts.
    fn begin(&mut self) -> io::Result<()> {
        // All domains may watch domains, as in 4.17 (docs/COMPATIBILITY.md, special-permissions).
        for perms in [&b"@introduceDomain\0n0\0"[..], b"@releaseDomain\0n0\0"] {
            must(self.admin.ask(op::SET_PERMS, 0, perms)?)?;
        }
        for path in [&b"/t\0"[..], b"/local/domain/0\0"] {
            must(self.admin.ask(op::MKDIR, 0, path)?)?;
        }
        for who in Who::all().filter(|who| !who.is_guest()) {
            self.connect(who)?;
        }
        Ok(())
    }

    /// Restores the initial state of a sequence.
    pub fn clear(&mut self) -> io::Result<()> {
        let domains: Vec<Who> = Who::all().filter(|who| who.is_guest()).collect();
        for who in domains {
            self.destroy(who)?;
        }
        self.lines.clear();
        self.transactions.clear();
        let children = self.admin.ask(op::DIRECTORY, 0, b"/\0")?.payload;
        for name in children.split(|&byte| byte == 0) {
            const KEPT: [&[u8]; 5] =
                [b"", b"barrier", b"tool", b"@introduceDomain", b"@releaseDomain"];
            if !KEPT.contains(&name) {
                must(self.admin.ask(op::RM, 0, &[b"/", name, b"\0"].concat())?)?;
            }
        }
        must(self.admin.ask(op::WRITE, 0, b"/\0")?)?;
        self.admin.events.clear();
        self.begin()
    }

    /// Returns whether a step is meaningful here.
    pub fn can(&self, step: &Step) -> bool {
        match step {
            Step::Request { who, tx, .. } => {
                let known = |step| self.transactions.contains_key(step);
                self.lines.contains_key(who) && !matches!(tx, Tx::Of(step) if !known(step))
            }
            Step::Reconnect(who) => !who.is_guest(),
            Step::Create(who) => !self.lines.contains_key(who) && !self.waiting.contains_key(who),
            Step::Shutdown(who) | Step::Destroy(who) => {
                self.lines.contains_key(who) || self.waiting.contains_key(who)
            }
        }
    }

    /// Begins a step, as far as possible without waiting for this daemon.
    pub fn begin_step(&mut self, step: &Step) -> io::Result<()> {
        self.again = false;
        if let Step::Request { who, kind, tx, payload } = step {
            let tx = self.tx(*tx);
            let line = self.lines.get_mut(who).ok_or(io::ErrorKind::NotConnected)?;
            line.send(*kind, tx, payload)?;
        }
        Ok(())
    }

    /// Ends step number `at`, up to the reply.
    pub fn end_step(&mut self, at: usize, step: &Step) -> io::Result<Option<Reply>> {
        match step {
            Step::Request { who, kind, tx, payload } => {
                let tx = self.tx(*tx);
                let line = self.lines.get_mut(who).ok_or(io::ErrorKind::NotConnected)?;
                let mut reply = line.reply(tx)?;
                if reply.kind != ERROR {
                    if *kind == op::START {
                        self.keep_identifier(at, &mut reply)?;
                    }
                    self.follow(*who, *kind, payload)?;
                }
                return Ok(Some(reply));
            }
            Step::Reconnect(who) => self.connect(*who)?,
            Step::Create(who) => {
                let guest = self.host.create(Some(Domid(who.domid())))?;
                self.waiting.insert(*who, Line::ring(guest));
            }
            Step::Shutdown(who) => self.shutdown(*who)?,
            Step::Destroy(who) => self.destroy(*who)?,
        }
        Ok(None)
    }

    fn tx(&self, tx: Tx) -> u32 {
        match tx {
            Tx::None => 0,
            Tx::Of(step) => self.transactions.get(&step).copied().unwrap_or(UNKNOWN_TX),
            Tx::Unknown => UNKNOWN_TX,
        }
    }

    /// Stores the id of the transaction that step `at` began, and masks it in the reply: ids differ between daemons.
    fn keep_identifier(&mut self, at: usize, reply: &mut Reply) -> io::Result<()> {
        let digits = reply.payload.strip_suffix(b"\0").unwrap_or_default();
        let id = str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        self.transactions.insert(at, id.ok_or(io::ErrorKind::InvalidData)?);
        reply.payload = b"<identifier>\0".to_vec();
        Ok(())
    }

    /// Updates the environment after a successful request.
    fn follow(&mut self, who: Who, kind: u32, payload: &[u8]) -> io::Result<()> {
        let domid = payload.split(|&byte| byte == 0).next().unwrap_or_default();
        let domid = str::from_utf8(domid).ok().and_then(|text| text.parse().ok());
        let domain = domid.and_then(Who::domain);
        match (kind, domain) {
            (op::INTRODUCE, Some(domain)) => {
                match self.waiting.remove(&domain) {
                    Some(line) => drop(self.lines.insert(domain, line)),
                    // oxenstored then keeps the watches, including that of the barrier.
                    None if self.target == Target::OCaml => return Ok(()),
                    None => self.again = true,
                }
                self.watch_barrier(domain)?;
            }
            (op::RELEASE, Some(domain)) => {
                if let Some(line) = self.lines.remove(&domain) {
                    self.waiting.insert(domain, line);
                }
            }
            (op::RESET_WATCHES, _) => self.watch_barrier(who)?,
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, who: Who) -> io::Result<()> {
        self.lines.remove(&who);
        self.lines.insert(who, Line::connect(&self.running.socket)?);
        self.watch_barrier(who)
    }

    fn watch_barrier(&mut self, who: Who) -> io::Result<()> {
        let Some(line) = self.lines.get_mut(&who) else { return Ok(()) };
        must(line.ask(op::WATCH, 0, BARRIER_WATCH)?)?;
        line.wait_for(BARRIER_WATCH)
    }

    /// Destroys a domain and waits until the daemon has noticed.
    fn destroy(&mut self, who: Who) -> io::Result<()> {
        let known = self.lines.remove(&who).is_some();
        self.shut.remove(&who);
        self.admin.events.clear();
        if known || self.waiting.remove(&who).is_some() {
            self.host.destroy(Domid(who.domid()))?;
        }
        if known { self.admin.wait_for(RELEASED) } else { Ok(()) }
    }

    /// Shuts a domain down and waits until the daemon has noticed.
    fn shutdown(&mut self, who: Who) -> io::Result<()> {
        self.admin.events.clear();
        self.host.shutdown(Domid(who.domid()), Reason::Poweroff)?;
        let news = self.shut.insert(who) && self.lines.contains_key(&who);
        if news { self.admin.wait_for(RELEASED) } else { Ok(()) }
    }

    /// Starts the barrier after a step.
    pub fn begin_barrier(&mut self) -> io::Result<()> {
        self.admin.send(op::WRITE, 0, BARRIER)
    }

    /// Returns the events of the last step: those before the barrier's own, which are removed.
    pub fn end_barrier(&mut self) -> io::Result<Vec<(Who, Event)>> {
        must(self.admin.reply(0)?)?;
        let mut events = Vec::new();
        for who in Who::all() {
            let Some(line) = self.lines.get_mut(&who) else { continue };
            line.wait_for(BARRIER_WATCH)?;
            let others = line.events.drain(..).filter(|event| !event.starts_with(BARRIER));
            events.extend(others.map(|event| (who, event)));
        }
        Ok(events)
    }

    /// Returns whether none of the receivers of these events may read the events' nodes.
    pub fn hides(&mut self, events: &[&(Who, Event)]) -> bool {
        events.iter().all(|(who, event)| {
            let path = event.split_inclusive(|&byte| byte == 0).next().unwrap_or_default();
            let reply = self.lines.get_mut(who).map(|line| line.ask(op::READ, 0, path));
            let refused =
                |reply: &Reply| [&b"EACCES\0"[..], b"ENOENT\0"].contains(&&*reply.payload);
            matches!(reply, Some(Ok(reply)) if reply.kind == ERROR && refused(&reply))
        })
    }
}

/// Fails on an error reply: the harness makes no request that a daemon may refuse.
fn must(reply: Reply) -> io::Result<()> {
    if reply.kind == ERROR {
        let text = format!(
            "the daemon refused a request of the harness: {}",
            super::step::show(&reply.payload)
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(())
}
