//! The differences that are known, each with a narrow sign by which it is recognised. What each is
//! about, and why, is in docs/COMPATIBILITY.md under the same name.

use xenstored::protocol::ERROR;

use super::line::{Event, Reply};
use super::step::{Step, Tx, Who, op, show};
use super::world::Outcome;
use crate::target::Target;

/// One step on our daemon and on a peer.
pub struct Case<'a> {
    /// The peer.
    pub peer: &'a Target,
    /// What was done.
    pub step: &'a Step,
    /// Our reply, in the form that is compared.
    pub ours: Option<Reply>,
    /// The peer's.
    pub theirs: Option<Reply>,
    /// Our events, sorted.
    pub our_events: Vec<(Who, Event)>,
    /// The peer's.
    pub their_events: Vec<(Who, Event)>,
    /// The step is in a transaction, and since its start something else changed.
    pub disturbed: bool,
    /// The step introduced a domain that was introduced already.
    pub again: bool,
}

/// A difference that is known.
pub struct Known {
    /// Its name in docs/COMPATIBILITY.md.
    pub name: &'static str,
    /// Whether this is it.
    pub matches: fn(&Case<'_>) -> bool,
}

impl<'a> Case<'a> {
    /// The outcomes of a step, in the form that is compared.
    pub fn new(
        peer: &'a Target,
        step: &'a Step,
        ours: &Outcome,
        theirs: &Outcome,
        disturbed: bool,
        again: bool,
    ) -> Case<'a> {
        Case {
            peer,
            step,
            ours: ours.reply.as_ref().map(comparable),
            theirs: theirs.reply.as_ref().map(comparable),
            our_events: sorted(&ours.events),
            their_events: sorted(&theirs.events),
            disturbed,
            again,
        }
    }

    /// Whether both did the same.
    pub fn is_equal(&self) -> bool {
        self.ours == self.theirs && self.our_events == self.their_events
    }

    /// A short name of what differs, and all of it.
    pub fn describe(&self) -> (String, String) {
        let what = |reply: &Option<Reply>| match reply {
            None => "nothing".to_owned(),
            Some(Reply { kind: ERROR, payload, .. }) => show(payload),
            Some(_) => "success".to_owned(),
        };
        let kind = match self.step {
            Step::Request { kind, .. } => super::step::name(*kind),
            other => other.to_string(),
        };
        let named = format!(
            "{} {kind}: {} here, {} there, events {}",
            self.peer,
            what(&self.ours),
            what(&self.theirs),
            if self.our_events == self.their_events { "equal" } else { "differ" }
        );
        let side = |name: &str, reply: &Option<Reply>, events: &[(Who, Event)]| {
            let mut text = format!("  {name}: ");
            text += &match reply {
                None => "no reply".to_owned(),
                Some(Reply { kind: ERROR, payload, .. }) => show(payload),
                Some(reply) => format!("\"{}\"", show(&reply.payload)),
            };
            if reply.as_ref().is_some_and(|reply| !reply.echoed) {
                text += " of another transaction";
            }
            for (who, event) in events {
                text += &format!("\n      {who} gets {}", show(event));
            }
            text
        };
        let ours = side("ours", &self.ours, &self.our_events);
        let theirs = side(&self.peer.to_string(), &self.theirs, &self.their_events);
        (named, format!("{ours}\n{theirs}"))
    }

    fn kind(&self) -> u32 {
        match self.step {
            Step::Request { kind, .. } => *kind,
            _ => u32::MAX,
        }
    }

    fn is_c(&self) -> bool {
        *self.peer == Target::C
    }

    fn is_ocaml(&self) -> bool {
        *self.peer == Target::OCaml
    }

    /// The name of the error in a reply; "" if it is none.
    fn error(reply: &Option<Reply>) -> &str {
        match reply {
            Some(Reply { kind: ERROR, payload, .. }) => {
                str::from_utf8(payload).unwrap_or("").trim_end_matches('\0')
            }
            _ => "",
        }
    }

    fn errors(&self) -> (&str, &str) {
        (Case::error(&self.ours), Case::error(&self.theirs))
    }
}

/// A reply without what may differ: the order of names, numbers of generations.
fn comparable(reply: &Reply) -> Reply {
    let payload = match reply.kind {
        op::DIRECTORY => sorted_names(&reply.payload),
        op::DIRECTORY_PART => {
            let end = reply.payload.iter().position(|&byte| byte == 0).map_or(0, |at| at + 1);
            let (generation, names) = reply.payload.split_at(end);
            let is_number = generation.len() > 1
                && generation[..generation.len() - 1].iter().all(u8::is_ascii_digit);
            let first = if is_number { &b"<generation>\0"[..] } else { generation };
            [first, &sorted_names(names)].concat()
        }
        _ => reply.payload.clone(),
    };
    Reply { payload, ..*reply }
}

