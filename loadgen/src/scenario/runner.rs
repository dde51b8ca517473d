//! Runs a scenario: cases, rounds, targets in turn.

use std::io::{IsTerminal, Write};

use super::{Goal, Plan, Scenario};
use crate::measure::{Measured, load_average};
use crate::target::Target;
use crate::trouble::{Result, Trouble};

/// What a scenario came to.
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// A row for each case and target.
    pub measured: Vec<Measured>,
    /// What was to be reached.
    pub goals: Vec<Goal>,
    /// Average number of runnable threads before and after.
    pub load: (f64, f64),
}

/// Runs the cases of a scenario whose name contains `case` on these targets, and says on standard
/// error how far it is.
///
/// # Errors
/// The first that is wrong, with the scenario, case and target.
pub fn run(
    scenario: &dyn Scenario,
    plan: &Plan,
    targets: &[Target],
    case: &str,
) -> Result<Outcome> {
    let before = load_average();
    let mut cases = scenario.cases(plan);
    cases.retain(|each| each.name.contains(case));
    let progress = Progress::new();
    let mut sessions = Vec::new();
    for target in targets {
        if cases.iter().any(|case| scenario.suits(target, case)) {
            progress.say(&format!("{}: {target} is prepared", scenario.name()));
            let session = scenario.prepare(plan, target);
            sessions.push((target, session.map_err(|e| within(e, scenario, "set-up", target))?));
        }
    }
    let mut measured = Vec::new();
    for case in &cases {
        let mut rows: Vec<Measured> = Vec::new();
        for round in 0..plan.rounds {
            for (target, session) in &mut sessions {
                if !scenario.suits(target, case) {
                    continue;
                }
                progress.say(&format!(
                    "{}: {}: round {} of {}: {target}",
                    scenario.name(),
                    case.name,
                    round + 1,
                    plan.rounds
                ));
                let sample = session.round(plan, case);
                let sample = sample.map_err(|e| within(e, scenario, &case.name, target))?;
                let name = target.to_string();
                match rows.iter_mut().find(|row| row.target == name) {
                    Some(row) => row.samples.push(sample),
                    None => rows.push(Measured {
                        case: case.clone(),
                        target: name,
                        samples: vec![sample],
                    }),
                }
            }
        }
        measured.append(&mut rows);
    }
    progress.done();
    let goals = scenario.goals(&measured);
    let (name, about, unit) = (scenario.name(), scenario.about(), scenario.unit());
    Ok(Outcome { name, about, unit, measured, goals, load: (before, load_average()) })
}

fn within(trouble: Trouble, scenario: &dyn Scenario, case: &str, target: &Target) -> Trouble {
    let place = format!("{}, {case}, {target}", scenario.name());
    match trouble {
        Trouble::Wrong(what) => Trouble::Wrong(format!("{place}: {what}")),
        Trouble::Io { what, error } => Trouble::Io { what: format!("{place}: {what}"), error },
    }
}

/// A line on standard error, written over if that is a terminal.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal() }
    }

    fn say(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{text}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{text}");
        }
    }

    fn done(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
