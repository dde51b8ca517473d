//! `xsctl move --resume`: finishes or takes back what earlier moves left, and moves no other domain.

use super::batch::Moving;
use super::domids::Domids;
use super::earlier::Earlier;
use super::error::{Done, ToolError};
use super::move_batches::{line, of_earlier};
use super::places::{Destination, Source};
use super::report::{Form, Report, were};
use super::route::Route;

/// Resumes the moves of these domains between two daemons. Cost: that of [`Earlier::end`].
///
/// # Errors
/// A daemon cannot be reached; the output cannot be written. Domains left alone are reported.
pub fn run(route: &Route, domids: &Domids, form: Form) -> Result<Done, ToolError> {
    let lock = route.lock();
    let earlier = match Earlier::find(route, domids, &lock) {
        Err(ToolError::NothingToMove(..)) => return Report::new(form, "move", "resumed", 0).end(),
        found => found?.only_left(route, domids),
    };
    let mut report = Report::new(form, "move", "resumed", earlier.len());
    let (settled, taken_back) = earlier.end(route)?;
    lock.share();
    of_earlier(route, settled, &mut report);
    for (domid, _) in &taken_back {
        let moving = Moving::found(Source::Served, Destination::Absent);
        report.domain(&line(route, *domid, &moving));
    }
    if !taken_back.is_empty() {
        report
            .note(format!("{} not released at the source, and run there", were(taken_back.len())));
    }
    report.end()
}
