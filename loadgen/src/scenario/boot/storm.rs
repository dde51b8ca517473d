//! Boot storms, and the filling of a host.

use std::rc::Rc;
use std::time::{Duration, Instant};

use xenstored::types::Domid;

use super::replay::{self, Replay};
use super::share::{Report, Shares, storm};
use super::{DEVICES, Machine, TIMEOUT, backend, home, state};
use crate::client::{Blocking, Recording};
use crate::measure::{Measured, Sample};
use crate::scenario::goals::{Goal, cpu, of};
use crate::scenario::{Case, Plan, Scenario, Session, explained, start, with_cpu};
use crate::target::{Cpu, Running, Target};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Timeout of peers; a domain that has not booted by then is unfinished.
const PEERS_TIMEOUT: Duration = Duration::from_secs(40);
/// Maximum number of domains for peers, at once and in total.
const PEERS_AT_ONCE_MAX: usize = 300;
const PEERS_IN_ALL_MAX: usize = 200;
/// Number of domains from which a storm is distributed, and the number of processes.
const SHARED_OUT: usize = 100;
const PROCESSES: usize = 2;
/// Number of domains from which a storm needs more processes, since the limit of open descriptors is per process.
const MANY: usize = 5000;
const PROCESSES_MANY: usize = 4;
/// Maximum size of a recorded storm: a recording has all clients in one process.
const RECORDED_MAX: usize = 1000;
/// Number of domains, the last to boot, that are measured while a host fills up.
const LAST: usize = 100;
const DONE: &str = "done";
const EAGAIN: &str = "EAGAIN %";

/// Returns the scenarios of this folder.
pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![Box::new(Boot::Storm), Box::new(Boot::Filling)]
}

#[derive(Clone, Copy, PartialEq)]
enum Boot {
    Storm,
    Filling,
}

