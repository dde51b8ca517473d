//! Blocking I/O with a timeout on a client's descriptors: the few migration threads must not wait forever for a
//! stalled peer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{ioctl_fionread, retry_on_intr};
use rustix::net::{SendFlags, send};
use rustix::pipe::{PIPE_BUF, fcntl_getpipe_size};

/// Time without a byte after which I/O fails; shorter than the time for which clients wait for a reply.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Number of parts of the timeout: a suspension of this process or of the machine counts as only one part.
const PARTS: u32 = 30;

/// A descriptor with a timeout. The file status flags are not changed, since other holders of the file share them.
pub struct TimedFile {
    file: File,
    kind: FileType,
    timeout: Duration,
}

impl TimedFile {
    /// Wraps a descriptor sent by a client.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn new(descriptor: OwnedFd) -> io::Result<TimedFile> {
        let file = File::from(descriptor);
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        Ok(TimedFile { file, kind, timeout: TIMEOUT })
    }

    /// Returns whether the descriptor has a peer to wait for.
    fn has_an_end(&self) -> bool {
        matches!(self.kind, FileType::Fifo | FileType::Socket)
    }

    /// Waits until the descriptor is ready.
    ///
    /// # Errors
    /// `TimedOut` if it is not ready in time.
    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        let part = Timespec::try_from(self.timeout / PARTS).map_err(io::Error::other)?;
        for _ in 0..PARTS {
            let mut fds = [PollFd::new(&self.file, flags)];
            if retry_on_intr(|| poll(&mut fds, Some(&part)))? > 0 {
                return Ok(());
            }
        }
        let silent = self.timeout.as_secs();
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("timed out: no byte in {silent} seconds"),
        ))
    }

    /// Returns how much a writable pipe accepts without blocking: its capacity if it is empty, else one page, as no
    /// more may be free.
    fn room(&self) -> io::Result<usize> {
        match ioctl_fionread(self.file.as_fd())? {
            0 => Ok(fcntl_getpipe_size(&self.file)?),
            _ => Ok(PIPE_BUF),
        }
    }
}

impl Read for TimedFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.has_an_end() {
            self.wait(PollFlags::IN)?;
        }
        self.file.read(bytes)
    }
}

impl Write for TimedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A file has no peer that could stall, and poll(2) always reports it as ready.
        if !self.has_an_end() {
            return self.file.write(bytes);
        }
        self.wait(PollFlags::OUT)?;
        if self.kind == FileType::Socket {
            // A short write is normal, and `Interrupted` makes the caller retry. poll(2) promises room for some bytes
            // only, so without DONTWAIT the call could block.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = send(&self.file, bytes, flags).map_err(io::Error::from);
            return sent.map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::ErrorKind::Interrupted.into(),
                _ => error,
            });
        }
        let len = bytes.len().min(self.room()?);
        self.file.write(&bytes[..len])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: usize = 1 << 20;

    fn timed(descriptor: impl Into<OwnedFd>) -> TimedFile {
        TimedFile { timeout: SHORT, ..TimedFile::new(descriptor.into()).unwrap() }
    }

    fn is_timed_out<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
    }

    #[test]
    fn stalled_peer_times_out() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(is_timed_out(timed(reader.try_clone().unwrap()).read(&mut [0])));
        assert!(is_timed_out(timed(writer).write_all(&[1; LONG])));
        let (here, there) = UnixStream::pair().unwrap();
        assert!(is_timed_out(timed(there.try_clone().unwrap()).read(&mut [0])));
        assert!(is_timed_out(timed(here).write_all(&[1; LONG])));
    }

    /// Each byte restarts the timeout, so a transfer may take longer in total.
    #[test]
    fn slow_peer_does_not_time_out() {
        let bytes: Vec<u8> =
            (0..LONG).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        let (here, there) = UnixStream::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let ends: [(OwnedFd, OwnedFd); 2] =
            [(reader.into(), writer.into()), (here.into(), there.into())];
        for (from, to) in ends {
            let mut input = timed(from);
            let sent = bytes.clone();
            let writer = std::thread::spawn(move || {
                let mut output = timed(to);
                let (first, rest) = sent.split_at(LONG / 4);
                output.write_all(first).unwrap();
                output.write_all(rest).unwrap();
            });
            let mut read = Vec::new();
            for _ in 0..8 {
                std::thread::sleep(SHORT / 6);
                Read::by_ref(&mut input).take(LONG as u64 / 8).read_to_end(&mut read).unwrap();
            }
            input.read_to_end(&mut read).unwrap();
            writer.join().unwrap();
            assert!(read == bytes);
        }
    }
}
