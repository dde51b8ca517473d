//! Hostile guests within their quotas, and their effects on each kind of victim.
//!
//! ```text
//!   domains.rs    the domains, and the memory charged to them
//!   attacks.rs    the requests of hostile guests, a row for each attack
//!   attackers.rs  the thread that sends them, or as many harmless requests
//!   victims.rs    the latencies of two guests, a toolstack, INTRODUCE
//!   kernel.rs     domain 0's kernel, which reads slowly and must miss no backend
//! ```
//!
//! Each round has its own daemon. Victims are measured next to harmless guests, then during the attack; finally the
//! daemon's memory is compared with its charges.
//!
//! Attacks that no guest can mount have tests instead: a blocked standard error and a logfile that is a FIFO
//! (`service`, `log`), thread creation failing (`without_threads`), imports and removals during reservations
//! (`migration`), errors of the hypervisor's interface (`faults`).

mod attackers;
mod attacks;
mod domains;
mod kernel;
mod victims;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::goals::Goal;
use super::{Case, Plan, Scenario, Session, explained, host_of};
use crate::client::{Blocking, Wire, words};
use crate::measure::{Measured, Sample, Unit};
use crate::target::{Options, Running, Target};
use crate::trouble::{ClientError, Result};
use crate::wrong;
use attackers::{Attackers, Phase};
use attacks::{ATTACKS, Attack};
use domains::{Domains, Memory, SHARDS};
use kernel::{Kernel, Learnt};
use victims::{Noticed, Victim, Victims};
use xenstored::protocol::{Operation, append_request};

/// The case in which all attacks run at once.
const ALL: &str = "all";
/// The row of the daemon's own figures.
const DAEMON: &str = "the daemon";
/// Timeout of a victim's reply.
const TIMEOUT: Duration = Duration::from_secs(60);
const PEERS_TIMEOUT: Duration = Duration::from_secs(10);
/// Length in bytes of a token with which a stopped client has more events than its socket holds.
const STOPPED_TOKEN_BYTES: usize = 1000;

const RATIO: &str = "p99 attacked / alone";
/// Maximum ratio of latencies for a victim on another thread, and on the same.
const RATIO_ELSEWHERE: f64 = 2.0;
const RATIO_BESIDE: f64 = 4.0;
/// Maximum latency of any victim, in microseconds.
const LONGEST_US: f64 = 20_000.0;

/// The scenario of victims while hostile guests attack.
pub struct Hostile;

