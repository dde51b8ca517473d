//! `xsctl move`: moves batches of domains between two daemons, sequentially or several in parallel.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::batch::{Moving, carry};
use super::domids::Domids;
use super::earlier::{Earlier, Settled, Todo};
use super::error::{Done, ToolError};
use super::places::{Source, explain};
use super::report::{Form, Line, Report, domains, millis, were};
use super::route::Route;
use super::survey::Survey;
use crate::transport::descriptors::DESCRIPTORS_MAX;
use crate::types::Domid;

/// The options of a move.
pub struct Mode {
    /// Domains per batch, which are quiesced together.
    pub batch: usize,
    /// Batches in parallel.
    pub jobs: usize,
    /// The form of the output.
    pub form: Form,
    /// When the search for the daemons started.
    pub begun: Instant,
    /// The longest pause, which sets the size of the batches.
    pub pause_max: Option<Duration>,
}

impl Mode {
    /// Returns the size of the batches for these domains.
    pub fn batch_of(&self, survey: &Survey, route: &Route) -> usize {
        let by_pause = |pause| survey.batch(pause, DESCRIPTORS_MAX, route);
        self.pause_max.map_or(self.batch, by_pause)
    }
}

/// Moves domains, grouped by the source's shard: a batch then interrupts few threads, and other shards' guests are not
/// delayed. A batch that has started is completed. No further batch is started once `stop` is set or a daemon cannot be
/// reached, nor while the report of a finished batch cannot be written. Cost: the EXPORT and IMPORT of each batch.
///
/// # Errors
/// Those of the output. Domains that are not moved are reported.
pub fn run(
    route: &Route,
    domids: &Domids,
    mode: &Mode,
    stop: &AtomicBool,
) -> Result<Done, ToolError> {
    let lock = route.lock();
    let earlier = Earlier::find(route, domids, &lock)?;
    let report = Report::new(mode.form, "move", "moved", earlier.len()).since(mode.begun);
    let (settled, todo) = earlier.end(route)?;
    lock.share();
    let report = Mutex::new(report);
    of_earlier(route, settled, &mut report.lock());
    let batch = match mode.pause_max {
        Some(pause_max) => by_pause(route, &todo, mode, pause_max, &mut report.lock())?,
        None => mode.batch,
    };
    batches(route, &todo, &Mode { batch, ..*mode }, stop, |moved| {
        let mut report = report.lock();
        match moved {
            Ok(lines) => lines.iter().for_each(|line| report.domain(line)),
            Err(failure) => report.trouble(format!("{failure}; no further domain was moved")),
        }
    });
    report.into_inner().end()
}

/// Moves domains in batches of `mode.batch`, and passes the lines of each batch to `report`, or the error that ends all
/// of them. Sets `stop` at such an error.
pub fn batches(
    route: &Route,
    todo: &[Todo],
    mode: &Mode,
    stop: &AtomicBool,
    report: impl Fn(Result<Vec<Line>, ToolError>) + Sync,
) {
    let todo = by_shard(todo, route.source.shards());
    run_parallel(mode.jobs, todo.chunks(mode.batch), |next| {
        let mut kept = None;
        while !stop.load(Ordering::Relaxed)
            && let Some(domains) = next()
        {
            let carried = carry(route, domains, &mut kept);
            if carried.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            // No domain of this batch is quiesced while the report is written. The report is written on this thread,
            // because waking another one costs a tenth of a batch.
            report(carried.map(|domains| lines(route, &domains)));
        }
    });
}

/// Chooses the size of the batches by the estimated pause, and notes it.
fn by_pause(
    route: &Route,
    todo: &[Todo],
    mode: &Mode,
    pause_max: Duration,
    report: &mut Report,
) -> Result<usize, ToolError> {
    let domids: Vec<Domid> = todo.iter().map(|(domid, _)| *domid).collect();
    let survey = Survey::of(route, &domids)?;
    let batch = mode.batch_of(&survey, route);
    let pause = survey.longest_pause(batch, route);
    let (ms, max) = (millis(pause), millis(pause_max));
    report.note(match pause <= pause_max {
        true => format!("batches of {}: estimated pause at most {ms:.1} ms", domains(batch)),
        false => format!("estimated pause {ms:.1} ms, more than {max} ms even of a single domain"),
    });
    Ok(batch)
}

