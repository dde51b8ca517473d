//! The report for people: one file that needs nothing else.

use std::fmt::Write;

use super::chart::{Bar, Group, Line, Mark, bars, escape, lines, round};
use super::page::{FOOT, HEAD};
use super::{Header, Row, columns, notes, number, rows};
use crate::measure::Measured;
use crate::scenario::{Case, Outcome};

/// Percentiles that the plots show, and what they are called there.
const PERCENTILES: [(f64, &str); 5] =
    [(0.0, "0"), (90.0, "90 %"), (99.0, "99 %"), (99.9, "99.9 %"), (99.99, "99.99 %")];
/// Points of a percentile's curve.
const STEPS: u32 = 60;

/// What the targets are, for those who see the page only.
const TARGETS: [(&str, &str); 5] = [
    ("ours", "this project's daemon"),
    ("c", "Debian's C xenstored, Xen 4.17"),
    ("ocaml", "Debian's oxenstored, Xen 4.17"),
    ("echo", "a server that answers without looking: the machine's limit"),
    ("socket", "somebody's daemon"),
];

/// The outcomes as a page.
pub fn html(header: &Header, outcomes: &[Outcome]) -> String {
    let mut page = String::from(HEAD);
    let _ = write!(
        page,
        "<h1>xenstored under load</h1><p class=\"about\">{}, {}<br>{}<br><code>{}</code></p>",
        escape(&header.date),
        extent(header, outcomes),
        escape(&header.machine),
        escape(&header.command)
    );
    contents(&mut page, outcomes);
    legend(&mut page, outcomes);
    goals(&mut page, outcomes);
    for outcome in outcomes {
        section(&mut page, outcome);
    }
    page.push_str(FOOT);
    page
}

/// How much of the run this is.
fn extent(header: &Header, outcomes: &[Outcome]) -> String {
    let seconds: f64 = outcomes.iter().map(|outcome| outcome.elapsed.as_secs_f64()).sum();
    let (done, all) = (outcomes.len(), header.scenarios);
    match done == all {
        true => format!("{all} scenarios in {seconds:.0} s"),
        false => format!("<b>{done} of {all} scenarios: the run goes on, or was broken off</b>"),
    }
}

fn contents(page: &mut String, outcomes: &[Outcome]) {
    page.push_str("<nav>");
    for outcome in outcomes {
        let failed = if outcome.failures().next().is_some() { " (failure)" } else { "" };
        let _ = write!(page, "<a href=\"#{0}\">{0}{failed}</a> ", outcome.name);
    }
    page.push_str("</nav>");
}

/// The class of a target's colour.
fn class(target: &str) -> String {
    target.split(':').next().unwrap_or("socket").to_owned()
}

fn legend(page: &mut String, outcomes: &[Outcome]) {
    let mut names: Vec<String> = Vec::new();
    for name in outcomes.iter().flat_map(rows).map(|row| row.target) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    page.push_str("<p class=\"legend\">");
    for name in names {
        let class = class(&name);
        let what = TARGETS.iter().find(|(target, _)| *target == class).map_or("", |known| known.1);
        let _ = write!(
            page,
            "<span><i class=\"{class}\"></i><b>{}</b> <small>{what}</small></span>",
            escape(&name)
        );
    }
    page.push_str("</p>");
}

