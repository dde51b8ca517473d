//! What a scenario is to show, and whether it did.

use std::fmt;

use crate::measure::Measured;

/// A figure that was to be reached.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What was to be reached, with the figures found.
    pub text: String,
    /// Whether it was; `None` where the run was too short to say.
    pub reached: Option<bool>,
}

impl Goal {
    /// `value` is to be at most `limit`. Both are printed with the text.
    pub fn at_most(what: impl Into<String>, value: f64, limit: f64) -> Goal {
        let text = format!("{}: {value:.2}, at most {limit:.2}", what.into());
        Goal { text, reached: Some(value <= limit) }
    }

    /// `value` is to be at least `limit`.
    pub fn at_least(what: impl Into<String>, value: f64, limit: f64) -> Goal {
        let text = format!("{}: {value:.2}, at least {limit:.2}", what.into());
        Goal { text, reached: Some(value >= limit) }
    }

    /// It cannot be said, for this reason: a run in which it could not be missed reaches nothing.
    pub fn undecided(what: impl Into<String>, why: impl fmt::Display) -> Goal {
        Goal { text: format!("{}: {why}", what.into()), reached: None }
    }
}

/// What was measured of `target` in `case`.
pub fn of<'a>(measured: &'a [Measured], case: &str, target: &str) -> Option<&'a Measured> {
    measured.iter().find(|row| row.case.name == case && row.target == target)
}

/// CPU time per unit of `target` in `case`.
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
