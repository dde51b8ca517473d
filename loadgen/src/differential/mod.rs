//! The differential test: random sequences of requests from several connections and domains, sent to our daemon and
//! to Debian's two in lock-step; replies and events are compared byte for byte.
//!
//! ```text
//!   seed -> generate -> steps --+--> world (ours)    --+
//!                               +--> world (c)       --+--> known? --> tally
//!                               +--> world (ocaml)   --+      | no
//!                                                             v
//!                                  minimise: fewer steps, fresh daemons
//! ```
//!
//! After each step a barrier collects the events that it caused: every connection watches a node that is then
//! written, and an event never overtakes an earlier one.
//!
//! The differences of docs/COMPATIBILITY.md are accepted, each recognised by its own predicate in `known`. Not sent
//! are CONTROL, whose commands are specific to each daemon; the operations that 4.17 lacks (GET_FEATURE, SET_FEATURE,
//! GET_QUOTA, SET_QUOTA, a depth in WATCH); and lengths above 4,096, which end the connection.

mod circumstances;
mod ended;
mod generate;
mod history;
mod known;
mod line;
mod minimise;
mod paths;
mod step;
mod transaction;
mod trial;
mod world;

use std::fmt::Write;
use std::io;
use std::time::Instant;

use generate::Generator;
use known::Known;
use trial::{Tally, Trial};
use world::World;

use crate::target::Target;

/// The daemons: ours is compared with each of the others.
const TARGETS: [Target; 3] = [Target::Ours, Target::C, Target::OCaml];

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Minimum number of steps.
    pub requests: u64,
    /// The first sequence's seed, incremented for each sequence.
    pub seed: u64,
    /// Whether to continue after unknown differences and list them by kind.
    pub survey: bool,
    /// Name of a known difference that is treated as unknown: the run fails where it occurs.
    pub forget: Option<String>,
}

fn fresh(forgotten: Option<&'static Known>) -> io::Result<Trial> {
    let start = |target| World::start(target).map_err(|error| named(target, &error));
    let worlds: Vec<World> = TARGETS.iter().map(start).collect::<io::Result<_>>()?;
    Ok(Trial { gone: vec![false; worlds.len()], worlds, seed: 0, forgotten })
}

/// Prepares a trial for the next sequence. Restarts a peer that left the previous sequence, or that cannot be reset:
/// with the owner of `@releaseDomain`, oxenstored removes that node. Returns an error text if our own daemon cannot be
/// reset.
///
/// # Errors
/// Those of starting a peer.
fn again(trial: &mut Trial, tally: &mut Tally) -> io::Result<Option<String>> {
    for number in 0..trial.worlds.len() {
        let world = &mut trial.worlds[number];
        let target = world.target.clone();
        if !trial.gone[number] {
            match world.clear() {
                Ok(()) => continue,
                Err(error) if target == Target::Ours => {
                    let (seed, log) = (trial.seed, world.log());
                    let text = format!("ours does not reply after sequence {seed}: {error}\n{log}");
                    return Ok(Some(text));
                }
                Err(error) => drop(trial.lose(number, "after its end", &error, tally)),
            }
        }
        let started = World::start(&target);
        trial.worlds[number] = started.map_err(|error| named(&target, &error))?;
        trial.gone[number] = false;
    }
    Ok(None)
}

/// Adds the daemon's name to an error of its start.
fn named(target: &Target, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot start {target}, {}: {error}", target.version()))
}

/// Runs the test. Returns the report, and whether both peers were compared without unknown differences.
///
/// # Errors
/// Those of starting the daemons; `InvalidInput` if no known difference has the name to forget.
pub fn run(plan: &Plan) -> io::Result<(String, bool)> {
    let forgotten = match &plan.forget {
        Some(name) => Some(known::named(name).ok_or_else(|| {
            let text = format!("unknown difference {name}");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?),
        None => None,
    };
    let started = Instant::now();
    let survey = plan.survey.then(Default::default);
    let mut tally = Tally { survey, ..Tally::default() };
    let mut trial = fresh(forgotten)?;
    let mut seed = plan.seed;
    while tally.steps < plan.requests {
        trial.seed = seed;
        let steps = Generator::sequence(seed);
        if let Some(found) = trial.run(&steps, &mut tally) {
            let short = minimise::minimise(&steps, &found, forgotten)?;
            return Ok((format!("sequence {seed}, reduced:\n{short}"), false));
        }
        if let Some(wrong) = again(&mut trial, &mut tally)? {
            return Ok((wrong, false));
        }
        seed += 1;
    }
    let sequences = format!("{} sequences from seed {}", seed - plan.seed, plan.seed);
    let seconds = started.elapsed().as_secs_f64();
    let text = format!("{} steps in {sequences}, {seconds:.1} s\n{}", tally.steps, report(&tally));
    // A peer that crashes in every first step was never compared.
    let compared = !tally.compared.contains(&0);
    Ok((text, compared && tally.survey.unwrap_or_default().is_empty()))
}

/// Formats the numbers of comparisons and differences.
fn report(tally: &Tally) -> String {
    let mut text = String::new();
    for (target, (compared, left)) in
        TARGETS[1..].iter().zip(tally.compared.iter().zip(&tally.left))
    {
        let _ = writeln!(
            text,
            "{target}: {compared} steps compared; ended {left} sequences early, after a known \
             difference"
        );
    }
    for (target, ends) in TARGETS[1..].iter().zip(&tally.ended) {
        let (times, version) = (ends.times, target.version());
        let _ = match &ends.first {
            Some(first) => {
                writeln!(
                    text,
                    "{target} is {version}, and EXITED in {times} sequences, first in {first}"
                )
            }
            None => writeln!(text, "{target} is {version}"),
        };
    }
    let _ =
        writeln!(text, "known differences (docs/COMPATIBILITY.md) and how often they occurred:");
    for known in known::all() {
        let times = tally.known.get(known.name).copied().unwrap_or_default();
        let _ = writeln!(text, "{times:>9}  {}", known.name);
    }
    for (kind, (example, times)) in tally.survey.iter().flatten() {
        let _ = writeln!(text, "\n{times} times: {kind}\n{example}");
    }
    text
}
