//! The events that a client must get, by the model, and what a client that reads late may miss of them.

use std::collections::VecDeque;
use std::time::Instant;

/// The events that a connection has yet to get, in the order of their commits.
#[derive(Default)]
pub struct Expected(VecDeque<Wanted>);

/// An event that the model has fired.
#[derive(Debug)]
pub struct Wanted {
    /// As `<path>|<token>`.
    text: String,
    commit: u64,
    since: Instant,
    /// The client's own request, whose reply must come first.
    own: Option<u32>,
    /// Whether it is the first event of a new watch, which is queued behind the reply at once.
    is_first: bool,
    /// Whether it may fail to come: an equal one may stand for it, or its watch is gone.
    is_optional: bool,
}

impl Expected {
    /// Adds the events of one commit, which may come in any order.
    pub fn add(&mut self, events: Vec<String>, commit: u64, since: Instant, own: Option<u32>) {
        let (is_first, is_optional) = (false, false);
        let wanted = |text| Wanted { text, commit, since, own, is_first, is_optional };
        self.0.extend(events.into_iter().map(wanted));
    }

    /// Adds the first event of a watch that was set by this request.
    pub fn add_first(&mut self, text: String, commit: u64, since: Instant, own: u32) {
        let (own, is_first, is_optional) = (Some(own), true, false);
        self.0.push_back(Wanted { text, commit, since, own, is_first, is_optional });
    }

    /// Restarts the timeouts of events.
    pub fn renew(&mut self, now: Instant) {
        self.0.iter_mut().for_each(|wanted| wanted.since = now);
    }

    /// Makes events optional.
    pub fn waive(&mut self, is_waived: impl Fn(&str, Instant) -> bool) {
        for wanted in &mut self.0 {
            wanted.is_optional |= is_waived(&wanted.text, wanted.since);
        }
    }

    /// Takes an event that came, while the client has no reply to its own requests of which `waits` returns true.
    ///
    /// An equal event of which no byte was sent stands for a later one. So this event may stand for all equal ones
    /// fired so far, but not for those after it.
    pub fn take(&mut self, text: &str, waits: impl Fn(u32) -> bool) -> Result<(), String> {
        let precedes_reply = |wanted: &Wanted| wanted.own.is_some_and(&waits);
        let is_first = |it: &Wanted| it.text == text && it.is_first && !precedes_reply(it);
        let first = self.0.iter().position(is_first);
        let at = first.or_else(|| self.0.iter().position(|wanted| wanted.text == text));
        let taken = at.and_then(|at| self.0.remove(at));
        let taken = taken.ok_or_else(|| format!("event {text} was not fired, or came before"))?;
        if !taken.is_optional && precedes_reply(&taken) {
            return Err(format!("event before the reply to the request that fired it: {taken:?}"));
        }
        if !taken.is_first {
            let is_missed = |wanted: &&Wanted| wanted.commit < taken.commit && !wanted.is_optional;
            if let Some(missed) = self.0.iter().find(is_missed) {
                return Err(format!("event {text} has overtaken {missed:?}"));
            }
            self.0.retain(|wanted| wanted.commit >= taken.commit);
        }
        for wanted in self.0.iter_mut().filter(|wanted| wanted.text == text) {
            wanted.is_optional = true;
        }
        Ok(())
    }

    /// Returns an event that should have come.
    pub fn missing(&self) -> Option<&Wanted> {
        self.0.iter().find(|wanted| !wanted.is_optional)
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
