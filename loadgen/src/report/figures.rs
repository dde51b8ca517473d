//! Formatting of figures.

use crate::measure::Unit;

/// Formats a figure with its unit, if it has one.
pub fn show(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Number => number(value),
        Unit::Micros => time(value),
        Unit::Millis => time(value * 1e3),
    }
}

/// Formats a number: a whole one exactly, others with three significant digits or more.
pub fn number(value: f64) -> String {
    match value.abs() {
        whole if whole < 10_000.0 && whole.fract() == 0.0 => format!("{value:.0}"),
        small if small < 9.995 => format!("{value:.2}"),
        middle if middle < 99.95 => format!("{value:.1}"),
        large if large < 10_000.0 => format!("{value:.0}"),
        large if large < 1_000_000.0 => format!("{:.0} k", value / 1e3),
        _ => format!("{:.2} M", value / 1e6),
    }
}

/// Formats a time in microseconds, in the unit that brings it between 1 and 1,000.
pub fn time(micros: f64) -> String {
    let (value, unit) = match micros.abs() {
        short if short < 999.5 => (micros, "us"),
        middle if middle < 999.5e3 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    format!("{} {unit}", number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (3.0, "3"),
            (55.0, "55"),
            (0.304, "0.30"),
            (7.65, "7.65"),
            (9.998, "10.0"),
            (13.64, "13.6"),
            (704.2, "704"),
            (9565.0, "9565"),
            (763_400.0, "763 k"),
            (1_234_567.0, "1.23 M"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn times_are_scaled_to_a_fitting_unit() {
        for (micros, text) in [
            (0.0, "0 us"),
            (0.364, "0.36 us"),
            (771.0, "771 us"),
            (999.6, "1.00 ms"),
            (9565.0, "9.56 ms"),
            (763_400.0, "763 ms"),
            (16_130_000.0, "16.1 s"),
            (120e6, "120 s"),
        ] {
            assert_eq!(time(micros), text);
        }
    }
}
