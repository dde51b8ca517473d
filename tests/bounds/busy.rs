//! A client with few requests on the same thread as clients that send requests without pause.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::common::{Control, Message, World, op};

const BUSY: usize = 40;
/// Number of quanta, of 64 requests each, that one busy client needs.
const QUANTA: usize = 20;
const REQUESTS: usize = QUANTA * 64;

/// Reads the available bytes; returns their number.
fn drain(stream: &mut UnixStream) -> usize {
    let (mut bytes, mut taken) = ([0; 16 << 10], 0);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => panic!("the daemon closed a connection"),
            Ok(len) => taken += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Between two requests of the other client the thread serves one quantum of one busy client, not one of each: the
/// other client completes more sequential requests than a busy one needs quanta.
#[test]
fn client_waits_for_few_quanta_of_busy_clients() {
    let mut world = World::new(Control::Socket, 1);
    world.guest(5).write("data", "value").unwrap();
    let asked = Message { kind: op::GET_PERMS, req: 1, tx: 0, payload: b"/tool\0".to_vec() };
    let request = asked.encode();
    let busy = |_| world.daemon.connect();
    let mut busy: Vec<_> = (0..BUSY).map(busy).collect();
    for stream in &mut busy {
        stream.write_all(&request.repeat(REQUESTS)).unwrap();
        stream.set_nonblocking(true).unwrap();
    }
    let reply = 16 + b"n0\0".len();
    let (mut taken, mut asked) = (0, 0);
    while taken < BUSY * REQUESTS * reply {
        world.guest(5).read("data").unwrap();
        asked += 1;
        taken += busy.iter_mut().map(drain).sum::<usize>();
    }
    assert!(asked > 3 * QUANTA, "{asked} requests while each busy client had {QUANTA} quanta");
}
