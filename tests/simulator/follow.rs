//! The model does what the daemon did, in the same order, and their replies are compared.

use crate::client::{Action, as_in_model};
use crate::naive::{Events, Op, Reply};
use crate::observer::{self, Observed};
use crate::simulation::{EVENT_TIMEOUT, SNAPSHOT_AGE_MAX, Simulation, now, slot_of};

/// Returns the worker in a connection's name.
fn worker_of(name: &str) -> usize {
    name.split('.').next().and_then(|worker| worker.parse().ok()).expect("a worker's number")
}

impl Simulation {
    /// Follows one or several passes.
    pub fn follow(&mut self) -> Result<(), String> {
        let mut all = observer::take().into_iter().peekable();
        while let Some(observed) = all.next() {
            match observed {
                Observed::Born { domid } => self.model.admit(domid),
                Observed::Died { domid } => {
                    let mut events = self.model.destroy(domid);
                    if self.unnoticed.remove(&domid) {
                        for (number, texts) in self.model.special("@releaseDomain") {
                            events.entry(number).or_default().extend(texts);
                        }
                    }
                    self.fire(events, None);
                }
                Observed::Accepted { name } => {
                    let worker = worker_of(&name);
                    let number = self.accepting[worker].pop_front().ok_or("nothing to accept")?;
                    self.connections.insert(name, number);
                }
                Observed::Connected { name, domid } => {
                    let number = self.slots[slot_of(domid)];
                    self.rings.insert(domid, number);
                    self.connections.insert(name, number);
                    if domid != 0 {
                        self.fire(self.model.special("@introduceDomain"), None);
                    }
                }
                Observed::Quiesced { domid } => {
                    let number = self.rings[&domid];
                    self.waive_expired(number);
                    self.quiesced.insert(domid, None);
                }
                Observed::Unquiesced { domid } => {
                    let number = self.rings[&domid];
                    self.clients[number].expected.renew(now());
                    self.quiesced.remove(&domid);
                }
                Observed::Reset { name } => _ = self.reset(&name)?,
                Observed::Disconnected { name } => {
                    let number = self.reset(&name)?;
                    self.connections.remove(&name);
                    let domid = self.clients[number].domid;
                    let is_ring = self.rings.get(&domid) == Some(&number);
                    if is_ring {
                        self.rings.remove(&domid);
                        self.quiesced.remove(&domid);
                    }
                    // Released before its death or by it, the watches fire before the removal of its nodes or after.
                    let died = all
                        .next_if(|it| matches!(it, Observed::Died { domid: it } if *it == domid));
                    let mut events = match died {
                        Some(_) => self.model.destroy(domid),
                        None => Events::new(),
                    };
                    if is_ring {
                        for (number, texts) in self.model.special("@releaseDomain") {
                            events.entry(number).or_default().extend(texts);
                        }
                    }
                    self.fire(events, None);
                }
                Observed::Waits { req } => self.waits(req)?,
                Observed::Replied { req, kind, payload } => self.replied(req, kind, payload)?,
            }
        }
        Ok(())
    }

    /// A connection has lost its watches and transactions. Returns its client.
    pub fn reset(&mut self, name: &str) -> Result<usize, String> {
        let number = *self.connections.get(name).ok_or("no such connection")?;
        self.model.reset(number);
        self.clients[number].expected.waive(|_, _| true);
        Ok(number)
    }

    /// Finds a request and checks that it is the client's first that was not executed.
    fn next(&self, req: u32) -> Result<(usize, usize), String> {
        let number = self.requests[req as usize - 1];
        let client = &self.clients[number];
        let at = client.sent.iter().position(|sent| !sent.is_done);
        match at.filter(|at| client.sent[*at].req == req) {
            Some(at) => Ok((number, at)),
            None => Err(format!("{}: request {req} was executed out of order", client.name)),
        }
    }

