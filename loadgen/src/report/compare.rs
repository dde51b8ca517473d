//! Comparison of our daemon with the peers by figure.

use std::fmt::Write;

use super::figures::show;
use crate::measure::{Measured, Quantity, Unit};
use crate::scenario::{Goal, Outcome};

/// Ratios below this count as equal: rounds of one target differ by about as much.
const LEVEL: f64 = 1.1;
/// The compared quantities: name, quantity, unit, and whether higher is better.
const COMPARED: [(&str, Quantity, Unit, bool); 4] = [
    ("throughput", Quantity::Rate, Unit::Number, true),
    ("CPU", Quantity::Cpu, Unit::Micros, false),
    ("p50", Quantity::Percentile(50.0), Unit::Micros, false),
    ("p99", Quantity::Percentile(99.0), Unit::Micros, false),
];
/// The targets compared with our daemon; the echo server is a lower bound of the cost, and not a peer.
const PEERS: [&str; 2] = ["c", "ocaml"];
/// Number of figures named in the terminal's summary: those in which our daemon is furthest behind.
const NAMED: usize = 5;

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Our daemon is better by a tenth or more.
    Ahead,
    /// The difference is less than a tenth.
    Level,
    /// Our daemon is worse by a tenth or more.
    Behind,
}

/// A figure of our daemon and of a peer.
pub struct Compared<'a> {
    /// The scenario's name.
    pub scenario: &'a str,
    /// The case's name.
    pub case: &'a str,
    /// The name of the compared figure.
    pub figure: &'static str,
    /// The name of the peer.
    pub peer: &'a str,
    /// The median of our daemon.
    pub ours: f64,
    /// The median of the peer.
    pub theirs: f64,
    unit: Unit,
    /// Factor by which our daemon is better; below 1 if it is worse.
    pub times: f64,
}

impl Compared<'_> {
    /// Classifies the comparison.
    pub fn standing(&self) -> Standing {
        match self.times {
            ahead if ahead >= LEVEL => Standing::Ahead,
            behind if behind * LEVEL <= 1.0 => Standing::Behind,
            _ => Standing::Level,
        }
    }

    /// Describes the comparison in prose.
    pub fn text(&self) -> String {
        let Compared { scenario, case, figure, peer, ours, theirs, unit, times } = self;
        let (ours, theirs) = (show(*ours, *unit), show(*theirs, *unit));
        let (times, word) = match self.standing() {
            Standing::Behind => (1.0 / times, "worse"),
            _ => (*times, "better"),
        };
        format!("{scenario}, {case}: {figure} {ours}, {peer} {theirs}: {times:.1} times {word}")
    }
}

/// Returns all figures that both our daemon and a peer have, in ascending order of [`Compared::times`].
pub fn compared(outcomes: &[Outcome]) -> Vec<Compared<'_>> {
    let mut all = Vec::new();
    for outcome in outcomes {
        for theirs in outcome.measured.iter().filter(|row| PEERS.contains(&&*row.target)) {
            let same = |row: &&Measured| row.target == "ours" && row.case.name == theirs.case.name;
            if let Some(ours) = outcome.measured.iter().find(same) {
                all.extend(
                    COMPARED.iter().filter_map(|what| one(outcome.name, ours, theirs, what)),
                );
            }
        }
    }
    all.sort_by(|one, other| one.times.total_cmp(&other.times));
    all
}

fn one<'a>(
    scenario: &'a str,
    ours: &Measured,
    theirs: &'a Measured,
    &(figure, quantity, unit, more_is_better): &(&'static str, Quantity, Unit, bool),
) -> Option<Compared<'a>> {
    let (ours, peer) = (ours.get(quantity)?.median, theirs.get(quantity)?.median);
    let ratio = if more_is_better { ours / peer } else { peer / ours };
    let times = Some(ratio).filter(|ratio| ratio.is_finite() && *ratio > 0.0)?;
    let (case, target) = (&*theirs.case.name, &*theirs.target);
    Some(Compared { scenario, case, figure, peer: target, ours, theirs: peer, unit, times })
}

