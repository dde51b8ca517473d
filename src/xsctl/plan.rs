//! `xsctl move --plan`: what a move would do with each domain, and how long it would pause them. Changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;

use super::domids::Domids;
use super::earlier::{Found, look};
use super::error::{Done, ToolError};
use super::move_batches::Mode;
use super::report::{counted, domains, millis};
use super::route::Route;
use super::step::Step;
use super::survey::{Survey, Surveyed};
use crate::types::Domid;

/// A domain of the plan, a JSON object.
#[derive(Serialize)]
struct Row {
    domid: u16,
    /// What the move does first: `move`, `take-back`, `finish`, `done` or `leave`.
    step: &'static str,
    nodes: u64,
    watches: u64,
    transactions: u64,
    bytes: u64,
    /// The estimated pause, if it is alone in its batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_ms: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    domains: usize,
    /// Domains with a problem.
    failed: usize,
    nodes: u64,
    bytes: u64,
    round_trip_ms: f64,
    batch: usize,
    /// The estimated pause of the batch with the most bytes.
    pause_max_ms: f64,
}

#[derive(Serialize)]
struct Last {
    summary: Summary,
}

/// Prints the plan of a move. Cost: that of [`Survey::of`].
///
/// # Errors
/// A daemon cannot be reached; none of the domains exists; the output cannot be written.
pub fn run(route: &Route, domids: &Domids, mode: &Mode) -> Result<Done, ToolError> {
    let found = look(route, domids)?;
    if found.is_empty() {
        let [here, there] = [&route.source, &route.destination].map(|daemon| daemon.socket.clone());
        return Err(ToolError::NothingToMove(here, there));
    }
    let mut survey = Survey::of(route, &carried(&found))?;
    let batch = mode.batch_of(&survey, route);
    let pause_max = survey.longest_pause(batch, route);
    let rows: Vec<Row> = found
        .into_iter()
        .map(|(domid, found)| row(domid, found.step, &mut survey, route))
        .collect();
    let summary = Summary {
        command: "plan",
        domains: rows.len(),
        failed: rows.iter().filter(|row| row.problem.is_some()).count(),
        nodes: rows.iter().map(|row| row.nodes).sum(),
        bytes: rows.iter().map(|row| row.bytes).sum(),
        round_trip_ms: millis(survey.estimate.round_trip),
        batch,
        pause_max_ms: millis(pause_max),
    };
    let done = if summary.failed > 0 { Done::Partly } else { Done::Well };
    let shown = |row: &&Row| !mode.form.quiet || row.problem.is_some();
    let text = match mode.form.json {
        true => json(&rows, summary)?,
        false => table(rows.iter().filter(shown), &summary, mode.form.quiet),
    };
    match mode.form.aside {
        true => io::stderr().write_all(text.as_bytes())?,
        false => io::stdout().write_all(text.as_bytes())?,
    }
    Ok(done)
}

/// Returns the domains that a move would carry.
pub fn carried(found: &BTreeMap<Domid, Found>) -> Vec<Domid> {
    found.iter().filter(|(_, it)| it.step == Step::Carry).map(|(domid, _)| *domid).collect()
}

fn row(domid: Domid, step: Step, survey: &mut Survey, route: &Route) -> Row {
    let carried = survey.domains.remove(&domid);
    let pause = carried.as_ref().filter(|carried| carried.problem.is_none());
    let pause_ms = pause.map(|carried| millis(survey.estimate.pause(carried.bytes, route)));
    let (step, left) = match step {
        Step::Carry => ("move", None),
        Step::TakeBack => ("take-back", None),
        Step::Finish => ("finish", None),
        Step::Done => ("done", None),
        Step::Leave(why, commands) => ("leave", Some([vec![why], commands].concat().join("; "))),
    };
    let Surveyed { nodes, watches, transactions, bytes, left_out, problem } =
        carried.unwrap_or_default();
    let problem = problem.or(left);
    Row { domid: domid.0, step, nodes, watches, transactions, bytes, pause_ms, left_out, problem }
}

fn json(rows: &[Row], summary: Summary) -> io::Result<String> {
    let mut text = String::new();
    for row in rows {
        text += &(serde_json::to_string(row)? + "\n");
    }
    Ok(text + &serde_json::to_string(&Last { summary })? + "\n")
}

fn table<'r>(rows: impl Iterator<Item = &'r Row>, summary: &Summary, quiet: bool) -> String {
    let mut text = String::new();
    if !quiet {
        text += "domid step         nodes  watches  trans.     bytes  pause ms\n";
    }
    for row in rows {
        let pause = row.pause_ms.map_or("-".into(), |ms| format!("{ms:.1}"));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{:<5} {:<9} {:>8} {:>8} {:>7} {:>9} {pause:>9}",
            row.domid, row.step, row.nodes, row.watches, row.transactions, row.bytes
        );
        let problem = row.problem.iter().cloned();
        let left_out = row.left_out.iter().map(|path| format!("stays behind: {path}"));
        problem.chain(left_out).for_each(|remark| text += &format!("  {remark}"));
        text.push('\n');
    }
    if !quiet {
        let Summary { domains: all, failed, nodes, bytes, .. } = summary;
        text += &format!(
            "{} of {} can be moved, {}, {}; round trip {:.3} ms; estimated pause of a batch of {}: \
             at most {:.1} ms, by trials without watches and bytes in transit\n",
            all - failed,
            domains(*all),
            counted(*nodes, "node"),
            counted(*bytes, "byte"),
            summary.round_trip_ms,
            domains(summary.batch),
            summary.pause_max_ms
        );
    }
    text
}
