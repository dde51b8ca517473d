//! Goals of scenarios.

use std::fmt;

use crate::measure::Measured;

/// A figure to be reached.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The goal's text with the figures found.
    pub text: String,
    /// Whether the goal was reached; `None` if the run was too short to decide.
    pub reached: Option<bool>,
}

impl Goal {
    /// Creates a goal of `value` being at most `limit`. The text includes both.
    pub fn at_most(what: impl Into<String>, value: f64, limit: f64) -> Goal {
        let text = format!("{}: {value:.2}, at most {limit:.2}", what.into());
        Goal { text, reached: Some(value <= limit) }
    }

    /// Creates a goal of `value` being at least `limit`. The text includes both.
    pub fn at_least(what: impl Into<String>, value: f64, limit: f64) -> Goal {
        let text = format!("{}: {value:.2}, at least {limit:.2}", what.into());
        Goal { text, reached: Some(value >= limit) }
    }

    /// Creates an undecided goal with a reason: a run that could not miss a goal does not reach it either.
    pub fn undecided(what: impl Into<String>, why: impl fmt::Display) -> Goal {
        Goal { text: format!("{}: {why}", what.into()), reached: None }
    }
}

/// Returns the measurement of `target` in `case`.
pub fn of<'a>(measured: &'a [Measured], case: &str, target: &str) -> Option<&'a Measured> {
    measured.iter().find(|row| row.case.name == case && row.target == target)
}

/// Returns the CPU time per unit of `target` in `case`.
pub fn cpu(measured: &[Measured], case: &str, target: &str) -> Option<f64> {
    of(measured, case, target)?.cpu()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_inclusive() {
        assert_eq!(Goal::at_most("x", 1.0, 1.0).reached, Some(true));
        assert_eq!(Goal::at_most("x", 1.01, 1.0).reached, Some(false));
        assert_eq!(Goal::at_least("x", 1.0, 1.0).reached, Some(true));
        assert_eq!(Goal::at_least("x", 0.99, 1.0).reached, Some(false));
        assert_eq!(Goal::at_most("x", 1.0, 2.0).text, "x: 1.00, at most 2.00");
    }
}
