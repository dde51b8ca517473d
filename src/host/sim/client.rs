//! The client side of the host's socket, with which a process becomes a guest or manages domains.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::SimGuest;
use super::lines::{Listed, REPLY_MAX, Reason, Status};
use super::socket::{receive_with, send_with};
use crate::host::Port;
use crate::types::Domid;

/// Timeout of a reply. A host takes microseconds; one that was stopped, or another program at its socket, must not
/// block a daemon's thread for ever.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the host. Domains created through it end when it is dropped, unless they are kept.
///
/// Each call sends one request and waits for the reply, about 100 us. Errors are those of the connection and the
/// host's refusals: `NotFound` for an unknown domain, `AlreadyExists`, `ResourceBusy`, `PermissionDenied`,
/// `StorageFull`, `InvalidInput`, with the host's text. A host without a reply for ten seconds is an error, after which
/// the connection is unusable.
#[derive(Debug)]
pub struct SimClient {
    stream: UnixStream,
}

impl SimClient {
    /// Connects to a host's socket.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<SimClient> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(SimClient { stream })
    }

    /// Goes on with another process's connection, whose options it keeps.
    pub(super) fn of(stream: OwnedFd) -> SimClient {
        SimClient { stream: stream.into() }
    }

    /// Becomes a new domain with this domid, or with the next free one. The domain ends with this connection.
    pub fn create(&mut self, domid: Option<Domid>) -> io::Result<SimGuest> {
        let request = domid.map_or("create".into(), |domid| format!("create {domid}"));
        self.become_guest(&request)
    }

    /// Like [`SimClient::create`], but the domain lives until it is destroyed.
    pub fn create_kept(&mut self, domid: Option<Domid>) -> io::Result<SimGuest> {
        let request = domid.map_or("create keep".into(), |domid| format!("create {domid} keep"));
        self.become_guest(&request)
    }

    /// Returns the memory file of a domain's page, for [`SimClient::adopt`] at another host.
    pub fn page(&mut self, domid: Domid) -> io::Result<OwnedFd> {
        self.borrow(&format!("page {domid}"))
    }

    /// Returns the host's end of a domain's channel, for [`SimClient::adopt`] at another host.
    pub fn channel(&mut self, domid: Domid) -> io::Result<OwnedFd> {
        self.borrow(&format!("channel {domid}"))
    }

    fn borrow(&mut self, request: &str) -> io::Result<OwnedFd> {
        let (_, fds) = self.ask(request)?;
        let [fd] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| malformed())?;
        Ok(fd)
    }

    /// Adopts a domain of another host, given the page's memory file and that host's end of the channel. Returns the
    /// port. In this host the domain ends with this connection; its guest notices nothing.
    pub fn adopt(
        &mut self,
        domid: Domid,
        page: BorrowedFd<'_>,
        channel: BorrowedFd<'_>,
    ) -> io::Result<Port> {
        let (line, _) = self.ask_with(&format!("adopt {domid}"), &[page, channel])?;
        let (_, port) = line.split_once(' ').ok_or_else(malformed)?;
        port.parse().map_err(|_| malformed())
    }

    /// Becomes the control domain's kernel until this connection ends.
    pub fn attach_control(&mut self) -> io::Result<SimGuest> {
        self.become_guest("attach 0")
    }

    /// Shuts a domain down.
    pub fn shutdown(&mut self, domid: Domid, reason: Reason) -> io::Result<()> {
        self.ask(&format!("shutdown {domid} {}", reason.name())).map(drop)
    }

    /// Resumes a domain that shut down.
    pub fn resume(&mut self, domid: Domid) -> io::Result<()> {
        self.ask(&format!("resume {domid}")).map(drop)
    }

    /// Destroys a domain, regardless of which client created it.
    pub fn destroy(&mut self, domid: Domid) -> io::Result<()> {
        self.ask(&format!("destroy {domid}")).map(drop)
    }

    /// Returns all domains, the control domain first. Costs one request per 256 domains.
    pub fn list(&mut self) -> io::Result<Vec<Listed>> {
        let mut all: Vec<Listed> = Vec::new();
        let mut from = Domid::CONTROL;
        while from.is_real() {
            let (line, _) = self.ask(&format!("list {from}"))?;
            let words = line.split_ascii_whitespace();
            let part: Option<Vec<Listed>> = words.map(Listed::parse).collect();
            match part.ok_or_else(malformed)?.as_slice() {
                [] => break,
                part @ [.., last] if last.domid >= from => {
                    from = Domid(last.domid.0 + 1);
                    all.extend(part);
                }
                _ => return Err(malformed()),
            }
        }
        Ok(all)
    }

    /// Makes this connection the daemon's. Returns the number of guests, the table of states and the eventfd that is
    /// signalled when a domain shuts down or dies.
    ///
    /// # Errors
    /// `ResourceBusy` if another daemon serves the host.
    pub(super) fn serve(&mut self) -> io::Result<(usize, [OwnedFd; 2])> {
        let (guests, fds) = self.ask("serve")?;
        let guests = guests.parse().map_err(|_| malformed())?;
        Ok((guests, <[OwnedFd; 2]>::try_from(fds).map_err(|_| malformed())?))
    }

    /// Reports that the daemon stops, which ends a host that a daemon started. Returns once that has removed its
    /// socket.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        self.ask("leave")?;
        self.wait_for_end()
    }

    /// Returns the connection's descriptor, which hangs up when the host ends.
    pub(super) fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Returns the host's state.
    pub fn status(&mut self) -> io::Result<Status> {
        let (line, _) = self.ask("status")?;
        Status::parse(&line).ok_or_else(malformed)
    }

    /// Ends the host, and with it all domains. Returns once it has removed its socket.
    pub fn stop(&mut self) -> io::Result<()> {
        self.ask("stop")?;
        self.wait_for_end()
    }

    fn wait_for_end(&mut self) -> io::Result<()> {
        match receive_with(self.stream.as_fd(), &mut [0], &mut Vec::new()) {
            Ok(0) => Ok(()),
            Ok(_) => Err(malformed()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn become_guest(&mut self, request: &str) -> io::Result<SimGuest> {
        let (line, ends) = self.ask(request)?;
        let (domid, port) = line.split_once(' ').ok_or_else(malformed)?;
        let domid = Domid::parse(domid.as_bytes()).ok_or_else(malformed)?;
        let port = port.parse().map_err(|_| malformed())?;
        let [page, channel] = <[OwnedFd; 2]>::try_from(ends).map_err(|_| malformed())?;
        SimGuest::new(domid, port, page.as_fd(), channel)
    }

    /// Sends one request and returns the text after `ok` and the descriptors of the reply.
    fn ask(&mut self, request: &str) -> io::Result<(String, Vec<OwnedFd>)> {
        self.ask_with(request, &[])
    }

    /// Like [`SimClient::ask`], but attaches descriptors to the request.
    fn ask_with(
        &mut self,
        request: &str,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<(String, Vec<OwnedFd>)> {
        let (line, fds) = self.exchange(request, fds).inspect_err(|_| {
            // A late reply must not be taken for that of the next request.
            let _ = self.stream.shutdown(Shutdown::Both);
        })?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("ok", rest) => Ok((rest.to_owned(), fds)),
            ("error", refusal) => Err(error_of(refusal)),
            _ => Err(malformed()),
        }
    }

    /// Sends a request and returns the reply's line with its descriptors.
    fn exchange(
        &self,
        request: &str,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<(String, Vec<OwnedFd>)> {
        let line = format!("{request}\n");
        // The socket has room for a line: only one request is outstanding.
        if send_with(self.stream.as_fd(), line.as_bytes(), fds)? != line.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut reply = Vec::new();
        let mut fds = Vec::new();
        while reply.last() != Some(&b'\n') {
            let mut bytes = [0; REPLY_MAX];
            match receive_with(self.stream.as_fd(), &mut bytes, &mut fds) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) if reply.len() + n <= REPLY_MAX => reply.extend_from_slice(&bytes[..n]),
                Ok(_) => return Err(malformed()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let line = str::from_utf8(&reply).map_err(|_| malformed())?.trim_end();
        Ok((line.to_owned(), fds))
    }
}

/// Maps the first word of a refusal to an error.
fn error_of(refusal: &str) -> io::Error {
    let kind = match refusal.split(' ').next() {
        Some("EINVAL" | "E2BIG") => io::ErrorKind::InvalidInput,
        Some("ENOENT") => io::ErrorKind::NotFound,
        Some("EEXIST") => io::ErrorKind::AlreadyExists,
        Some("ENOSPC") => io::ErrorKind::StorageFull,
        Some("EBUSY") => io::ErrorKind::ResourceBusy,
        Some("EPERM") => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, refusal.to_owned())
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a reply of a simulated host")
}
