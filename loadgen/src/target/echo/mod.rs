//! The echo server: it splits its input into messages, and replies to each with the same three bytes. Its cost is the
//! minimum on this machine.
//!
//! The echo server does what any server of this protocol must do: wait, read a batch, split it into messages, and write
//! the replies of a connection at once. The server uses only the length of a request, and copies type and ids to the
//! reply. All further cost of a daemon is the daemon's own.
//!
//! ```text
//!   INTRODUCE   starts to serve a domain's ring, like a socket
//!   SCRIPT      describes its own reply and events: lengths and connections. With it, a daemon's
//!               recorded output can be replayed
//!   any         if started with replies: each connection gets them, in order
//!   NUMBER      returns the connection's number, for SCRIPT
//!   others      three bytes
//! ```

mod line;
mod server;

use std::io;
use std::process::Command;

use xenstored::protocol::HEADER_BYTES;

use super::{Options, Running};

pub use server::serve;

/// The reply to every request.
pub const ANSWER: &[u8; 3] = b"ok\0";
const ANSWER_LEN: u32 = 3;
const _: () = assert!(ANSWER.len() == ANSWER_LEN as usize);
/// An operation, only of the echo server, whose payload describes its reply and events.
pub const SCRIPT: u32 = 1000;
/// An operation that returns the connection's number.
pub const NUMBER: u32 = 1001;
/// The ring of domain `d` is connection `RING | d`; sockets are numbered from 0 in the order of connection.
pub const RING: u32 = 1 << 31;

/// Size in bytes of a SCRIPT's reply length and event count, and of each event.
const SCRIPT_BYTES: usize = 4;
const EVENT_BYTES: usize = 6;

/// An event in a SCRIPT: the connection, and the payload's length.
pub type Scripted = (u32, u16);

/// Starts this program as an echo server.
///
/// # Errors
/// Those of [`Running::spawn`].
pub fn start(options: &Options) -> io::Result<Running> {
    let dir = Running::directory()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("echo").arg("--socket").arg(dir.path().join("socket"));
    command.arg("--sim").arg(dir.path().join("sim"));
    if let Some(threads) = options.shards {
        command.arg("--threads").arg(threads.to_string());
    }
    command.args(&options.arguments);
    Running::spawn(command, dir, true)
}

/// Appends a SCRIPT to `out`, with a payload of `len` bytes or more if needed. The SCRIPT has a reply if `reply` is a
/// length.
pub fn append_script(
    out: &mut Vec<u8>,
    req_id: u32,
    reply: Option<u16>,
    events: &[Scripted],
    len: usize,
) {
    let start = out.len();
    let count = u16::try_from(events.len()).unwrap_or(u16::MAX);
    let len = len.max(SCRIPT_BYTES + EVENT_BYTES * usize::from(count));
    append_header(out, [SCRIPT, req_id, 0, u32::try_from(len).unwrap_or(0)]);
    // The field holds the length plus one, so that 0 means no reply.
    out.extend_from_slice(&reply.map_or(0, |reply| reply + 1).to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    for (connection, event) in &events[..usize::from(count)] {
        out.extend_from_slice(&connection.to_le_bytes());
        out.extend_from_slice(&event.to_le_bytes());
    }
    out.resize(start + HEADER_BYTES + len, 0);
}

/// Decodes a SCRIPT's payload; returns `None` if it is malformed.
fn script(payload: &[u8]) -> Option<(Option<u16>, impl Iterator<Item = Scripted>)> {
    let (head, rest) = payload.split_first_chunk::<SCRIPT_BYTES>()?;
    let reply = u16::from_le_bytes([head[0], head[1]]).checked_sub(1);
    let count = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let events = rest.get(..count * EVENT_BYTES)?.as_chunks::<EVENT_BYTES>().0;
    let events = events
        .iter()
        .map(|&[a, b, c, d, e, f]| (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f])));
    Some((reply, events))
}

