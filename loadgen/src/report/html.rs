//! The report as an HTML page: a single self-contained file.

use std::fmt::Write;

use super::chart::{Bar, Group, Line, Mark, bars, escape, lines, round};
use super::compare::{Compared, Standing, compared, headline};
use super::figures::show;
use super::page::{FOOT, HEAD};
use super::table::cells;
use super::{Header, Row, columns, notes, rows};
use crate::measure::{Measured, Quantity, Unit};
use crate::scenario::{Case, Outcome};

/// Percentiles on the plots' axis, with their labels.
const PERCENTILES: [(f64, &str); 5] =
    [(0.0, "0"), (90.0, "90 %"), (99.0, "99 %"), (99.9, "99.9 %"), (99.99, "99.99 %")];
/// Number of points of a percentile curve.
const STEPS: u32 = 60;

/// Descriptions of the targets, for readers who see only the page.
const TARGETS: [(&str, &str); 5] = [
    ("ours", "this project's daemon"),
    ("c", "Debian's C xenstored, Xen 4.17"),
    ("ocaml", "Debian's oxenstored, Xen 4.17"),
    ("echo", "a server that replies without a store: the machine's limit"),
    ("socket", "a daemon given by its socket"),
];

/// Formats the outcomes as a page.
pub fn html(header: &Header, outcomes: &[Outcome]) -> String {
    let mut page = String::from(HEAD);
    let _ = write!(
        page,
        "<h1>xenstored under load</h1><p class=\"about\">{}, {}<br>{}<br>commit {}<br><code>{}</code></p>",
        escape(&header.date),
        extent(header, outcomes),
        escape(&header.machine),
        escape(&header.commit),
        escape(&header.command)
    );
    let compared = compared(outcomes);
    for line in headline(&compared, outcomes) {
        let _ = write!(page, "<p class=\"headline\">{}</p>", escape(&line));
    }
    contents(&mut page, outcomes);
    legend(&mut page, header, outcomes);
    standing(&mut page, &compared);
    goals(&mut page, outcomes);
    for outcome in outcomes {
        section(&mut page, outcome);
    }
    page.push_str(FOOT);
    page
}

