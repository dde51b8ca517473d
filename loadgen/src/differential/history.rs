//! The history of a sequence, as far as known differences depend on it.

use std::collections::{HashMap, HashSet};

use xenstored::protocol::ERROR;

use super::circumstances::{Circumstances, Guests};
use super::line::Reply;
use super::paths::{is_given, lies_below, parents, path};
use super::step::{Step, Tx, Who, domid, domids, op};
use super::transaction::{IN_TRANSACTIONS, Transaction};

/// Payload length in bytes that brings a node near the limit of 2,048.
const LARGE: usize = 1900;

/// The state of the sequence, derived from our own daemon's replies.
#[derive(Debug)]
pub struct History {
    /// Open transactions by the step of their START.
    open: HashMap<usize, Transaction>,
    /// Nodes that certainly exist. More may exist, as a death removes all uncertain ones from this set.
    there: HashSet<Vec<u8>>,
    /// Nodes that a guest may have made, with the parents created along with them.
    by_guests: HashSet<Vec<u8>>,
    /// Permissions of a node above the domains' partitions were changed, so guests may create nodes there.
    open_above: bool,
    /// Guests that made nodes below nodes of other owners.
    elsewhere: Guests,
    /// Nodes with a large value.
    large: HashSet<Vec<u8>>,
    /// Guests that exist.
    alive: Guests,
    /// Guests that are shut down, and those of them named by a later RESUME.
    shut: Guests,
    resumed: Guests,
    /// Guests that have died, even if their domid is in use again.
    dead: Guests,
    /// Domids named in a RELEASE, known or not.
    released: Guests,
    /// Guests granted a permission at a node before they existed.
    early: Vec<(Vec<u8>, Guests)>,
}

impl History {
    /// Creates the history of a new sequence.
    pub fn new() -> History {
        let there = [&b"/t"[..], b"/local", b"/local/domain", b"/local/domain/0"];
        History {
            open: HashMap::new(),
            there: there.map(<[u8]>::to_vec).into(),
            by_guests: HashSet::new(),
            open_above: false,
            elsewhere: Guests::default(),
            large: HashSet::new(),
            alive: Guests::default(),
            shut: Guests::default(),
            resumed: Guests::default(),
            dead: Guests::default(),
            released: Guests::default(),
            early: Vec::new(),
        }
    }

    /// Returns the circumstances of a step before it is recorded.
    pub fn of(&self, step: &Step, again: bool) -> Circumstances {
        let path = path(step).unwrap_or_default();
        let transaction = match step {
            Step::Request { tx: Tx::Of(start), .. } => self.open.get(start),
            _ => None,
        };
        let is_end = matches!(step, Step::Request { kind: op::END, .. });
        let own = |kind| -> Vec<Vec<u8>> {
            let ending = transaction.filter(|_| is_end);
            ending.map_or(Vec::new(), |it| it.own(kind).map(<[u8]>::to_vec).collect())
        };
        let removes = match step {
            Step::Request { kind: op::RM, .. } => vec![path.clone()],
            _ => own(op::RM),
        };
        let by_guests = self.by_guests.contains(&path)
            || parents(&path).any(|parent| self.by_guests.contains(parent))
            || removes.iter().any(|at| self.by_guests.iter().any(|node| lies_below(node, at)));
        let is_large = matches!(step, Step::Request { payload, .. } if payload.len() >= LARGE);
        let mut nodes = parents(&path).chain([&*path, b"/"]);
        let large = is_large || nodes.any(|node| self.large.contains(node));
        let granted = self.early.iter().filter(|(at, _)| is_end || lies_below(&path, at));
        Circumstances {
            disturbed: transaction.is_some_and(|it| it.everything || !it.others.is_empty()),
            touched: transaction.is_some_and(|it| it.is_touched(&path)),
            redone: transaction.is_some_and(|it| {
                it.own(op::RM).chain(it.own(op::MKDIR)).any(|path| it.is_touched(path))
            }),
            foreign: transaction.is_some_and(|it| it.foreign),
            removes,
            makes: own(op::MKDIR),
            bereft: transaction.is_some_and(|it| it.bereft),
            refused: transaction.is_some_and(|it| it.refused),
            by_guests,
            elsewhere: matches!(step, Step::Destroy(who) if self.elsewhere.contain(who.domid())),
            large,
            again,
            alive: self.alive,
            shut: self.shut,
            resumed: self.resumed,
            dead: self.dead,
            released: self.released,
            early: granted.fold(Guests::default(), |all, (_, one)| all.and(*one)),
        }
    }

