//! The differences that are known, each with a narrow sign by which it is recognised. What each is
//! about, and why, is in docs/COMPATIBILITY.md under the same name.

mod c;
mod case;
mod ocaml;

use xenstored::protocol::ERROR;

use super::line::Event;
use super::step::{Step, Tx, Who, op};
use super::world::Outcome;
use crate::target::Target;
pub use case::Case;
use case::arguments;

/// A difference that is known.
pub struct Known {
    /// Its name in docs/COMPATIBILITY.md.
    pub name: &'static str,
    /// Whether this is it.
    pub matches: fn(&Case<'_>) -> bool,
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Known> {
    [BOTH, c::KNOWN, ocaml::KNOWN].into_iter().flatten()
}

/// That of this name.
pub fn named(name: &str) -> Option<&'static Known> {
    all().find(|known| known.name == name)
}

/// The first that explains how a peer differs, if any does; one may count as not known.
pub fn explanation(case: &Case<'_>, forgotten: Option<&Known>) -> Option<&'static Known> {
    let own = if *case.peer == Target::C { c::KNOWN } else { ocaml::KNOWN };
    let is_known = |known: &&Known| forgotten.is_none_or(|it| it.name != known.name);
    BOTH.iter().chain(own).filter(is_known).find(|known| (known.matches)(case))
}

/// Requests that look at a node.
fn is_reading(kind: u32) -> bool {
    [op::READ, op::DIRECTORY, op::DIRECTORY_PART, op::GET_PERMS].contains(&kind)
}

/// Requests that change one.
fn is_writing(kind: u32) -> bool {
    [op::WRITE, op::MKDIR, op::RM, op::SET_PERMS].contains(&kind)
}

/// Requests that leave everything as it is.
const LOOKS: [u32; 6] = [
    op::DIRECTORY,
    op::DIRECTORY_PART,
    op::READ,
    op::GET_PERMS,
    op::GET_DOMAIN_PATH,
    op::IS_DOMAIN_INTRODUCED,
];

/// Whether the daemons' stores are different from now on, so that no more can be compared.
pub fn parts(case: &Case<'_>) -> bool {
    let (ours, theirs) = case.errors();
    let one_did = ours.is_empty() != theirs.is_empty();
    one_did && !LOOKS.contains(&case.kind()) || parts_unseen(case)
}

/// Whether they are after a step that the peer was not asked to take.
pub fn parts_unasked(step: &Step, ours: &Outcome) -> bool {
    let done = ours.reply.as_ref().is_some_and(|reply| reply.kind != ERROR);
    done && !matches!(step, Step::Request { kind, .. } if LOOKS.contains(kind))
}

/// What makes the stores differ although nobody sees it at once.
fn parts_unseen(case: &Case<'_>) -> bool {
    // RELEASE keeps a living domain's nodes here; both peers remove them.
    let released = case.kind() == op::RELEASE && case.errors_are("", "");
    // oxenstored keeps watches and transactions of a domain that is introduced again.
    let kept = case.is.again && case.is_ocaml();
    // C holds on to the target's connection: its death is announced after that of the other.
    let held = case.kind() == op::SET_TARGET && case.errors_are("", "") && case.is_c();
    // There, a domain whose target is the control domain has all rights.
    let raised = case.is_ocaml()
        && case.kind() == op::SET_TARGET
        && case.errors_are("", "")
        && arguments(case.payload()).get(1) == Some(&&b"0"[..]);
    // oxenstored makes the parents of a node before it finds that the node cannot be.
    let parents = case.is_ocaml()
        && matches!(case.kind(), op::WRITE | op::MKDIR)
        && (case.theirs_is("E2BIG") || case.theirs_is("EQUOTA"));
    // What is no proper END here ends the transaction there.
    let ended = case.is_ocaml() && case.kind() == op::END && case.theirs_is("EAGAIN");
    // There, an RM or MKDIR that had nothing to do is not done again, whatever others did since.
    let undone = case.is_ocaml() && case.kind() == op::END && case.is.redone;
    // There, what a guest made below the nodes of others is not its own, and outlives it.
    let outlives = case.is_ocaml() && case.is.elsewhere;
    // C sets them at once, whatever becomes of the transaction.
    let at_once = case.is_c()
        && case.kind() == op::SET_PERMS
        && case.first().starts_with(b"@")
        && case.tx() != Tx::None;
    released || kept || held || raised || parents || ended || undone || outlives || at_once
}

/// Of both peers.
const BOTH: &[Known] = &[
    Known {
        name: "transaction-view",
        matches: |case| {
            case.is.disturbed
                && case.kind() == op::END
                && matches!(case.errors(), ("", "EAGAIN") | ("EAGAIN", ""))
        },
    },
    Known {
        name: "transaction-snapshot",
        matches: |case| {
            let (ours, theirs) = case.errors();
            let refused = |error: &str| matches!(error, "ENOENT" | "EACCES" | "EPERM");
            let sees = |error: &str| error.is_empty() || refused(error);
            // Who may write in one tree and not in the other may lack the room there, or sees a larger
            // node.
            let lacks_room = |error: &str| refused(error) || case.is.large && error.is_empty();
            let full = is_writing(case.kind())
                && (ours == "ENOSPC" && lacks_room(theirs)
                    || lacks_room(ours) && theirs == "ENOSPC");
            let looks = is_reading(case.kind()) || is_writing(case.kind());
            // C does not find all of a subtree that others removed a part of.
            let torn = case.is_c() && case.kind() == op::RM && ["EIO", "EINVAL"].contains(&theirs);
            let differ = full || sees(ours) && (sees(theirs) || torn);
            case.is.touched && looks && differ && case.same_events()
        },
    },
    Known {
        name: "target-control",
        matches: |case| {
            case.kind() == op::SET_TARGET
                && case.first() == b"0"
                && Case::error(&case.ours) == "EINVAL"
        },
    },
    Known {
        name: "domid-text",
        matches: |case| {
            case.has_odd_domid() && Case::error(&case.ours) == "EINVAL" && case.same_events()
        },
    },
    Known {
        name: "perms-domid",
        matches: |case| {
            let out_of_range = |entry: &&[u8]| {
                let digits = entry.get(1..).and_then(|digits| str::from_utf8(digits).ok());
                digits.and_then(|digits| digits.parse::<u32>().ok()).is_some_and(|id| id >= 32752)
            };
            case.kind() == op::SET_PERMS
                && Case::error(&case.ours) == "EINVAL"
                && arguments(case.payload()).iter().skip(1).any(out_of_range)
        },
    },
    Known {
        name: "release-nodes",
        matches: |case| case.kind() == op::RELEASE && case.errors_are("", ""),
    },
    Known {
        name: "rm-root",
        matches: |case| {
            case.kind() == op::RM && case.first() == b"/" && case.errors_are("EINVAL", "EACCES")
        },
    },
    Known {
        name: "parent-sees",
        matches: |case| {
            let changes = [op::WRITE, op::MKDIR, op::SET_PERMS, op::END].contains(&case.kind());
            changes
                && case.ours == case.theirs
                && case.only_ours().is_empty()
                && case.only_theirs().iter().all(|(who, _)| who.is_guest())
                && case.hidden
        },
    },
    Known {
        name: "shutdown-again",
        matches: |case| {
            let announced = |events: Vec<&(Who, Event)>| {
                events.iter().all(|(_, event)| event.starts_with(b"@releaseDomain\0"))
            };
            let here = case.kind() == op::INTRODUCE
                && case.errors_are("", "")
                && case.only_theirs().is_empty()
                && announced(case.only_ours());
            let there = matches!(case.step, Step::Destroy(_) | Step::Shutdown(_))
                && !case.is.resumed.is_empty()
                && case.only_ours().is_empty()
                && announced(case.only_theirs());
            here || there
        },
    },
];

#[cfg(test)]
mod tests {
    use super::super::circumstances::Circumstances;
    use super::super::line::Reply;
    use super::*;

    /// Which difference explains replies to a GET_PERMS, after 7 died and a RELEASE named 8.
    fn explains(peer: &Target, ours: &str, theirs: &str) -> Option<&'static str> {
        let mut is = Circumstances::default();
        is.dead.insert(7);
        is.released.insert(8);
        let (kind, payload) = (op::GET_PERMS, b"/t\0".to_vec());
        let step = Step::Request { who: Who(0), kind, tx: Tx::None, payload };
        let reply = |entries: &str| {
            let payload = entries.replace(' ', "\0").into_bytes();
            Some(Reply { kind, payload: [payload, vec![0]].concat(), echoed: true })
        };
        let (step, is) = (&step, &is);
        let (our_events, their_events) = (vec![], vec![]);
        let (ours, theirs) = (reply(ours), reply(theirs));
        let hidden = false;
        let case = Case { peer, step, ours, theirs, our_events, their_events, hidden, is };
        explanation(&case, None).map(|known| known.name)
    }

    #[test]
    fn entries_that_one_daemon_lacks_are_explained_by_a_death_or_a_release() {
        let (c, ocaml) = (&Target::C, &Target::OCaml);
        for (peer, ours, theirs, name) in [
            (c, "n0 r6", "n0 r7 r6", Some("dead-entry")),
            (c, "n0 r7 r6", "n0 r6", None),
            (c, "n0 r7", "n0 r8", None),
            (c, "n0 r6", "n0 r8 r6", None),
            (c, "n0", "n7", None),
            (c, "n0 b6", "n0 r7 r6", None),
            (ocaml, "n0 r6", "n0 r7 r6", Some("o-dead-entry")),
            (ocaml, "n0 r8 r6", "n0 r6", Some("o-dead-entry")),
            (ocaml, "n0 r7 r6", "n0 r6", None),
            (ocaml, "n0 r6", "n0 r8 r6", None),
        ] {
            assert_eq!(explains(peer, ours, theirs), name, "{peer:?}: {ours}, {theirs}");
        }
    }

    #[test]
    fn every_known_difference_is_explained() {
        let text = include_str!("../../../../docs/COMPATIBILITY.md");
        for known in all() {
            assert!(text.contains(known.name), "{} is not in docs/COMPATIBILITY.md", known.name);
        }
    }
}
