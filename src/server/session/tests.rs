//! Sessions in memory: the tests set the time, and there is neither a socket nor a thread.

use std::time::Duration;

use super::*;
use crate::control;
use crate::domain::{Limits, Registry};
use crate::host::NoHost;
use crate::protocol::{Frame, HEADER_BYTES, frame};
use crate::server::mailbox::Mailboxes;
use crate::server::requests::{Step, serve_first};
use crate::server::shared::Shared;
use crate::server::shared_reservations::SharedReservations;
use crate::store::{Store, matcher, reaper};
use crate::sync::AtomicU64;
use crate::types::Layout;

const READ: u8 = 2;
const TRANSACTION_START: u8 = 6;
const TRANSACTION_END: u8 = 7;
const WRITE: u8 = 11;
const ERROR: u32 = 16;

/// Creates a core for sessions of the control domain.
fn core() -> Core {
    let registry = Arc::new(Registry::new(Limits::defaults(), None));
    let control_domain = registry.get(Domid::CONTROL).unwrap();
    let mailboxes = Mailboxes([].into());
    let outlet = Arc::new(mailboxes.clone());
    let store = Store::new(Layout::new(1), registry, outlet, reaper().0, matcher().0);
    let shared = Shared {
        store: Arc::new(store),
        host: Arc::new(NoHost),
        mailboxes,
        reservations: SharedReservations::default(),
        clock: Instant::now,
        control_domain,
        watch_event_timeout: Duration::ZERO,
        ring_scan_interval: Duration::ZERO,
        moves: Default::default(),
        control: control::State::default(),
        marks_from: 0,
        deaths: AtomicU64::new(0),
        stopping: AtomicU64::new(0),
        parked: AtomicU64::new(0),
        clients: AtomicU64::new(0),
    };
    Core::new(0, Arc::new(shared), Instant::now())
}

fn session(core: &mut Core, slot: usize) -> Session {
    let reply_to = ReplyTo { thread: 0, connection: slot, id: core.next_number() };
    Session::new(reply_to, Arc::clone(&core.shared.control_domain), Kind::Socket)
}

fn request(kind: u8, tx_id: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0, tx_id, 0, 0, 0, len, 0, 0, 0];
    bytes.extend_from_slice(payload);
    bytes
}

/// Serves the first request of an input.
fn step<'s>(core: &mut Core, session: &mut Session, input: &'s [u8]) -> Step<'s> {
    let caller = session.take_caller(core);
    let step = serve_first(core, session, &caller, input);
    session.caller = Some(caller);
    step
}

/// Takes the output: the types and payloads of the messages.
fn take_output(session: &mut Session) -> Vec<(u32, Vec<u8>)> {
    let (mut messages, mut left) = (Vec::new(), session.output.unsent());
    while let Frame::Message { header, payload, rest } = frame(left) {
        messages.push((header.kind.get(), payload.to_vec()));
        left = rest;
    }
    let len = session.output.len();
    session.output.advance(len);
    messages
}

/// Returns the reply to a request that is served at once.
fn ask(core: &mut Core, session: &mut Session, input: &[u8]) -> (u32, Vec<u8>) {
    assert_eq!(step(core, session, input), Step::Served(&[]));
    take_output(session).remove(0)
}

#[test]
fn requests_split_anywhere_are_served_once_and_in_order() {
    let input = [request(WRITE, 0, b"/a\0v"), request(READ, 0, b"/a\0")].concat();
    for cut in 0..input.len() {
        let core = &mut core();
        let session = &mut session(core, 0);
        let mut left = &input[..cut];
        while let Step::Served(rest) = step(core, session, left) {
            left = rest;
        }
        assert_eq!(step(core, session, left), Step::Incomplete, "{cut}");
        let mut left = &input[cut - left.len()..];
        while let Step::Served(rest) = step(core, session, left) {
            left = rest;
        }
        let replies = take_output(session);
        assert_eq!(
            replies,
            [(u32::from(WRITE), b"OK\0".to_vec()), (u32::from(READ), b"v".to_vec())]
        );
    }
}

#[test]
fn oversized_request_is_not_served() {
    let core = &mut core();
    let session = &mut session(core, 0);
    let mut input = request(READ, 0, b"");
    input[HEADER_BYTES - 4..].copy_from_slice(&4097_u32.to_le_bytes());
    assert_eq!(step(core, session, &input), Step::TooLong(4097));
    assert!(session.output.is_empty());
}

/// A transaction that has failed twice gets a reservation; a writer waits for its end, or for the timeout.
#[test]
fn writer_of_a_reserved_path_waits_until_its_timeout() {
    let core = &mut core();
    let (reader, writer) = (&mut session(core, 0), &mut session(core, 1));
    let write = request(WRITE, 0, b"/a\0v");
    let begin = |core: &mut Core, reader: &mut Session| {
        let (_, id) = ask(core, reader, &request(TRANSACTION_START, 0, b"\0"));
        let id = std::str::from_utf8(&id[..id.len() - 1]).unwrap().parse().unwrap();
        ask(core, reader, &request(READ, id, b"/a\0"));
        id
    };
    ask(core, writer, &write);
    for value in [b"/a\x001", b"/a\x002"] {
        let id = begin(core, reader);
        ask(core, writer, &request(WRITE, 0, value));
        assert_eq!(ask(core, reader, &request(TRANSACTION_END, id, b"T\0")).0, ERROR);
    }
    let id = begin(core, reader);
    assert_eq!(step(core, writer, &write), Step::Waits);
    assert_eq!((writer.pending, writer.output.len()), (Pending::Retry, 0));
    let timeout = writer.next_timeout().unwrap();
    assert!(timeout > core.now);
    core.now = timeout;
    writer.parked = None;
    assert_eq!(ask(core, writer, &write).0, u32::from(WRITE));
    assert_eq!(writer.next_timeout(), None);
    assert_eq!(ask(core, reader, &request(TRANSACTION_END, id, b"T\0")).0, ERROR);
}
