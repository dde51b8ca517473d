//! Reports of measurements: tables, an HTML page, and JSON.

mod chart;
mod compare;
mod figures;
mod header;
mod html;
mod json;
mod page;
mod table;

pub use compare::summary;
pub use header::Header;
pub use html::html;
pub use json::json;
pub use table::table;

use figures::number;

use crate::measure::{Measured, Quantity, Spread, Unfinished, Unit};
use crate::scenario::{Outcome, Why};

/// A table row: case, target, figures if there are any, and a note if they are incomplete.
struct Row<'a> {
    case: &'a str,
    target: String,
    figures: Option<&'a Measured>,
    note: String,
}

/// Returns the rows of a table by case: measured and failed targets. Targets that were left out have none.
fn rows(outcome: &Outcome) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for case in &outcome.cases {
        let case = case.name.as_str();
        for measured in outcome.measured.iter().filter(|row| row.case.name == case) {
            let note = measured.unfinished().map(|it| done(&it, ""));
            rows.push(Row {
                case,
                target: measured.target.clone(),
                figures: Some(measured),
                note: note.unwrap_or_default(),
            });
        }
        for (missing, _) in outcome.failures() {
            let Some(place) = missing.cases.iter().position(|name| name == case) else { continue };
            let note = if place == 0 { "FAILED" } else { "left out after its failure" };
            let target = missing.target.to_string();
            match rows.iter_mut().find(|row| row.case == case && row.target == target) {
                Some(row) => row.note = format!("FAILED in round {}", row.rounds() + 1),
                None => rows.push(Row { case, target, figures: None, note: note.into() }),
            }
        }
    }
    rows
}

impl Row<'_> {
    fn rounds(&self) -> usize {
        self.figures.map_or(0, |figures| figures.samples.len())
    }
}

/// Formats the progress of an unfinished target: the median over the rounds, as in the progress column, and the range
/// if the rounds differ.
fn done(unfinished: &Unfinished, units: &str) -> String {
    let Unfinished { done: Spread { least, median, most }, of, .. } = unfinished;
    let rounds =
        if least < most { format!(" ({least} to {most} by round)") } else { String::new() };
    format!("{} of {of}{units} done{rounds}", number(*median))
}

/// Returns the notes below a table: failed, unfinished and left out targets.
fn notes(outcome: &Outcome) -> Vec<String> {
    let mut notes = Vec::new();
    for (missing, trouble) in outcome.failures() {
        let case = missing.cases.first().map_or("", String::as_str);
        notes.push(format!("FAILED: {}, {case}: {trouble}", missing.target));
    }
    for row in &outcome.measured {
        let Some(unfinished) = row.unfinished() else { continue };
        let done = done(&unfinished, &format!(" {}s", outcome.unit));
        notes.push(format!(
            "not finished: {}, {}: {done} in {:.0} s, so there are no figures for each",
            row.target, row.case.name, unfinished.seconds
        ));
    }
    // Targets with the same reason and cases are merged.
    let mut left_out: Vec<(Vec<String>, &[String], &str)> = Vec::new();
    for missing in &outcome.missing {
        let Why::LeftOut(why) = missing.why else { continue };
        let target = missing.target.to_string();
        match left_out.iter_mut().find(|(_, cases, w)| (*cases, *w) == (&missing.cases[..], why)) {
            Some((targets, ..)) => targets.push(target),
            None => left_out.push((vec![target], &missing.cases, why)),
        }
    }
    for (targets, cases, why) in left_out {
        let cases = match cases.len() == outcome.cases.len() {
            true => String::new(),
            false => format!(", {}", cases.join(", ")),
        };
        notes.push(format!("left out: {}{cases}: {why}", targets.join(" and ")));
    }
    notes
}

/// A column of a table.
struct Column {
    title: String,
    quantity: Quantity,
    unit: Unit,
}

