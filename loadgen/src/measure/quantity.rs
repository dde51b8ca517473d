//! What is looked at in a round, and how it spreads over several.

/// A figure of a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantity {
    /// Units per second.
    Rate,
    /// CPU time per unit, in microseconds.
    Cpu,
    /// The program's own part of [`Quantity::Cpu`].
    User,
    /// The kernel's part. Its clock for that ticks a hundred times a second: rounds of less than a
    /// second say little.
    System,
    /// The latency, in microseconds, that so many percent of the requests do not exceed.
    Percentile(f64),
    /// A figure of the scenario's own.
    Extra(&'static str),
}

/// What a figure is a number of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Nothing, or what its name says.
    #[default]
    Number,
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
}

/// A figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub least: f64,
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// That of these values; `None` if there are none.
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
    fn a_median_is_in_the_middle() {
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
