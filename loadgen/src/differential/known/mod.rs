//! The known differences, each with a narrow predicate that recognises it. docs/COMPATIBILITY.md describes and
//! justifies each under the same name.

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

/// A known difference.
pub struct Known {
    /// The name in docs/COMPATIBILITY.md.
    pub name: &'static str,
    /// Predicate that recognises the difference.
    pub matches: fn(&Case<'_>) -> bool,
}

/// Returns all known differences.
pub fn all() -> impl Iterator<Item = &'static Known> {
    [BOTH, c::KNOWN, ocaml::KNOWN].into_iter().flatten()
}

/// Returns the known difference with this name.
pub fn named(name: &str) -> Option<&'static Known> {
    all().find(|known| known.name == name)
}

/// Returns the first known difference that explains a case, if any; `forgotten` is treated as unknown.
pub fn explanation(case: &Case<'_>, forgotten: Option<&Known>) -> Option<&'static Known> {
    let own = if *case.peer == Target::C { c::KNOWN } else { ocaml::KNOWN };
    let is_known = |known: &&Known| forgotten.is_none_or(|it| it.name != known.name);
    BOTH.iter().chain(own).filter(is_known).find(|known| (known.matches)(case))
}

/// Returns whether an operation reads a node.
fn is_reading(kind: u32) -> bool {
    [op::READ, op::DIRECTORY, op::DIRECTORY_PART, op::GET_PERMS].contains(&kind)
}

/// Returns whether an operation changes a node.
fn is_writing(kind: u32) -> bool {
    [op::WRITE, op::MKDIR, op::RM, op::SET_PERMS].contains(&kind)
}

/// Operations without side effects.
const LOOKS: [u32; 6] = [
    op::DIRECTORY,
    op::DIRECTORY_PART,
    op::READ,
    op::GET_PERMS,
    op::GET_DOMAIN_PATH,
    op::IS_DOMAIN_INTRODUCED,
];

/// Returns whether the daemons' stores diverge from here on, so that the comparison must end.
pub fn parts(case: &Case<'_>) -> bool {
    let (ours, theirs) = case.errors();
    let one_did = ours.is_empty() != theirs.is_empty();
    one_did && !LOOKS.contains(&case.kind()) || parts_unseen(case)
}

/// Returns whether the stores diverge after a step that was not sent to the peer.
pub fn parts_unasked(step: &Step, ours: &Outcome) -> bool {
    let done = ours.reply.as_ref().is_some_and(|reply| reply.kind != ERROR);
    done && !matches!(step, Step::Request { kind, .. } if LOOKS.contains(kind))
}

/// Returns whether the stores diverge without a visible difference.
fn parts_unseen(case: &Case<'_>) -> bool {
    // RELEASE keeps a living domain's nodes in our daemon; both peers remove them.
    let released = case.kind() == op::RELEASE && case.errors_are("", "");
    // oxenstored keeps watches and transactions when a domain is introduced again.
    let kept = case.is.again && case.is_ocaml();
    // C xenstored keeps the target's connection, so it announces the death of the target after that of the other
    // domain.
    let held = case.kind() == op::SET_TARGET && case.errors_are("", "") && case.is_c();
    // In oxenstored, a domain whose target is the control domain is privileged.
    let raised = case.is_ocaml()
        && case.kind() == op::SET_TARGET
        && case.errors_are("", "")
        && arguments(case.payload()).get(1) == Some(&&b"0"[..]);
    // oxenstored creates a node's parents before it refuses the node.
    let parents = case.is_ocaml()
        && matches!(case.kind(), op::WRITE | op::MKDIR)
        && (case.theirs_is("E2BIG") || case.theirs_is("EQUOTA"));
    // A malformed END ends the transaction in oxenstored.
    let ended = case.is_ocaml() && case.kind() == op::END && case.theirs_is("EAGAIN");
    // oxenstored does not replay an RM or MKDIR that had no effect, even after changes by other clients.
    let undone = case.is_ocaml() && case.kind() == op::END && case.is.redone;
    // In oxenstored, a node made by a guest below others' nodes is not owned by the guest, and outlives it.
    let outlives = case.is_ocaml() && case.is.elsewhere;
    // C xenstored sets the permissions of special nodes at once, regardless of the transaction's outcome.
    let at_once = case.is_c()
        && case.kind() == op::SET_PERMS
        && case.first().starts_with(b"@")
        && case.tx() != Tx::None;
    released || kept || held || raised || parents || ended || undone || outlives || at_once
}

/// Known differences of both peers.
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
            // A writer with access in only one of the trees may lack quota there, or see a larger node.
            let lacks_room = |error: &str| refused(error) || case.is.large && error.is_empty();
            let full = is_writing(case.kind())
                && (ours == "ENOSPC" && lacks_room(theirs)
                    || lacks_room(ours) && theirs == "ENOSPC");
            let looks = is_reading(case.kind()) || is_writing(case.kind());
            // C xenstored does not find all nodes of a subtree if other clients removed a part of it.
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

    /// Returns the difference that explains replies to a GET_PERMS, after 7 died and a RELEASE named 8.
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
    fn missing_entries_are_explained_by_a_death_or_a_release() {
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
    fn every_known_difference_is_documented() {
        let text = include_str!("../../../../docs/COMPATIBILITY.md");
        for known in all() {
            assert!(text.contains(known.name), "{} is not in docs/COMPATIBILITY.md", known.name);
        }
    }
}
