//! A link with its input and output buffers.

use std::io;

use xenstored::protocol::{Input, Message, Operation, append_request};

use super::link::Link;
use super::message::Request;

/// A link with its unread input and unsent output.
pub struct Connection {
    /// The transport to the daemon.
    pub link: Link,
    input: Input,
    output: Vec<u8>,
    sent: usize,
}

impl Connection {
    /// Creates a connection with empty buffers.
    pub fn new(link: Link) -> Connection {
        Connection { link, input: Input::default(), output: Vec::new(), sent: 0 }
    }

    /// Queues a request; [`Connection::flush`] sends it.
    pub fn queue(&mut self, kind: Operation, req_id: u32, tx_id: u32, payload: &[u8]) {
        append_request(&mut self.output, kind, req_id, tx_id, payload);
    }

    /// Queues a prepared request.
    pub fn queue_request(&mut self, request: &Request, req_id: u32) {
        request.append(&mut self.output, req_id);
    }

    /// Queues raw bytes.
    pub fn queue_bytes(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Sends as much as the daemon accepts; returns whether that was everything.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.output.len() {
            match self.link.send(&self.output[self.sent..])? {
                0 => return Ok(false),
                count => self.sent += count,
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Reads the available input.
    ///
    /// # Errors
    /// `UnexpectedEof` if the daemon closed the connection.
    pub fn receive(&mut self) -> io::Result<()> {
        self.link.receive(self.input.buffer())
    }

    /// Returns the next complete message, if there is one.
    ///
    /// # Errors
    /// `InvalidData` if it exceeds the maximum length.
    pub fn message(&mut self) -> io::Result<Option<Message<'_>>> {
        self.input.take()
    }
}