    /// Records the changes made by a step.
    pub fn follow(&mut self, at: usize, step: &Step, reply: Option<&Reply>) {
        match step {
            Step::Create(who) => self.alive.insert(who.domid()),
            Step::Shutdown(who) => self.shut.insert(who.domid()),
            Step::Destroy(who) => {
                self.alive.remove(who.domid());
                self.shut.remove(who.domid());
                self.resumed.remove(who.domid());
                self.dead.insert(who.domid());
                self.open.values_mut().for_each(|transaction| transaction.bereft = true);
                self.disturb_all();
            }
            Step::Request { .. } => self.follow_request(at, step, reply),
            Step::Reconnect(_) => {}
        }
    }

    /// Records that a daemon refused this step for a quota; ours may have reported another error first.
    pub fn refuse(&mut self, step: &Step) {
        if let Step::Request { tx: Tx::Of(start), .. } = step
            && let Some(transaction) = self.open.get_mut(start)
        {
            transaction.refused = true;
        }
    }

    fn follow_request(&mut self, at: usize, step: &Step, reply: Option<&Reply>) {
        let Step::Request { who, kind, tx, payload } = step else { return };
        let path = path(step).unwrap_or_default();
        let changes = [op::WRITE, op::MKDIR, op::RM, op::SET_PERMS].contains(kind);
        if changes && who.is_guest() {
            // From now on the guest may own the node that it wrote, and the parents created along with the node.
            let may_make = |node: &&[u8]| self.open_above || !is_given(node);
            let made = parents(&path).chain([&*path]).filter(may_make);
            self.by_guests.extend(made.map(<[u8]>::to_vec));
        }
        if let Tx::Of(start) = tx
            && let Some(transaction) = self.open.get_mut(start)
        {
            transaction.foreign |= !IN_TRANSACTIONS.contains(kind);
        }
        if *kind == op::RELEASE && !who.is_guest() {
            self.released.insert(domid(payload));
        }
        if reply.is_none_or(|reply| reply.kind == ERROR) {
            return;
        }
        if *kind == op::WRITE && payload.len() >= LARGE {
            self.large.insert(path.clone());
        }
        self.follow_owners(*who, *kind, &path, payload);
        match (*kind, *tx) {
            (op::START, _) => drop(self.open.insert(at, Transaction::default())),
            (op::END, Tx::Of(start)) => {
                let own = self.open.remove(&start).unwrap_or_default().own;
                if payload == b"T\0" {
                    own.iter().for_each(|(kind, path)| self.changed(*kind, path));
                }
            }
            (op::RELEASE | op::INTRODUCE, _) => self.disturb_all(),
            // The nodes are accessible to another domain from now on.
            (op::SET_TARGET, _) => self.open.values_mut().for_each(|it| it.everything = true),
            (op::RESUME, _) if self.shut.contain(domid(payload)) => {
                self.resumed.insert(domid(payload));
            }
            (_, Tx::None) if changes => self.changed(*kind, &path),
            (_, Tx::Of(start)) if changes => {
                self.open.entry(start).or_default().own.push((*kind, path));
            }
            _ => {}
        }
    }

    /// Records granted permissions, and guests that own nodes below those of others.
    fn follow_owners(&mut self, who: Who, kind: u32, path: &[u8], payload: &[u8]) {
        let home = |domid: u16| format!("/local/domain/{domid}").into_bytes();
        let makes = [op::WRITE, op::MKDIR].contains(&kind);
        if makes && who.is_guest() && !lies_below(path, &home(who.domid())) {
            self.elsewhere.insert(who.domid());
        }
        if kind != op::SET_PERMS {
            return;
        }
        self.open_above |= lies_below(b"/local/domain", path);
        let mut early = Guests::default();
        for (position, domid) in domids(payload).enumerate() {
            if position > 0 && !self.alive.contain(domid) {
                early.insert(domid);
            }
            let guests = Who::all().filter(|who| who.is_guest()).map(Who::domid);
            for other in guests.filter(|other| position == 0 && *other != domid) {
                if lies_below(path, &home(other)) {
                    self.elsewhere.insert(other);
                }
            }
        }
        self.early.push((path.to_vec(), early));
    }

