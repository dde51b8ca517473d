//! How oxenstored of 4.17 differs, beside what both peers do.

use super::super::line::{Event, Reply};
use super::super::step::{Step, Tx, Who, op};
use super::case::{Case, without_owner};
use super::{Known, is_reading, is_writing};

/// Longer paths than this are measured by other limits.
const PATH_BYTES: usize = 2000;

/// The first that matches counts.
pub const KNOWN: &[Known] = &[
    Known {
        name: "o-simple-operations",
        matches: |case| case.kind() == op::END && case.errors_are("", "EAGAIN"),
    },
    Known {
        name: "o-transaction-events",
        matches: |case| {
            case.kind() == op::END
                && case.errors_are("", "")
                && case.their_events.iter().all(|event| case.our_events.contains(event))
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
        matches: |case| case.tx() != Tx::None && case.theirs_is("EIO"),
    },
    Known { name: "o-equota", matches: |case| case.theirs_is("EQUOTA") },
    Known {
        name: "o-size",
        matches: |case| {
            let changes = matches!(case.kind(), op::WRITE | op::MKDIR);
            let big = case.payload().len() > 2048 && case.theirs_is("E2BIG");
            changes && (big || case.errors_are("ENOSPC", ""))
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
            // Their permissions change in silence.
            let silent = [&b"@introduceDomain"[..], b"@releaseDomain"].contains(&path)
                && case.kind() == op::SET_PERMS
                && case.errors_are("", "")
                && case.our_events.iter().all(|event| event.1.starts_with(b"@"));
            // Its root has them among its children.
            let is_special = |name: &&[u8]| name.starts_with(b"@");
            let listed = path == b"/"
                && case.kind() == op::DIRECTORY
                && case.names_without(is_special) == case.our_names();
            named || silent || listed
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
            lenient.contains(&case.kind()) && case.errors_are("EINVAL", "")
        },
    },
    Known {
        name: "o-exact-arguments",
        matches: |case| {
            let exact = [op::WATCH, op::UNWATCH, op::SET_TARGET, op::INTRODUCE, op::SET_PERMS];
            exact.contains(&case.kind()) && case.errors_are("", "EINVAL")
        },
    },
    Known {
        name: "o-unknown-domain",
        matches: |case| {
            let about = [op::RELEASE, op::RESUME, op::SET_TARGET];
            about.contains(&case.kind())
                && matches!(case.errors(), ("ENOENT", "EINVAL" | "") | ("EINVAL", "ENOENT"))
        },
    },
    Known {
        name: "o-perms-unchecked",
        matches: |case| {
            case.kind() == op::SET_PERMS
                && matches!(case.errors(), ("ENOENT" | "ENOSPC" | "EPERM" | "EINVAL", ""))
        },
    },
    Known {
        name: "o-path-length",
        matches: |case| {
            let refused = matches!(case.errors(), ("EINVAL", _) | (_, "EINVAL"));
            // Whoever accepts it tells of it.
            let told = case.errors_are("EINVAL", "") || case.errors_are("", "EINVAL");
            case.first().len() > PATH_BYTES && refused && (told || case.same_events())
        },
    },
    Known {
        name: "o-silent-death",
        matches: |case| {
            let all_here = case.their_events.iter().all(|event| case.our_events.contains(event));
            matches!(case.step, Step::Destroy(_)) && all_here
        },
    },
    Known { name: "o-hidden-nodes", matches: |case| case.errors_are("EACCES", "ENOENT") },
    Known {
        name: "o-rm-missing",
        matches: |case| case.kind() == op::RM && matches!(case.errors(), ("EACCES" | "ENOENT", "")),
    },
    Known {
        name: "o-rm-watches-below",
        matches: |case| {
            let removes =
                matches!(case.kind(), op::RM | op::END) || matches!(case.step, Step::Destroy(_));
            let all_there = case.our_events.iter().all(|event| case.their_events.contains(event));
            removes && case.ours == case.theirs && all_there
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
        name: "o-inherited-owner",
        matches: |case| {
            let other_owner = case.kind() == op::GET_PERMS
                && case.errors_are("", "")
                && without_owner(&case.ours) == without_owner(&case.theirs);
            let refused =
                matches!(case.errors(), ("EACCES", "" | "ENOENT") | ("" | "ENOENT", "EACCES"));
            // Who does not own its new node may not be able to read it.
            let untold =
                |event: &(Who, Event)| case.their_events.contains(event) || event.0.is_guest();
            let unseen = matches!(case.kind(), op::WRITE | op::MKDIR)
                && case.errors_are("", "")
                && case.their_events.iter().all(|event| case.our_events.contains(event))
                && case.our_events.iter().all(untold);
            case.is.by_guests && (other_owner || (refused || unseen) && !case.by_control())
        },
    },
];
