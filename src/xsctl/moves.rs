//! `xsctl move` and `xsctl send`: the kind of move that the options ask for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::domids::Domids;
use super::error::{Done, ToolError};
use super::options::{MoveOptions, Moved};
use super::pace::Pace;
use super::report::Form;
use super::route::Route;
use super::tunnel::is_url;
use super::{move_batches, move_lines, plan, resume, stop, survey, usage};

/// Domains in a batch and batches in parallel, by default. With two domains the move takes a quarter less time, but each
/// is paused longer, and domains that stay wait twice as long; a second batch in parallel on two cores makes them wait
/// longer than the limit (docs/BENCHMARKS.md, Batches and jobs).
const NEAR: (usize, usize) = (1, 1);
/// Batches in parallel to a distant host: each waits for replies most of the time. Of eight connections to its
/// migration socket a daemon has to keep some for other tools.
const FAR_JOBS: usize = 4;
/// From this round trip on a host is distant: a batch there waits longer than it works.
const FAR: Duration = Duration::from_micros(500);
/// A distant host's batch has a domain for each of these in a round trip, of which its pause has two. A domain adds a
/// quarter of it to the batch, so that the domains of a batch pause for little longer than one alone, and a thousand
/// domains take less than two seconds however far the host is.
const DOMAIN_TIME: Duration = Duration::from_millis(2);
/// With one in a batch, a thousand take as long as they may on an idle machine.
const FAR_BATCH_MIN: usize = 2;
/// More domains in a batch save little: four batches of this size have a thousand domains there in five turns.
const FAR_BATCH_MAX: usize = 50;

/// Moves domains to the daemon at `to`. With `on_stdio` standard input and output are the connection to it.
///
/// # Errors
/// Wrong usage; a daemon cannot be reached; those of the output. Domains that are not moved are reported.
pub fn run(how: MoveOptions, to: PathBuf, on_stdio: bool) -> Result<Done, ToolError> {
    let begun = Instant::now();
    let MoveOptions { common, domains, resume, plan, pause_max, rate, batch, jobs, tries } = how;
    let by_line = domains == Some(Moved::Lines);
    if by_line && (resume || plan || pause_max.is_some() || jobs.is_some() || on_stdio) {
        return Err(usage("--domains - excludes --resume, --plan, --pause-max, --jobs, and send"));
    }
    let source = Daemon::find(common.socket())?;
    let destination = Daemon::find(to)?;
    if source.is_same(&destination) {
        return Err(usage("--to names the source daemon; name another one"));
    }
    let pace = rate.map(|rate| Arc::new(Pace::new(rate)));
    let route = Route::new(source, destination, tries, pace);
    let form = Form { aside: on_stdio, ..common.form() };
    let pause_max = pause_max.map(|ms| Duration::from_millis(ms.into()));
    // A line is moved as it comes, so more of them together would only wait for each other. A measurement is only made
    // for what it decides.
    let is_measured = !by_line && !resume && (batch.is_none() || jobs.is_none());
    let width = if is_measured { default_width(&route)? } else { NEAR };
    let (batch, jobs) = (batch.map_or(width.0, usize::from), jobs.map_or(width.1, usize::from));
    let mode = move_batches::Mode { batch, jobs, form, begun, pause_max };
    match domains.unwrap_or(Moved::Domids(Domids::all())) {
        Moved::Domids(domids) if resume => resume::run(&route, &domids, form),
        Moved::Domids(domids) if plan => plan::run(&route, &domids, &mode),
        Moved::Domids(domids) => move_batches::run(&route, &domids, &mode, &*stop()?),
        Moved::Lines => move_lines::run(&route, &mode, &*stop()?),
    }
}

/// Returns the domains in a batch and the batches in parallel, by the round trip to the destination.
///
/// # Errors
/// The destination cannot be reached.
fn default_width(route: &Route) -> Result<(usize, usize), ToolError> {
    if !is_url(&route.destination.socket) {
        return Ok(NEAR);
    }
    let round_trip = survey::round_trip(&route.destination)?;
    if round_trip < FAR {
        return Ok(NEAR);
    }
    let batch = round_trip.as_micros() / DOMAIN_TIME.as_micros();
    let batch = usize::try_from(batch).unwrap_or(FAR_BATCH_MAX);
    Ok((batch.clamp(FAR_BATCH_MIN, FAR_BATCH_MAX), FAR_JOBS))
}
