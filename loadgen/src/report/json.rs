//! The report as JSON, for scripts: all figures, not rounded.

use serde_json::{Map, Value, json as value};

use super::Header;
use super::compare::{Compared, Standing, compared};
use crate::measure::{Measured, Quantity};
use crate::scenario::{Missing, Outcome, Why};

/// Percentiles of each row's latencies in the report.
const PERCENTILES: [f64; 7] = [50.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0];

/// Formats the outcomes as one JSON object. Times are in microseconds.
pub fn json(header: &Header, outcomes: &[Outcome]) -> String {
    let scenarios: Vec<Value> = outcomes.iter().map(scenario).collect();
    let versions: Map<String, Value> =
        header.versions.iter().map(|(target, version)| (target.clone(), value!(version))).collect();
    let report = value!({
        "command": header.command,
        "date": header.date,
        "machine": header.machine,
        "commit": header.commit,
        "versions": versions,
        "scenarios_planned": header.scenarios,
        "comparison": compared(outcomes).iter().map(comparison).collect::<Vec<_>>(),
        "scenarios": scenarios,
    });
    format!("{report:#}\n")
}

fn scenario(outcome: &Outcome) -> Value {
    let goals = outcome.goals.iter();
    // Undecided goals are separate from the others, in which "reached" is true or false.
    let undecided: Vec<&str> = goals
        .clone()
        .filter(|goal| goal.reached.is_none())
        .map(|goal| goal.text.as_str())
        .collect();
    let goals: Vec<Value> = goals
        .filter_map(|goal| Some(value!({ "text": goal.text, "reached": goal.reached? })))
        .collect();
    value!({
        "name": outcome.name,
        "about": outcome.about,
        "unit": outcome.unit,
        "runnable_before": outcome.load.0,
        "runnable_after": outcome.load.1,
        "seconds": outcome.elapsed.as_secs_f64(),
        "missing": outcome.missing.iter().map(missing).collect::<Vec<_>>(),
        "rows": outcome.measured.iter().map(row).collect::<Vec<_>>(),
        "goals": goals,
        "undecided": undecided,
    })
}

fn comparison(one: &Compared<'_>) -> Value {
    let standing = match one.standing() {
        Standing::Ahead => "ahead",
        Standing::Level => "level",
        Standing::Behind => "behind",
    };
    value!({
        "scenario": one.scenario,
        "case": one.case,
        "figure": one.figure,
        "peer": one.peer,
        "ours": one.ours,
        "theirs": one.theirs,
        "times_better": one.times,
        "standing": standing,
    })
}

fn missing(missing: &Missing) -> Value {
    let (key, why) = match &missing.why {
        Why::LeftOut(why) => ("left_out", (*why).to_owned()),
        Why::Failed(trouble) => ("failed", trouble.to_string()),
    };
    value!({ "target": missing.target.to_string(), "cases": missing.cases, key: why })
}

fn row(row: &Measured) -> Value {
    let percentiles: Map<String, Value> = PERCENTILES
        .iter()
        .filter_map(|&percent| Some((format!("p{percent}"), value!(row.percentile(percent)?))))
        .collect();
    let figures: Map<String, Value> =
        row.figures().map(|(name, _)| (name.into(), value!(row.figure(name)))).collect();
    let rounds: Vec<Value> = row
        .samples
        .iter()
        .map(|sample| {
            value!({
                "units": sample.units,
                "of": sample.whole,
                "seconds": sample.elapsed.as_secs_f64(),
                "cpu_seconds": sample.cpu.map(|cpu| cpu.total.as_secs_f64()),
            })
        })
        .collect();
    value!({
        "case": row.case.name,
        "size": row.case.size,
        "target": row.target,
        // The value of "done" is that of the round with the fewest units.
        "unfinished": row.unfinished().map(|it| value!({
            "done": row.samples.iter().map(|sample| sample.units).min(),
            "of": it.of,
            "median": it.done.median,
            "most": row.samples.iter().map(|sample| sample.units).max(),
        })),
        "per_second": row.rate(),
        "cpu_us": row.cpu(),
        "user_us": row.get(Quantity::User).map(|spread| spread.median),
        "system_us": row.get(Quantity::System).map(|spread| spread.median),
        "latency_us": percentiles,
        "figures": figures,
        "spread": spread(row),
        "rounds": rounds,
    })
}

/// Returns the minimum and the maximum over the rounds, by the keys of a row.
fn spread(row: &Measured) -> Value {
    let range = |quantity| row.get(quantity).map(|spread| [spread.least, spread.most]);
    let percentiles: Map<String, Value> = PERCENTILES
        .iter()
        .filter_map(|&percent| {
            Some((format!("p{percent}"), value!(range(Quantity::Percentile(percent))?)))
        })
        .collect();
    let figures: Map<String, Value> = row
        .figures()
        .map(|(name, _)| (name.into(), value!(range(Quantity::Extra(name)))))
        .collect();
    value!({
        "per_second": range(Quantity::Rate),
        "cpu_us": range(Quantity::Cpu),
        "latency_us": percentiles,
        "figures": figures,
    })
}
