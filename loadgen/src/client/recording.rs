//! A recording of a stage's requests and replies, for replay.
//!
//! A request is recorded with the number of replies and events that its client had received before: a replay sends it
//! when it has received as many. An event is recorded at the request that caused it: the last request that changed
//! the event's path.

use std::collections::HashMap;

use xenstored::protocol::Operation;
use xenstored::types::Domid;

/// A request and its consequences.
#[derive(Debug)]
pub struct Asked {
    /// Number of replies and events that the client had received before.
    pub after: (u32, u32),
    /// Length of the request's payload in bytes.
    pub len: usize,
    /// The payload of an INTRODUCE.
    pub introduce: Option<Vec<u8>>,
    /// Length of the reply's payload in bytes.
    pub reply: u16,
    /// The events that the request caused: the receiving client, and the payload's length in bytes.
    pub events: Vec<(usize, u16)>,
}

/// A client and its requests.
#[derive(Debug)]
pub struct Actor {
    /// The domain whose ring the client has; `None` for a socket.
    pub ring: Option<Domid>,
    /// When the client started: after this many replies to the client that got the last reply before.
    pub after: Option<(usize, u32)>,
    /// Whether the client closed its connection.
    pub closes: bool,
    /// The client's requests in order.
    pub asked: Vec<Asked>,
    /// Number of events that the client received.
    pub events: u32,
    replies: u32,
}

/// A request's position: its client, and its index among the client's requests.
type Place = (usize, usize);

/// The requests of all clients, in the order in which the clients started.
#[derive(Debug, Default)]
pub struct Recording {
    /// The clients, in the order in which they started.
    pub actors: Vec<Actor>,
    /// Client indices by connection number.
    numbers: HashMap<u64, usize>,
    last_reply: Option<(usize, u32)>,
    /// The last request that changed each path.
    writers: HashMap<String, Place>,
    /// The paths changed in each open transaction.
    transactions: HashMap<(usize, u32), Vec<String>>,
    /// Watches without an event yet, by token.
    new_watches: HashMap<(usize, String), Place>,
    last_change: Place,
}

/// A request being sent.
pub(super) struct Sent<'p> {
    pub kind: Operation,
    pub tx_id: u32,
    pub payload: &'p [u8],
}

impl Recording {
    /// Records a request of a connection, which is a domain's ring or a socket.
    pub(super) fn asked(&mut self, number: u64, ring: Option<Domid>, request: &Sent<'_>) {
        let &Sent { kind, tx_id, payload } = request;
        let (actors, after) = (&mut self.actors, self.last_reply);
        let actor = *self.numbers.entry(number).or_insert_with(|| {
            let asked = Vec::new();
            actors.push(Actor { ring, after, closes: false, asked, events: 0, replies: 0 });
            actors.len() - 1
        });
        let place = (actor, self.actors[actor].asked.len());
        self.follow(place, kind, tx_id, payload);
        let actor = &mut self.actors[actor];
        actor.asked.push(Asked {
            after: (actor.replies, actor.events),
            len: payload.len(),
            introduce: (kind == Operation::Introduce).then(|| payload.to_vec()),
            reply: 0,
            events: Vec::new(),
        });
    }

    /// Records the changes made by a request.
    fn follow(&mut self, place: Place, kind: Operation, tx_id: u32, payload: &[u8]) {
        let mut strings = payload.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let first = strings.next().unwrap_or_default();
        match kind {
            Operation::Watch => {
                let token = strings.next().unwrap_or_default().into_owned();
                self.new_watches.insert((place.0, token), place);
            }
            Operation::Introduce => self.changed("@introduceDomain".to_owned(), place),
            Operation::Write | Operation::Mkdir | Operation::Rm | Operation::SetPerms => {
                let path = self.absolute(place.0, &first);
                match tx_id {
                    0 => self.changed(path, place),
                    _ => self.transactions.entry((place.0, tx_id)).or_default().push(path),
                }
            }
            Operation::TransactionEnd => {
                let paths = self.transactions.remove(&(place.0, tx_id)).unwrap_or_default();
                if first == "T" {
                    paths.into_iter().for_each(|path| self.changed(path, place));
                }
            }
            _ => {}
        }
    }

    fn changed(&mut self, path: String, place: Place) {
        self.writers.insert(path, place);
        self.last_change = place;
    }

    fn absolute(&self, actor: usize, path: &str) -> String {
        match self.actors[actor].ring {
            Some(domid) if !path.starts_with(['/', '@']) => format!("/local/domain/{domid}/{path}"),
            _ => path.to_owned(),
        }
    }

    /// Records a reply.
    pub(super) fn replied(&mut self, number: u64, len: usize) {
        let Some(&actor) = self.numbers.get(&number) else { return };
        let Actor { asked, replies, .. } = &mut self.actors[actor];
        if let Some(asked) = asked.get_mut(*replies as usize) {
            asked.reply = u16::try_from(len).unwrap_or(u16::MAX);
            *replies += 1;
            self.last_reply = Some((actor, *replies));
        }
    }

    /// Records an event.
    pub(super) fn told(&mut self, number: u64, path: &str, token: &str) {
        let Some(&actor) = self.numbers.get(&number) else { return };
        let path_absolute = self.absolute(actor, path);
        let first = self.new_watches.remove(&(actor, token.to_owned()));
        let cause = first.or_else(|| self.writers.get(&path_absolute).copied());
        let (by, request) = cause.unwrap_or(self.last_change);
        let len = u16::try_from(path.len() + token.len() + 2).unwrap_or(u16::MAX);
        if let Some(asked) = self.actors[by].asked.get_mut(request) {
            asked.events.push((actor, len));
            self.actors[actor].events += 1;
        }
    }

    /// Records that a client closed its connection.
    pub(super) fn closed(&mut self, number: u64) {
        if let Some(&actor) = self.numbers.get(&number) {
            self.actors[actor].closes = true;
        }
    }
}
