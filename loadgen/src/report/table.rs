//! Plain text tables.

use std::fmt::Write;

use super::figures::show;
use super::{Column, Row, columns, notes, rows};
use crate::measure::{Measured, Quantity};
use crate::scenario::Outcome;

/// Figures for which the spread over the rounds is shown, too.
const SPREAD: [Quantity; 3] = [Quantity::Rate, Quantity::Cpu, Quantity::Percentile(99.0)];

/// Formats a scenario's table and goals.
pub fn table(outcome: &Outcome) -> String {
    let columns = columns(outcome.unit, &outcome.measured);
    let mut lines = vec![vec![outcome.name.to_owned(), String::new()]];
    let spread = outcome.measured.iter().any(|row| row.samples.len() > 1);
    for Column { title, quantity, .. } in &columns {
        lines[0].push(title.clone());
        lines[0].extend((spread && SPREAD.contains(quantity)).then(|| "by round".to_owned()));
    }
    let mut last = "";
    for Row { case, target, figures, note } in rows(outcome) {
        let name = if case == last { "" } else { case };
        last = case;
        let mut line = vec![name.to_owned(), target];
        for column in &columns {
            let [median, rounds] = cells(figures, column);
            line.push(median);
            line.extend((spread && SPREAD.contains(&column.quantity)).then_some(rounds));
        }
        line.push(note);
        lines.push(line);
    }
    let mut text = aligned(&lines);
    for note in notes(outcome) {
        let _ = writeln!(text, "{note}");
    }
    for goal in &outcome.goals {
        let verdict = match goal.reached {
            Some(true) => "reached",
            Some(false) => "MISSED",
            None => "undecided",
        };
        let _ = writeln!(text, "{verdict}: {}", goal.text);
    }
    let (before, after) = outcome.load;
    let seconds = outcome.elapsed.as_secs_f64();
    let _ = writeln!(
        text,
        "{seconds:.0} s; runnable threads on the machine: {before:.1} before, {after:.1} after"
    );
    text
}

/// Returns the median of a row's figure, and minimum and maximum if there are several rounds.
pub fn cells(figures: Option<&Measured>, column: &Column) -> [String; 2] {
    let Some(row) = figures else { return Default::default() };
    let Some(spread) = row.get(column.quantity) else { return Default::default() };
    let rounds = match row.samples.len() {
        0 | 1 => String::new(),
        _ => format!("{} to {}", show(spread.least, column.unit), show(spread.most, column.unit)),
    };
    [show(spread.median, column.unit), rounds]
}

/// Aligns columns to their widest cell, the first two to the left, figures to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let cells = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..cells).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let mut out = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let _ = if column < 2 {
                write!(out, "{cell:<width$}  ")
            } else {
                write!(out, "{cell:>width$}  ")
            };
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_aligned_in_columns() {
        let line = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = aligned(&[line(["read", "", "us"]), line(["one", "ours", "7.65"])]);
        assert_eq!(text, "read          us\none   ours  7.65\n");
    }
}
