//! A connection for async tasks: requests that are awaited, watches and their events.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll as Step, Waker};

use mio::Token;
use xenstored::host::sim::SimGuest;
use xenstored::protocol::{ERROR, Operation, WATCH_EVENT};

use super::connection::Connection;
use super::link::Link;
use super::message::{event, payload, words};
use super::recording::Sent;
use super::stage::Inner;
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// The result of a request: the payload, or the error's name.
pub type Reply = std::result::Result<Vec<u8>, String>;

/// The shared state of a connection's handles.
pub(super) struct State {
    place: usize,
    /// The sequence number of the connection in its stage, from 1.
    number: u64,
    stage: Rc<Inner>,
    inside: RefCell<Inside>,
}

struct Inside {
    connection: Connection,
    next_req: u32,
    waiting: VecDeque<Waiting>,
    watches: HashMap<String, Rc<RefCell<Slot<VecDeque<String>>>>>,
    /// Whether the client is on the list of clients with unsent output.
    queued: bool,
    listens_for_room: bool,
}

struct Waiting {
    req_id: u32,
    tx_id: u32,
    kind: Operation,
    slot: Rc<RefCell<Slot<Option<Reply>>>>,
}

/// A slot for a value that a task may wait for.
#[derive(Default)]
struct Slot<T> {
    arrived: T,
    waker: Option<Waker>,
}

impl<T> Slot<T> {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl State {
    /// Creates a connection in this slot of the stage.
    pub(super) fn new(place: usize, number: u64, stage: Rc<Inner>, link: Link) -> State {
        let inside = Inside {
            connection: Connection::new(link),
            next_req: 1,
            waiting: VecDeque::new(),
            watches: HashMap::new(),
            queued: false,
            listens_for_room: false,
        };
        State { place, number, stage, inside: RefCell::new(inside) }
    }

    /// Sends the queued output.
    pub(super) fn send(&self) -> Result<()> {
        let inside = &mut *self.inside.borrow_mut();
        inside.queued = false;
        let wanted = !inside.connection.flush()?;
        if wanted != inside.listens_for_room {
            let poll = self.stage.poll.borrow();
            let token = Token(self.place);
            inside.connection.link.listen_for_room(poll.registry(), token, wanted)?;
            inside.listens_for_room = wanted;
        }
        Ok(())
    }

    /// Reads the available input, and wakes the tasks that wait for it.
    pub(super) fn receive(&self) -> Result<()> {
        let inside = &mut *self.inside.borrow_mut();
        inside.connection.receive()?;
        let mut recording = self.stage.recording.borrow_mut();
        while let Some(message) = inside.connection.message()? {
            if message.kind == WATCH_EVENT {
                count(&self.stage.counts.events);
                let Some((path, token)) = event(message.payload) else {
                    wrong!("not an event: {message:?}");
                };
                if let Some(recording) = &mut *recording {
                    recording.told(self.number, path, token);
                }
                // An event in transit when its watch was removed is dropped.
                if let Some(watch) = inside.watches.get(token) {
                    let mut slot = watch.borrow_mut();
                    slot.arrived.push_back(path.to_owned());
                    slot.wake();
                }
                continue;
            }
            let Some(asked) = inside.waiting.pop_front() else {
                wrong!("unsolicited reply: {message:?}")
            };
            let answers = message.kind == asked.kind as u32 || message.kind == ERROR;
            if !answers || (message.req_id, message.tx_id) != (asked.req_id, asked.tx_id) {
                wrong!("the reply to {} {} is {message:?}", asked.kind.name(), asked.req_id);
            }
            let reply = match message.kind {
                ERROR => {
                    let name = message.payload.strip_suffix(b"\0").unwrap_or(message.payload);
                    Err(String::from_utf8_lossy(name).into_owned())
                }
                _ => Ok(message.payload.to_vec()),
            };
            self.count(asked.kind, &reply);
            if let Some(recording) = &mut *recording {
                recording.replied(self.number, message.payload.len());
            }
            let mut slot = asked.slot.borrow_mut();
            slot.arrived = Some(reply);
            slot.wake();
        }
        Ok(())
    }