impl Scenario for Boot {
    fn name(&self) -> &'static str {
        match self {
            Boot::Storm => "boot",
            Boot::Filling => "filling",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Boot::Storm => {
                "Domains with disk, network and console start all at once: libxl's requests, a \
                 Linux guest's, its backends' and xenconsoled's, with their events. In the end \
                 both ends of each device must be connected. The echo server gets the requests \
                 that our daemon got, on sockets and rings, and sends the same number of replies \
                 and events of the same sizes. From 100 domains on, two further processes are \
                 toolstacks and guests, from 5,000 on four. Each domain has its own toolstack \
                 connection; only 10,000 domains share 64."
            }
            Boot::Filling => {
                "A host fills up to 10,000 domains, 8 starting in parallel; the last 100 of each \
                 step are measured. All stay alive, each with its guest's ring; the first 5,000 \
                 have their own toolstack connections and watches, the others share 64 of these."
            }
        }
    }

    fn unit(&self) -> &'static str {
        "domain"
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sizes: &[usize] = match (self, plan.quick) {
            (Boot::Storm, false) => &[10, 100, 300, 1000, 5000, 10_000],
            (Boot::Storm, true) => &[10],
            (Boot::Filling, false) => &[100, 1000, 5000, 10_000],
            (Boot::Filling, true) => &[20],
        };
        sizes.iter().map(|&size| Case::sized(size, "domains")).collect()
    }

    fn leaves_out(&self, target: &Target, case: &Case) -> Option<&'static str> {
        let size = case.size.unwrap_or(0);
        match (self, target) {
            (_, Target::Ours) => None,
            (Boot::Storm, Target::Echo) => {
                (size > RECORDED_MAX).then_some("no storm of this size is recorded for it")
            }
            (Boot::Storm, Target::C | Target::OCaml) => (size > PEERS_AT_ONCE_MAX)
                .then_some("it starts less than half of 300 concurrent domains in 40 s"),
            (Boot::Filling, Target::C | Target::OCaml) => {
                (size > PEERS_IN_ALL_MAX).then_some("no peer reached this size")
            }
            (Boot::Filling, Target::Echo) => Some("only a storm on our daemon is recorded for it"),
            (_, Target::Socket(_)) => Some("its simulated host is not known, so it has no guests"),
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let target = target.clone();
        Ok(match (self, &target) {
            (Boot::Storm, Target::Echo) => Box::new(Replaying { recording: None }),
            (Boot::Storm, _) => Box::new(Storming { target }),
            (Boot::Filling, _) => {
                let running = start(&target, &[])?;
                let machine = Machine::new(&running, &target)?;
                Box::new(Filling { machine, running, domains: 0 })
            }
        })
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let cpu = |size: usize, target| cpu(measured, &format!("{size} domains"), target);
        let rate = |size: usize, target| of(measured, &format!("{size} domains"), target)?.rate();
        let mut goals = Vec::new();
        if *self == Boot::Filling {
            if let (Some(few), Some(many)) = (cpu(100, "ours"), cpu(10_000, "ours")) {
                let what = "filling: CPU us per domain at 10,000, 1.2 times that at 100";
                goals.push(Goal::at_most(what, many, 1.2 * few));
            }
            return goals;
        }
        // An unfinished peer is slower than its timeout implies, so this is an upper bound.
        let given_up = of(measured, "100 domains", "c").and_then(Measured::unfinished);
        let c = given_up.map(|c| c.of as f64 / c.seconds).or_else(|| rate(100, "c"));
        if let (Some(ours), Some(c)) = (rate(100, "ours"), c) {
            let note = if given_up.is_some() { ", which did not finish" } else { "" };
            let what = format!("boot, 100 at once: domains per second, 25 times C's{note}");
            goals.push(Goal::at_least(what, ours, 25.0 * c));
        }
        for size in [300, 1000] {
            if let (Some(few), Some(many)) = (cpu(10, "ours"), cpu(size, "ours")) {
                let what = format!("boot, {size} at once: CPU us per domain, 1.3 times 10's");
                goals.push(Goal::at_most(what, many, 1.3 * few));
            }
        }
        for size in [10, 100, 300, 1000] {
            if let (Some(ours), Some(echo)) = (cpu(size, "ours"), cpu(size, "echo")) {
                let what = format!("boot, {size} at once: CPU us per domain, 1.6 times echo's");
                goals.push(Goal::at_most(what, ours, 1.6 * echo));
            }
        }
        goals
    }
}

pub(super) fn domid(number: usize) -> Result<Domid> {
    let number = u16::try_from(number).ok().map(Domid).filter(|domid| domid.is_real());
    number.ok_or_else(|| ClientError::Wrong("too many domains".into()))
}

/// A session that boots domains on a fresh daemon, all at once.
struct Storming {
    target: Target,
}

impl Session for Storming {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let size = case.size.unwrap_or(0);
        let running = start(&self.target, &[])?;
        let machine = Machine::new(&running, &self.target)?;
        let is_ours = self.target == Target::Ours;
        let timeout = if is_ours { TIMEOUT } else { PEERS_TIMEOUT };
        let mut shares = match size {
            0..SHARED_OUT => None,
            SHARED_OUT..MANY => Some(Shares::start(&running, PROCESSES, size, timeout)?),
            _ => Some(Shares::start(&running, PROCESSES_MANY, size, timeout)?),
        };
        let started = Instant::now();
        let (report, cpu) = with_cpu(&running, || match &mut shares {
            Some(shares) => shares.run(&machine),
            None => storm(&machine, 1..=size, timeout),
        })?;
        let elapsed = started.elapsed();
        let (left, done) = (report.left, report.done);
        let sample = sample(&report, size, elapsed, cpu);
        machine.stage.abandon();
        if left == 0 {
            explained::check(&running, &self.target, report.conflicts)?;
            check(&running, 1..=size)?;
        } else if is_ours {
            wrong!("{done} of {size} domains started in {timeout:?}");
        }
        Ok(sample)
    }
}

