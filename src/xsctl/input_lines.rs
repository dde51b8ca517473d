//! Lines of standard input, as they arrive, until a signal.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// The most bytes of a line that are kept; a domid has five. The rest of a longer line is dropped.
const LINE_BYTES_MAX: usize = 256;
/// The most bytes per read, and so about the most that are in memory: a writer that is ahead waits in its pipe.
const READ_BYTES: usize = 4096;

/// Standard input, line by line.
pub struct InputLines {
    /// Becomes readable at SIGINT and SIGTERM, which end the wait for a line.
    signalled: UnixStream,
    /// Bytes that were read and not returned yet.
    pending: Vec<u8>,
    has_ended: bool,
}

impl InputLines {
    /// Makes a reader of standard input.
    ///
    /// # Errors
    /// The system refuses descriptors or signal handlers.
    pub fn open() -> io::Result<InputLines> {
        let (signalled, writer) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(InputLines { signalled, pending: Vec::new(), has_ended: false })
    }

    /// Waits for a line, and returns those that have arrived, at most `max`; none at the end of the input or at a
    /// signal. Bytes other than visible ASCII are escaped.
    ///
    /// # Errors
    /// Those of the input.
    pub fn next(&mut self, max: usize) -> io::Result<Vec<String>> {
        let mut lines = self.take(max);
        while lines.is_empty() && !self.has_ended && self.await_input()? {
            self.read()?;
            lines = self.take(max);
        }
        Ok(lines)
    }

    /// Returns the number of lines that have arrived and were not returned.
    pub fn pending(&self) -> usize {
        self.pending.iter().filter(|byte| **byte == b'\n').count()
    }

    /// Waits for input. Returns whether there is some, and no signal.
    fn await_input(&self) -> io::Result<bool> {
        let stdin = io::stdin();
        let readable = PollFlags::IN;
        let mut fds = [PollFd::new(&stdin, readable), PollFd::new(&self.signalled, readable)];
        retry_on_intr(|| poll(&mut fds, None))?;
        Ok(fds[1].revents().is_empty())
    }

    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; READ_BYTES];
        // The standard library's reader would keep bytes that poll(2) does not know of.
        match rustix::io::read(io::stdin(), &mut bytes) {
            Ok(0) => {
                self.has_ended = true;
                if self.pending.last().is_some_and(|last| *last != b'\n') {
                    self.pending.push(b'\n');
                }
            }
            Ok(len) => {
                for &byte in &bytes[..len] {
                    let line = self.pending.iter().rev().take_while(|byte| **byte != b'\n');
                    if byte == b'\n' || line.count() < LINE_BYTES_MAX {
                        self.pending.push(byte);
                    }
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes up to `max` complete lines, without blanks around them.
    fn take(&mut self, max: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < max
            && let Some(end) = self.pending.iter().position(|byte| *byte == b'\n')
        {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            lines.push(line.trim_ascii().escape_ascii().to_string());
        }
        lines
    }
}
