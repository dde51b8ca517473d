//! A connection to the daemon over either transport.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::HANG;
use super::ring::Ring;
use super::wire::{Message, header, op, show};

/// The outcome of a request: the reply's payload, or the name of an error.
pub type Reply = Result<Vec<u8>, String>;

/// An event as `<path>|<token>`.
pub type Event = String;

pub enum Link {
    Socket(UnixStream),
    Ring(Ring),
}

/// The header fields that a reply must have.
struct Awaited {
    kind: u32,
    req: u32,
    tx: u32,
}

pub struct Client {
    pub name: String,
    link: Link,
    input: Vec<u8>,
    awaited: VecDeque<Awaited>,
    replies: VecDeque<Reply>,
    events: VecDeque<Event>,
    next_req: u32,
    /// The types of all received messages, in order.
    pub arrived: Vec<u32>,
}

impl Client {
    pub fn new(name: &str, link: Link) -> Client {
        Client {
            name: name.to_owned(),
            link,
            input: Vec::new(),
            awaited: VecDeque::new(),
            replies: VecDeque::new(),
            events: VecDeque::new(),
            next_req: 1,
            arrived: Vec::new(),
        }
    }

    /// Returns the ring of a connection that has one; panics on a socket.
    pub fn ring(&self) -> &Ring {
        match &self.link {
            Link::Ring(ring) => ring,
            Link::Socket(_) => panic!("{} is a socket", self.name),
        }
    }

    pub fn is_ring(&self) -> bool {
        matches!(self.link, Link::Ring(_))
    }

    /// Sends a request and waits for its reply.
    pub fn request(&mut self, kind: u32, tx: u32, payload: impl AsRef<[u8]>) -> Reply {
        self.send(kind, tx, payload);
        self.reply()
    }

    /// Sends a request; a later [`Client::reply`] returns its reply.
    pub fn send(&mut self, kind: u32, tx: u32, payload: impl AsRef<[u8]>) {
        let bytes = self.compose(kind, tx, payload.as_ref());
        self.send_raw(&bytes);
    }

    /// Returns the bytes of a request and expects its reply from now on; the caller sends them.
    pub fn compose(&mut self, kind: u32, tx: u32, payload: &[u8]) -> Vec<u8> {
        let req = self.next_req;
        // Large steps expose a daemon that keeps only the low bits.
        self.next_req = self.next_req.wrapping_add(0x0101_0101);
        self.awaited.push_back(Awaited { kind, req, tx });
        Message { kind, req, tx, payload: payload.to_vec() }.encode()
    }

    /// Sends many requests in batches of 32, each before its replies are read: the replies of more would have to fit
    /// into the kernel's buffers.
    pub fn pipeline(&mut self, requests: &[(u32, u32, Vec<u8>)]) -> Vec<Reply> {
        let mut replies = Vec::with_capacity(requests.len());
        for some in requests.chunks(32) {
            let mut batch = Vec::new();
            for (kind, tx, payload) in some {
                batch.extend_from_slice(&self.compose(*kind, *tx, payload));
            }
            self.send_raw(&batch);
            replies.extend(some.iter().map(|_| self.reply()));
        }
        replies
    }