    fn disturb_all(&mut self) {
        self.there.clear();
        self.open.values_mut().for_each(|transaction| transaction.everything = true);
    }

    /// Records a committed change of a node, and of the parents created with it.
    fn changed(&mut self, kind: u32, path: &[u8]) {
        let mut all = vec![path];
        if [op::WRITE, op::MKDIR].contains(&kind) {
            all.extend(parents(path).filter(|parent| !self.there.contains(*parent)));
        }
        for changed in &all {
            self.open.values_mut().for_each(|it| it.others.push(changed.to_vec()));
        }
        match kind {
            op::RM => self.there.retain(|node| !lies_below(node, path)),
            _ => self.there.extend(parents(path).chain([path]).map(<[u8]>::to_vec)),
        }
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

    fn begun() -> History {
        let mut history = History::new();
        let start = Step::Request { who: Who(0), kind: op::START, tx: Tx::None, payload: vec![0] };
        history.follow(0, &start, Some(&ok()));
        history
    }

    #[test]
    fn write_above_or_below_touches_a_transaction() {
        let mut history = begun();
        history.follow(1, &write(1, "/t/a/b", Tx::None), Some(&ok()));
        for (path, touched) in [("/t/a", true), ("/t/a/b/c", true), ("/t/ab", false)] {
            let found = history.of(&write(0, path, Tx::Of(0)), false);
            assert_eq!((found.disturbed, found.touched), (true, touched), "{path}");
            assert!(!history.of(&write(0, path, Tx::None), false).disturbed);
        }
    }

    #[test]
    fn guest_write_marks_the_node_and_its_created_parents() {
        let mut history = History::new();
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

    #[test]
    fn created_parent_touches_the_siblings_of_a_node() {
        let mut history = begun();
        let beside = write(0, "/t/a/c", Tx::Of(0));
        history.follow(1, &write(1, "/t/d", Tx::None), Some(&ok()));
        assert!(!history.of(&beside, false).touched, "/t existed");
        history.follow(2, &write(1, "/t/a/b", Tx::None), Some(&ok()));
        assert!(history.of(&beside, false).touched, "/t/a did not exist");
    }

    #[test]
    fn removals_and_mkdirs_are_redone_after_a_concurrent_write() {
        for (kind, redone) in [(op::RM, true), (op::MKDIR, true), (op::READ, false)] {
            let mut history = begun();
            let request = |kind, payload: &[u8]| Step::Request {
                who: Who(0),
                kind,
                tx: Tx::Of(0),
                payload: payload.to_vec(),
            };
            history.follow(1, &request(kind, b"/t/a\0"), Some(&ok()));
            let end = request(op::END, b"T\0");
            assert!(!history.of(&end, false).redone, "no concurrent change");
            history.follow(2, &write(1, "/t/a/b", Tx::None), Some(&ok()));
            let is = history.of(&end, false);
            assert_eq!((is.redone, is.removes.len()), (redone, usize::from(kind == op::RM)));
        }
    }

    #[test]
    fn release_of_an_unknown_domid_is_recorded() {
        let mut history = History::new();
        let release = |who, payload: &[u8]| Step::Request {
            who: Who(who),
            kind: op::RELEASE,
            tx: Tx::None,
            payload: payload.to_vec(),
        };
        let refused = Reply { kind: ERROR, payload: b"ENOENT\0".to_vec(), echoed: true };
        for (at, step) in
            [release(0, b"7\0"), release(0, b"x\0"), release(3, b"8\0")].iter().enumerate()
        {
            history.follow(at, step, Some(&refused));
        }
        let released = history.of(&write(0, "/t", Tx::None), false).released;
        assert_eq!([0, 7, 8].map(|domid| released.contain(domid)), [false, true, false]);
    }

    #[test]
    fn permission_entry_for_a_missing_domain_is_recorded_as_early() {
        let mut history = History::new();
        let payload = b"/t\0n1\0r2\0r3\0".to_vec();
        let grant = Step::Request { who: Who(0), kind: op::SET_PERMS, tx: Tx::None, payload };
        history.follow(0, &Step::Create(Who(4)), None);
        history.follow(1, &grant, Some(&ok()));
        let early = history.of(&write(0, "/t/a", Tx::None), false).early;
        assert_eq!([1, 2, 3].map(|domid| early.contain(domid)), [false, false, true]);
        assert!(history.of(&write(0, "/u", Tx::None), false).early.is_empty());
    }
}