/// Runs `jobs` instances of `job` in parallel, one of them on this thread; fewer if the system refuses threads. Each
/// instance takes the next item when it is ready for one.
pub fn run_parallel<T: Send>(
    jobs: usize,
    items: impl Iterator<Item = T> + Send,
    job: impl Fn(&dyn Fn() -> Option<T>) + Sync,
) {
    let items = Mutex::new(items);
    let next = || items.lock().next();
    thread::scope(|scope| {
        for _ in 1..jobs {
            if thread::Builder::new().spawn_scoped(scope, || job(&next)).is_err() {
                break;
            }
        }
        job(&next);
    });
}

/// Sorts domains by shard. Those that an earlier move left quiesced come first: their guests are waiting.
fn by_shard(todo: &[Todo], shards: u16) -> Vec<Todo> {
    let mut todo = todo.to_vec();
    todo.sort_by_key(|(domid, source)| (*source == Source::Served, domid.0 % shards));
    todo
}

fn lines(route: &Route, domains: &BTreeMap<Domid, Moving>) -> Vec<Line> {
    domains.iter().map(|(&domid, moving)| line(route, domid, moving)).collect()
}

/// Returns the report of a domain that was transferred, or found in such a state.
pub fn line(route: &Route, domid: Domid, moving: &Moving) -> Line {
    let source = (moving.source, route.source.socket.as_path());
    let destination = (moving.destination, route.destination.socket.as_path());
    let (state, commands) = explain(domid, source, destination);
    let error = moving.error.as_ref().map(|error| sentence(&[error, &state], &commands));
    Line {
        nodes: Some(moving.nodes),
        left_out: moving.left_out.clone(),
        tries: Some(moving.tries),
        pause_ms: moving.pause.map(millis),
        source: Some(moving.source.name()),
        destination: Some(moving.destination.name()),
        commands,
        ..Line::new(domid, error)
    }
}

/// Joins the clauses of an error, and appends the commands that resolve it.
pub fn sentence(parts: &[&str], commands: &[String]) -> String {
    let commands = commands.join("; ");
    let sep = if commands.is_empty() { "" } else { ": " };
    format!("{}{sep}{commands}", parts.join("; "))
}

/// Reports the domains that need no batch.
pub fn of_earlier(route: &Route, settled: Vec<Settled>, report: &mut Report) {
    let mut moved = 0;
    for settled in settled {
        let line = settled_line(route, settled);
        moved += usize::from(line.done);
        report.domain(&line);
    }
    if moved > 0 {
        report.note(format!("{} released at the source by an earlier command", were(moved)));
    }
}

/// Returns the report of a domain that needs no batch.
pub fn settled_line(route: &Route, settled: Settled) -> Line {
    let Settled { domid, moving, left, names } = settled;
    match (left, names) {
        (Some((why, commands)), Some([source, destination])) => Line {
            source: Some(source),
            destination: Some(destination),
            commands: commands.clone(),
            ..Line::new(domid, Some(sentence(&[&why], &commands)))
        },
        _ => line(route, domid, &moving),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_in_parallel() {
        let (sender, receiver) = crossbeam::channel::bounded(0);
        let timeout = Duration::from_secs(10);
        let met = Mutex::new(Vec::new());
        run_parallel(2, [true, false].into_iter(), |next| {
            while let Some(sends) = next() {
                let other = match sends {
                    true => sender.send_timeout((), timeout).is_ok(),
                    false => receiver.recv_timeout(timeout).is_ok(),
                };
                met.lock().push(other);
            }
        });
        assert_eq!(*met.lock(), [true, true], "each met the other");
    }

    #[test]
    fn domains_are_batched_by_shard() {
        let all = [1, 2, 3, 4, 6].map(|number| (Domid(number), Source::Served));
        let order = |shards| by_shard(&all, shards).into_iter().map(|(domid, _)| domid.0);
        assert!(order(1).eq([1, 2, 3, 4, 6]));
        assert!(order(2).eq([2, 4, 6, 1, 3]));
        assert!(order(3).eq([3, 6, 1, 4, 2]));
        let quiesced = [(Domid(3), Source::Quiesced), (Domid(7), Source::Quiesced)];
        let all = by_shard(&[&all[..2], &quiesced].concat(), 2);
        assert!(all.into_iter().map(|(domid, _)| domid.0).eq([3, 7, 2, 1]));
    }
}