fn sorted_names(payload: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = payload.split_inclusive(|&byte| byte == 0).collect();
    names.sort_unstable();
    names.concat()
}

fn sorted(events: &[(Who, Event)]) -> Vec<(Who, Event)> {
    let mut events = events.to_vec();
    events.sort_unstable();
    events
}

/// The strings of a request's payload.
fn arguments(payload: &[u8]) -> Vec<&[u8]> {
    payload.split_inclusive(|&byte| byte == 0).filter_map(|s| s.strip_suffix(b"\0")).collect()
}

/// The permissions in a reply to GET_PERMS without the owner's number.
fn without_owner(reply: &Option<Reply>) -> Option<(u8, &[u8])> {
    let payload = &reply.as_ref()?.payload;
    let end = payload.iter().position(|&byte| byte == 0)?;
    Some((*payload.first()?, &payload[end..]))
}

fn is_domid(text: &[u8]) -> bool {
    let number = str::from_utf8(text).ok().filter(|text| !text.starts_with('+'));
    number.and_then(|text| text.parse::<u16>().ok()).is_some()
}

impl Case<'_> {
    fn payload(&self) -> &[u8] {
        match self.step {
            Step::Request { payload, .. } => payload,
            _ => &[],
        }
    }

    /// The first argument.
    fn first(&self) -> &[u8] {
        arguments(self.payload()).first().copied().unwrap_or_default()
    }

    fn is(&self, ours: &str, theirs: &str) -> bool {
        self.errors() == (ours, theirs)
    }

    /// The control domain asks.
    fn by_control(&self) -> bool {
        matches!(self.step, Step::Request { who, .. } if !who.is_guest())
    }

    fn theirs_is(&self, error: &str) -> bool {
        Case::error(&self.theirs) == error
    }

    fn tx(&self) -> Tx {
        match self.step {
            Step::Request { tx, .. } => *tx,
            _ => Tx::None,
        }
    }

    fn same_events(&self) -> bool {
        self.our_events == self.their_events
    }

    /// A request whose arguments are domains, one of which is no number.
    fn has_odd_domid(&self) -> bool {
        let count = match self.kind() {
            op::SET_TARGET => 2,
            op::INTRODUCE | op::RELEASE | op::RESUME => 1,
            op::GET_DOMAIN_PATH | op::IS_DOMAIN_INTRODUCED => 1,
            _ => 0,
        };
        arguments(self.payload()).iter().take(count).any(|text| !is_domid(text))
    }
}

/// Whether the daemons' stores are different from now on, so that no more can be compared.
pub fn parts(case: &Case<'_>) -> bool {
    let reads = [
        op::DIRECTORY,
        op::DIRECTORY_PART,
        op::READ,
        op::GET_PERMS,
        op::GET_DOMAIN_PATH,
        op::IS_DOMAIN_INTRODUCED,
    ];
    let (ours, theirs) = case.errors();
    ours.is_empty() != theirs.is_empty() && !reads.contains(&case.kind()) || parts_unseen(case)
}

/// What makes the stores differ although nobody sees it at once.
fn parts_unseen(case: &Case<'_>) -> bool {
    // RELEASE keeps a living domain's nodes here; both peers remove them.
    let released = case.kind() == op::RELEASE && case.is("", "");
    // oxenstored keeps watches and transactions of a domain that is introduced again.
    let kept = case.again && case.is_ocaml();
    // C holds on to the target's connection: its death is announced after that of the other.
    let held = case.kind() == op::SET_TARGET && case.is("", "") && case.is_c();
    // oxenstored makes the parents of a node before it finds that the node cannot be.
    let parents = case.is_ocaml()
        && matches!(case.kind(), op::WRITE | op::MKDIR)
        && (case.theirs_is("E2BIG") || case.theirs_is("EQUOTA"));
    // What is no proper END here ends the transaction there.
    let ended = case.is_ocaml() && case.kind() == op::END && case.theirs_is("EAGAIN");
    released || kept || held || parents || ended
}

