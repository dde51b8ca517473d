//! `xsctl evacuate`: moves the domains of a plan to several hosts at once, each host's as `xsctl move` does.
//!
//! ```text
//!     --spread   DOMAIN_STATES, CONTROL quota ---> spread ---> a plan
//!     --plan     plan ---> all hosts: Daemon::find, Earlier::find
//!                      ---> hosts in parallel: Earlier::end ---> move_batches::batches ---> report
//! ```
//!
//! Nothing is quiesced before each host is connected and has reported its states. A host that fails ends its own moves
//! only.

mod plan;
mod report;
pub mod spread;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::daemon::Daemon;
use super::earlier::{Earlier, Todo};
use super::error::{Done, ToolError};
use super::lock::Lock;
use super::move_batches::{self, batches, run_parallel, sentence, settled_line};
use super::report::{Line, say};
use super::route::Route;
use super::step::Step;
use plan::{Host, Plan};
use report::{Expected, Report};

/// Maximum number of hosts in parallel. Each has a connection to the source's migration socket, which serves eight
/// clients at once; two of them remain for other tools.
pub const HOSTS_AT_ONCE_MAX: i64 = 6;

/// The options of an evacuation.
pub struct Mode {
    /// The moves to each host.
    pub each: move_batches::Mode,
    /// Hosts in parallel.
    pub hosts: usize,
    pub tries: u32,
    /// Whether to report the outcome without moving anything.
    pub is_dry: bool,
}

/// Moves the domains of a plan. Cost: that of the moves; a thread for each host in parallel.
///
/// # Errors
/// The plan is wrong, or a daemon cannot be reached: nothing was done. The output cannot be written.
pub fn run(source: &Daemon, file: &Path, mode: &Mode) -> Result<Done, ToolError> {
    let plan = Plan::read(file)?;
    let routes = routes(source, file, &plan.hosts, mode)?;
    let sockets = routes.iter().map(|route| route.destination.migration());
    let lock = Lock::of([source.migration()].into_iter().chain(sockets));
    let (mut hosts, mut expected) = (Vec::new(), Vec::new());
    for (Host { to, domains }, route) in plan.hosts.into_iter().zip(&routes) {
        let (earlier, reason) = match Earlier::find(route, &domains, &lock) {
            Ok(earlier) => (Some(earlier), None),
            Err(error @ ToolError::NothingToMove(..)) => (None, Some(error.to_string())),
            Err(error) => return Err(error),
        };
        expected.push(expect(to, earlier.as_ref(), reason));
        hosts.push(earlier);
    }
    let verb = if mode.is_dry { "to move" } else { "moved" };
    let report = Report::new(mode.each.form, mode.each.begun, verb, expected);
    if mode.is_dry {
        return dry_run(&hosts, report);
    }
    // Before anything is moved, since a signal that comes earlier may end the command.
    let stops = hosts.iter().map(|_| super::stop()).collect::<Result<Vec<_>, _>>()?;
    let report = Mutex::new(report);
    let todo = in_parallel(mode.hosts, hosts, |at, earlier| {
        earlier.map(|earlier| settle(at, earlier, &routes[at], &report)).unwrap_or_default()
    });
    lock.share();
    in_parallel(mode.hosts, todo, |at, todo| {
        batches(&routes[at], &todo, &mode.each, &stops[at], |moved| {
            let mut report = report.lock();
            match moved {
                Ok(lines) => lines.into_iter().for_each(|line| report.domain(at, line)),
                Err(error) => report.trouble(at, &error),
            }
        });
    });
    report.into_inner().end()
}

/// Connects to all hosts, and compares the versions of both ends.
fn routes(
    source: &Daemon,
    file: &Path,
    hosts: &[Host],
    mode: &Mode,
) -> Result<Vec<Route>, ToolError> {
    let to: Vec<_> = hosts.iter().map(|host| PathBuf::from(&host.to)).collect();
    let found = in_parallel(mode.hosts, to, |_, to| Daemon::find(to));
    let (mut destinations, mut errors) = (Vec::<Daemon>::new(), Vec::new());
    for (host, found) in hosts.iter().zip(found) {
        let wrong = |why| ToolError::Contents { path: file.to_path_buf(), why };
        let same = |daemon: &Daemon| destinations.iter().find(|other| other.is_same(daemon));
        match found {
            Err(error) => errors.push(error),
            Ok(daemon) if daemon.is_same(source) => {
                errors.push(wrong(format!("the host {} is the source", host.to)));
            }
            Ok(daemon) => match same(&daemon) {
                Some(other) => {
                    let other = other.socket.display();
                    errors.push(wrong(format!("{} and {other} are the same host", host.to)));
                }
                None => destinations.push(daemon),
            },
        }
    }
    if let Some(last) = errors.pop() {
        errors.iter().for_each(|error| say(&error.to_string()));
        return Err(last);
    }
    let route = |destination| Route::new(source.clone(), destination, mode.tries, None);
    Ok(destinations.into_iter().map(route).collect())
}

fn expect(to: String, earlier: Option<&Earlier>, reason: Option<String>) -> Expected {
    let is_done = |step: &Step| matches!(step, Step::Done);
    let steps = earlier.into_iter().flat_map(Earlier::steps);
    let before: BTreeSet<_> =
        steps.filter(|(_, step)| is_done(step)).map(|(domid, _)| domid).collect();
    Expected { to, total: earlier.map_or(0, Earlier::len), before, reason }
}

/// Completes or rolls back what earlier moves to a host left, and returns the domains that are still to be moved.
fn settle(at: usize, earlier: Earlier, route: &Route, report: &Mutex<Report>) -> Vec<Todo> {
    let ended = earlier.end(route);
    let mut report = report.lock();
    match ended {
        Ok((settled, todo)) => {
            for settled in settled {
                report.domain(at, settled_line(route, settled));
            }
            todo
        }
        Err(error) => {
            report.trouble(at, &error);
            Vec::new()
        }
    }
}

/// Reports which domains a run would move, and which it would leave.
fn dry_run(hosts: &[Option<Earlier>], mut report: Report) -> Result<Done, ToolError> {
    for (at, earlier) in hosts.iter().enumerate() {
        for (domid, step) in earlier.iter().flat_map(Earlier::steps) {
            let error = match step {
                Step::Leave(why, commands) => Some(sentence(&[why], commands)),
                _ => None,
            };
            report.domain(at, Line::new(domid, error));
        }
    }
    report.end()
}

/// Applies `work` to each item, `jobs` of them in parallel, and returns the results in the order of the items.
fn in_parallel<T: Send, R: Send>(
    jobs: usize,
    items: Vec<T>,
    work: impl Fn(usize, T) -> R + Sync,
) -> Vec<R> {
    let results = Mutex::new(BTreeMap::new());
    run_parallel(jobs, items.into_iter().enumerate(), |next| {
        while let Some((at, item)) = next() {
            let result = work(at, item);
            results.lock().insert(at, result);
        }
    });
    results.into_inner().into_values().collect()
}