/// Returns a sentence on each peer, and one on the goals.
pub fn headline(compared: &[Compared<'_>], outcomes: &[Outcome]) -> Vec<String> {
    let mut lines = Vec::new();
    for peer in PEERS {
        let of =
            |side| compared.iter().filter(|it| it.peer == peer && it.standing() == side).count();
        let (ahead, level, behind) =
            (of(Standing::Ahead), of(Standing::Level), of(Standing::Behind));
        let all = ahead + level + behind;
        if all > 0 {
            lines.push(format!(
                "Beside {peer}, ours is better in {ahead} of {all} figures and worse in {behind}; \
                 {level} differ by less than a tenth."
            ));
        }
    }
    let goals: Vec<&Goal> = outcomes.iter().flat_map(|outcome| &outcome.goals).collect();
    let of = |reached| goals.iter().filter(|goal| goal.reached == reached).count();
    let (reached, missed, undecided) = (of(Some(true)), of(Some(false)), of(None));
    if !goals.is_empty() {
        lines.push(format!(
            "Of {} targets {reached} are reached, {missed} missed, and {undecided} undecided.",
            goals.len()
        ));
    }
    lines
}

/// Returns the final text on the terminal: the headline, and the figures in which our daemon is behind.
pub fn summary(outcomes: &[Outcome]) -> String {
    let compared = compared(outcomes);
    let mut text = String::new();
    for line in headline(&compared, outcomes) {
        let _ = writeln!(text, "{line}");
    }
    let behind = compared.iter().filter(|it| it.standing() == Standing::Behind);
    for one in behind.take(NAMED) {
        let _ = writeln!(text, "worse: {}", one.text());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::histogram;
    use crate::measure::Sample;
    use crate::scenario::Case;
    use crate::target::Cpu;

    /// Our daemon takes less CPU time and has a higher p99; its throughput is 5 % lower.
    fn outcome() -> Outcome {
        let row = |target: &str, cpu, units, latency: u64| {
            let mut all = histogram();
            all.record(latency * 1000).unwrap();
            let cpu = Some(Cpu { total: Duration::from_micros(cpu), ..Cpu::default() });
            let elapsed = Duration::from_secs(1);
            let latency = Some(all);
            let sample = Sample { units, elapsed, cpu, latency, ..Sample::default() };
            let case = Case::named("64 connections, depth 1");
            Measured { case, target: target.into(), samples: vec![sample] }
        };
        let measured =
            vec![row("ours", 380, 950, 771), row("c", 4800, 1000, 434), row("echo", 100, 9000, 1)];
        Outcome {
            name: "read",
            about: "",
            unit: "request",
            cases: Vec::new(),
            measured,
            missing: Vec::new(),
            goals: vec![Goal::at_most("x", 1.0, 2.0), Goal::undecided("y", "too short")],
            load: (0.0, 0.0),
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn comparison_names_both_sides_and_the_worst_first() {
        let outcomes = [outcome()];
        let all = compared(&outcomes);
        let standing = |figure| all.iter().find(|it| it.figure == figure).unwrap().standing();
        assert_eq!(standing("p99"), Standing::Behind);
        assert_eq!(standing("throughput"), Standing::Level);
        assert_eq!(standing("CPU"), Standing::Ahead);
        assert!(all.iter().all(|it| it.peer == "c"), "the echo server is no peer");
        assert_eq!(
            headline(&all, &outcomes),
            [
                "Beside c, ours is better in 1 of 4 figures and worse in 2; 1 differ by less than a \
                 tenth.",
                "Of 2 targets 1 are reached, 0 missed, and 1 undecided.",
            ]
        );
        let text = summary(&outcomes);
        let worst = "worse: read, 64 connections, depth 1: p50 771 us, c 434 us: 1.8 times worse";
        assert_eq!(text.lines().nth(2), Some(worst), "{text}");
    }
}
