//! The machine's limit: a server that finds the messages in what it reads, and answers each with
//! the same three bytes.
//!
//! It does what any server of this protocol must: wait, read a batch, find where messages end,
//! write the replies at once. Nothing of a request is looked at but its length, and its type and
//! numbers are given back. What a daemon needs beyond this is the daemon's own.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use mio::net::UnixStream;
use mio::{Events, Poll, Token, Waker};
use xenstored::protocol::HEADER_BYTES;

use super::{Options, Running};
use crate::client::{Connection, Link};

/// What every request is answered with.
pub const ANSWER: &[u8; 3] = b"ok\0";
const NEWS: Token = Token(usize::MAX);

/// Starts this program as an echo server.
///
/// # Errors
/// Those of [`Running::spawn`].
pub fn start(options: &Options) -> io::Result<Running> {
    let dir = Running::directory()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("echo").arg("--socket").arg(dir.path().join("socket"));
    if let Some(threads) = options.shards {
        command.arg("--threads").arg(threads.to_string());
    }
    Running::spawn(command, dir, false)
}

/// Serves at `socket` with so many threads, for ever.
///
/// # Errors
/// Those of bind(2), of accepting and of creating threads.
pub fn serve(socket: &Path, threads: usize) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let mut lines = Vec::new();
    for number in 0..threads.max(1) {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), NEWS)?;
        let (send, receive) = channel();
        thread::Builder::new().name(format!("echo-{number}")).spawn(move || {
            if let Err(error) = echo(poll, &receive) {
                eprintln!("loadgen echo: {error}");
            }
        })?;
        lines.push((send, waker));
    }
    for turn in 0.. {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        hand_over(&lines[turn % lines.len()], UnixStream::from_std(stream))?;
    }
    Ok(())
}

fn hand_over((line, waker): &(Sender<UnixStream>, Waker), stream: UnixStream) -> io::Result<()> {
    line.send(stream).map_err(|_| io::Error::other("a thread has ended"))?;
    waker.wake()
}

/// One thread: the connections that come by `news`.
fn echo(mut poll: Poll, news: &Receiver<UnixStream>) -> io::Result<()> {
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    let mut events = Events::with_capacity(256);
    let mut next = 0;
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error);
        }
        for event in &events {
            let Token(place) = event.token();
            if let Some(connection) = connections.get_mut(&place)
                && answer(connection, &poll, event.token()).is_err()
            {
                let _ = connection.link.deregister(poll.registry());
                connections.remove(&place);
            }
        }
        while let Ok(stream) = news.try_recv() {
            let mut link = Link::Socket(stream);
            link.register(poll.registry(), Token(next))?;
            connections.insert(next, Connection::new(link));
            next += 1;
        }
    }
}

/// Answers all requests that came.
fn answer(connection: &mut Connection, poll: &Poll, token: Token) -> io::Result<()> {
    connection.receive()?;
    while let Some([kind, req_id, tx_id]) =
        connection.message()?.map(|message| [message.kind, message.req_id, message.tx_id])
    {
        connection.queue_bytes(&answer_to([kind, req_id, tx_id]));
    }
    // A client that does not read is told when there is room; so much more it costs, and only it.
    let all = connection.flush()?;
    if !all {
        connection.link.listen_for_room(poll.registry(), token, true)?;
    }
    Ok(())
}

/// An answer with this type, request and transaction.
fn answer_to([kind, req_id, tx_id]: [u32; 3]) -> [u8; HEADER_BYTES + ANSWER.len()] {
    const LEN: u32 = 3;
    const _: () = assert!(ANSWER.len() == LEN as usize);
    let mut answer = [0; HEADER_BYTES + ANSWER.len()];
    for (place, word) in [kind, req_id, tx_id, LEN].iter().enumerate() {
        answer[place * 4..][..4].copy_from_slice(&word.to_le_bytes());
    }
    answer[HEADER_BYTES..].copy_from_slice(ANSWER);
    answer
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use xenstored::protocol::Kind;

    use super::*;
    use crate::client::append;

    #[test]
    fn every_request_is_answered_with_its_numbers_however_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let path = socket.clone();
        thread::spawn(move || serve(&path, 1));
        let mut stream = loop {
            if let Ok(stream) = std::os::unix::net::UnixStream::connect(&socket) {
                break stream;
            }
        };
        let mut requests = Vec::new();
        for req_id in 0..100 {
            let payload = vec![b'x'; req_id as usize * 7];
            append(&mut requests, Kind::Read, req_id, 9, &payload);
        }
        for piece in requests.chunks(333) {
            stream.write_all(piece).unwrap();
        }
        for req_id in 0..100 {
            let mut answer = [0; 19];
            stream.read_exact(&mut answer).unwrap();
            let mut expected = Vec::new();
            for word in [2u32, req_id, 9, 3] {
                expected.extend(word.to_le_bytes());
            }
            expected.extend(ANSWER);
            assert_eq!(answer, *expected);
        }
    }
}