    /// A removal or commit whose rest the reaper does has succeeded. A domain request is replied to when it is done.
    fn waits(&mut self, req: u32) -> Result<(), String> {
        let number = self.requests[req as usize - 1];
        let sent = self.clients[number].sent.iter().find(|sent| sent.req == req);
        match sent.map(|sent| (&sent.action, sent.is_done)) {
            Some((Action::Store(Op::Rm(_)) | Action::End(_), false)) => {
                let (number, at) = self.next(req)?;
                self.execute(number, at, Ok("OK|".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn replied(&mut self, req: u32, kind: String, payload: String) -> Result<(), String> {
        let number = self.requests[req as usize - 1];
        let at = self.clients[number].sent.iter().position(|sent| sent.req == req);
        let at = at.ok_or_else(|| format!("a second reply to {req}"))?;
        let sent = &mut self.clients[number].sent[at];
        let reply = as_in_model(&sent.action, &kind, &payload);
        if sent.reply.replace((kind, payload)).is_some() {
            return Err(format!("two replies to {req}"));
        }
        if !sent.is_done {
            let (number, at) = self.next(req)?;
            return self.execute(number, at, reply);
        }
        (reply == Ok("OK|".to_owned())).then_some(()).ok_or(format!("{req} became {reply:?}"))
    }

    /// Lets the model execute a request to which the daemon replied `got`.
    fn execute(&mut self, number: usize, at: usize, got: Reply) -> Result<(), String> {
        let sent = &mut self.clients[number].sent[at];
        sent.is_done = true;
        let (req, tx, action) = (sent.req, sent.tx, sent.action.clone());
        let (wanted, events) = self.model_reply(number, tx, &action, &got)?;
        if wanted != got {
            let name = &self.clients[number].name;
            return Err(format!("{name}: {action:?} got {got:?}, the model {wanted:?}"));
        }
        match action {
            Action::Watch(..) => {
                self.commits += 1;
                let expected = &mut self.clients[number].expected;
                for text in events.into_values().flatten() {
                    expected.add_first(text, self.commits, now(), req);
                }
            }
            _ => self.fire(events, Some((number, req))),
        }
        Ok(())
    }

    fn model_reply(
        &mut self,
        number: usize,
        tx: u32,
        action: &Action,
        got: &Reply,
    ) -> Result<(Reply, Events), String> {
        let none = Events::new;
        if tx != 0 && !self.model.is_open(number) {
            return Ok((Err("ENOENT"), none()));
        }
        Ok(match action {
            Action::Store(op) if tx == 0 => self.model.request(number, op),
            Action::Store(op) => {
                let result = self.model.in_transaction_request(number, op, got.clone());
                (result.err().unwrap_or_else(|| got.clone()), none())
            }
            Action::Watch(path, token, depth) => self.model.watch(number, path, token, *depth),
            Action::Unwatch(path, token) => {
                // What was fired for it and not queued is dropped.
                let end = format!("|{token}");
                self.clients[number].expected.waive(|text, _| text.ends_with(&end));
                (self.model.unwatch(number, path, token), none())
            }
            Action::Reset => {
                self.clients[number].expected.waive(|_, _| true);
                self.model.reset(number);
                (Ok("OK|".to_owned()), none())
            }
            Action::Start => {
                self.model.start(number);
                self.begun.insert(number, now());
                (got.clone(), none())
            }
            Action::End(commit) => self.end_transaction(number, *commit, got)?,
            Action::Introduce(_)
            | Action::Release(_)
            | Action::Quiesce(_)
            | Action::Unquiesce(_) => (got.clone(), none()),
        })
    }

    fn end_transaction(
        &mut self,
        number: usize,
        commit: bool,
        got: &Reply,
    ) -> Result<(Reply, Events), String> {
        if commit && *got == Err("EAGAIN") {
            // Its snapshot was given up, and a reply differed for a while.
            let is_old = now().duration_since(self.begun[&number]) >= SNAPSHOT_AGE_MAX;
            if self.model.would_commit(number) && !(is_old && self.model.has_changed(number)) {
                return Err(format!("{}: a conflict without a cause", self.clients[number].name));
            }
            let _ = self.model.end(number, false);
            return Ok((got.clone(), Events::new()));
        }
        Ok(self.model.end(number, commit))
    }

    /// Adds the events of a commit to what clients must get.
    fn fire(&mut self, events: Events, cause: Option<(usize, u32)>) {
        self.commits += 1;
        for (number, texts) in events {
            let own = cause.filter(|(by, _)| *by == number).map(|(_, req)| req);
            self.clients[number].expected.add(texts, self.commits, now(), own);
        }
    }

    /// A guest's events that it has not taken in time may be dropped, unless it could not take them.
    pub fn waive_expired(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if client.domid != 0 && !self.quiesced.contains_key(&client.domid) {
            client.expected.waive(|_, since| now() > since + EVENT_TIMEOUT);
        }
    }
}
