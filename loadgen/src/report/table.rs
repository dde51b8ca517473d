//! Tables of text.

use std::fmt::Write;

use super::{Row, columns, notes, number, rows};
use crate::measure::Measured;
use crate::scenario::Outcome;

/// A scenario's table and goals.
pub fn table(outcome: &Outcome) -> String {
    let columns = columns(outcome.unit, &outcome.measured);
    let mut lines = vec![vec![outcome.name.to_owned(), String::new()]];
    lines[0].extend(columns.iter().map(|(title, _)| title.clone()));
    let mut last = "";
    for Row { case, target, figures, note } in rows(outcome) {
        let name = if case == last { "" } else { case };
        last = case;
        let mut line = vec![name.to_owned(), target];
        let cell = |figure: &dyn Fn(&Measured) -> Option<f64>| figure(figures?).map(number);
        line.extend(columns.iter().map(|(_, figure)| cell(figure).unwrap_or_default()));
        line.push(note);
        lines.push(line);
    }
    let mut text = aligned(&lines);
    for note in notes(outcome) {
        let _ = writeln!(text, "{note}");
    }
    for goal in &outcome.goals {
        let verdict = if goal.reached { "reached" } else { "MISSED" };
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

/// Columns as wide as their widest cell, the first two to the left, figures to the right.
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
    fn figures_stand_in_columns() {
        let line = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = aligned(&[line(["read", "", "us"]), line(["one", "ours", "7.65"])]);
        assert_eq!(text, "read          us\none   ours  7.65\n");
    }
}
