//! A step on our daemon and on a peer, in the form in which known differences match it.

use xenstored::protocol::ERROR;

use super::super::circumstances::{Circumstances, Guests};
use super::super::line::{Event, Reply};
use super::super::paths::{absolute, lies_below};
use super::super::step::{Step, Tx, Who, name, op, show};
use super::super::world::Outcome;
use crate::target::Target;

/// The outcomes of a step on our daemon and on a peer.
pub struct Case<'a> {
    /// The peer whose outcome is compared with ours.
    pub peer: &'a Target,
    /// The step executed.
    pub step: &'a Step,
    /// Our reply, normalised for comparison.
    pub ours: Option<Reply>,
    /// The peer's reply, normalised for comparison.
    pub theirs: Option<Reply>,
    /// Our events, sorted.
    pub our_events: Vec<(Who, Event)>,
    /// The peer's events, sorted.
    pub their_events: Vec<(Who, Event)>,
    /// Whether the receivers of the events sent only by the peer may not read their nodes.
    pub hidden: bool,
    /// The state of the sequence before the step.
    pub is: &'a Circumstances,
}

impl<'a> Case<'a> {
    /// Normalises the outcomes of a step for comparison.
    pub fn new(
        peer: &'a Target,
        step: &'a Step,
        ours: &Outcome,
        theirs: &Outcome,
        is: &'a Circumstances,
    ) -> Case<'a> {
        Case {
            peer,
            step,
            ours: ours.reply.as_ref().map(comparable),
            theirs: theirs.reply.as_ref().map(comparable),
            our_events: sorted(&ours.events),
            their_events: sorted(&theirs.events),
            hidden: false,
            is,
        }
    }

    /// Returns whether both outcomes are equal.
    pub fn is_equal(&self) -> bool {
        self.ours == self.theirs && self.our_events == self.their_events
    }

    /// Returns a short name of the difference, and a full description.
    pub fn describe(&self) -> (String, String) {
        let what = |reply: &Option<Reply>| match reply {
            None => "nothing".to_owned(),
            Some(Reply { kind: ERROR, payload, .. }) => show(payload),
            Some(_) => "success".to_owned(),
        };
        let kind = match self.step {
            Step::Request { kind, .. } => name(*kind),
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

    pub fn kind(&self) -> u32 {
        match self.step {
            Step::Request { kind, .. } => *kind,
            _ => u32::MAX,
        }
    }

    pub fn is_c(&self) -> bool {
        *self.peer == Target::C
    }

    pub fn is_ocaml(&self) -> bool {
        *self.peer == Target::OCaml
    }

    /// Returns the error's name in a reply, "" if it is not an error.
    pub fn error(reply: &Option<Reply>) -> &str {
        match reply {
            Some(Reply { kind: ERROR, payload, .. }) => {
                str::from_utf8(payload).unwrap_or("").trim_end_matches('\0')
            }
            _ => "",
        }
    }

    pub fn errors(&self) -> (&str, &str) {
        (Case::error(&self.ours), Case::error(&self.theirs))
    }
}

/// Normalises a reply: order of names, generation numbers.
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

/// Returns the node of an event.
fn event_path((who, event): &(Who, Event)) -> Vec<u8> {
    absolute(*who, event.split(|&byte| byte == 0).next().unwrap_or_default())
}

/// Returns the multiset difference of two lists of events.
fn beyond<'e>(one: &'e [(Who, Event)], other: &[(Who, Event)]) -> Vec<&'e (Who, Event)> {
    let mut other: Vec<_> = other.iter().collect();
    let mut left = Vec::new();
    for event in one {
        match other.iter().position(|same| *same == event) {
            Some(at) => drop(other.remove(at)),
            None => left.push(event),
        }
    }
    left
}

/// Returns the strings of a request's payload.
pub fn arguments(payload: &[u8]) -> Vec<&[u8]> {
    payload.split_inclusive(|&byte| byte == 0).filter_map(|s| s.strip_suffix(b"\0")).collect()
}

/// Splits a GET_PERMS reply into the first entry's letter, which is the permission of all other domains, and the
/// other entries, without the owner.
pub fn without_owner<'r>(entries: &[&'r [u8]]) -> Option<(u8, Vec<&'r [u8]>)> {
    let (owner, others) = entries.split_first()?;
    Some((*owner.first()?, others.to_vec()))
}

fn is_domid(text: &[u8]) -> bool {
    let number = str::from_utf8(text).ok().filter(|text| !text.starts_with('+'));
    number.and_then(|text| text.parse::<u16>().ok()).is_some()
}

