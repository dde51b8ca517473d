//! The migration socket (docs/MIGRATION.md): requests with descriptors, and one reply per domain.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::io::retry_on_intr;
use xenstored::transport::descriptors;

use super::HANG;
use super::daemon::Daemon;
use super::wire::{Message, header, op, show};

pub const EXPORT: u32 = 65552;
pub const IMPORT: u32 = 65553;
pub const DISCARD: u32 = 65554;
pub const STATES: u32 = 65555;

/// A connection to the migration socket.
pub struct Bulk {
    socket: UnixStream,
    input: Vec<u8>,
}

impl Bulk {
    pub fn connect(daemon: &Daemon) -> Bulk {
        let socket = UnixStream::connect(daemon.path("socket.migration")).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        Bulk { socket, input: Vec::new() }
    }

    /// Sends a request; `|` in the payload stands for a NUL.
    pub fn send(&mut self, kind: u32, payload: &str, descriptors: &[BorrowedFd<'_>]) {
        let payload = payload.replace('|', "\0");
        let length = u32::try_from(payload.len()).unwrap();
        let mut message = header(kind, 7, 0, length).to_vec();
        message.extend_from_slice(payload.as_bytes());
        self.send_part(&message, descriptors);
    }

    /// Sends bytes of a request, with descriptors.
    pub fn send_part(&mut self, bytes: &[u8], with: &[BorrowedFd<'_>]) {
        descriptors::send(&self.socket, bytes, with).unwrap();
    }

    /// Sends a request and returns its replies, one per line, in the notation of tables. An error is one line.
    pub fn ask(&mut self, kind: u32, payload: &str, descriptors: &[BorrowedFd<'_>]) -> String {
        self.send(kind, payload, descriptors);
        self.replies()
    }

    /// Returns the replies to the last request.
    pub fn replies(&mut self) -> String {
        let mut lines = Vec::new();
        loop {
            let reply = self.next();
            let text = show(&reply.payload);
            assert_eq!(reply.req, 7);
            if reply.kind == op::ERROR {
                lines.push(text);
                return lines.join("\n");
            }
            assert!((EXPORT..=STATES).contains(&reply.kind));
            if reply.payload == b"OK\0" {
                return lines.join("\n");
            }
            lines.push(text);
        }
    }

    fn next(&mut self) -> Message {
        loop {
            if let Some(message) = Message::take(&mut self.input) {
                return message;
            }
            let mut bytes = [0; 4096];
            let count = retry_on_intr(|| rustix::io::read(&self.socket, &mut bytes)).unwrap();
            assert!(count > 0, "the daemon closed the connection");
            self.input.extend_from_slice(&bytes[..count]);
        }
    }

    /// Returns whether the daemon closes the connection now, without a reply.
    pub fn is_closed_by_daemon(&mut self) -> bool {
        let read = retry_on_intr(|| rustix::io::read(&self.socket, &mut [0; 64]));
        matches!(read, Ok(0) | Err(rustix::io::Errno::CONNRESET))
    }

    /// Exports domains into a stream; returns the stream and the replies.
    pub fn export(&mut self, domids: &str) -> (Vec<u8>, String) {
        let mut file = tempfile::tempfile().unwrap();
        let said = self.ask(EXPORT, domids, &[file.as_fd()]);
        let mut stream = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut stream).unwrap();
        (stream, said)
    }

    pub fn import(&mut self, stream: &[u8]) -> String {
        self.ask(IMPORT, "", &[file_of(stream).as_fd()])
    }

    /// Requests the dry run of an import and returns its replies.
    pub fn check(&mut self, stream: &[u8]) -> String {
        self.ask(IMPORT, "check|", &[file_of(stream).as_fd()])
    }
}

pub fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// Returns the mark in the reply to an export.
pub fn mark(reply: &str) -> &str {
    reply.split('|').nth(2).unwrap_or_else(|| panic!("{reply}"))
}
