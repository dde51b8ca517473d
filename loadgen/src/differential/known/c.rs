//! Known differences of Xen's C daemon of 4.17, besides those of both peers.

use super::super::line::Event;
use super::super::paths::is_no_path;
use super::super::step::{Step, Tx, Who, op};
use super::Known;
use super::case::{Case, arguments};

/// The first match counts.
pub const KNOWN: &[Known] = &[
    Known {
        name: "introduce-control",
        matches: |case| {
            case.kind() == op::INTRODUCE && case.first() == b"0" && case.errors_are("EINVAL", "")
        },
    },
    Known {
        name: "directory-part-offset",
        matches: |case| {
            let offset = arguments(case.payload()).get(1).copied().unwrap_or_default();
            case.kind() == op::DIRECTORY_PART
                && Case::error(&case.ours) == "EINVAL"
                && (offset.is_empty() || !offset.iter().all(u8::is_ascii_digit))
        },
    },
    Known {
        name: "unwatch-path",
        matches: |case| {
            case.kind() == op::UNWATCH
                && case.errors_are("EINVAL", "ENOENT")
                && is_no_path(case.first())
        },
    },
    Known {
        name: "special-permissions",
        matches: |case| {
            let told = case.kind() == op::SET_PERMS
                && case.errors_are("", "")
                && case.their_events.is_empty()
                && case.our_events.iter().all(|(_, event)| event.starts_with(b"@"));
            let hidden = case.kind() == op::GET_PERMS && case.theirs_is("EINVAL");
            case.first().starts_with(b"@") && (told || hidden)
        },
    },
    Known {
        name: "dead-entry",
        matches: |case| case.lacks_only(&case.ours, &case.theirs, case.is.dead),
    },
    Known {
        name: "path-max-control",
        matches: |case| case.by_control() && case.theirs_is("EINVAL") && case.first().len() > 2048,
    },
    Known {
        name: "perms-owner-first",
        matches: |case| {
            case.kind() == op::SET_PERMS
                && case.errors_are("EINVAL", "ENOENT")
                && is_no_path(case.first())
        },
    },
    Known {
        name: "node-size",
        matches: |case| {
            let changes = [op::WRITE, op::MKDIR, op::SET_PERMS].contains(&case.kind());
            !case.by_control() && changes && case.is.large && case.errors_are("", "ENOSPC")
        },
    },
    Known {
        name: "transaction-quota",
        matches: |case| {
            let differs = match case.kind() {
                op::WRITE | op::MKDIR => {
                    matches!(case.errors(), ("ENOSPC", "") | ("", "ENOSPC"))
                }
                op::END => case.is.disturbed && matches!(case.errors(), ("" | "EAGAIN", "ENOSPC")),
                _ => false,
            };
            case.tx() != Tx::None && !case.by_control() && differs
        },
    },
    Known {
        name: "transaction-after-quota",
        matches: |case| case.kind() == op::END && case.is.refused && case.theirs_is("ENOMEM"),
    },
    Known {
        name: "transaction-after-death",
        matches: |case| {
            let ours = ["", "EAGAIN"].contains(&Case::error(&case.ours));
            case.kind() == op::END && case.is.bereft && ours && case.theirs_is("ENOMEM")
        },
    },
    Known {
        name: "parent-gone",
        matches: |case| {
            let told = |event: &&(Who, Event)| event.0.is_guest() && case.is_removed(event);
            case.kind() == op::END
                && case.errors_are("", "")
                && case.only_theirs().is_empty()
                && case.only_ours().iter().all(told)
        },
    },
    Known {
        name: "nested-death",
        matches: |case| {
            matches!(case.step, Step::Destroy(_))
                && case.only_theirs().is_empty()
                && case.only_ours().iter().all(|(_, event)| !event.starts_with(b"@"))
        },
    },
    Known {
        name: "watch-quota-name",
        matches: |case| case.kind() == op::WATCH && case.errors_are("ENOSPC", "E2BIG"),
    },
];