    fn count(&self, kind: Operation, reply: &Reply) {
        let counts = &self.stage.counts;
        count(&counts.requests);
        match (kind, reply) {
            (Operation::TransactionEnd, Ok(_)) => count(&counts.commits),
            (Operation::TransactionEnd, Err(errno)) if errno == "EAGAIN" => {
                count(&counts.conflicts)
            }
            _ => {}
        }
    }
}

/// Waits for the reply.
async fn replied(slot: Rc<RefCell<Slot<Option<Reply>>>>) -> Reply {
    poll_fn(|context| {
        let mut slot = slot.borrow_mut();
        match slot.arrived.take() {
            Some(reply) => Step::Ready(reply),
            None => {
                slot.waker = Some(context.waker().clone());
                Step::Pending
            }
        }
    })
    .await
}

/// Increments a counter.
fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(recording) = &mut *self.stage.recording.borrow_mut() {
            recording.closed(self.number);
        }
        let link = &mut self.inside.get_mut().connection.link;
        let _ = link.deregister(self.stage.poll.borrow().registry());
        self.stage.clients.borrow_mut().try_remove(self.place);
    }
}

/// A task's handle to a connection. Clones share the connection.
#[derive(Clone)]
pub struct Client(pub(super) Rc<State>);

impl Client {
    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// Only those of the connection; the daemon's are in the reply.
    pub async fn request(&self, kind: Operation, tx_id: u32, payload: &[u8]) -> Result<Reply> {
        Ok(replied(self.queue(kind, tx_id, payload)).await)
    }

    /// Sends several requests at once, and waits for all replies.
    pub async fn several(
        &self,
        tx_id: u32,
        requests: &[(Operation, Vec<u8>)],
    ) -> Result<Vec<Reply>> {
        let queue = |(kind, payload): &(Operation, Vec<u8>)| self.queue(*kind, tx_id, payload);
        let slots: Vec<_> = requests.iter().map(queue).collect();
        let mut replies = Vec::with_capacity(slots.len());
        for slot in slots {
            replies.push(replied(slot).await);
        }
        Ok(replies)
    }

    /// Calls `what` with the guest's end of a ring, to violate the protocol; returns `None` for a socket.
    pub fn with_guest<T>(&self, what: impl FnOnce(&SimGuest) -> T) -> Option<T> {
        match &self.0.inside.borrow().connection.link {
            Link::Ring(guest) => Some(what(guest)),
            Link::Socket(_) => None,
        }
    }

    /// Stops reading, like a guest that has stopped.
    pub fn stop_reading(&self) {
        let link = &mut self.0.inside.borrow_mut().connection.link;
        let _ = link.deregister(self.0.stage.poll.borrow().registry());
    }

    /// Returns the tokens of the client's watches with the number of unread events.
    pub fn watches(&self) -> Vec<(String, usize)> {
        let inside = self.0.inside.borrow();
        let watch = |(token, slot): (&String, &Rc<RefCell<Slot<VecDeque<String>>>>)| {
            (token.clone(), slot.borrow().arrived.len())
        };
        inside.watches.iter().map(watch).collect()
    }

    fn queue(
        &self,
        kind: Operation,
        tx_id: u32,
        payload: &[u8],
    ) -> Rc<RefCell<Slot<Option<Reply>>>> {
        let inside = &mut *self.0.inside.borrow_mut();
        if let Some(recording) = &mut *self.0.stage.recording.borrow_mut() {
            let ring = inside.connection.link.ring();
            recording.asked(self.0.number, ring, &Sent { kind, tx_id, payload });
        }
        let (req_id, slot) = (inside.next_req, Rc::default());
        inside.next_req = inside.next_req.wrapping_add(1);
        inside.connection.queue(kind, req_id, tx_id, payload);
        inside.waiting.push_back(Waiting { req_id, tx_id, kind, slot: Rc::clone(&slot) });
        if !std::mem::replace(&mut inside.queued, true) {
            self.0.stage.unsent.borrow_mut().push(Rc::downgrade(&self.0));
        }
        slot
    }

    /// Like [`Client::request`], but fails on an error reply.
    pub async fn must(&self, kind: Operation, tx_id: u32, payload: &[u8]) -> Result<Vec<u8>> {
        self.request(kind, tx_id, payload).await?.map_err(|errno| {
            let asked = String::from_utf8_lossy(payload);
            ClientError::Wrong(format!("{} of {asked:?} failed with {errno}", kind.name()))
        })
    }

