//! Nobody waits for ever: each of these once did, or lost what it waited for.

mod common;

use std::net::Shutdown;
use std::time::{Duration, Instant};

use common::client::Link;
use common::{Client, Control, HANG, World, op};

#[test]
fn more_requests_than_are_read_at_a_time_are_all_answered() {
    let world = World::new(Control::Socket, 1);
    // Whatever their size, and wherever in a message the bytes read at a time end.
    for value in (8..600).step_by(11) {
        let mut client = Client::new("pipeline", Link::Socket(world.daemon.connect()));
        let payload = [&b"/v\0"[..], &vec![b'x'; value]].concat();
        let count = 40_000 / payload.len();
        let all: Vec<u8> =
            (0..count).flat_map(|_| client.compose(op::WRITE, 0, &payload)).collect();
        client.send_raw(&all);
        for _ in 0..count {
            client.reply().unwrap();
        }
    }
}