    /// Sends raw bytes. While a ring is full, reads replies, so that the daemon can continue.
    pub fn send_raw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = match &mut self.link {
                Link::Socket(socket) => socket
                    .write(bytes)
                    .unwrap_or_else(|error| panic!("{}: sending: {error}", self.name)),
                Link::Ring(ring) => ring.try_send(bytes),
            };
            bytes = &bytes[sent..];
            if sent == 0 {
                self.read_or_wait();
            }
        }
    }

    /// Sends a header without its payload.
    pub fn send_header(&mut self, kind: u32, len: u32) {
        self.send_raw(&header(kind, 0, 0, len));
    }

    /// Waits for the reply to the oldest request without one, and returns it.
    pub fn reply(&mut self) -> Reply {
        while self.replies.is_empty() {
            assert!(self.read_or_wait(), "{}: closed while a reply was awaited", self.name);
        }
        self.replies.pop_front().unwrap()
    }

    /// Returns whether a reply has arrived that was not taken yet.
    pub fn has_reply(&mut self) -> bool {
        self.poll();
        !self.replies.is_empty()
    }

    /// Waits for the next event and returns it.
    pub fn next_event(&mut self) -> Event {
        while self.events.is_empty() {
            assert!(self.read_or_wait(), "{}: closed while an event was awaited", self.name);
        }
        self.events.pop_front().unwrap()
    }

    /// Returns the events received so far. The absence of an event proves nothing unless a barrier came before.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    /// Puts an event back to the front of the queue.
    pub fn unread_event(&mut self, event: Event) {
        self.events.push_front(event);
    }

    /// Parses bytes that a test took out of the ring itself.
    pub fn received(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.sort_input();
    }

    /// Waits until the daemon closes the connection, possibly after replies; panics if it does not.
    pub fn is_closed_by_daemon(&mut self) -> bool {
        while self.read_or_wait() {}
        true
    }

    /// Drops all buffered messages and expected replies, after the daemon was asked to reset the connection.
    pub fn forget(&mut self) {
        self.input.clear();
        self.awaited.clear();
        self.replies.clear();
        self.events.clear();
    }

    /// Reads the available bytes, and waits for some if there are none; returns false once the connection is closed.
    fn read_or_wait(&mut self) -> bool {
        match &mut self.link {
            Link::Socket(socket) => {
                let mut buffer = [0; 65536];
                let count = match socket.read(&mut buffer) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                    // A read with a timeout is not restarted after a stop or a signal.
                    Err(error) if error.kind() == ErrorKind::Interrupted => return true,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => panic!(
                        "{}: timed out waiting for {} replies",
                        self.name,
                        self.awaited.len()
                    ),
                    Err(error) => panic!(
                        "{}: reading: {error}; awaiting {} replies",
                        self.name,
                        self.awaited.len()
                    ),
                };
                self.input.extend_from_slice(&buffer[..count]);
                if count == 0 {
                    return false;
                }
            }
            Link::Ring(ring) => {
                let bytes = ring.try_recv();
                if bytes.is_empty() {
                    let notified = ring.wait(HANG);
                    assert!(
                        notified,
                        "{}: timed out waiting for {} replies",
                        self.name,
                        self.awaited.len()
                    );
                }
                self.input.extend_from_slice(&bytes);
            }
        }
        self.sort_input();
        true
    }

    /// Reads the available bytes, without waiting.
    pub fn poll(&mut self) {
        match &mut self.link {
            Link::Socket(socket) => {
                socket.set_nonblocking(true).unwrap();
                let mut buffer = [0; 65536];
                let read = socket.read(&mut buffer);
                socket.set_nonblocking(false).unwrap();
                if let Ok(count) = read {
                    self.input.extend_from_slice(&buffer[..count]);
                }
            }
            Link::Ring(ring) => {
                let bytes = ring.try_recv();
                self.input.extend_from_slice(&bytes);
            }
        }
        self.sort_input();
    }

    /// Checks each complete message against the rules for all messages, and queues it.
    fn sort_input(&mut self) {
        while let Some(message) = Message::take(&mut self.input) {
            let name = &self.name;
            // Formatting takes time, so it is done for failures only.
            let payload = || show(&message.payload);
            self.arrived.push(message.kind);
            if message.kind == op::WATCH_EVENT {
                assert_eq!((message.req, message.tx), (0, 0), "{name}: event {}", payload());
                let strings: Vec<_> = message.payload.split(|&byte| byte == 0).collect();
                let [path, token, b""] = strings[..] else {
                    panic!("{name}: an event is two strings, not {}", payload());
                };
                let [path, token] = [path, token].map(String::from_utf8_lossy);
                self.events.push_back(format!("{path}|{token}"));
                continue;
            }
            let awaited = self.awaited.pop_front();
            let awaited = awaited.unwrap_or_else(|| panic!("{name}: unsolicited {message:?}"));
            assert_eq!(message.req, awaited.req, "{name}: replies out of order: {}", payload());
            assert_eq!(message.tx, awaited.tx, "{name}: transaction id of {}", payload());
            self.replies.push_back(if message.kind == op::ERROR {
                let error = payload().strip_suffix('|').expect("an error ends in NUL").to_owned();
                assert!(super::wire::ERRORS.contains(&error.as_str()), "{name}: error {error}");
                Err(error)
            } else {
                assert_eq!(message.kind, awaited.kind, "{name}: type of {}", payload());
                Ok(message.payload)
            });
        }
    }
}

/// Shorthands for requests that many tests make.
impl Client {
    pub fn write(&mut self, path: &str, value: &str) -> Reply {
        self.request(op::WRITE, 0, format!("{path}\0{value}"))
    }

    pub fn read(&mut self, path: &str) -> Reply {
        self.request(op::READ, 0, format!("{path}\0"))
    }

    pub fn mkdir(&mut self, path: &str) -> Reply {
        self.request(op::MKDIR, 0, format!("{path}\0"))
    }

    pub fn rm(&mut self, path: &str) -> Reply {
        self.request(op::RM, 0, format!("{path}\0"))
    }

    /// Returns the names of a node's children.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>, String> {
        let list = self.request(op::DIRECTORY, 0, format!("{path}\0"))?;
        let list = String::from_utf8(list).expect("names are ASCII");
        Ok(list.split_terminator('\0').map(str::to_owned).collect())
    }

    /// Sets permissions given as `n0 r5`.
    pub fn set_perms(&mut self, path: &str, perms: &str) -> Reply {
        self.request(op::SET_PERMS, 0, format!("{path}\0{}\0", perms.replace(' ', "\0")))
    }

    pub fn watch(&mut self, path: &str, token: &str) -> Reply {
        self.request(op::WATCH, 0, format!("{path}\0{token}\0"))
    }

    pub fn unwatch(&mut self, path: &str, token: &str) -> Reply {
        self.request(op::UNWATCH, 0, format!("{path}\0{token}\0"))
    }

    /// Starts a transaction and returns its id.
    pub fn start(&mut self) -> Result<u32, String> {
        self.send(op::TRANSACTION_START, 0, "\0");
        self.started()
    }

    /// Waits for the reply to TRANSACTION_START and returns the id.
    pub fn started(&mut self) -> Result<u32, String> {
        let id = self.reply()?;
        let text = show(&id);
        let digits = text.strip_suffix('|').expect("a transaction id ends in NUL");
        Ok(digits.parse().unwrap_or_else(|_| panic!("transaction id {text}")))
    }

    pub fn commit(&mut self, tx: u32) -> Reply {
        self.request(op::TRANSACTION_END, tx, "T\0")
    }

    pub fn control(&mut self, words: &str) -> Reply {
        self.request(op::CONTROL, 0, format!("{}\0", words.replace(' ', "\0")))
    }

    /// Sets a quota of a domain, or with `None` the global one.
    pub fn set_quota(&mut self, domid: Option<u16>, quota: &str, value: u32) {
        let whose = domid.map_or(String::new(), |domid| format!("{domid}\0"));
        let reply = self.request(op::SET_QUOTA, 0, format!("{whose}{quota}\0{value}\0"));
        assert_eq!(reply.as_deref(), Ok(&b"OK\0"[..]), "{quota}");
    }
}