/// Returns the columns for which at least one row has a figure.
fn columns(unit: &str, rows: &[Measured]) -> Vec<Column> {
    let all = [
        (format!("{unit}s/s"), Quantity::Rate, Unit::Number),
        ("CPU".into(), Quantity::Cpu, Unit::Micros),
        ("user".into(), Quantity::User, Unit::Micros),
        ("system".into(), Quantity::System, Unit::Micros),
        ("p50".into(), Quantity::Percentile(50.0), Unit::Micros),
        ("p99".into(), Quantity::Percentile(99.0), Unit::Micros),
        ("p99.9".into(), Quantity::Percentile(99.9), Unit::Micros),
        ("max".into(), Quantity::Percentile(100.0), Unit::Micros),
    ];
    let mut names: Vec<(&'static str, Unit)> = Vec::new();
    for name in rows.iter().flat_map(Measured::figures) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let extra = names.into_iter().map(|(name, unit)| (name.into(), Quantity::Extra(name), unit));
    let all = all.into_iter().chain(extra);
    let mut columns: Vec<Column> =
        all.map(|(title, quantity, unit)| Column { title, quantity, unit }).collect();
    columns.retain(|column| rows.iter().any(|row| row.get(column.quantity).is_some()));
    columns
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::Sample;
    use crate::scenario::{Case, Missing};
    use crate::target::{Cpu, Target};

    /// Outcome in which C xenstored is unfinished in two rounds of three, echo is left out, and neither peer gets the
    /// larger case.
    fn outcome() -> Outcome {
        let cases = [300, 1000].map(|size| Case::sized(size, "domains")).to_vec();
        let sample = |units: u64| {
            let cpu = Some(Cpu { total: Duration::from_secs(30), ..Cpu::default() });
            let elapsed = Duration::from_secs(40);
            let sample = Sample { units, whole: Some(300), elapsed, cpu, ..Sample::default() };
            sample.with("done", units as f64)
        };
        let measured = [("ours", [300; 3]), ("c", [149, 300, 121])].map(|(target, rounds)| {
            let samples = rounds.map(sample).into();
            Measured { case: cases[0].clone(), target: target.into(), samples }
        });
        let missing = |target, cases: &[Case], why| {
            let cases = cases.iter().map(|case| case.name.clone()).collect();
            Missing { target, cases, why: Why::LeftOut(why) }
        };
        let missing = vec![
            missing(Target::Echo, &cases, "no guests"),
            missing(Target::C, &cases[1..], "too many"),
            missing(Target::OCaml, &cases[1..], "too many"),
        ];
        Outcome {
            name: "boot",
            about: "Domains start.",
            unit: "domain",
            cases,
            measured: measured.into(),
            missing,
            goals: Vec::new(),
            load: (0.0, 0.0),
            elapsed: Duration::from_secs(80),
        }
    }

    fn header() -> Header {
        Header {
            command: String::new(),
            date: String::new(),
            machine: String::new(),
            commit: "12c2370".into(),
            versions: vec![("c".into(), "xen-utils-4.17 4.17.5".into())],
            scenarios: 2,
        }
    }

    #[test]
    fn unfinished_targets_and_skipped_scenarios_are_named() {
        let outcomes = [outcome()];
        let (table, page) = (table(&outcomes[0]), html(&header(), &outcomes));
        for text in [&table, &page] {
            for part in [
                "100 ms", // Our daemon: 30 s of CPU for 300 units.
                // The median over the rounds, as in the column "done".
                "149 of 300 done (121 to 300 by round)",
                "not finished: c, 300 domains: 149 of 300 domains done (121 to 300 by round) in \
                 40 s",
                "left out: echo: no guests",
                "left out: c and ocaml, 1000 domains: too many",
            ] {
                assert!(text.contains(part), "{part} is missing:\n{text}");
            }
            // The quotient of C xenstored's 30 s and 149 units.
            assert!(!text.contains("201 ms"), "{text}");
        }
        for part in ["1 of 2 scenarios", "commit 12c2370", "xen-utils-4.17 4.17.5"] {
            assert!(page.contains(part), "{part} is missing:\n{page}");
        }
    }

    #[test]
    fn json_has_counts_done_and_the_spread_of_rounds() {
        let text = json(&header(), &[outcome()]);
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["commit"], "12c2370");
        assert_eq!(report["versions"]["c"], "xen-utils-4.17 4.17.5");
        let c = &report["scenarios"][0]["rows"][1];
        assert_eq!((c["unfinished"]["done"].as_u64(), c["cpu_us"].as_f64()), (Some(121), None));
        let medians = [&c["unfinished"]["median"], &c["figures"]["done"]].map(|it| it.as_f64());
        assert_eq!(medians, [Some(149.0); 2]);
        assert_eq!(c["spread"]["figures"]["done"], serde_json::json!([121.0, 300.0]));
    }
}
