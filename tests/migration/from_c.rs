//! Domains of a stream that Debian's C daemon wrote (tests/golden/README.md) continue here, in the middle of their
//! messages.

use std::time::Instant;

use super::common::wire::{Message, header};
use super::*;

const STREAM: &[u8] = include_bytes!("../golden/c-4.17.stream");
/// The id of all requests whose ends or replies are in the stream.
const REQUEST: u32 = 7;

/// Reads a domain's ring until a whole reply is there. Returns the first `begun` bytes, which are the rest of a message
/// that C xenstored began to send, and the messages after them.
fn receive(world: &mut World, domid: u16, begun: usize) -> (Vec<u8>, Vec<Message>) {
    let (mut input, mut messages) = (Vec::new(), Vec::new());
    let mut rest = None;
    let since = Instant::now();
    while !messages.iter().any(|message: &Message| message.kind != op::WATCH_EVENT) {
        assert!(since.elapsed() < HANG, "no reply: {}", show(&input));
        input.extend(world.guest(domid).ring().try_recv());
        if rest.is_none() && input.len() >= begun {
            rest = Some(input.drain(..begun).collect());
        }
        while rest.is_some()
            && let Some(message) = Message::take(&mut input)
        {
            messages.push(message);
        }
    }
    (rest.unwrap_or_default(), messages)
}

/// Returns the reply among messages; events may follow it.
fn reply(messages: &[Message]) -> (u32, u32, &[u8]) {
    let mut replies = messages.iter().filter(|message| message.kind != op::WATCH_EVENT);
    let message = replies.next().unwrap();
    assert!(replies.next().is_none());
    (message.kind, message.req, &message.payload)
}

#[test]
fn domains_of_c_xenstored_continue_here() {
    each_world(|world| {
        [5, 6, 7].into_iter().for_each(|domid| world.create(domid));
        let said = Bulk::connect(&world.daemon).import(STREAM);
        assert_eq!(said, "5|OK|18|23|\n6|OK|19|4|\n7|OK|20|4|");
        for domid in [5, 6, 7] {
            world.introduce(domid);
        }
        let driver = list(world, 7);
        assert_eq!(driver, ["backend|/local/domain/7/backend", "@introduceDomain|@"]);
        unquiesce(world, "5 6 7").unwrap();

        // The device model gets the rest of its replies, and the event between them.
        let (rest, messages) = receive(world, 6, 92);
        assert_eq!(rest, [b'l'; 92]);
        assert_eq!(messages[0].payload, b"last\0its own\0");
        assert_eq!(reply(&messages), (op::WRITE, REQUEST, OK));

        // The guest sends the other half of its request.
        let payload = b"data/later\0half of a request";
        let length = u32::try_from(payload.len()).unwrap();
        let request = [&header(op::WRITE, REQUEST, 0, length)[..], payload].concat();
        world.guest(5).ring().try_send(&request[30..]);
        let (_, messages) = receive(world, 5, 0);
        assert_eq!(reply(&messages), (op::WRITE, REQUEST, OK));
        let value = world.admin.read("/local/domain/5/data/later");
        assert_eq!(value.as_deref(), Ok(&b"half of a request"[..]));
        world.check_store();
    });
}
