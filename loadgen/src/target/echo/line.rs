//! A client of the echo server: its transport and buffers.

use std::io;

use xenstored::host::Channels;
use xenstored::transport::{Disconnect, Input, Ring, RingError, Transport};

/// Size of a read in bytes.
const READ_BYTES: usize = 16 << 10;

pub(super) struct Line {
    pub(super) transport: Transport,
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
    sent: usize,
    /// Number of bytes of the server's replies sent so far.
    pub(super) replied: usize,
    /// Whether the connection is on the list of connections with unsent output.
    pub(super) queued: bool,
    /// Whether the connection is polled for writability.
    pub(super) waits_for_room: bool,
}

/// The action after a send.
pub(super) enum After {
    Nothing,
    /// Wait for room to send the rest.
    WaitForRoom,
    /// Process the ring again: the ring has more requests or room, and no notification will follow.
    Again,
}

impl Line {
    pub(super) fn new(transport: Transport) -> Line {
        let (input, output) = (Vec::with_capacity(READ_BYTES), Vec::new());
        Line { transport, input, output, sent: 0, replied: 0, queued: false, waits_for_room: false }
    }

    /// Reads the available input. Returns `false` if the client is gone.
    pub(super) fn receive(&mut self) -> io::Result<bool> {
        if let Transport::Ring(ring) = &mut self.transport {
            // The consumed bytes are published before the send, which checks for more requests.
            if self.queued {
                return Ok(true);
            }
            ring.begin().map_err(broken)?;
            let before = self.input.len();
            ring.peek(&mut self.input).map_err(broken)?;
            ring.consume(self.input.len() - before);
            return Ok(true);
        }
        loop {
            match self.transport.read(&mut self.input, READ_BYTES).map_err(broken)? {
                Input::More => {}
                Input::Drained => return Ok(true),
                Input::Closed => return Ok(false),
            }
        }
    }

    /// Sends the output, and notifies a ring's guest.
    pub(super) fn send(&mut self, channels: &mut dyn Channels) -> io::Result<After> {
        self.queued = false;
        while self.sent < self.output.len() {
            match self.transport.write(&self.output[self.sent..]).map_err(ended)? {
                0 => break,
                count => self.sent += count,
            }
        }
        let all = self.sent == self.output.len();
        if all {
            self.output.clear();
            self.sent = 0;
        }
        match &mut self.transport {
            Transport::Socket(_) if all => Ok(After::Nothing),
            Transport::Socket(_) => Ok(After::WaitForRoom),
            Transport::Ring(ring) => publish(ring, all, channels),
        }
    }
}

fn publish(ring: &mut Ring, all: bool, channels: &mut dyn Channels) -> io::Result<After> {
    if ring.publish() {
        channels.notify(ring.port)?;
    }
    if ring.has_requests() || !all && ring.has_room() {
        return Ok(After::Again);
    }
    if std::mem::take(&mut ring.masked) {
        channels.unmask(ring.port)?;
    }
    Ok(After::Nothing)
}

fn ended(why: Disconnect) -> io::Error {
    match why {
        Disconnect::Gone => io::ErrorKind::BrokenPipe.into(),
        Disconnect::Broken(error) => broken(error),
    }
}

fn broken(error: RingError) -> io::Error {
    io::Error::other(format!("a ring is broken: {error}"))
}
