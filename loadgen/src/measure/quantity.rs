//! The quantities measured in a round, and their spread over several rounds.

/// A quantity of a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantity {
    /// Units per second.
    Rate,
    /// CPU time per unit, in microseconds.
    Cpu,
    /// The part of [`Quantity::Cpu`] in user mode.
    User,
    /// The part of [`Quantity::Cpu`] in the kernel. The kernel accounts this time in ticks of a hundredth of a second,
    /// so the quantity is inaccurate for rounds of less than a second.
    System,
    /// Latency percentile in microseconds.
    Percentile(f64),
    /// A quantity specific to the scenario.
    Extra(&'static str),
}

/// The unit of a quantity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// No unit, or the one in the quantity's name.
    #[default]
    Number,
    /// Microseconds, scaled for display.
    Micros,
    /// Milliseconds, scaled for display.
    Millis,
}

/// The spread of a quantity over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The minimum.
    pub least: f64,
    /// The median; the mean of the two middle values for an even count.
    pub median: f64,
    /// The maximum.
    pub most: f64,
}

impl Spread {
    /// Computes the spread of values; returns `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Spread { least, median, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_value() {
        assert_eq!(Spread::of([]), None);
        for (values, expected) in [
            (&[3.0][..], [3.0, 3.0, 3.0]),
            (&[9.0, 1.0, 2.0], [1.0, 2.0, 9.0]),
            (&[9.0, 1.0, 2.0, 4.0], [1.0, 3.0, 9.0]),
        ] {
            let Spread { least, median, most } = Spread::of(values.iter().copied()).unwrap();
            assert_eq!([least, median, most], expected);
        }
    }
}
