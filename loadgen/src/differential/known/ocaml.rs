//! Known differences of oxenstored of 4.17, besides those of both peers.

use super::super::line::{Event, Reply};
use super::super::step::{Step, Tx, Who, op};
use super::case::{Case, without_owner};
use super::{Known, is_reading, is_writing};

/// Longer paths are subject to different limits.
const PATH_BYTES: usize = 2000;

/// The first match counts.
pub const KNOWN: &[Known] = &[
    Known {
        name: "o-simple-operations",
        matches: |case| {
            case.kind() == op::END
                && case.is.foreign
                && matches!(case.errors(), ("", "EAGAIN" | "EINVAL"))
        },
    },
    Known {
        name: "o-transaction-events",
        matches: |case| {
            let redone = |event: &&(Who, Event)| case.is_removed(event) || case.is_made(event);
            // Additional equal events, which are merged in our daemon.
            let told = |event: &&(Who, Event)| case.our_events.contains(event);
            case.kind() == op::END
                && case.is.disturbed
                && case.errors_are("", "")
                && case.only_ours().iter().all(|event| event.0.is_guest() || redone(event))
                && case.only_theirs().iter().all(|event| redone(event) || told(event))
        },
    },
    Known {
        name: "o-watch-transaction",
        matches: |case| {
            let as_here = |theirs: &Reply| Reply { echoed: true, ..theirs.clone() };
            matches!(case.kind(), op::WATCH | op::UNWATCH)
                && case.theirs.as_ref().is_some_and(|theirs| !theirs.echoed)
                && case.ours == case.theirs.as_ref().map(as_here)
                && case.same_events()
        },
    },
    Known {
        name: "o-unknown-transaction",
        matches: |case| {
            case.tx() != Tx::None && case.theirs_is("EIO") && !Case::error(&case.ours).is_empty()
        },
    },
    Known {
        name: "o-equota",
        matches: |case| matches!(case.errors(), ("ENOSPC" | "EEXIST" | "EACCES", "EQUOTA")),
    },
    Known {
        name: "o-size",
        matches: |case| {
            let changes = matches!(case.kind(), op::WRITE | op::MKDIR);
            let big = case.payload().len() > 2048 && case.theirs_is("E2BIG");
            changes && (big || !case.by_control() && case.errors_are("ENOSPC", ""))
        },
    },
    Known {
        name: "o-duplicates",
        matches: |case| {
            let mut merged = case.their_events.clone();
            merged.dedup();
            case.ours == case.theirs && case.our_events == merged
        },
    },
    Known {
        name: "o-no-directory-part",
        matches: |case| case.kind() == op::DIRECTORY_PART && case.theirs_is("ENOSYS"),
    },
    Known {
        name: "o-special-nodes",
        matches: |case| {
            let path = case.first();
            let named = path.starts_with(b"@")
                && (is_reading(case.kind()) || is_writing(case.kind()))
                && Case::error(&case.ours) == "EINVAL";
            // oxenstored reports permission changes of special nodes only to watches on `/`; in a transaction at its
            // END.
            let silent = matches!(case.kind(), op::SET_PERMS | op::END)
                && case.errors_are("", "")
                && case.only_theirs().iter().all(|(_, event)| event.starts_with(b"/@"))
                && case.only_ours().iter().all(|(_, event)| event.starts_with(b"@"));
            // In oxenstored the root lists the special nodes as children, but not a node `/@a`.
            let is_special =
                |name: &&[u8]| [&b"@introduceDomain"[..], b"@releaseDomain"].contains(name);
            let listed = path == b"/"
                && case.kind() == op::DIRECTORY
                && case.names_without(is_special) == case.our_names();
            named || silent || listed
        },
    },
    Known {
        name: "o-root-silent",
        matches: |case| {
            case.first() == b"/"
                && matches!(case.kind(), op::WRITE | op::SET_PERMS)
                && case.errors_are("", "")
                && case.only_theirs().is_empty()
                && case.only_ours().iter().all(|(_, event)| event.starts_with(b"/\0"))
        },
    },
    Known {
        name: "o-shutdown-twice",
        matches: |case| {
            matches!(case.step, Step::Shutdown(who) if case.is.shut.contain(who.domid()))
                && case.our_events.is_empty()
                && case.their_events.iter().all(|(_, event)| event.starts_with(b"@releaseDomain\0"))
        },
    },
    Known {
        name: "o-mkdir-root",
        matches: |case| {
            case.kind() == op::MKDIR && case.first() == b"/" && case.errors_are("EACCES", "")
        },
    },
    Known {
        name: "o-more-arguments",
        matches: |case| {
            let lenient = [op::IS_DOMAIN_INTRODUCED, op::RESUME, op::END, op::GET_DOMAIN_PATH];
            lenient.contains(&case.kind()) && !case.is_exactly(1) && case.errors_are("EINVAL", "")
        },
    },
    Known {
        name: "o-exact-arguments",
        matches: |case| {
            let strings = match case.kind() {
                op::WATCH | op::UNWATCH | op::SET_TARGET => 2,
                op::INTRODUCE => 3,
                _ => return false,
            };
            !case.is_exactly(strings) && case.errors_are("", "EINVAL")
        },
    },
    Known {
        name: "o-unknown-domain",
        matches: |case| {
            let about = [op::RELEASE, op::RESUME, op::SET_TARGET];
            let resumed =
                case.kind() == op::RESUME && case.first() == b"0" && case.errors_are("EINVAL", "");
            about.contains(&case.kind())
                && matches!(case.errors(), ("ENOENT", "EINVAL" | "") | ("EINVAL", "ENOENT"))
                || resumed
        },
    },
    Known {
        name: "o-perms-unchecked",
        matches: |case| {
            case.kind() == op::SET_PERMS
                && match case.errors() {
                    ("ENOENT", "") => case.names_unknown_owner(),
                    ("ENOSPC" | "EPERM", "") => !case.by_control(),
                    ("EINVAL", "") => true,
                    _ => false,
                }
        },
    },
    Known {
        name: "o-path-length",
        matches: |case| {
            let refused = matches!(case.errors(), ("EINVAL", _) | (_, "EINVAL"));
            // The daemon that accepts the request sends events.
            let told = case.errors_are("EINVAL", "") || case.errors_are("", "EINVAL");
            case.first().len() > PATH_BYTES && refused && (told || case.same_events())
        },
    },
    Known {
        name: "o-silent-death",
        matches: |case| {
            matches!(case.step, Step::Destroy(_))
                && case.only_theirs().is_empty()
                && case.only_ours().iter().all(|(_, event)| !event.starts_with(b"@"))
        },
    },
    Known {
        name: "o-hidden-nodes",
        matches: |case| !case.by_control() && case.errors_are("EACCES", "ENOENT"),
    },
    Known {
        name: "o-rm-missing",
        matches: |case| case.kind() == op::RM && matches!(case.errors(), ("EACCES" | "ENOENT", "")),
    },
    Known {
        name: "o-rm-watches-below",
        matches: |case| {
            case.ours == case.theirs
                && case.only_ours().is_empty()
                && case.only_theirs().iter().all(|event| case.is_removed(event))
        },
    },
    Known {
        name: "o-order-of-checks",
        matches: |case| {
            let (ours, theirs) = case.errors();
            matches!(case.kind(), op::SET_PERMS | op::END | op::UNWATCH | op::WATCH)
                && !ours.is_empty()
                && ["EINVAL", "ENOENT", "EACCES", "EAGAIN"].contains(&theirs)
        },
    },
    Known {
        name: "o-dead-entry",
        matches: |case| {
            let by_release = case.lacks_only(&case.theirs, &case.ours, case.is.released);
            by_release || case.lacks_only(&case.ours, &case.theirs, case.is.dead)
        },
    },
    Known {
        name: "o-early-entry",
        matches: |case| {
            let is_early = |who: Who| case.is.early.contain(who.domid());
            let asks = matches!(case.step, Step::Request { who, .. } if is_early(*who));
            let refused =
                matches!(case.errors(), ("EACCES", "" | "ENOENT") | ("" | "ENOENT", "EACCES"));
            let differing = [case.only_ours(), case.only_theirs()].concat();
            let told = case.ours == case.theirs && differing.iter().all(|(who, _)| is_early(*who));
            asks && refused || told
        },
    },
    Known {
        name: "o-inherited-owner",
        matches: |case| {
            // Permission entries of other domains may be missing, too (o-dead-entry).
            let gone = case.is.dead.and(case.is.released);
            let entries = |reply| without_owner(&case.entries_without(reply, gone));
            let other_owner = case.kind() == op::GET_PERMS
                && case.errors_are("", "")
                && entries(&case.ours) == entries(&case.theirs);
            let refused =
                matches!(case.errors(), ("EACCES", "" | "ENOENT") | ("" | "ENOENT", "EACCES"));
            // With another owner, other domains may read the node; o-rm-watches-below may apply at the same time.
            let below = |event: &&(Who, Event)| event.0.is_guest() || case.is_removed(event);
            let unseen = matches!(case.kind(), op::WRITE | op::MKDIR | op::RM)
                && case.errors_are("", "")
                && case.only_ours().iter().all(|(who, _)| who.is_guest())
                && case.only_theirs().iter().all(below);
            // The node is charged to another account, too.
            let charged =
                matches!(case.kind(), op::WRITE | op::MKDIR) && case.errors_are("", "EQUOTA");
            let by_guest = !case.by_control();
            let made = case.is.by_guests || by_guest;
            case.is.by_guests && (other_owner || refused && by_guest)
                || made && unseen
                || charged && by_guest
        },
    },
];
