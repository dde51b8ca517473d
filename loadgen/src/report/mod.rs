//! What was measured, for people and for programs.

mod chart;
mod html;
mod json;
mod page;
mod table;

pub use html::html;
pub use json::json;
pub use table::table;

use crate::measure::Measured;

/// Where and when it was measured.
#[derive(Clone, Debug)]
pub struct Header {
    /// The command line.
    pub command: String,
    /// The date, in UTC.
    pub date: String,
    /// Processor, number of cores, kernel.
    pub machine: String,
}

impl Header {
    /// Looks at this machine.
    pub fn look() -> Header {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("unknown processor", |rest| rest.trim_matches([' ', '\t', ':']));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = text("/proc/sys/kernel/osrelease");
        let words: Vec<String> = std::env::args().skip(1).collect();
        Header {
            command: format!("loadgen {}", words.join(" ")),
            date: date(),
            machine: format!("{model}, {cores} cores, Linux {}", kernel.trim()),
        }
    }
}

/// Today's date and the time, in UTC.
fn date() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    let (year, month, day) = civil(seconds / 86400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// The date so many days after 1 January 1970.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    for (month, length) in
        [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate()
    {
        if days < length {
            return (year, month + 1, days + 1);
        }
        days -= length;
    }
    (year, 12, 31)
}

/// A column of a table: its title, and the figure of a row if it has one.
type Column<'a> = (String, Box<dyn Fn(&Measured) -> Option<f64> + 'a>);

/// The columns that at least one row has a figure for.
fn columns<'a>(unit: &str, rows: &[Measured]) -> Vec<Column<'a>> {
    let mut columns: Vec<Column<'a>> = vec![
        (format!("{unit}s/s"), Box::new(Measured::rate)),
        ("CPU us".into(), Box::new(Measured::cpu)),
        ("user".into(), Box::new(Measured::user)),
        ("system".into(), Box::new(Measured::system)),
        ("p50 us".into(), Box::new(|row| row.percentile(50.0))),
        ("p99".into(), Box::new(|row| row.percentile(99.0))),
        ("p99.9".into(), Box::new(|row| row.percentile(99.9))),
        ("max".into(), Box::new(|row| row.percentile(100.0))),
    ];
    let mut names: Vec<&'static str> = Vec::new();
    for name in rows.iter().flat_map(Measured::figures) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    columns.extend(names.into_iter().map(|name| -> Column<'a> {
        (name.into(), Box::new(move |row: &Measured| row.figure(name)))
    }));
    columns.retain(|(_, figure)| rows.iter().any(|row| figure(row).is_some()));
    columns
}

/// A figure with three significant digits or more.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        large if large < 10_000.0 => format!("{value:.0}"),
        large if large < 1_000_000.0 => format!("{:.0} k", value / 1e3),
        _ => format!("{:.2} M", value / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.304, "0.30"),
            (7.65, "7.65"),
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
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11016), (2000, 2, 29));
        assert_eq!(civil(20779), (2026, 11, 22));
        assert_eq!(civil(20818), (2026, 12, 31));
    }
}
