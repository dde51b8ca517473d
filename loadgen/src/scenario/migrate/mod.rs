//! Migration of domains to another daemon while their guests work.
//!
//! ```text
//!                   xsctl move, a process of its own
//!                  /                                \
//!   daemon A  ----+---- stream of each domain ------>+----  daemon B
//!      |     \                                               |
//!    stayers   +---- page and channel of each mover --------+
//!                    (guest.rs: what it checks in each step)
//! ```
//!
//! Both daemons have a simulated host; each mover is a domain of both, and its guest cannot tell which daemon serves
//! it. The guests work, each opens a transaction, the domains are moved, the transactions are closed; finally all
//! nodes and watches are compared.

mod compare;
mod guest;
mod stayer;
mod tool;

use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use xenstored::types::Domid;

use self::guest::{Phase, Show};
use self::stayer::Stayers;
use self::tool::Manner;
use super::boot::Machine;
use super::goals::{Goal, of};
use super::{Case, Plan, Scenario, Session, host_of, start};
use crate::client::Blocking;
use crate::measure::{Measured, Sample, Unit};
use crate::target::{Cpu, Running, Target};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Domains that stay.
const STAYERS: usize = 4;
/// Steps per second of all movers together; with the stayers' requests, they take less than half of the capacity of two
/// cores.
const STEPS_PER_SECOND: u32 = 3000;
/// Minimum time from one step of a guest to its next.
const PERIOD_MIN: Duration = Duration::from_millis(5);
const TIMEOUT: Duration = Duration::from_secs(120);
/// Polling interval of the guests' progress.
const SLICE: Duration = Duration::from_millis(5);

/// Number of unexplained events that are printed.
const UNEXPLAINED_SHOWN: usize = 5;

const SECONDS: &str = "seconds";
const STAY_BEFORE: &str = "stayers' p99 us";
const STAY_DURING: &str = "during";

/// How and how far the domains of a case are moved, and the numbers of domains.
struct Kind {
    what: &'static str,
    manner: Manner,
    /// How long each byte takes between the hosts, in milliseconds. `None`: both daemons are on this machine.
    delay: Option<u64>,
    sizes: &'static [usize],
    quick: &'static [usize],
}

const KINDS: [Kind; 7] = [
    Kind {
        what: "domains in bulk",
        manner: Manner::InBulk,
        delay: None,
        sizes: &[1, 10, 100, 1000, 5000],
        quick: &[10],
    },
    Kind {
        what: "domains one by one",
        manner: Manner::OneByOne,
        delay: None,
        sizes: &[100, 1000],
        quick: &[],
    },
    far("domains in bulk, 0 ms away", Manner::InBulk, 0, &[1000], &[]),
    far("domains in bulk, 1 ms away", Manner::InBulk, 1, &[1000], &[]),
    far("domains in bulk, 10 ms away", Manner::InBulk, 10, &[1000], &[10]),
    far("domains line by line, 1 ms away", Manner::LineByLine, 1, &[100], &[10]),
    far("domains line by line, 10 ms away", Manner::LineByLine, 10, &[100], &[]),
];

/// Returns a kind of moves through a tunnel, on which each byte takes this many milliseconds.
const fn far(
    what: &'static str,
    manner: Manner,
    delay: u64,
    sizes: &'static [usize],
    quick: &'static [usize],
) -> Kind {
    Kind { what, manner, delay: Some(delay), sizes, quick }
}

/// The scenario of moving domains.
pub struct Migrate;