impl Case<'_> {
    pub fn payload(&self) -> &[u8] {
        match self.step {
            Step::Request { payload, .. } => payload,
            _ => &[],
        }
    }

    /// Returns the first argument.
    pub fn first(&self) -> &[u8] {
        arguments(self.payload()).first().copied().unwrap_or_default()
    }

    pub fn errors_are(&self, ours: &str, theirs: &str) -> bool {
        self.errors() == (ours, theirs)
    }

    /// Returns whether the request is the control domain's.
    pub fn by_control(&self) -> bool {
        matches!(self.step, Step::Request { who, .. } if !who.is_guest())
    }

    pub fn theirs_is(&self, error: &str) -> bool {
        Case::error(&self.theirs) == error
    }

    pub fn tx(&self) -> Tx {
        match self.step {
            Step::Request { tx, .. } => *tx,
            _ => Tx::None,
        }
    }

    pub fn same_events(&self) -> bool {
        self.our_events == self.their_events
    }

    /// Returns the events sent only by our daemon.
    pub fn only_ours(&self) -> Vec<&(Who, Event)> {
        beyond(&self.our_events, &self.their_events)
    }

    /// Returns the events sent only by the peer.
    pub fn only_theirs(&self) -> Vec<&(Who, Event)> {
        beyond(&self.their_events, &self.our_events)
    }

    /// Returns whether an event is for a node that this step removes, or for a descendant.
    pub fn is_removed(&self, event: &(Who, Event)) -> bool {
        let path = event_path(event);
        self.is.removes.iter().any(|removed| lies_below(&path, removed))
    }

    /// Returns whether an event is for a node created by a MKDIR of the ending transaction.
    pub fn is_made(&self, event: &(Who, Event)) -> bool {
        self.is.makes.contains(&event_path(event))
    }

    /// Returns the names in our reply to DIRECTORY.
    pub fn our_names(&self) -> Vec<&[u8]> {
        self.ours.as_ref().map_or(Vec::new(), |reply| arguments(&reply.payload))
    }

    /// Returns the names in the peer's reply to DIRECTORY, without those that match `left_out`.
    pub fn names_without(&self, left_out: impl Fn(&&[u8]) -> bool) -> Vec<&[u8]> {
        let mut names = self.theirs.as_ref().map_or(Vec::new(), |reply| arguments(&reply.payload));
        names.retain(|name| !left_out(name));
        names
    }

    /// Returns the entries of a GET_PERMS reply: the owner's, and those of guests not in `left_out`.
    pub fn entries_without<'r>(&self, reply: &'r Option<Reply>, left_out: Guests) -> Vec<&'r [u8]> {
        let entries = reply.as_ref().map_or(Vec::new(), |reply| arguments(&reply.payload));
        let is_of = |entry: &[u8]| {
            let domid = entry.get(1..).and_then(|text| str::from_utf8(text).ok()?.parse().ok());
            domid.is_some_and(|domid| left_out.contain(domid))
        };
        let kept = |(at, entry): &(usize, &[u8])| *at == 0 || !is_of(entry);
        entries.into_iter().enumerate().filter(kept).map(|(_, entry)| entry).collect()
    }

    /// Returns whether two GET_PERMS replies are equal except for entries of these guests in the second, longer one.
    pub fn lacks_only(
        &self,
        fewer: &Option<Reply>,
        more: &Option<Reply>,
        left_out: Guests,
    ) -> bool {
        let count = |reply: &Option<Reply>| {
            reply.as_ref().map_or(0, |reply| arguments(&reply.payload).len())
        };
        self.kind() == op::GET_PERMS
            && self.errors_are("", "")
            && count(fewer) < count(more)
            && self.entries_without(fewer, left_out) == self.entries_without(more, left_out)
    }

    /// Returns whether the payload consists of exactly this many strings.
    pub fn is_exactly(&self, strings: usize) -> bool {
        let payload = self.payload();
        payload.ends_with(b"\0") && payload.iter().filter(|&&byte| byte == 0).count() == strings
    }

    /// Returns whether the owner in a SET_PERMS is a domain that does not exist.
    pub fn names_unknown_owner(&self) -> bool {
        let owner = arguments(self.payload()).get(1).and_then(|entry| entry.get(1..));
        let domid = owner.and_then(|digits| str::from_utf8(digits).ok()?.parse::<u16>().ok());
        domid.is_some_and(|domid| domid != 0 && !self.is.alive.contain(domid))
    }

    /// Returns whether the request takes domids as arguments and one of them is not a number.
    pub fn has_odd_domid(&self) -> bool {
        let count = match self.kind() {
            op::SET_TARGET => 2,
            op::INTRODUCE | op::RELEASE | op::RESUME => 1,
            op::GET_DOMAIN_PATH | op::IS_DOMAIN_INTRODUCED => 1,
            _ => 0,
        };
        arguments(self.payload()).iter().take(count).any(|text| !is_domid(text))
    }
}
