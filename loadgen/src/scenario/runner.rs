//! Execution of a scenario: cases, rounds, targets in turn.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::{Case, Goal, Plan, Scenario, Session};
use crate::measure::{Measured, Sample, load_average};
use crate::target::Target;
use crate::trouble::ClientError;

/// The result of a scenario.
pub struct Outcome {
    /// The scenario's name.
    pub name: &'static str,
    /// The scenario's description.
    pub about: &'static str,
    /// The counted unit.
    pub unit: &'static str,
    /// The planned cases, in order.
    pub cases: Vec<Case>,
    /// A row for each case and target with figures.
    pub measured: Vec<Measured>,
    /// The cases and targets without figures.
    pub missing: Vec<Missing>,
    /// The goals, with whether each was reached.
    pub goals: Vec<Goal>,
    /// Load average before and after.
    pub load: (f64, f64),
    /// Duration, including preparation.
    pub elapsed: Duration,
}

/// Cases for which a target has no figures, or not of all rounds.
pub struct Missing {
    /// The target concerned.
    pub target: Target,
    /// The names of the cases, in order. After a failure, the first is the one that failed.
    pub cases: Vec<String>,
    /// The reason.
    pub why: Why,
}

/// The reason why there are no figures.
pub enum Why {
    /// The target does not take part, for this reason.
    LeftOut(&'static str),
    /// The target could not be started, gave a wrong result, or hung; it is left out of the rest of the scenario.
    Failed(ClientError),
}

impl Outcome {
    /// Returns the failures with their targets.
    pub fn failures(&self) -> impl Iterator<Item = (&Missing, &ClientError)> {
        self.missing.iter().filter_map(|missing| match &missing.why {
            Why::Failed(trouble) => Some((missing, trouble)),
            Why::LeftOut(_) => None,
        })
    }
}

/// Runs the cases of a scenario whose name contains `case` on these targets, with progress on standard error. A
/// target that fails is left out from then on, and the others continue.
pub fn run(scenario: &dyn Scenario, plan: &Plan, targets: &[Target], case: &str) -> Outcome {
    let (before, started) = (load_average(), Instant::now());
    let mut cases = scenario.cases(plan);
    cases.retain(|each| each.name.contains(case));
    let mut run = Run { scenario, plan, progress: Progress::new(), missing: Vec::new() };
    for target in targets {
        run.leave_out(target, &cases);
    }
    let mut sessions = run.prepare(targets, &cases);
    let mut measured = Vec::new();
    for place in 0..cases.len() {
        measured.append(&mut run.measure(&mut sessions, &cases[place..]));
    }
    drop(sessions);
    run.progress.done();
    let goals = scenario.goals(&measured);
    let (name, about, unit) = (scenario.name(), scenario.about(), scenario.unit());
    let (missing, load) = (run.missing, (before, load_average()));
    Outcome { name, about, unit, cases, measured, missing, goals, load, elapsed: started.elapsed() }
}

/// Participating targets, each with its session.
type Sessions = Vec<(Target, Box<dyn Session>)>;

/// A scenario in progress.
struct Run<'a> {
    scenario: &'a dyn Scenario,
    plan: &'a Plan,
    progress: Progress,
    missing: Vec<Missing>,
}

