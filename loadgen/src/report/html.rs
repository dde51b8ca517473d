//! The report for people: one file that needs nothing else.

use std::fmt::Write;

use super::chart::{Group, Line, Mark, bars, escape, lines};
use super::page::{FOOT, HEAD};
use super::{Header, columns, number};
use crate::measure::Measured;
use crate::scenario::{Case, Outcome};

/// Percentiles that the plots show, and what they are called there.
const PERCENTILES: [(f64, &str); 5] =
    [(0.0, "0"), (90.0, "90 %"), (99.0, "99 %"), (99.9, "99.9 %"), (99.99, "99.99 %")];
/// Points of a percentile's curve.
const STEPS: u32 = 60;

/// The outcomes as a page.
pub fn html(header: &Header, outcomes: &[Outcome]) -> String {
    let mut page = String::from(HEAD);
    let _ = write!(
        page,
        "<h1>xenstored under load</h1><p class=\"about\">{}<br>{}<br><code>{}</code></p>",
        escape(&header.date),
        escape(&header.machine),
        escape(&header.command)
    );
    legend(&mut page, outcomes);
    goals(&mut page, outcomes);
    for outcome in outcomes {
        section(&mut page, outcome);
    }
    page.push_str(FOOT);
    page
}

/// The class of a target's colour.
fn class(target: &str) -> String {
    target.split(':').next().unwrap_or("socket").to_owned()
}

fn legend(page: &mut String, outcomes: &[Outcome]) {
    let mut names: Vec<&str> = Vec::new();
    for row in outcomes.iter().flat_map(|outcome| &outcome.measured) {
        if !names.contains(&row.target.as_str()) {
            names.push(&row.target);
        }
    }
    page.push_str("<p class=\"legend\">");
    for name in names {
        let _ = write!(page, "<span><i class=\"{}\"></i>{}</span>", class(name), escape(name));
    }
    page.push_str("</p>");
}

fn goals(page: &mut String, outcomes: &[Outcome]) {
    if outcomes.iter().all(|outcome| outcome.goals.is_empty()) {
        return;
    }
    page.push_str("<section><h2>Targets</h2><ul class=\"goals\">");
    for goal in outcomes.iter().flat_map(|outcome| &outcome.goals) {
        let (class, mark) = if goal.reached { ("reached", "✓") } else { ("missed", "✗") };
        let text = escape(&goal.text);
        let _ = write!(page, "<li class=\"{class}\"><b>{mark}</b> {text}</li>");
    }
    page.push_str("</ul></section>");
}

fn section(page: &mut String, outcome: &Outcome) {
    let (before, after) = outcome.load;
    let _ = write!(
        page,
        "<section id=\"{0}\"><h2>{0}</h2><p class=\"about\">{1} Runnable threads on the machine: \
         {before:.1} before, {after:.1} after.</p><div class=\"plots\">",
        outcome.name,
        escape(outcome.about)
    );
    let rows = &outcome.measured;
    let cpu = format!("CPU per {}, us", outcome.unit);
    if rows.iter().any(|row| row.case.size.is_some()) {
        growth(page, &cpu, rows, Measured::cpu);
    } else {
        grouped(page, &cpu, rows, Measured::cpu);
        grouped(page, &format!("{}s per second", outcome.unit), rows, Measured::rate);
    }
    for case in cases(rows) {
        latencies(page, case, rows);
    }
    page.push_str("</div>");
    table(page, outcome);
    page.push_str("</section>");
}

fn cases(rows: &[Measured]) -> Vec<&Case> {
    let mut cases: Vec<&Case> = Vec::new();
    for row in rows {
        if !cases.contains(&&row.case) {
            cases.push(&row.case);
        }
    }
    cases
}

fn grouped(
    page: &mut String,
    title: &str,
    rows: &[Measured],
    figure: impl Fn(&Measured) -> Option<f64>,
) {
    let groups: Vec<Group> = cases(rows)
        .into_iter()
        .map(|case| {
            let bars = rows
                .iter()
                .filter(|row| row.case == *case)
                .filter_map(|row| Some((class(&row.target), figure(row)?)))
                .collect();
            Group { label: case.name.clone(), bars }
        })
        .filter(|group| !group.bars.is_empty())
        .collect();
    if !groups.is_empty() {
        page.push_str(&bars(title, &groups));
    }
}

fn growth(
    page: &mut String,
    title: &str,
    rows: &[Measured],
    figure: impl Fn(&Measured) -> Option<f64>,
) {
    let size = |case: &Case| case.size.unwrap_or(0) as f64;
    let marks: Vec<Mark> =
        cases(rows).iter().map(|case| (size(case), size(case).to_string())).collect();
    let curves = curves(rows, |row| Some(vec![(size(&row.case), figure(row)?)]));
    if !curves.is_empty() {
        page.push_str(&lines(title, &curves, &marks, |x| (1.0 + x).ln()));
    }
}

fn latencies(page: &mut String, case: &Case, rows: &[Measured]) {
    let rows: Vec<&Measured> = rows.iter().filter(|row| row.case == *case).collect();
    let curves = curves(rows, |row| {
        let all = row.latencies()?;
        let points = (0..=STEPS).map(|step| {
            let percent = 100.0 - 100.0 * 10f64.powf(-4.0 * f64::from(step) / f64::from(STEPS));
            (percent, all.value_at_percentile(percent) as f64 / 1e3)
        });
        Some(points.collect())
    });
    if !curves.is_empty() {
        let marks = PERCENTILES.map(|(at, label)| (at, label.to_owned()));
        let title = format!("latency, us: {}", case.name);
        page.push_str(&lines(&title, &curves, &marks, |percent| -(100.0 - percent).ln()));
    }
}

/// A line for each target, of the points of its rows.
fn curves<'a>(
    rows: impl IntoIterator<Item = &'a Measured>,
    points: impl Fn(&Measured) -> Option<Vec<(f64, f64)>>,
) -> Vec<Line> {
    let mut curves: Vec<(&str, Line)> = Vec::new();
    for row in rows {
        let Some(points) = points(row) else { continue };
        match curves.iter_mut().find(|(target, _)| *target == row.target) {
            Some((_, line)) => line.points.extend(points),
            None => curves.push((&row.target, Line { class: class(&row.target), points })),
        }
    }
    curves.into_iter().map(|(_, line)| line).collect()
}

fn table(page: &mut String, outcome: &Outcome) {
    let columns = columns(outcome.unit, &outcome.measured);
    page.push_str("<div class=\"scroll\"><table><tr><th></th><th></th>");
    for (title, _) in &columns {
        let _ = write!(page, "<th>{}</th>", escape(title));
    }
    page.push_str("</tr>");
    let mut last = "";
    for row in &outcome.measured {
        let name = if row.case.name == last { "" } else { &row.case.name };
        last = &row.case.name;
        let begins = if name.is_empty() { "" } else { " class=\"begins\"" };
        let (name, target) = (escape(name), escape(&row.target));
        let _ = write!(page, "<tr{begins}><td>{name}</td><td>{target}</td>");
        for (_, figure) in &columns {
            let _ = write!(page, "<td>{}</td>", figure(row).map_or(String::new(), number));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>");
}
