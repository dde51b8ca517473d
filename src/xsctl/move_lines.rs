//! `xsctl move --domains -`: moves the domains whose numbers arrive line by line on standard input, and replies to each
//! line with one line of the report. All lines share the connections to both daemons.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::batch::{Ends, Moving, carry};
use super::domids::Domids;
use super::earlier::{Earlier, Settled};
use super::error::{Done, ToolError};
use super::input_lines::InputLines;
use super::move_batches::{Mode, line, settled_line};
use super::places::Destination;
use super::report::{Line, Report};
use super::route::Route;
use crate::types::Domid;

/// Moves the domains of each line, until the input ends or `stop` is set. Lines that have arrived together form one
/// batch, of at most `mode.batch`; a line without a reply was not started. Cost of a batch: its EXPORT and IMPORT,
/// and five round trips to the destination, two of them during the pause.
///
/// # Errors
/// Those of the input and the output. Domains that are not moved are reported.
pub fn run(route: &Route, mode: &Mode, stop: &AtomicBool) -> Result<Done, ToolError> {
    let mut lines = InputLines::open()?;
    let mut report = Report::of_lines(mode.form, "move", "moved").since(mode.begun);
    let mut kept = None;
    let mut read = Ok(());
    while !stop.load(Ordering::Relaxed) && report.is_written() {
        match lines.next(mode.batch) {
            Ok(some) if some.is_empty() => break,
            Ok(some) => reply(route, &some, &mut kept, &mut report),
            Err(error) => {
                read = Err(ToolError::file("standard input".as_ref())(error));
                break;
            }
        }
    }
    report.left_unstarted(lines.pending());
    read.and(report.end())
}

/// Moves the domains of these lines, and replies to each line.
fn reply(route: &Route, lines: &[String], kept: &mut Option<Ends>, report: &mut Report) {
    let domids: Vec<_> = lines.iter().map(|line| domid(line)).collect();
    let mut all: Vec<_> = domids.iter().flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    let outcomes = move_now(route, &all, kept);
    for (text, domid) in lines.iter().zip(domids) {
        match domid {
            Ok(domid) => match outcomes.get(&domid) {
                Some(line) => report.domain(line),
                // Each domain that is named individually has an outcome.
                None => report.domain(&Line::new(domid, Some("it has no outcome".into()))),
            },
            Err(why) => report.domain(&Line::of_input(text, why)),
        }
    }
}

fn domid(line: &str) -> Result<Domid, String> {
    let one = line.parse::<Domids>()?.one();
    one.ok_or_else(|| "expected a single domid on a line".into())
}

/// Moves these domains in one batch, after what earlier moves left of them is finished or taken back. Returns the
/// report of each. `kept` has the connections of the previous batch, and is left those for the next one.
pub fn move_now(route: &Route, domids: &[Domid], kept: &mut Option<Ends>) -> BTreeMap<Domid, Line> {
    if domids.is_empty() {
        return BTreeMap::new();
    }
    let lock = route.lock();
    let found = Earlier::find(route, &Domids::of(domids), &lock).and_then(|found| found.end(route));
    let (settled, todo) = match found {
        Ok(found) => found,
        Err(failure) => {
            let failed = |&domid| (domid, Line::new(domid, Some(failure.to_string())));
            return domids.iter().map(failed).collect();
        }
    };
    lock.share();
    let of_settled = |settled: Settled| (settled.domid, settled_line(route, settled));
    let mut lines: BTreeMap<_, _> = settled.into_iter().map(of_settled).collect();
    if todo.is_empty() {
        return lines;
    }
    match carry(route, &todo, kept) {
        Ok(moved) => {
            lines.extend(moved.iter().map(|(&domid, moving)| (domid, line(route, domid, moving))));
        }
        Err(failure) => lines.extend(todo.iter().map(|&(domid, source)| {
            let mut moving = Moving::found(source, Destination::Absent);
            moving.error = Some(failure.to_string());
            (domid, line(route, domid, &moving))
        })),
    }
    lines
}
