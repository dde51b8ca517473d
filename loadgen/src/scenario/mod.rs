//! Scenarios: load on a daemon and the expected results, one file for each kind, and their table.
//!
//! ```text
//!   for each case of a scenario
//!     for each round
//!       for each target, in turn: session.round(case) -> a sample
//! ```
//!
//! A session is a running target, filled as the scenario requires. All targets run side by side, and idle ones cost
//! nothing, so any disturbance of the machine affects all of them alike.

mod boot;
mod deaths;
mod explained;
mod fanout;
mod flood;
mod goals;
mod growth;
mod hostile;
mod memory;
mod migrate;
mod operations;
mod removal;
mod runner;
mod shards;
mod soak;
mod transactions;
mod update;
mod vchan;
mod walk;
mod xsbench;

use std::time::Duration;

use xenstored::host::sim::SimClient;

use crate::measure::{Measured, Sample};
use crate::target::{Cpu, Options, Running, Target};
use crate::trouble::{ClientError, Result};
use crate::wrong;

pub use boot::{Share, serve as serve_share};
pub use goals::Goal;
pub use runner::{Missing, Outcome, Why, run};

/// The extent of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Duration of a round of requests.
    pub time: Duration,
    /// Number of rounds.
    pub rounds: usize,
    /// Whether to check only correctness: few and small cases.
    pub quick: bool,
    /// Whether a violated bound that holds on any machine fails the run.
    pub check: bool,
    /// Number of hostile guests.
    pub attackers: usize,
}

/// A row of a scenario's table. The scenario defines the meaning of the numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Case {
    /// The displayed name.
    pub name: String,
    /// Number of busy connections.
    pub connections: usize,
    /// Outstanding requests on each connection.
    pub depth: usize,
    /// Whether the connections are rings instead of sockets.
    pub rings: bool,
    /// The size that grows from case to case, if any.
    pub size: Option<usize>,
}

impl Case {
    /// Creates a case without numbers.
    pub fn named(name: &str) -> Case {
        Case { name: name.into(), ..Case::default() }
    }

    /// Creates a case that differs from the others by one size: `"{size} {what}"`.
    pub fn sized(size: usize, what: &str) -> Case {
        Case { name: format!("{size} {what}"), size: Some(size), ..Case::default() }
    }
}

/// A kind of load to be measured.
pub trait Scenario {
    /// Returns the name on the command line.
    fn name(&self) -> &'static str;

    /// Returns a description in one to three sentences.
    fn about(&self) -> &'static str;

    /// Returns the counted unit: "request" for most.
    fn unit(&self) -> &'static str {
        "request"
    }

    /// Returns the cases, in the order of measurement.
    fn cases(&self, plan: &Plan) -> Vec<Case>;

    /// Returns the reason why this case is not run on this target, such as an echo server, which has no store; `None`
    /// if it is run.
    fn leaves_out(&self, target: &Target, case: &Case) -> Option<&'static str>;

    /// Starts and fills a target.
    fn prepare(&self, plan: &Plan, target: &Target) -> Result<Box<dyn Session>>;

    /// Returns the goals, with whether each was reached.
    fn goals(&self, _measured: &[Measured]) -> Vec<Goal> {
        Vec::new()
    }
}

/// A target in a running scenario.
pub trait Session {
    /// Runs one round, and checks all replies.
    fn round(&mut self, plan: &Plan, case: &Case) -> Result<Sample>;
}

/// Returns all scenarios.
pub fn all() -> Vec<Box<dyn Scenario>> {
    let mut all = operations::all();
    all.extend(transactions::all());
    all.push(Box::new(xsbench::Xsbench));
    all.extend(boot::all());
    all.extend(growth::all());
    all.push(Box::new(fanout::FanOut));
    all.extend(deaths::all());
    all.push(Box::new(removal::Removal));
    all.push(Box::new(flood::Flood));
    all.push(Box::new(hostile::Hostile));
    all.push(Box::new(vchan::Vchan));
    all.push(Box::new(walk::Walk));
    all.push(Box::new(memory::Memory));
    all.push(Box::new(migrate::Migrate));
    all.push(Box::new(update::Update));
    all.push(Box::new(shards::Shards));
    all.push(Box::new(soak::Soak));
    all
}

/// Bytes of a log's end that are shown.
const LAST_WORDS: usize = 2000;

/// Starts a target with these arguments (which only ours accepts).
fn start(target: &Target, arguments: &[&str]) -> Result<Running> {
    let arguments = arguments.iter().map(|&word| word.to_owned()).collect();
    let options = Options { arguments, ..Options::default() };
    target.start(&options).map_err(|error| ClientError::io(format!("cannot start {target}"), error))
}

/// Connects to the simulated host of a target.
fn host_of(running: &Running, target: &Target) -> Result<SimClient> {
    let Some(sim) = &running.sim else { wrong!("{target} has no simulated host") };
    SimClient::connect(sim)
        .map_err(|error| ClientError::io("cannot connect to the simulated host", error))
}

/// Runs `what`, and returns the CPU time that the target used for it, if its process is known.
fn with_cpu<T>(running: &Running, what: impl FnOnce() -> Result<T>) -> Result<(T, Option<Cpu>)> {
    let before = running.cpu().ok();
    let done = what().map_err(|trouble| explained(running, trouble))?;
    let used = before.and_then(|before| Some(running.cpu().ok()? - before));
    Ok((done, used))
}

/// Adds the end of the log to an error, if the target has ended.
fn explained(running: &Running, trouble: ClientError) -> ClientError {
    let has_ended = running.pid.is_some() && running.cpu().is_ok_and(|cpu| cpu.total.is_zero());
    if !has_ended && running.cpu().is_ok() {
        return trouble;
    }
    let log = running.log();
    let start = log.floor_char_boundary(log.len().saturating_sub(LAST_WORDS));
    ClientError::Wrong(format!(
        "{trouble}; the daemon has exited, its last output:\n{}",
        &log[start..]
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn scenarios_have_unique_names_and_descriptions() {
        let time = Duration::from_millis(100);
        let quick = Plan { time, rounds: 1, quick: true, check: true, attackers: 8 };
        let full = Plan { quick: false, ..quick };
        let mut names = HashSet::new();
        for scenario in all() {
            assert!(names.insert(scenario.name()), "{} is listed twice", scenario.name());
            assert!(scenario.about().ends_with('.'), "{} is not explained", scenario.name());
            for plan in [quick, full] {
                let cases = scenario.cases(&plan);
                assert!(!cases.is_empty(), "{} has no case", scenario.name());
                let names: HashSet<_> = cases.iter().map(|case| &case.name).collect();
                assert_eq!(names.len(), cases.len(), "{} repeats a case", scenario.name());
                let ours = |case| scenario.leaves_out(&Target::Ours, case).is_none();
                assert!(cases.iter().all(ours), "{} leaves our daemon out", scenario.name());
            }
        }
    }
}