fn append_header(out: &mut Vec<u8>, words: [u32; 4]) {
    out.extend_from_slice(words.map(u32::to_le_bytes).as_flattened());
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::thread;
    use std::time::Duration;

    use xenstored::host::sim::{Lifetime, SimClient, SimHost, SimServer};
    use xenstored::protocol::{Operation, WATCH_EVENT, append_request};
    use xenstored::types::Domid;

    use super::*;
    use crate::client::words;

    /// Starts a server with this many threads, and connects a client.
    fn served(dir: &Path, threads: usize) -> UnixStream {
        let (socket, sim) = (dir.join("socket"), dir.join("sim"));
        let path = socket.clone();
        let (host, _stop) = SimServer::new(&sim, Lifetime::UntilStopped).unwrap();
        thread::spawn(|| host.run());
        let host = SimHost::connect(&sim).unwrap();
        thread::spawn(move || serve(&path, host, threads, Vec::new()));
        connect(&socket)
    }

    fn connect(socket: &Path) -> UnixStream {
        loop {
            if let Ok(stream) = UnixStream::connect(socket) {
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                return stream;
            }
        }
    }

    /// Reads a message: its type, request id, transaction id, and payload.
    fn message(stream: &mut UnixStream) -> ([u32; 3], Vec<u8>) {
        let mut header = [[0; 4]; 4];
        stream.read_exact(header.as_flattened_mut()).unwrap();
        let [kind, req_id, tx_id, len] = header.map(u32::from_le_bytes);
        let mut payload = vec![0; len as usize];
        stream.read_exact(&mut payload).unwrap();
        ([kind, req_id, tx_id], payload)
    }

    #[test]
    fn split_requests_get_replies_with_their_ids() {
        let dir = tempfile::tempdir().unwrap();
        let mut stream = served(dir.path(), 1);
        let mut requests = Vec::new();
        for req_id in 0..100 {
            let payload = vec![b'x'; req_id as usize * 7];
            append_request(&mut requests, Operation::Read, req_id, 9, &payload);
        }
        for piece in requests.chunks(333) {
            stream.write_all(piece).unwrap();
        }
        for req_id in 0..100 {
            assert_eq!(message(&mut stream), ([2, req_id, 9], ANSWER.to_vec()));
        }
    }

    #[test]
    fn script_selects_messages_and_recipients() {
        let dir = tempfile::tempdir().unwrap();
        let mut clients = vec![served(dir.path(), 2)];
        clients.extend((0..3).map(|_| connect(&dir.path().join("socket"))));
        let mut host = SimClient::connect(dir.path().join("sim")).unwrap();
        let guest = host.create(Some(Domid(7))).unwrap();
        let numbers: Vec<u32> = clients
            .iter_mut()
            .map(|client| {
                let mut request = Vec::new();
                append_header(&mut request, [NUMBER, 5, 0, 0]);
                client.write_all(&request).unwrap();
                u32::from_le_bytes(message(client).1.try_into().unwrap())
            })
            .collect();
        let mut requests = Vec::new();
        append_request(
            &mut requests,
            Operation::Introduce,
            1,
            0,
            &words(&["7", "1", &guest.port.to_string()]),
        );
        let mut events: Vec<Scripted> = numbers.iter().map(|&number| (number, 30)).collect();
        events.push((RING | 7, 40));
        append_script(&mut requests, 2, Some(50), &events, 100);
        append_script(&mut requests, 3, None, &events[..1], 0);
        append_script(&mut requests, 4, Some(0), &[], 0);
        clients[0].write_all(&requests).unwrap();
        assert_eq!(message(&mut clients[0]), ([8, 1, 0], ANSWER.to_vec()));
        assert_eq!(message(&mut clients[0]), ([SCRIPT, 2, 0], vec![0; 50]));
        for _ in 0..2 {
            assert_eq!(message(&mut clients[0]), ([WATCH_EVENT, 0, 0], vec![0; 30]));
        }
        assert_eq!(message(&mut clients[0]), ([SCRIPT, 4, 0], vec![]));
        for client in &mut clients[1..] {
            assert_eq!(message(client), ([WATCH_EVENT, 0, 0], vec![0; 30]));
        }
        let (mut came, mut bytes) = (0, [0; 100]);
        while came < HEADER_BYTES + 40 {
            came += guest.try_recv(&mut bytes).unwrap();
            assert!(came > 0 || guest.wait(Some(Duration::from_secs(20))).unwrap());
        }
        let mut request = Vec::new();
        append_request(&mut request, Operation::Read, 6, 0, b"name\0");
        guest.try_send(&request).unwrap();
        let mut came = 0;
        while came < HEADER_BYTES + ANSWER.len() {
            came += guest.try_recv(&mut bytes).unwrap();
            assert!(came > 0 || guest.wait(Some(Duration::from_secs(20))).unwrap());
        }
        assert_eq!(bytes[4], 6);
    }
}
