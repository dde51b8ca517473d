//! What the clients of a stage asked and were sent, so that it can be asked and sent again.
//!
//! A request is written down with how many replies and events its client had when it asked: who
//! asks again, asks when it has as many. An event is written down at the request that led to it:
//! the last one asked that changed the path that it names.

use std::collections::HashMap;

use xenstored::protocol::Operation;
use xenstored::words::Domid;

/// A request, and what came of it.
#[derive(Debug)]
pub struct Asked {
    /// So many replies and events had come to the client before.
    pub after: (u32, u32),
    /// Bytes of its payload.
    pub len: usize,
    /// The payload of an INTRODUCE.
    pub introduce: Option<Vec<u8>>,
    /// Bytes of the reply's payload.
    pub reply: u16,
    /// The events that it led to: to which client, and the payload's bytes.
    pub events: Vec<(usize, u16)>,
}

/// A client.
#[derive(Debug)]
pub struct Actor {
    /// The domain whose ring it has; `None` for a socket.
    pub ring: Option<Domid>,
    /// It began after so many replies had come to another client: the last that came to anybody.
    pub after: Option<(usize, u32)>,
    /// It closed its connection at last.
    pub closes: bool,
    /// Its requests.
    pub asked: Vec<Asked>,
    /// Events that came to it.
    pub events: u32,
    replies: u32,
}

/// Where a request is: its client, and its number among that client's.
type Place = (usize, usize);

/// What all clients did, in the order in which they began.
#[derive(Debug, Default)]
pub struct Recording {
    /// The clients.
    pub actors: Vec<Actor>,
    /// By the number of the connection.
    numbers: HashMap<u64, usize>,
    last_reply: Option<(usize, u32)>,
    /// The last request that changed a path.
    writers: HashMap<String, Place>,
    /// What an open transaction changed.
    transactions: HashMap<(usize, u32), Vec<String>>,
    /// Watches that had no event yet, by token.
    new_watches: HashMap<(usize, String), Place>,
    last_change: Place,
}

/// A request that is sent.
pub(super) struct Sent<'p> {
    pub kind: Operation,
    pub tx_id: u32,
    pub payload: &'p [u8],
}

impl Recording {
    /// A request is sent by the connection of a number, which is a domain's ring or a socket.
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

    /// Notes what a request changes.
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

    /// A reply came.
    pub(super) fn replied(&mut self, number: u64, len: usize) {
        let Some(&actor) = self.numbers.get(&number) else { return };
        let Actor { asked, replies, .. } = &mut self.actors[actor];
        if let Some(asked) = asked.get_mut(*replies as usize) {
            asked.reply = u16::try_from(len).unwrap_or(u16::MAX);
            *replies += 1;
            self.last_reply = Some((actor, *replies));
        }
    }

    /// An event came.
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

    /// A client closed its connection.
    pub(super) fn closed(&mut self, number: u64) {
        if let Some(&actor) = self.numbers.get(&number) {
            self.actors[actor].closes = true;
        }
    }
}
