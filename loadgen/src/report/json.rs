//! The report for programs: everything, not rounded.

use serde_json::{Map, Value, json as value};

use super::Header;
use crate::measure::Measured;
use crate::scenario::{Missing, Outcome, Why};

/// Percentiles that the report has of each row's latencies.
const PERCENTILES: [f64; 7] = [50.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0];

/// The outcomes as one JSON object. Times are in microseconds.
pub fn json(header: &Header, outcomes: &[Outcome]) -> String {
    let scenarios: Vec<Value> = outcomes.iter().map(scenario).collect();
    let report = value!({
        "command": header.command,
        "date": header.date,
        "machine": header.machine,
        "scenarios_planned": header.scenarios,
        "scenarios": scenarios,
    });
    format!("{report:#}\n")
}

fn scenario(outcome: &Outcome) -> Value {
    let goals: Vec<Value> = outcome
        .goals
        .iter()
        .map(|goal| value!({ "text": goal.text, "reached": goal.reached }))
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
        row.figures().map(|name| (name.into(), value!(row.figure(name)))).collect();
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
        "unfinished": row.unfinished().map(|it| value!({ "done": it.done, "of": it.of })),
        "per_second": row.rate(),
        "cpu_us": row.cpu(),
        "user_us": row.user(),
        "system_us": row.system(),
        "latency_us": percentiles,
        "figures": figures,
        "rounds": rounds,
    })
}