/// Returns the sample of a round of `size` domains. If some domains did not finish, the sample has no per-domain
/// figures, since the totals include the requests of those.
fn sample(report: &Report, size: usize, elapsed: Duration, cpu: Option<Cpu>) -> Sample {
    let ends = (report.conflicts + report.commits).max(1) as f64;
    let latency = Some(report.latency()).filter(|latency| !latency.is_empty());
    let (units, whole) = (report.done as u64, Some(size as u64));
    let mut sample = Sample { units, whole, elapsed, cpu, latency, extra: Vec::new() }
        .with(DONE, report.done as f64)
        .with(EAGAIN, 100.0 * report.conflicts as f64 / ends);
    if report.done == size {
        let per_domain = |count: u64| count as f64 / size as f64;
        sample = sample
            .with("requests each", per_domain(report.requests))
            .with("events each", per_domain(report.events))
            .with("transactions each", per_domain(report.commits));
    }
    sample
}

/// Checks that both ends of all devices are connected, and that each console has its terminal.
fn check(running: &Running, domains: impl Iterator<Item = usize>) -> Result<()> {
    let mut client = Blocking::connect(&running.socket)?;
    for number in domains {
        let domid = domid(number)?;
        for device in DEVICES {
            for end in [backend(domid, device), super::frontend(domid, device)] {
                let found = client.text(&format!("{end}/state"))?;
                if found != state::CONNECTED {
                    wrong!("{end} ended in state {found}");
                }
            }
        }
        let tty = client.text(&format!("{}/console/tty", home(domid)))?;
        if tty != format!("/dev/pts/{domid}") {
            wrong!("the console of {domid} has terminal {tty:?}");
        }
    }
    Ok(())
}

/// A session with a host that keeps all its domains.
struct Filling {
    machine: Rc<Machine>,
    running: Running,
    domains: usize,
}

impl Session for Filling {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let size = case.size.unwrap_or(0);
        let before = size.saturating_sub(LAST);
        if self.domains < before {
            self.fill(before - self.domains)?;
        }
        Report::default().count(&self.machine.stage); // Discards the totals so far.
        let domains = LAST.min(size);
        let started = Instant::now();
        let from = self.domains + 1;
        let cpu = self.fill(domains)?;
        let elapsed = started.elapsed();
        check(&self.running, from..from + domains)?;
        let mut report = Report { done: domains, ..Report::default() };
        report.count(&self.machine.stage);
        Ok(sample(&report, domains, elapsed, cpu))
    }
}

impl Filling {
    /// Boots this many more domains, a few at a time.
    fn fill(&mut self, domains: usize) -> Result<Option<Cpu>> {
        let first = self.domains + 1;
        self.domains += domains;
        let ((), cpu) = with_cpu(&self.running, || self.machine.fill(first..=self.domains))?;
        Ok(cpu)
    }
}

/// A session that replays the same messages on an echo server.
struct Replaying {
    /// The recording of the last size.
    recording: Option<(usize, Recording)>,
}

impl Session for Replaying {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let size = case.size.unwrap_or(0);
        let recording = match self.recording.take() {
            Some((of, recording)) if of == size => recording,
            _ => replay::record(size)?,
        };
        let running = start(&Target::Echo, &[])?;
        let mut replay = Replay::new(&running, &recording)?;
        let started = Instant::now();
        let ((), cpu) = with_cpu(&running, || replay.run())?;
        let elapsed = started.elapsed();
        let per_domain = |count: u64| count as f64 / size as f64;
        let sample = Sample { units: size as u64, elapsed, cpu, ..Sample::default() }
            .with(DONE, size as f64)
            .with("requests each", per_domain(replay.requests))
            .with("events each", per_domain(replay.events));
        drop(replay);
        self.recording = Some((size, recording));
        Ok(sample)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.machine.stage.abandon();
    }
}
