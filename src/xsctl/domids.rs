//! Sets of domains as users write them: `1-1000,1005`.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::types::Domid;

/// The domains of a command line. A domain named individually is always included; a range includes the domains in it
/// that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domids(Vec<(Domid, Domid)>);

impl FromStr for Domids {
    type Err = String;

    fn from_str(text: &str) -> Result<Domids, String> {
        let domid = |text: &str| match Domid::parse_canonical(text.as_bytes()) {
            Some(Domid::CONTROL) => {
                Err("domain 0 is the control domain, which cannot be moved".into())
            }
            Some(domid) => Ok(domid),
            None => Err(format!("{text:?} is not a valid domid; expected 1 to 32751")),
        };
        let range = |part: &str| match part.split_once('-') {
            None => domid(part).map(|domid| (domid, domid)),
            Some((first, last)) => match (domid(first)?, domid(last)?) {
                (first, last) if first < last => Ok((first, last)),
                _ => Err(format!("{part}: the end of a range must be greater than its start")),
            },
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(Domids)
    }
}

impl Domids {
    /// Returns the range of all domids but the control domain's.
    pub fn all() -> Domids {
        Domids(vec![(Domid(1), Domid(Domid::SELF.0 - 1))])
    }

    /// Returns the set of these domains, each named individually.
    pub fn of(domids: &[Domid]) -> Domids {
        Domids(domids.iter().map(|&domid| (domid, domid)).collect())
    }

    /// Returns the domain if the set is a single one, named individually.
    pub fn one(&self) -> Option<Domid> {
        match self.0[..] {
            [(first, last)] if first == last => Some(first),
            _ => None,
        }
    }

    /// Iterates over the domids as they are written: one that is named twice comes twice.
    pub fn each(&self) -> impl Iterator<Item = Domid> {
        self.0.iter().flat_map(|&(first, last)| (first.0..=last.0).map(Domid))
    }

    /// Returns the numbers and ranges as NUL-terminated strings of a request.
    pub fn parts(&self) -> Vec<String> {
        let part = |&(first, last): &(Domid, Domid)| match first == last {
            true => format!("{first}\0"),
            false => format!("{first}-{last}\0"),
        };
        self.0.iter().map(part).collect()
    }

    /// Returns every domid in the set, and whether it is named individually.
    pub fn numbers(&self) -> BTreeMap<Domid, bool> {
        let mut numbers = BTreeMap::new();
        for &(first, last) in &self.0 {
            for number in first.0..=last.0 {
                *numbers.entry(Domid(number)).or_default() |= first == last;
            }
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ranges as show;

    #[test]
    fn domid_set_is_parsed_and_shown() {
        for (text, shown, alone) in [
            ("7", "7", "7"),
            ("1-3,1005", "1-3,1005", "1005"),
            ("9,1-3,2,4", "1-4,9", "2,4,9"),
            ("32750-32751", "32750-32751", ""),
        ] {
            let numbers = text.parse::<Domids>().unwrap().numbers();
            assert_eq!(show(numbers.keys().copied()), shown);
            assert_eq!(
                show(numbers.iter().filter(|(_, alone)| **alone).map(|(domid, _)| *domid)),
                alone
            );
        }
    }

    #[test]
    fn malformed_domid_set_is_refused() {
        for text in
            ["", ",", "1,", "0", "0-5", "5-4", "5-5", "007", "32752", "1-65536", "a", "1--2", "-1"]
        {
            assert!(text.parse::<Domids>().is_err(), "{text}");
        }
    }
}
