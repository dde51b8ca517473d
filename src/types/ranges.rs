//! Sets of domains in human-readable form: `1-1000,1005`.

use std::fmt;

use super::Domid;

/// Maximum number of ranges in a log line, about 200 bytes.
const LOGGED_MAX: usize = 16;

/// Formats domains, sorted by number, as `1-3,7`.
pub fn ranges(domids: impl IntoIterator<Item = Domid>) -> String {
    join(&collect(domids))
}

/// Formats sorted domains for a log line: a bounded number of ranges, then the count of the remaining domains.
pub struct Logged<'d>(pub &'d [Domid]);

impl fmt::Display for Logged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = collect(self.0.iter().copied());
        let (shown, rest) = all.split_at(all.len().min(LOGGED_MAX));
        f.write_str(&join(shown))?;
        match rest.iter().map(|(first, last)| usize::from(last - first) + 1).sum::<usize>() {
            0 => Ok(()),
            more => write!(f, ",+{more}"),
        }
    }
}

fn collect(domids: impl IntoIterator<Item = Domid>) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for Domid(number) in domids {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

fn join(ranges: &[(u16, u16)]) -> String {
    let range = |&(first, last): &(u16, u16)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_names_a_bounded_number_of_ranges() {
        let shown = |domids: Vec<u16>| {
            let domids: Vec<_> = domids.into_iter().map(Domid).collect();
            Logged(&domids).to_string()
        };
        assert_eq!(shown(vec![]), "");
        assert_eq!(shown(vec![7]), "7");
        assert_eq!(shown((1..=5000).collect()), "1-5000");
        let odd = |count: u16| (0..count).map(|at| 2 * at + 1).collect::<Vec<_>>();
        assert_eq!(shown(odd(16)).split(',').count(), 16);
        assert!(shown(odd(16)).ends_with(",31"));
        assert!(shown([odd(17), vec![34, 35]].concat()).ends_with(",31,+3"));
    }
}