/// All of them. The first that matches is counted.
pub const KNOWN: &[Known] = &[
    Known {
        name: "transaction-view",
        matches: |case| {
            case.disturbed
                && case.kind() == op::END
                && matches!(case.errors(), ("", "EAGAIN") | ("EAGAIN", ""))
        },
    },
    Known {
        name: "transaction-snapshot",
        matches: |case| case.disturbed && case.kind() != op::END,
    },
    Known {
        name: "introduce-control",
        matches: |case| {
            case.is_c()
                && case.kind() == op::INTRODUCE
                && case.first() == b"0"
                && case.is("EINVAL", "")
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
        name: "directory-part-offset",
        matches: |case| {
            let offset = arguments(case.payload()).get(1).copied().unwrap_or_default();
            case.is_c()
                && case.kind() == op::DIRECTORY_PART
                && Case::error(&case.ours) == "EINVAL"
                && (offset.is_empty() || !offset.iter().all(u8::is_ascii_digit))
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
        name: "unwatch-path",
        matches: |case| case.is_c() && case.kind() == op::UNWATCH && case.is("EINVAL", "ENOENT"),
    },
    Known {
        name: "special-permissions",
        matches: |case| {
            let special = |event: &(Who, Event)| event.1.starts_with(b"@");
            let told = case.kind() == op::SET_PERMS
                && case.is("", "")
                && case.their_events.is_empty()
                && case.our_events.iter().all(special);
            let hidden = case.kind() == op::GET_PERMS && case.theirs_is("EINVAL");
            case.is_c() && case.first().starts_with(b"@") && (told || hidden)
        },
    },
    Known {
        name: "path-max-control",
        matches: |case| {
            case.is_c()
                && case.by_control()
                && case.theirs_is("EINVAL")
                && case.first().len() > 2048
        },
    },
    Known {
        name: "perms-owner-first",
        matches: |case| case.is_c() && case.kind() == op::SET_PERMS && case.is("EINVAL", "ENOENT"),
    },
    Known { name: "release-nodes", matches: |case| case.kind() == op::RELEASE && case.is("", "") },
    Known {
        name: "rm-root",
        matches: |case| {
            case.kind() == op::RM && case.first() == b"/" && case.is("EINVAL", "EACCES")
        },
    },
    Known {
        name: "node-size",
        matches: |case| {
            let changes = [op::WRITE, op::MKDIR, op::SET_PERMS].contains(&case.kind());
            case.is_c() && !case.by_control() && changes && case.is("", "ENOSPC")
        },
    },
    Known {
        name: "transaction-after-quota",
        matches: |case| case.is_c() && case.kind() == op::END && case.theirs_is("ENOMEM"),
    },
    Known {
        name: "parent-sees",
        matches: |case| {
            let told = |event: &(Who, Event)| case.our_events.contains(event) || event.0.is_guest();
            let changes = [op::WRITE, op::MKDIR, op::SET_PERMS, op::END].contains(&case.kind());
            changes
                && case.ours == case.theirs
                && case.our_events.iter().all(|event| case.their_events.contains(event))
                && case.their_events.iter().all(told)
        },
    },
    Known {
        name: "nested-death",
        matches: |case| {
            let all_here = case.their_events.iter().all(|event| case.our_events.contains(event));
            case.is_c() && matches!(case.step, Step::Destroy(_)) && all_here
        },
    },
    Known {
        name: "shutdown-again",
        matches: |case| {
            case.kind() == op::INTRODUCE
                && case.is("", "")
                && case.their_events.iter().all(|event| case.our_events.contains(event))
                && case.our_events.iter().all(|event| event.1.starts_with(b"@"))
        },
    },
    Known {
        name: "watch-quota-name",
        matches: |case| case.is_c() && case.kind() == op::WATCH && case.is("ENOSPC", "E2BIG"),
    },
    Known {
        name: "o-simple-operations",
        matches: |case| case.is_ocaml() && case.kind() == op::END && case.is("", "EAGAIN"),
    },
    Known {
        name: "o-transaction-events",
        matches: |case| {
            case.is_ocaml()
                && case.kind() == op::END
                && case.is("", "")
                && case.their_events.iter().all(|event| case.our_events.contains(event))
        },
    },
    Known {
        name: "o-watch-transaction",
        matches: |case| {
            let as_here = |theirs: &Reply| Reply { echoed: true, ..theirs.clone() };
            case.is_ocaml()
                && matches!(case.kind(), op::WATCH | op::UNWATCH)
                && case.theirs.as_ref().is_some_and(|theirs| !theirs.echoed)
                && case.ours == case.theirs.as_ref().map(as_here)
                && case.same_events()
        },
    },
    Known {
        name: "o-unknown-transaction",
        matches: |case| case.is_ocaml() && case.tx() != Tx::None && case.theirs_is("EIO"),
    },
    Known { name: "o-equota", matches: |case| case.is_ocaml() && case.theirs_is("EQUOTA") },
    Known {
        name: "o-size",
        matches: |case| {
            let changes = matches!(case.kind(), op::WRITE | op::MKDIR);
            let big = case.payload().len() > 2048 && case.theirs_is("E2BIG");
            case.is_ocaml() && changes && (big || case.is("ENOSPC", ""))
        },
    },
    Known {
        name: "o-duplicates",
        matches: |case| {
            let mut merged = case.their_events.clone();
            merged.dedup();
            case.is_ocaml() && case.ours == case.theirs && case.our_events == merged
        },
    },
    Known {
        name: "o-no-directory-part",
        matches: |case| {
            case.is_ocaml() && case.kind() == op::DIRECTORY_PART && case.theirs_is("ENOSYS")
        },
    },
    Known {
        name: "o-special-nodes",
        matches: |case| {
            case.is_ocaml()
                && (case.first().starts_with(b"@")
                    || case.first() == b"/" && matches!(case.kind(), op::DIRECTORY | op::RM))
        },
    },
    Known {
        name: "o-more-arguments",
        matches: |case| {
            let lenient = [op::IS_DOMAIN_INTRODUCED, op::RESUME, op::END, op::GET_DOMAIN_PATH];
            case.is_ocaml() && lenient.contains(&case.kind()) && case.is("EINVAL", "")
        },
    },
    Known {
        name: "o-exact-arguments",
        matches: |case| {
            let exact = [op::WATCH, op::UNWATCH, op::SET_TARGET, op::INTRODUCE, op::SET_PERMS];
            case.is_ocaml() && exact.contains(&case.kind()) && case.is("", "EINVAL")
        },
    },
    Known {
        name: "o-unknown-domain",
        matches: |case| {
            let about = [op::RELEASE, op::RESUME, op::SET_TARGET];
            case.is_ocaml()
                && about.contains(&case.kind())
                && matches!(case.errors(), ("ENOENT", "EINVAL" | "") | ("EINVAL", "ENOENT"))
        },
    },
    Known {
        name: "o-perms-unchecked",
        matches: |case| {
            case.is_ocaml()
                && case.kind() == op::SET_PERMS
                && matches!(case.errors(), ("ENOENT" | "ENOSPC" | "EPERM" | "EINVAL", ""))
        },
    },
    Known { name: "o-path-length", matches: |case| case.is_ocaml() && case.first().len() > 2000 },
    Known {
        name: "o-silent-death",
        matches: |case| {
            let all_here = case.their_events.iter().all(|event| case.our_events.contains(event));
            case.is_ocaml() && matches!(case.step, Step::Destroy(_)) && all_here
        },
    },
    Known {
        name: "o-hidden-nodes",
        matches: |case| case.is_ocaml() && case.is("EACCES", "ENOENT"),
    },
    Known {
        name: "o-rm-missing",
        matches: |case| {
            case.is_ocaml()
                && case.kind() == op::RM
                && matches!(case.errors(), ("EACCES" | "ENOENT", ""))
        },
    },
    Known {
        name: "o-rm-watches-below",
        matches: |case| {
            let removes =
                matches!(case.kind(), op::RM | op::END) || matches!(case.step, Step::Destroy(_));
            let all_there = case.our_events.iter().all(|event| case.their_events.contains(event));
            case.is_ocaml() && removes && case.ours == case.theirs && all_there
        },
    },
    Known {
        name: "o-order-of-checks",
        matches: |case| {
            let (ours, theirs) = case.errors();
            case.is_ocaml()
                && matches!(case.kind(), op::SET_PERMS | op::END | op::UNWATCH | op::WATCH)
                && !ours.is_empty()
                && ["EINVAL", "ENOENT", "EACCES", "EAGAIN"].contains(&theirs)
        },
    },
    Known {
        name: "o-inherited-owner",
        matches: |case| {
            let other_owner = case.kind() == op::GET_PERMS
                && case.is("", "")
                && without_owner(&case.ours) == without_owner(&case.theirs);
            let refused = matches!(case.errors(), ("EACCES", _) | (_, "EACCES"));
            // Who does not own its new node may not be able to read it.
            let untold =
                |event: &(Who, Event)| case.their_events.contains(event) || event.0.is_guest();
            let unseen = matches!(case.kind(), op::WRITE | op::MKDIR)
                && case.is("", "")
                && case.their_events.iter().all(|event| case.our_events.contains(event))
                && case.our_events.iter().all(untold);
            case.is_ocaml() && (other_owner || (refused || unseen) && !case.by_control())
        },
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_difference_is_explained() {
        let text = include_str!("../../../docs/COMPATIBILITY.md");
        for known in KNOWN {
            assert!(text.contains(known.name), "{} is not in docs/COMPATIBILITY.md", known.name);
        }
    }
}