fn goals(page: &mut String, outcomes: &[Outcome]) {
    if outcomes.iter().all(|outcome| outcome.goals.is_empty()) {
        return;
    }
    page.push_str(
        "<section><h2>Targets</h2><p class=\"about\">What our daemon is to reach. Each line says what \
         is looked at and its bound in words, then what was found and the bound in figures.</p>\
         <ul class=\"goals\">",
    );
    for goal in outcomes.iter().flat_map(|outcome| &outcome.goals) {
        let (class, mark) =
            if goal.reached { ("reached", "✓ reached") } else { ("missed", "✗ missed") };
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
    let cpu = format!("CPU per {}, us", outcome.unit);
    let rate = format!("{}s per second", outcome.unit);
    if grows(outcome) {
        growth(page, &cpu, outcome, Measured::cpu);
        growth(page, &rate, outcome, Measured::rate);
    } else {
        grouped(page, &cpu, outcome, Measured::cpu);
        grouped(page, &rate, outcome, Measured::rate);
    }
    page.push_str("</div>");
    all_latencies(page, outcome);
    table(page, outcome);
    page.push_str("</section>");
}

/// Whether the cases are one thing in growing sizes, so that there is a curve.
fn grows(outcome: &Outcome) -> bool {
    let sizes: Vec<Option<usize>> = outcome.cases.iter().map(|case| case.size).collect();
    sizes.len() > 1 && sizes[0].is_some() && sizes.is_sorted_by(|one, next| one < next)
}

/// Bars for each case; who has no figure because it failed or is not done, has a text.
fn grouped(
    page: &mut String,
    title: &str,
    outcome: &Outcome,
    figure: impl Fn(&Measured) -> Option<f64>,
) {
    let mut groups: Vec<Group> = Vec::new();
    for Row { case, target, figures, note } in rows(outcome) {
        let value = figures.and_then(&figure);
        let text = match value {
            Some(value) => format!("{} {target}", number(value)),
            None if note.is_empty() => continue,
            None => format!("{target}: {note}"),
        };
        let bar = Bar { class: class(&target), value, text };
        match groups.last_mut().filter(|group| group.label == case) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { label: case.to_owned(), bars: vec![bar] }),
        }
    }
    if groups.iter().flat_map(|group| &group.bars).any(|bar| bar.value.is_some()) {
        page.push_str(&bars(title, &groups));
    }
}

/// A curve for each target over the sizes of the cases.
fn growth(
    page: &mut String,
    title: &str,
    outcome: &Outcome,
    figure: impl Fn(&Measured) -> Option<f64>,
) {
    let size = |case: &Case| case.size.unwrap_or(0) as f64;
    let marks: Vec<Mark> =
        outcome.cases.iter().map(|case| (size(case), round(size(case)))).collect();
    let rows = &outcome.measured;
    let curves = curves(rows, |row| Some(vec![(size(&row.case), figure(row)?)]));
    if !curves.is_empty() {
        let what =
            outcome.cases[0].name.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let title = format!("{title}, by {what} (logarithmic)");
        page.push_str(&lines(&title, &curves, &marks, |x| (1.0 + x).ln()));
    }
}

/// A plot of latencies for each case that has some, to be opened if they are many.
fn all_latencies(page: &mut String, outcome: &Outcome) {
    let mut plots = String::new();
    for case in &outcome.cases {
        latencies(&mut plots, case, &outcome.measured);
    }
    if !plots.is_empty() {
        let open = if plots.matches("<svg").count() > 2 { "" } else { " open" };
        let _ = write!(
            page,
            "<details{open}><summary>Latencies: so many percent of all took so long at most, in us \
             (logarithmic)</summary><div class=\"plots\">{plots}</div></details>"
        );
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
    for Row { case, target, figures, note } in rows(outcome) {
        let name = if case == last { "" } else { case };
        last = case;
        let begins = if name.is_empty() { "" } else { " class=\"begins\"" };
        // Beside the name: at the end of a wide table nobody sees it.
        let note = match note.as_str() {
            "" => String::new(),
            text => format!(" <em class=\"note\">{}</em>", escape(text)),
        };
        let (name, target) = (escape(name), escape(&target));
        let _ = write!(page, "<tr{begins}><td>{name}</td><td>{target}{note}</td>");
        for (_, figure) in &columns {
            let text = figures.and_then(figure).map_or(String::new(), number);
            let _ = write!(page, "<td>{text}</td>");
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>");
    let notes = notes(outcome);
    if !notes.is_empty() {
        page.push_str("<ul class=\"notes\">");
        for note in notes {
            let _ = write!(page, "<li>{}</li>", escape(&note));
        }
        page.push_str("</ul>");
    }
}
