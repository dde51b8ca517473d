//! What was measured, for people and for programs.

mod chart;
mod html;
mod json;
mod page;
mod table;

pub use html::html;
pub use json::json;
pub use table::table;

use crate::measure::{Measured, Unfinished};
use crate::scenario::{Outcome, Why};

/// Where and when it was measured.
#[derive(Clone, Debug)]
pub struct Header {
    /// The command line.
    pub command: String,
    /// When the run began, in UTC.
    pub date: String,
    /// Processor, number of cores, kernel.
    pub machine: String,
    /// How many scenarios were to be run.
    pub scenarios: usize,
}

impl Header {
    /// Looks at this machine, before so many scenarios.
    pub fn look(scenarios: usize) -> Header {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("unknown processor", |rest| rest.trim_matches([' ', '\t', ':']));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = text("/proc/sys/kernel/osrelease");
        let words: Vec<String> = std::env::args().skip(1).collect();
        Header {
            command: format!("loadgen {}", words.join(" ")),
            date: date(),
            machine: format!("{model}, {cores} cores, Linux {}", kernel.trim()),
            scenarios,
        }
    }
}

/// Today's date and the time, in UTC.
fn date() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    let (year, month, day) = civil(seconds / 86400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// The date so many days after 1 January 1970.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    for (month, length) in
        [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate()
    {
        if days < length {
            return (year, month + 1, days + 1);
        }
        days -= length;
    }
    (year, 12, 31)
}

/// A line of a table: a case and a target, the figures if there are any, and what there is to say
/// if they are not all there.
struct Row<'a> {
    case: &'a str,
    target: String,
    figures: Option<&'a Measured>,
    note: String,
}

/// The lines of a table: case by case, who was measured and who failed. Who was left out has none.
fn rows(outcome: &Outcome) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for case in &outcome.cases {
        let case = case.name.as_str();
        for measured in outcome.measured.iter().filter(|row| row.case.name == case) {
            let note = measured.unfinished().map(|it| format!("{} of {} done", it.done, it.of));
            rows.push(Row {
                case,
                target: measured.target.clone(),
                figures: Some(measured),
                note: note.unwrap_or_default(),
            });
        }
        for (missing, _) in outcome.failures() {
            let Some(place) = missing.cases.iter().position(|name| name == case) else { continue };
            let note = if place == 0 { "FAILED" } else { "not asked after its failure" };
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

/// What is to be said below a table: who failed and how, who is not done, who was not asked.
fn notes(outcome: &Outcome) -> Vec<String> {
    let mut notes = Vec::new();
    for (missing, trouble) in outcome.failures() {
        let case = missing.cases.first().map_or("", String::as_str);
        notes.push(format!("FAILED: {}, {case}: {trouble}", missing.target));
    }
    for row in &outcome.measured {
        let Some(Unfinished { done, of, seconds }) = row.unfinished() else { continue };
        notes.push(format!(
            "not done: {}, {}: {done} of {of} {}s in {seconds:.0} s, so there are no figures for each",
            row.target, row.case.name, outcome.unit
        ));
    }
    // Those with the same reason and cases together.
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
        notes.push(format!("not asked: {}{cases}: {why}", targets.join(" and ")));
    }
    notes
}

/// A column of a table: its title, and the figure of a row if it has one.
type Column<'a> = (String, Box<dyn Fn(&Measured) -> Option<f64> + 'a>);

/// The columns that at least one row has a figure for.
fn columns<'a>(unit: &str, rows: &[Measured]) -> Vec<Column<'a>> {
    let mut columns: Vec<Column<'a>> = vec![
        (format!("{unit}s/s"), Box::new(Measured::rate)),
        ("CPU us".into(), Box::new(Measured::cpu)),
        ("user".into(), Box::new(Measured::user)),
        ("system".into(), Box::new(Measured::system)),
        ("p50 us".into(), Box::new(|row| row.percentile(50.0))),
        ("p99".into(), Box::new(|row| row.percentile(99.0))),
        ("p99.9".into(), Box::new(|row| row.percentile(99.9))),
        ("max".into(), Box::new(|row| row.percentile(100.0))),
    ];
    let mut names: Vec<&'static str> = Vec::new();
    for name in rows.iter().flat_map(Measured::figures) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    columns.extend(names.into_iter().map(|name| -> Column<'a> {
        (name.into(), Box::new(move |row: &Measured| row.figure(name)))
    }));
    columns.retain(|(_, figure)| rows.iter().any(|row| figure(row).is_some()));
    columns
}

/// A whole number as it is, another figure with three significant digits or more.
fn number(value: f64) -> String {
    match value.abs() {
        whole if whole < 10_000.0 && whole.fract() == 0.0 => format!("{value:.0}"),
        small if small < 9.995 => format!("{value:.2}"),
        middle if middle < 99.95 => format!("{value:.1}"),
        large if large < 10_000.0 => format!("{value:.0}"),
        large if large < 1_000_000.0 => format!("{:.0} k", value / 1e3),
        _ => format!("{:.2} M", value / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::Sample;
    use crate::scenario::{Case, Missing};
    use crate::target::{Cpu, Target};

    /// C is not done, echo is not asked, and neither peer is asked the larger case.
    fn outcome() -> Outcome {
        let cases = [300, 1000].map(|size| Case::sized(size, "domains")).to_vec();
        let measured = [("ours", 300), ("c", 41)].map(|(target, units)| {
            let cpu = Some(Cpu { total: Duration::from_secs(30), ..Cpu::default() });
            let elapsed = Duration::from_secs(40);
            let sample = Sample { units, whole: Some(300), elapsed, cpu, ..Sample::default() };
            Measured { case: cases[0].clone(), target: target.into(), samples: vec![sample] }
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

    #[test]
    fn who_is_not_done_and_who_was_not_asked_are_named() {
        let outcomes = [outcome()];
        let header = Header {
            command: String::new(),
            date: String::new(),
            machine: String::new(),
            scenarios: 2,
        };
        let (table, page) = (table(&outcomes[0]), html(&header, &outcomes));
        for text in [&table, &page] {
            for part in [
                "100 k", // Ours: 30 s of CPU for 300.
                "41 of 300 done",
                "not done: c, 300 domains: 41 of 300 domains in 40 s",
                "not asked: echo: no guests",
                "not asked: c and ocaml, 1000 domains: too many",
            ] {
                assert!(text.contains(part), "{part} is missing:\n{text}");
            }
            // What C's 30 s would be for each of 41.
            assert!(!text.contains("732 k"), "{text}");
        }
        assert!(page.contains("1 of 2 scenarios"), "{page}");
        let report: serde_json::Value = serde_json::from_str(&json(&header, &outcomes)).unwrap();
        let c = &report["scenarios"][0]["rows"][1];
        assert_eq!((c["unfinished"]["done"].as_u64(), c["cpu_us"].as_f64()), (Some(41), None));
    }

    #[test]
    fn numbers_keep_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (3.0, "3"),
            (55.0, "55"),
            (0.304, "0.30"),
            (7.65, "7.65"),
            (9.998, "10.0"),
            (13.64, "13.6"),
            (704.2, "704"),
            (9565.0, "9565"),
            (763_400.0, "763 k"),
            (1_234_567.0, "1.23 M"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11016), (2000, 2, 29));
        assert_eq!(civil(20779), (2026, 11, 22));
        assert_eq!(civil(20818), (2026, 12, 31));
    }
}