/// Describes how much of the run the report covers.
fn extent(header: &Header, outcomes: &[Outcome]) -> String {
    let seconds: f64 = outcomes.iter().map(|outcome| outcome.elapsed.as_secs_f64()).sum();
    let (done, all) = (outcomes.len(), header.scenarios);
    match done == all {
        true => format!("{all} scenarios in {seconds:.0} s"),
        false => {
            format!("<b>{done} of {all} scenarios: the run is in progress, or was interrupted</b>")
        }
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

/// Returns the CSS class of a target's colour.
fn class(target: &str) -> String {
    target.split(':').next().unwrap_or("socket").to_owned()
}

fn legend(page: &mut String, header: &Header, outcomes: &[Outcome]) {
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
    page.push_str("</p><p class=\"builds\">");
    for (target, version) in &header.versions {
        let (target, version) = (escape(target), escape(version));
        let _ = write!(page, "<small><b>{target}</b> {version}</small><br>");
    }
    page.push_str("</p>");
}

/// Writes all figures in which our daemon is behind a peer; and, collapsed, those in which it is ahead.
fn standing(page: &mut String, compared: &[Compared<'_>]) {
    if compared.is_empty() {
        return;
    }
    page.push_str(
        "<section id=\"standing\"><h2>Beside the peers</h2><p class=\"about\">Throughput, CPU, p50 \
         and p99 of each case that both ran and finished, where they differ by a tenth or more.</p>",
    );
    let of = |side| compared.iter().filter(move |one| one.standing() == side);
    let list = |page: &mut String, ones: &mut dyn Iterator<Item = &Compared<'_>>| {
        page.push_str("<ul>");
        for one in ones {
            let _ = write!(page, "<li>{}</li>", escape(&one.text()));
        }
        page.push_str("</ul>");
    };
    match of(Standing::Behind).count() {
        0 => page.push_str("<p>Ours is worse in no figure.</p>"),
        count => {
            let _ = write!(page, "<h3 class=\"worse\">Ours is worse: {count}</h3>");
            list(page, &mut of(Standing::Behind));
        }
    }
    let ahead = of(Standing::Ahead).count();
    let _ = write!(page, "<details><summary>Ours is better: {ahead}</summary>");
    list(page, &mut compared.iter().rev().filter(|one| one.standing() == Standing::Ahead));
    page.push_str("</details></section>");
}

fn goals(page: &mut String, outcomes: &[Outcome]) {
    if outcomes.iter().all(|outcome| outcome.goals.is_empty()) {
        return;
    }
    page.push_str(
        "<section><h2>Targets</h2><p class=\"about\">Targets of our daemon. Each line has the \
         figure and its bound in words, then the measured value and the bound in numbers.</p><ul \
         class=\"goals\">",
    );
    for goal in outcomes.iter().flat_map(|outcome| &outcome.goals) {
        let (class, mark) = match goal.reached {
            Some(true) => ("reached", "✓ reached"),
            Some(false) => ("missed", "✗ missed"),
            None => ("undecided", "? undecided"),
        };
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
    let cpu = Plot {
        title: format!("CPU per {}", outcome.unit),
        quantity: Quantity::Cpu,
        unit: Unit::Micros,
        label: axis_time,
    };
    let rate = Plot {
        title: format!("{}s per second", outcome.unit),
        quantity: Quantity::Rate,
        unit: Unit::Number,
        label: round,
    };
    for plot in [cpu, rate] {
        if grows(outcome) { growth(page, &plot, outcome) } else { grouped(page, &plot, outcome) }
    }
    page.push_str("</div>");
    all_latencies(page, outcome);
    table(page, outcome);
    page.push_str("</section>");
}

/// A plot of one quantity.
struct Plot {
    title: String,
    quantity: Quantity,
    unit: Unit,
    label: fn(f64) -> String,
}

/// Formats a round time for an axis.
fn axis_time(micros: f64) -> String {
    match micros {
        second if second >= 1e6 => format!("{} s", round(second / 1e6)),
        milli if milli >= 1e3 => format!("{} ms", round(milli / 1e3)),
        _ => format!("{} us", round(micros)),
    }
}

/// Returns whether the cases are of increasing sizes, and so form a curve.
fn grows(outcome: &Outcome) -> bool {
    let sizes: Vec<Option<usize>> = outcome.cases.iter().map(|case| case.size).collect();
    sizes.len() > 1 && sizes[0].is_some() && sizes.is_sorted_by(|one, next| one < next)
}

/// Draws bars for each case, each with its ratio to our daemon's; a target that failed or is unfinished has a text
/// instead of a figure.
fn grouped(page: &mut String, plot: &Plot, outcome: &Outcome) {
    let mut groups: Vec<Group> = Vec::new();
    for Row { case, target, figures, note } in rows(outcome) {
        let spread = figures.and_then(|row| row.get(plot.quantity));
        let text = match spread {
            Some(spread) => {
                let times = times_ours(outcome, plot, case, &target, spread.median);
                format!("{} {target}{times}", show(spread.median, plot.unit))
            }
            None if note.is_empty() => continue,
            None => format!("{target}: {note}"),
        };
        let value = spread.map(|spread| spread.median);
        let range = spread.filter(|it| it.least < it.most).map(|it| (it.least, it.most));
        let bar = Bar { class: class(&target), value, range, text };
        match groups.last_mut().filter(|group| group.label == case) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { label: case.to_owned(), bars: vec![bar] }),
        }
    }
    if groups.iter().flat_map(|group| &group.bars).any(|bar| bar.value.is_some()) {
        page.push_str(&bars(&plot.title, &groups, plot.label));
    }
}

/// Formats the ratio of a target's figure to our daemon's; empty if our daemon has none.
fn times_ours(outcome: &Outcome, plot: &Plot, case: &str, target: &str, value: f64) -> String {
    let ours = outcome.measured.iter().find(|row| row.target == "ours" && row.case.name == case);
    let ours = ours.filter(|_| target != "ours").and_then(|row| row.get(plot.quantity));
    let digits = |ratio: f64| format!("{ratio:.*}", usize::from(ratio < 9.95));
    ours.map_or(String::new(), |ours| match value / ours.median {
        more if more >= 1.0 => format!(", {} times", digits(more)),
        less => format!(", 1/{}", digits(1.0 / less)),
    })
}

/// Draws a curve for each target over the sizes of the cases.
fn growth(page: &mut String, plot: &Plot, outcome: &Outcome) {
    let size = |case: &Case| case.size.unwrap_or(0) as f64;
    let marks: Vec<Mark> =
        outcome.cases.iter().map(|case| (size(case), round(size(case)))).collect();
    let rows = &outcome.measured;
    let curves = curves(rows, |row| Some(vec![(size(&row.case), row.get(plot.quantity)?.median)]));
    if !curves.is_empty() {
        let what =
            outcome.cases[0].name.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let title = format!("{}, by {what} (logarithmic)", plot.title);
        page.push_str(&lines(&title, &curves, &marks, |x| (1.0 + x).ln(), plot.label));
    }
}

/// Draws the latencies of each case that has some, collapsed if they are many.
fn all_latencies(page: &mut String, outcome: &Outcome) {
    let mut plots = String::new();
    for case in &outcome.cases {
        latencies(&mut plots, case, &outcome.measured);
    }
    if !plots.is_empty() {
        let open = if plots.matches("<svg").count() > 2 { "" } else { " open" };
        let _ = write!(
            page,
            "<details{open}><summary>Latencies by percentile (logarithmic)</summary><div \
             class=\"plots\">{plots}</div></details>"
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
        let title = format!("latency: {}", case.name);
        let scale = |percent: f64| -(100.0 - percent).ln();
        page.push_str(&lines(&title, &curves, &marks, scale, axis_time));
    }
}

/// Returns a line for each target, with the points of its rows.
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
    for column in &columns {
        let _ = write!(page, "<th>{}</th>", escape(&column.title));
    }
    page.push_str("</tr>");
    let mut last = "";
    for Row { case, target, figures, note } in rows(outcome) {
        let name = if case == last { "" } else { case };
        last = case;
        let begins = if name.is_empty() { "" } else { " class=\"begins\"" };
        // The note is next to the name: at the end of a wide table it would be overlooked.
        let note = match note.as_str() {
            "" => String::new(),
            text => format!(" <em class=\"note\">{}</em>", escape(text)),
        };
        let (name, target) = (escape(name), escape(&target));
        let _ = write!(page, "<tr{begins}><td>{name}</td><td>{target}{note}</td>");
        for column in &columns {
            let [median, rounds] = cells(figures, column);
            let _ = match rounds.as_str() {
                "" => write!(page, "<td>{median}</td>"),
                rounds => write!(page, "<td>{median}<small>{rounds}</small></td>"),
            };
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
