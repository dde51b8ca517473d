//! What a sequence has done so far, as far as a difference that is known depends on it.

use std::collections::{HashMap, HashSet};

use xenstored::protocol::ERROR;

use super::line::Reply;
use super::step::{Step, Tx, op};

/// A payload of so many bytes brings a node near the limit of 2,048.
const LARGE: usize = 1900;

/// What is known of the sequence, from our own daemon's replies.
#[derive(Debug, Default)]
pub struct History {
    /// Open transactions by the step of their START.
    open: HashMap<usize, Transaction>,
    /// Nodes that a guest may have made, with the parents that were made with them.
    by_guests: HashSet<Vec<u8>>,
    /// Nodes with a large value.
    large: HashSet<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Transaction {
    /// What it changed.
    own: Vec<Vec<u8>>,
    /// What others changed since it began.
    others: Vec<Vec<u8>>,
    /// Others changed what cannot be told by paths: a domain came or went.
    everything: bool,
}

/// What the history says of one step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// It is in a transaction, and since its START something else changed.
    pub disturbed: bool,
    /// And what changed is its node, or one above or below it.
    pub touched: bool,
    /// Its node is at, below or directly above one that a guest may have made.
    pub by_guests: bool,
    /// Its value is large, or that of its node, or of one above that it may make a child of.
    pub large: bool,
    /// It introduced a domain that was introduced already.
    pub again: bool,
}

/// The path of a request, from the root on.
fn path(step: &Step) -> Option<Vec<u8>> {
    let Step::Request { who, payload, .. } = step else { return None };
    let first = payload.split(|&byte| byte == 0).next().unwrap_or_default();
    match first.first() {
        Some(b'/' | b'@') => Some(first.to_vec()),
        _ => Some([format!("/local/domain/{}/", who.domid()).as_bytes(), first].concat()),
    }
}

/// A path's parents, the nearest first, without the root.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().rev().filter(|(at, byte)| *at > 0 && **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}

/// Whether one lies at or below the other.
fn are_related(one: &[u8], other: &[u8]) -> bool {
    let lies_below = |low: &[u8], high: &[u8]| {
        high == b"/"
            || low.strip_prefix(high).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    lies_below(one, other) || lies_below(other, one)
}

/// Every sequence finds these, and only the control domain makes them.
fn is_given(path: &[u8]) -> bool {
    [&b"/t"[..], b"/local", b"/local/domain"].contains(&path)
        || path.strip_prefix(b"/local/domain/").is_some_and(|rest| !rest.contains(&b'/'))
}

impl History {
    /// What is to be known of this step before it is followed.
    pub fn of(&self, step: &Step, again: bool) -> Circumstances {
        let path = path(step).unwrap_or_default();
        let transaction = match step {
            Step::Request { tx: Tx::Of(start), .. } => self.open.get(start),
            _ => None,
        };
        let disturbed = transaction.is_some_and(|it| it.everything || !it.others.is_empty());
        let touched = transaction.is_some_and(|it| {
            it.everything || it.others.iter().any(|other| are_related(other, &path))
        });
        let by_guests = self.by_guests.contains(&path)
            || parents(&path).any(|parent| self.by_guests.contains(parent));
        let is_large = matches!(step, Step::Request { payload, .. } if payload.len() >= LARGE);
        let mut nodes = parents(&path).chain([&*path, b"/"]);
        let large = is_large || nodes.any(|node| self.large.contains(node));
        Circumstances { disturbed, touched, by_guests, large, again }
    }

    /// Keeps count of who changes what.
    pub fn follow(&mut self, at: usize, step: &Step, reply: Option<&Reply>) {
        if matches!(step, Step::Destroy(_)) {
            return self.disturb_all();
        }
        let Step::Request { who, kind, tx, payload } = step else { return };
        let path = path(step).unwrap_or_default();
        let changes = [op::WRITE, op::MKDIR, op::RM, op::SET_PERMS].contains(kind);
        if changes && who.is_guest() {
            // What a guest writes may be its own from now on, and so may parents made with it.
            let made = parents(&path).chain([&*path]).filter(|node| !is_given(node));
            self.by_guests.extend(made.map(<[u8]>::to_vec));
        }
        if reply.is_none_or(|reply| reply.kind == ERROR) {
            return;
        }
        if *kind == op::WRITE && payload.len() >= LARGE {
            self.large.insert(path.clone());
        }
        match (*kind, *tx) {
            (op::START, _) => drop(self.open.insert(at, Transaction::default())),
            (op::END, Tx::Of(start)) => {
                let own = self.open.remove(&start).unwrap_or_default().own;
                if payload == b"T\0" {
                    own.iter().for_each(|path| self.changed(path));
                }
            }
            (op::RELEASE | op::INTRODUCE, _) => self.disturb_all(),
            (_, Tx::None) if changes => self.changed(&path),
            (_, Tx::Of(start)) if changes => self.open.entry(start).or_default().own.push(path),
            _ => {}
        }
    }

    fn disturb_all(&mut self) {
        self.open.values_mut().for_each(|transaction| transaction.everything = true);
    }

    fn changed(&mut self, path: &[u8]) {
        self.open.values_mut().for_each(|transaction| transaction.others.push(path.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::step::Who;
    use super::*;

    fn write(who: usize, path: &str, tx: Tx) -> Step {
        let payload = format!("{path}\0value").into_bytes();
        Step::Request { who: Who(who), kind: op::WRITE, tx, payload }
    }

    fn ok() -> Reply {
        Reply { kind: op::WRITE, payload: b"OK\0".to_vec(), echoed: true }
    }

    #[test]
    fn a_transaction_is_touched_by_what_is_above_or_below() {
        let mut history = History::default();
        let (who, payload) = (Who(0), b"\0".to_vec());
        let start = Step::Request { who, kind: op::START, tx: Tx::None, payload };
        history.follow(0, &start, Some(&ok()));
        history.follow(1, &write(1, "/t/a/b", Tx::None), Some(&ok()));
        for (path, touched) in [("/t/a", true), ("/t/a/b/c", true), ("/t/ab", false)] {
            let found = history.of(&write(0, path, Tx::Of(0)), false);
            assert_eq!((found.disturbed, found.touched), (true, touched), "{path}");
            assert!(!history.of(&write(0, path, Tx::None), false).disturbed);
        }
    }

    #[test]
    fn what_a_guest_made_is_known_with_its_parents() {
        let mut history = History::default();
        history.follow(0, &write(3, "a/b", Tx::None), Some(&ok()));
        for (path, by_guests) in [
            ("/local/domain/1/a", true),
            ("/local/domain/1/a/b/c", true),
            ("/local/domain/1", false),
            ("/local/domain/1/c", false),
        ] {
            assert_eq!(history.of(&write(0, path, Tx::None), false).by_guests, by_guests, "{path}");
        }
    }
}