impl Scenario for Migrate {
    fn name(&self) -> &'static str {
        "migrate"
    }

    fn about(&self) -> &'static str {
        "Domains with disk and console, of about 100 nodes and 10 watches each, are moved from one \
         daemon to another by xsctl move, while each works on its ring: it increments a counter \
         and reads it back, creates and removes a node, adds up in transactions, and each event \
         must arrive. A transaction that is open meanwhile must fail with EAGAIN. In the end all \
         nodes and watches must be unchanged at the destination. Latency is the pause of a domain, \
         from its batch's EXPORT_DOMAINS to its UNQUIESCE; also reported are the waits of its \
         guest, and those of 4 domains that stay, before and during the move. In bulk, one command \
         moves all domains; one by one, each domain has a separate command; line by line, one command \
         is told each domain when the last one has moved; away, the destination \
         is behind a connection on which each byte takes that long in each direction."
    }

    fn unit(&self) -> &'static str {
        "domain"
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sized = |kind: &Kind| {
            let sizes = if plan.quick { kind.quick } else { kind.sizes };
            let cases = sizes.iter().map(|&size| Case::sized(size, kind.what));
            cases.collect::<Vec<_>>()
        };
        KINDS.iter().flat_map(sized).collect()
    }

    fn leaves_out(&self, target: &Target, _case: &Case) -> Option<&'static str> {
        (*target != Target::Ours).then_some("it cannot move domains while they run")
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        Ok(Box::new(Moves { target: target.clone() }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let mut goals = local_goals(measured);
        for delay in [1.0, 10.0] {
            let row = |what: &str| of(measured, &format!("{what}, {delay} ms away"), "ours");
            let round_trip = 2.0 * delay;
            if let Some(pause) =
                row("100 domains line by line").and_then(|row| row.percentile(99.0))
            {
                let what = format!("{delay} ms away: pause at p99, ms, three round trips and 5 ms");
                goals.push(Goal::at_most(&what, pause / 1e3, 3.0 * round_trip + 5.0));
            }
            if let Some(seconds) = row("1000 domains in bulk").and_then(|row| row.figure(SECONDS)) {
                let what = format!("{delay} ms away: 1,000 domains: s, 2 s and 20 round trips");
                goals.push(Goal::at_most(&what, seconds, 2.0 + 20.0 * round_trip / 1e3));
            }
            for what in ["100 domains line by line", "1000 domains in bulk"] {
                let row = row(what);
                goals.extend(row.and_then(|row| stayers(row, &format!("{what}, {delay} ms away"))));
            }
        }
        goals
    }
}

/// Returns the targets of moves between two daemons of one machine.
fn local_goals(measured: &[Measured]) -> Vec<Goal> {
    let Some(row) = of(measured, "1000 domains in bulk", "ours") else { return Vec::new() };
    let mut goals = Vec::new();
    if let Some(seconds) = row.figure(SECONDS) {
        goals.push(Goal::at_most("1,000 domains: seconds", seconds, 1.0));
    }
    if let Some(pause) = row.percentile(99.0) {
        goals.push(Goal::at_most("1,000 domains: pause at p99, ms", pause / 1e3, 20.0));
    }
    goals.extend(stayers(row, "1,000 domains"));
    goals
}

/// Returns the target of the domains that stay.
fn stayers(row: &Measured, what: &str) -> Option<Goal> {
    let (before, during) = (row.figure(STAY_BEFORE)?, row.figure(STAY_DURING)?);
    let what = format!("{what}: a stayer's p99 during the move, us, twice that before");
    Some(Goal::at_most(what, during, 2.0 * before))
}

/// A session with two fresh daemons for each round.
struct Moves {
    target: Target,
}

impl Session for Moves {
    fn round(&mut self, plan: &Plan, case: &Case) -> Result<Sample> {
        let size = case.size.unwrap_or(0);
        let (source, destination) = (start(&self.target, &[])?, start(&self.target, &[])?);
        let moving = Moving::new(&self.target, source, destination, size)?;
        let Some(kind) = KINDS.iter().find(|kind| case.name.ends_with(kind.what)) else {
            wrong!("no moves of {:?}", case.name);
        };
        let sample = moving.go(plan, kind);
        moving.machine.stage.abandon();
        sample
    }
}

/// Two daemons and the domains moved between them.
struct Moving {
    machine: Rc<Machine>,
    source: Running,
    destination: Running,
    target: Target,
    size: usize,
}

impl Moving {
    /// Starts the domains to be moved.
    fn new(target: &Target, source: Running, destination: Running, size: usize) -> Result<Moving> {
        let machine = Machine::new(&source, target)?;
        machine.prepare_to_move(host_of(&destination, target)?);
        machine.fill(1..=size)?;
        machine.dismiss_toolstacks();
        machine.stage.spawn(Rc::clone(&machine).make_small(1..=size));
        machine.stage.run(TIMEOUT)?;
        Ok(Moving { machine, source, destination, target: target.clone(), size })
    }

