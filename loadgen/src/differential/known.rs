//! The differences that are known, each with a narrow sign by which it is recognised. What each is
//! about, and why, is in docs/COMPATIBILITY.md under the same name.

use std::collections::HashSet;

use super::line::{ERROR, Event, Reply};
use super::step::{Step, Who, op, show};
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
    /// Who made which requests before.
    pub seen: &'a HashSet<(Option<Who>, u32)>,
}

/// A difference that is known.
pub struct Known {
    /// Its name in docs/COMPATIBILITY.md.
    pub name: &'static str,
    /// The stores differ from then on: the peer leaves the sequence.
    pub parts: bool,
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
        seen: &'a HashSet<(Option<Who>, u32)>,
    ) -> Case<'a> {
        Case {
            peer,
            step,
            ours: ours.reply.as_ref().map(comparable),
            theirs: theirs.reply.as_ref().map(comparable),
            our_events: sorted(&ours.events),
            their_events: sorted(&theirs.events),
            disturbed,
            seen,
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
            Some(Reply { kind: ERROR, payload }) => show(payload),
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
                Some(Reply { kind: ERROR, payload }) => show(payload),
                Some(reply) => format!("\"{}\"", show(&reply.payload)),
            };
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
            Some(Reply { kind: ERROR, payload }) => {
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
    Reply { kind: reply.kind, payload }
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

/// All of them. The first that matches is counted.
pub const KNOWN: &[Known] = &[Known {
    name: "transaction-view",
    parts: true,
    matches: |case| {
        case.disturbed
            && case.kind() == op::END
            && matches!(case.errors(), ("", "EAGAIN") | ("EAGAIN", ""))
    },
}];