impl Scenario for Hostile {
    fn name(&self) -> &'static str {
        "hostile"
    }

    fn about(&self) -> &'static str {
        "Hostile guests within their quotas (--attackers N, --attack NAME) run one attack after \
         another, then all at once. The victims are two guests, on the same thread and on another, \
         a toolstack, and a toolstack that introduces, releases and removes small domains; domain \
         0's kernel reads slowly and must get an event of each new backend. The figures without \
         attack are from the same round, with the same number of guests that send harmless \
         requests at the same times. The daemon's memory may exceed its charges to domains by a \
         quarter and 64 MiB; --check fails if it exceeds more."
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let attacks = ATTACKS.iter().map(|attack| attack.name).filter(|_| !plan.quick);
        let rows = || Victim::ALL.map(Victim::name).into_iter().chain([DAEMON]);
        let cases =
            attacks.chain([ALL]).flat_map(|attack| rows().map(move |row| name(attack, row)));
        cases.map(|name| Case::named(&name)).collect()
    }

    fn leaves_out(&self, target: &Target, _case: &Case) -> Option<&'static str> {
        match target {
            Target::Ours | Target::C | Target::OCaml => None,
            Target::Echo => Some("it keeps nothing that could be attacked"),
            Target::Socket(_) => Some("its simulated host is not known, so it has no guests"),
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        Ok(Box::new(Attacked { target: target.clone(), samples: HashMap::new() }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let ratio_max = |victim| match victim {
            Victim::Elsewhere => Some(RATIO_ELSEWHERE),
            Victim::Beside | Victim::Toolstack | Victim::Introduce => Some(RATIO_BESIDE),
            // The kernel reads slowly by design.
            Victim::Kernel => None,
        };
        let limits =
            Victim::ALL.into_iter().filter_map(|victim| Some((victim, ratio_max(victim)?)));
        limits.flat_map(|(victim, ratio_max)| goals_of(victim, ratio_max, measured)).collect()
    }
}

fn name(attack: &str, row: &str) -> String {
    format!("{attack}: {row}")
}

/// Returns a victim's goals, for the attack that affects it most.
fn goals_of(victim: Victim, ratio_max: f64, measured: &[Measured]) -> Vec<Goal> {
    let ours = measured.iter().filter(|row| row.target == "ours");
    let rows: Vec<_> = ours.filter(|row| row.case.name.ends_with(victim.name())).collect();
    let worst = |figure: &dyn Fn(&Measured) -> Option<f64>| {
        let figures = rows.iter().filter_map(|row| Some((figure(row)?, &row.case.name)));
        figures.max_by(|(one, _), (other, _)| one.total_cmp(other))
    };
    let ratio = worst(&|row| row.figure(RATIO)).map(|(ratio, case)| {
        Goal::at_most(format!("hostile, the worst of {RATIO} in {case}"), ratio, ratio_max)
    });
    let longest = worst(&|row| row.percentile(100.0)).map(|(longest, case)| {
        Goal::at_most(format!("hostile, the longest wait in us in {case}"), longest, LONGEST_US)
    });
    ratio.into_iter().chain(longest).collect()
}

/// A target, with a fresh daemon for each round.
struct Attacked {
    target: Target,
    /// By case: all victims of an attack are measured together.
    samples: HashMap<String, VecDeque<Sample>>,
}

impl Session for Attacked {
    fn round(&mut self, plan: &Plan, case: &Case) -> Result<Sample> {
        loop {
            let samples = self.samples.get_mut(&case.name);
            if let Some(sample) = samples.and_then(VecDeque::pop_front) {
                return Ok(sample);
            }
            let attack = case.name.split(':').next().unwrap_or_default();
            for (row, sample) in self.measure(plan, attack)? {
                self.samples.entry(name(attack, row)).or_default().push_back(sample);
            }
        }
    }
}

/// The latencies of victims and kernel in a phase.
struct Seen {
    noticed: Vec<(Victim, Noticed)>,
    learnt: Learnt,
}

impl Attacked {
    /// Runs a round of an attack; returns a sample for each of its rows.
    fn measure(&self, plan: &Plan, attack: &str) -> Result<Vec<(&'static str, Sample)>> {
        let chosen = ATTACKS.iter().position(|it| it.name == attack);
        let attacks = chosen.map_or(&ATTACKS[..], |nth| &ATTACKS[nth..=nth]);
        let options = Options { shards: Some(SHARDS), ..Options::default() };
        let cannot = |error| ClientError::io(format!("cannot start {}", self.target), error);
        let running = self.target.start(&options).map_err(cannot)?;
        let time = attacks.iter().map(|attack| attack.time_min).fold(plan.time, Duration::max);
        let plan = &Plan { time, ..*plan };
        let measured = self.attack(plan, attacks, &running);
        measured.map_err(|trouble| explained(&running, trouble))
    }

    fn attack(
        &self,
        plan: &Plan,
        attacks: &'static [Attack],
        running: &Running,
    ) -> Result<Vec<(&'static str, Sample)>> {
        let mut host = host_of(running, &self.target)?;
        let mut toolstack = Blocking::connect(&running.socket)?;
        // Two guests per attack, for attacks by pairs.
        let attackers = plan.attackers.max(2 * attacks.len());
        let domains = Domains::build(&mut host, &mut toolstack, attackers)?;
        let charged = domains.charged();
        let cannot = |error| ClientError::io("cannot attach as domain 0's kernel", error);
        let ring = host.attach_control().map_err(cannot)?;
        let states = domains.hostile.iter().map(|guest| domains::device_state(guest.domid));
        let mut kernel = Kernel::new(ring, states)?;
        let Domains { elsewhere, beside, small, hostile } = domains;
        let releases = self.target != Target::OCaml;
        let victims = Victims::connect(&running.socket, [elsewhere, beside], &small, releases)?;
        let attackers = Attackers::start(hostile, attacks);
        // A check does not compare times.
        let alone = if plan.check { plan.time / 4 } else { plan.time };
        let (alone, _) =
            attackers.beside(Phase::Harmless, || self.observe(alone, &victims, &mut kernel))?;
        let stopped = attacks.iter().any(|attack| attack.stopped_client);
        let _stopped = stopped.then(|| stopped_client(running)).transpose()?;
        attackers.prepare()?;
        let ((attacked, memory), sent) = attackers.beside(Phase::Attack, || {
            let seen = self.observe(plan.time, &victims, &mut kernel)?;
            Ok((seen, Memory::of(running, &self.target, &charged)?))
        })?;
        if plan.check && self.target == Target::Ours {
            check(&attacked, &memory)?;
        }
        let mut samples = rows(plan, alone, attacked);
        samples.push((DAEMON, daemon_row(&memory, sent, running, plan)));
        Ok(samples)
    }

    /// Runs the victims and the kernel.
    fn observe(&self, time: Duration, victims: &Victims, kernel: &mut Kernel) -> Result<Seen> {
        let timeout = if self.target == Target::Ours { TIMEOUT } else { PEERS_TIMEOUT };
        let (before, over) = (victims.created(), &AtomicBool::new(false));
        let reader = &mut *kernel;
        let (noticed, read) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| reader.read_slowly(over));
            let noticed = victims.measure(time, timeout);
            over.store(true, Ordering::Relaxed);
            (noticed, reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        read?;
        let noticed = noticed?;
        let learnt = kernel.catch_up(&victims.created_after(before))?;
        Ok(Seen { noticed, learnt })
    }
}

/// Checks the conditions that hold on any machine.
fn check(attacked: &Seen, memory: &Memory) -> Result<()> {
    for (victim, noticed) in &attacked.noticed {
        let replies = noticed.latency.len();
        if replies < noticed.whole {
            wrong!("{}: {replies} of {} replies came", victim.name(), noticed.whole);
        }
    }
    if let Some(lost) = attacked.learnt.lost.first() {
        wrong!("domain 0's kernel got no event of {lost}");
    }
    match memory.bound() {
        Some(bound) if memory.peak > bound => {
            wrong!(
                "the daemon had {} bytes in RAM, and by its charges at most {bound}",
                memory.peak
            )
        }
        _ => Ok(()),
    }
}

/// Returns a sample for each victim.
fn rows(plan: &Plan, alone: Seen, attacked: Seen) -> Vec<(&'static str, Sample)> {
    let mut rows = Vec::new();
    for ((victim, alone), (_, attacked)) in alone.noticed.into_iter().zip(attacked.noticed) {
        let sample = Sample {
            units: attacked.latency.len(),
            whole: Some(attacked.whole),
            elapsed: plan.time,
            ..Sample::default()
        };
        rows.push((victim.name(), beside(sample, &alone.latency, attacked.latency)));
    }
    let (alone, learnt) = (alone.learnt, attacked.learnt);
    let sample = Sample { units: learnt.latency.len(), elapsed: plan.time, ..Sample::default() };
    let sample = beside(sample, &alone.latency, learnt.latency);
    let sample = sample.with("unnamed", learnt.unnamed as f64);
    rows.push((Victim::Kernel.name(), sample.with("lost", learnt.lost.len() as f64)));
    rows
}

/// Adds the latencies under attack and alone.
fn beside(sample: Sample, alone: &Histogram<u64>, attacked: Histogram<u64>) -> Sample {
    let micros =
        |latency: &Histogram<u64>, quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    let ratio = micros(&attacked, 0.99) / micros(alone, 0.99).max(1e-3);
    Sample { latency: Some(attacked), ..sample }
        .with_unit("p50 alone", micros(alone, 0.5), Unit::Micros)
        .with_unit("p99 alone", micros(alone, 0.99), Unit::Micros)
        .with_unit("max alone", micros(alone, 1.0), Unit::Micros)
        .with(RATIO, ratio)
}

/// Returns the row of the daemon's memory and log output.
fn daemon_row(memory: &Memory, sent: u64, running: &Running, plan: &Plan) -> Sample {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut sample = Sample { elapsed: plan.time, ..Sample::default() }
        .with("sent by attackers", sent as f64)
        .with("log KiB", running.log().len() as f64 / 1024.0)
        .with("peak MiB", mib(memory.peak));
    let charges = [
        ("charged MiB", memory.charged),
        ("at most MiB", memory.charged_at_most),
        ("bound MiB", memory.bound()),
    ];
    for (name, bytes) in charges {
        if let Some(bytes) = bytes {
            sample = sample.with(name, mib(bytes));
        }
    }
    sample
}

/// Connects a client of the control domain that watches all domains and reads no event, like a stopped process.
fn stopped_client(running: &Running) -> Result<Wire> {
    let cannot = |error| ClientError::io("cannot connect", error);
    let mut wire = Wire::connect(&running.socket, TIMEOUT).map_err(cannot)?;
    let mut request = Vec::new();
    let token = "t".repeat(STOPPED_TOKEN_BYTES);
    append_request(&mut request, Operation::Watch, 1, 0, &words(&["/local/domain", &token]));
    wire.send(&request)?;
    wire.wait()?;
    Ok(wire)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{histogram, record};

    fn seen(replies: u64, lost: &[&str]) -> Seen {
        let mut latency = histogram();
        (0..replies).for_each(|_| record(&mut latency, Duration::from_micros(50)));
        let noticed = vec![(Victim::Toolstack, Noticed { latency, whole: 2 })];
        let lost = lost.iter().map(|&path| path.to_owned()).collect();
        Seen { noticed, learnt: Learnt { latency: histogram(), unnamed: 0, lost } }
    }

    #[test]
    fn check_fails_on_lost_replies_lost_backends_and_excess_memory() {
        let memory = |peak| Memory { peak, charged: Some(0), charged_at_most: Some(4 << 20) };
        let bound = memory(0).bound().unwrap_or(0);
        assert_eq!(bound, (5 + 64) << 20);
        assert!(check(&seen(2, &[]), &memory(bound)).is_ok());
        assert!(check(&seen(1, &[]), &memory(bound)).is_err());
        assert!(check(&seen(2, &["/local/domain/0/backend/vif/10/1"]), &memory(bound)).is_err());
        assert!(check(&seen(2, &[]), &memory(bound + 1)).is_err());
    }
}