    fn go(&self, plan: &Plan, kind: &Kind) -> Result<Sample> {
        let stage = &self.machine.stage;
        let mut stayers = self.stayers()?;
        let show = self.show();
        // Each guest has set its watches by then.
        stage.run_for(show.period * 2)?;
        let started = Instant::now();
        let (load, before) =
            stayers.ask_while(|| self.load_while(|| stage.run_for(plan.time).map(drop)))?;
        let asked = Instant::now();
        self.ask(&show, Phase::Open)?;
        let sockets = (self.source.socket.as_path(), self.destination.socket.as_path());
        let to = tool::destination(sockets.1, kind.delay.map(Duration::from_millis))?;
        let used = self.cpu()?;
        let (moved, during) = stayers
            .ask_while(|| tool::move_all(stage, (sockets.0, &to), self.size, kind.manner))?;
        let cpu = self.cpu()? - used;
        if moved.domains != self.size {
            wrong!("xsctl moved {} of {} domains", moved.domains, self.size);
        }
        self.ask(&show, Phase::Close)?;
        show.ask(Phase::End);
        stage.run(TIMEOUT)?;
        let seen = compare::compare(sockets.0, sockets.1, show.beliefs.take())?;
        let streams =
            tempfile::tempdir().map_err(|error| ClientError::io("no directory", error))?;
        let bytes = tool::bytes(sockets.1, self.size, streams.path())?;
        let each = |sum: u64| sum as f64 / self.size as f64;
        let Some(period) = moved.period else { wrong!("xsctl does not report its duration") };
        // Excludes the start of a single command, which occupies a core for two milliseconds here.
        let (before, during) = (before.within(&(started..asked)), during.within(&period));
        let p99 = |latency: &Histogram<u64>| latency.value_at_quantile(0.99) as f64 / 1e3;
        let unexplained = show.unexplained.borrow();
        for text in unexplained.iter().take(UNEXPLAINED_SHOWN) {
            eprintln!("migrate: {text}, which no client wrote");
        }
        let waited = show.waited.borrow();
        let waited = |quantile: f64| waited.value_at_quantile(quantile) as f64 / 1e3;
        let elapsed = period.end - period.start;
        let units = self.size as u64;
        let latency = Some(moved.pauses);
        let sample = Sample { units, elapsed, cpu: Some(cpu), latency, ..Sample::default() };
        Ok(sample
            .with(SECONDS, elapsed.as_secs_f64())
            .with_unit("waited p50", waited(0.5), Unit::Micros)
            .with_unit("waited p99", waited(0.99), Unit::Micros)
            .with_unit("waited max", waited(1.0), Unit::Micros)
            .with_unit(STAY_BEFORE, p99(&before), Unit::Micros)
            .with_unit(STAY_DURING, p99(&during), Unit::Micros)
            .with("nodes each", each(seen.nodes.get()))
            .with("watches each", each(seen.watches.get()))
            .with("KB each", each(bytes) / 1e3)
            .with("carried again", moved.again as f64)
            .with("EAGAIN", show.repeated.get() as f64)
            .with("unexplained events", unexplained.len() as f64)
            .with("load before %", 100.0 * load))
    }

    fn stayers(&self) -> Result<Stayers> {
        let mut toolstack = Blocking::connect(&self.source.socket)?;
        let host = host_of(&self.source, &self.target)?;
        let domids = (self.size + 1..=self.size + STAYERS).map(domid);
        Stayers::new(host, &mut toolstack, domids.collect::<Result<Vec<_>>>()?)
    }

    /// Starts the work of the movers' guests.
    fn show(&self) -> Rc<Show> {
        let stage = &self.machine.stage;
        let paced = Duration::from_secs(self.size as u64) / STEPS_PER_SECOND;
        let show = Show::new(stage.handle(), paced.max(PERIOD_MIN));
        for (place, (domid, client)) in self.machine.guests.borrow().iter().enumerate() {
            let late = show.period.mul_f64(place as f64 / self.size as f64);
            stage.spawn(guest::run(Rc::clone(&show), client.clone(), *domid, late));
        }
        show
    }

    /// Starts a phase of all guests, and waits until they have completed it.
    fn ask(&self, show: &Show, phase: Phase) -> Result<()> {
        show.ask(phase);
        let begun = Instant::now();
        while show.ready.get() < self.size {
            self.machine.stage.run_for(SLICE)?;
            if begun.elapsed() > TIMEOUT {
                wrong!("{} of {} guests reach {phase:?}", show.ready.get(), self.size);
            }
        }
        Ok(())
    }

    /// Returns the CPU time used by both daemons.
    fn cpu(&self) -> Result<Cpu> {
        let cannot = |error| ClientError::io("the daemons' CPU time is unknown", error);
        Ok(self.source.cpu().map_err(cannot)? + self.destination.cpu().map_err(cannot)?)
    }

    /// Returns the share of all cores that the daemons and this program use meanwhile.
    fn load_while(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let of_all = || -> Result<Duration> {
            let own = Cpu::of(std::process::id());
            let own = own.map_err(|error| ClientError::io("no CPU time of our own", error))?;
            Ok((self.cpu()? + own).total)
        };
        let (started, used) = (Instant::now(), of_all()?);
        work()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let used = of_all()?.saturating_sub(used);
        Ok(used.as_secs_f64() / started.elapsed().as_secs_f64() / cores as f64)
    }
}

fn domid(number: usize) -> Result<Domid> {
    let number = u16::try_from(number).map(Domid);
    number.map_err(|_| ClientError::Wrong("too many domains".into()))
}