impl Run<'_> {
    /// Records the cases that a target is left out of, grouped by reason.
    fn leave_out(&mut self, target: &Target, cases: &[Case]) {
        let mut reasons: Vec<(&'static str, Vec<String>)> = Vec::new();
        for case in cases {
            let Some(why) = self.scenario.leaves_out(target, case) else { continue };
            match reasons.iter_mut().find(|(reason, _)| *reason == why) {
                Some((_, names)) => names.push(case.name.clone()),
                None => reasons.push((why, vec![case.name.clone()])),
            }
        }
        self.missing.extend(reasons.into_iter().map(|(why, cases)| Missing {
            target: target.clone(),
            cases,
            why: Why::LeftOut(why),
        }));
    }

    /// Starts and fills the targets that take part in at least one case.
    fn prepare(&mut self, targets: &[Target], cases: &[Case]) -> Sessions {
        let mut sessions = Vec::new();
        for target in targets {
            if cases.iter().all(|case| self.scenario.leaves_out(target, case).is_some()) {
                continue;
            }
            self.progress.say(&format!("{}: {target} is prepared", self.scenario.name()));
            match self.scenario.prepare(self.plan, target) {
                Ok(session) => sessions.push((target.clone(), session)),
                Err(trouble) => self.fails(target, cases, trouble),
            }
        }
        sessions
    }

    /// Runs all rounds of the first of `cases`, the targets in turn; returns the rows of its targets.
    fn measure(&mut self, sessions: &mut Sessions, cases: &[Case]) -> Vec<Measured> {
        let (case, plan, scenario) = (&cases[0], self.plan, self.scenario);
        let mut rows: Vec<Measured> = Vec::new();
        for round in 1..=plan.rounds {
            sessions.retain_mut(|(target, session)| {
                if scenario.leaves_out(target, case).is_some() {
                    return true;
                }
                let (name, of) = (scenario.name(), plan.rounds);
                self.progress
                    .say(&format!("{name}: {}: round {round} of {of}: {target}", case.name));
                match session.round(plan, case) {
                    Ok(sample) => add(&mut rows, case, target, sample),
                    Err(trouble) => {
                        self.fails(target, cases, trouble);
                        return false;
                    }
                }
                true
            });
        }
        rows
    }

    /// Records that a target failed in the first of these cases.
    fn fails(&mut self, target: &Target, cases: &[Case], trouble: ClientError) {
        let asked = cases.iter().filter(|case| self.scenario.leaves_out(target, case).is_none());
        let cases: Vec<String> = asked.map(|case| case.name.clone()).collect();
        self.progress.say(&format!("{}: {target} FAILED: {trouble}", self.scenario.name()));
        self.missing.push(Missing { target: target.clone(), cases, why: Why::Failed(trouble) });
    }
}

/// Adds a round to the row of its target.
fn add(rows: &mut Vec<Measured>, case: &Case, target: &Target, sample: Sample) {
    let target = target.to_string();
    match rows.iter_mut().find(|row| row.target == target) {
        Some(row) => row.samples.push(sample),
        None => rows.push(Measured { case: case.clone(), target, samples: vec![sample] }),
    }
}

/// A progress line on standard error, overwritten if that is a terminal.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trouble::Result;

    /// C xenstored cannot be started, oxenstored fails in the second round of the second case, and echo is left out of
    /// the first.
    struct Planned;

    struct Round {
        target: Target,
        rounds: usize,
    }

    impl Scenario for Planned {
        fn name(&self) -> &'static str {
            "planned"
        }

        fn about(&self) -> &'static str {
            "Fails as planned."
        }

        fn cases(&self, _plan: &Plan) -> Vec<Case> {
            ["one", "two", "three"].map(Case::named).into()
        }

        fn leaves_out(&self, target: &Target, case: &Case) -> Option<&'static str> {
            (*target == Target::Echo && case.name == "one").then_some("no need")
        }

        fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
            match target {
                Target::C => Err(ClientError::Wrong("no start".into())),
                _ => Ok(Box::new(Round { target: target.clone(), rounds: 0 })),
            }
        }
    }

    impl Session for Round {
        fn round(&mut self, _plan: &Plan, _case: &Case) -> Result<Sample> {
            self.rounds += 1;
            match (&self.target, self.rounds) {
                (Target::OCaml, 4) => Err(ClientError::Wrong("a reply".into())),
                _ => Ok(Sample::default()),
            }
        }
    }

    #[test]
    fn failed_target_is_recorded_and_the_others_continue() {
        let time = Duration::from_millis(1);
        let plan = Plan { time, rounds: 2, quick: false, check: false, attackers: 1 };
        let targets = [Target::Ours, Target::C, Target::OCaml, Target::Echo];
        let outcome = run(&Planned, &plan, &targets, "");
        let rows: Vec<String> = outcome.measured.iter().map(row).collect();
        let expected = [
            "one ours 2",
            "one ocaml 2",
            "two ours 2",
            "two ocaml 1",
            "two echo 2",
            "three ours 2",
            "three echo 2",
        ];
        assert_eq!(rows, expected);
        let missing: Vec<String> = outcome.missing.iter().map(missing).collect();
        let expected = [
            "echo one: no need",
            "c one two three: wrong: no start",
            "ocaml two three: wrong: a reply",
        ];
        assert_eq!(missing, expected);
        assert_eq!(outcome.failures().count(), 2);
    }

    fn row(row: &Measured) -> String {
        format!("{} {} {}", row.case.name, row.target, row.samples.len())
    }

    fn missing(missing: &Missing) -> String {
        let why = match &missing.why {
            Why::LeftOut(why) => (*why).to_owned(),
            Why::Failed(trouble) => trouble.to_string(),
        };
        format!("{} {}: {why}", missing.target, missing.cases.join(" "))
    }
}