    /// Starts a transaction and returns its id.
    pub async fn begin(&self) -> Result<u32> {
        let id = self.must(Operation::TransactionStart, 0, b"\0").await?;
        let text = String::from_utf8_lossy(&id);
        let number = text.strip_suffix('\0').and_then(|digits| digits.parse().ok());
        number
            .filter(|&id| id != 0)
            .ok_or_else(|| ClientError::Wrong(format!("transaction {text:?}")))
    }

    /// Commits a transaction; returns `false` on a conflict.
    pub async fn commit(&self, tx_id: u32) -> Result<bool> {
        match self.request(Operation::TransactionEnd, tx_id, b"T\0").await? {
            Ok(_) => Ok(true),
            Err(errno) if errno == "EAGAIN" => Ok(false),
            Err(errno) => wrong!("TRANSACTION_END failed with {errno}"),
        }
    }

    /// Executes `body` in a transaction, and retries on conflicts. Returns the number of tries.
    pub async fn transact(&self, body: impl AsyncFn(u32) -> Result<()>) -> Result<u64> {
        for tries in 1.. {
            let tx_id = self.begin().await?;
            body(tx_id).await?;
            if self.commit(tx_id).await? {
                return Ok(tries);
            }
        }
        unreachable!("there is always a further try")
    }

    /// Writes a node.
    pub async fn write(&self, tx_id: u32, path: &str, value: impl AsRef<[u8]>) -> Result<()> {
        self.must(Operation::Write, tx_id, &payload(path, value)).await.map(drop)
    }

    /// Reads a node that must exist, as text.
    pub async fn read(&self, tx_id: u32, path: &str) -> Result<String> {
        let value = self.must(Operation::Read, tx_id, &words(&[path])).await?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// Reads a node that may not exist.
    pub async fn try_read(&self, path: &str) -> Result<Option<String>> {
        match self.request(Operation::Read, 0, &words(&[path])).await? {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            Err(errno) if errno == "ENOENT" => Ok(None),
            Err(errno) => wrong!("READ of {path} failed with {errno}"),
        }
    }

    /// Sets a watch, and takes its initial event.
    pub async fn watch(&self, path: &str, token: &str) -> Result<Watch> {
        let refused = || ClientError::Wrong(format!("a watch on {path} was refused"));
        self.try_watch(path, token).await?.ok_or_else(refused)
    }

    /// Like [`Client::watch`], but returns `None` if the daemon refuses the watch.
    pub async fn try_watch(&self, path: &str, token: &str) -> Result<Option<Watch>> {
        let slot = Rc::default();
        let watch = Watch { client: self.clone(), path: path.into(), token: token.into(), slot };
        let slot = Rc::clone(&watch.slot);
        self.0.inside.borrow_mut().watches.insert(token.into(), slot);
        if self.request(Operation::Watch, 0, &words(&[path, token])).await?.is_err() {
            self.0.inside.borrow_mut().watches.remove(token);
            return Ok(None);
        }
        let first = watch.next().await;
        if first != path {
            wrong!("the first event of a watch on {path} names {first}");
        }
        Ok(Some(watch))
    }
}

/// A watch set by a task.
pub struct Watch {
    client: Client,
    path: String,
    token: String,
    slot: Rc<RefCell<Slot<VecDeque<String>>>>,
}

impl Watch {
    /// Waits for the next event and returns its path.
    pub async fn next(&self) -> String {
        poll_fn(|context| {
            let mut slot = self.slot.borrow_mut();
            match slot.arrived.pop_front() {
                Some(path) => Step::Ready(path),
                None => {
                    slot.waker = Some(context.waker().clone());
                    Step::Pending
                }
            }
        })
        .await
    }

    /// Returns the next event, if one has arrived.
    pub fn take(&self) -> Option<String> {
        self.slot.borrow_mut().arrived.pop_front()
    }

    /// Returns whether an unread event has arrived.
    pub fn has_more(&self) -> bool {
        !self.slot.borrow().arrived.is_empty()
    }

    /// Removes the watch.
    pub async fn remove(self) -> Result<()> {
        let request = words(&[&self.path, &self.token]);
        self.client.must(Operation::Unwatch, 0, &request).await?;
        self.client.0.inside.borrow_mut().watches.remove(&self.token);
        Ok(())
    }
}
