//! The client side of the host's socket, with which a process becomes a guest or manages domains.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::SimGuest;
use super::lines::{Listed, REPLY_MAX, Reason};
use super::socket::{receive_with, send_with};
use crate::host::Port;
use crate::types::Domid;

/// A connection to the host. Domains created through it end when it is dropped, unless they are kept.
///
/// Each call sends one request and waits for the reply, about 100 us. Errors are those of the connection and the
/// host's refusals: `NotFound` for an unknown domain, `AlreadyExists`, `ResourceBusy`, `PermissionDenied`,
/// `StorageFull`, `InvalidInput`, with the host's text.
#[derive(Debug)]
pub struct SimClient {
    stream: UnixStream,
}

impl SimClient {
    /// Connects to a host's socket.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<SimClient> {
        Ok(SimClient { stream: UnixStream::connect(path)? })
    }

    /// Becomes a new domain with this domid, or with the next free one. The domain ends with this connection.
    pub fn create(&mut self, domid: Option<Domid>) -> io::Result<SimGuest> {
        let request = domid.map_or("create".into(), |domid| format!("create {domid}"));
        Ok(self.become_guest(&request)?.0)
    }

    /// Like [`SimClient::create`] with this domid, but also returns the page's memory file, which [`SimClient::adopt`]
    /// takes.
    pub fn create_with_page(&mut self, domid: Domid) -> io::Result<(SimGuest, OwnedFd)> {
        self.become_guest(&format!("create {domid}"))
    }

    /// Like [`SimClient::create`], but the domain lives until it is destroyed.
    pub fn create_kept(&mut self, domid: Option<Domid>) -> io::Result<SimGuest> {
        let request = domid.map_or("create keep".into(), |domid| format!("create {domid} keep"));
        Ok(self.become_guest(&request)?.0)
    }

    /// Returns the host's end of a domain's channel, for [`SimClient::adopt`] at another host.
    pub fn channel(&mut self, domid: Domid) -> io::Result<OwnedFd> {
        let (_, fds) = self.ask(&format!("channel {domid}"))?;
        let [channel] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| malformed())?;
        Ok(channel)
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
        Ok(self.become_guest("attach 0")?.0)
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

    fn become_guest(&mut self, request: &str) -> io::Result<(SimGuest, OwnedFd)> {
        let (line, ends) = self.ask(request)?;
        let (domid, port) = line.split_once(' ').ok_or_else(malformed)?;
        let domid = Domid::parse(domid.as_bytes()).ok_or_else(malformed)?;
        let port = port.parse().map_err(|_| malformed())?;
        let [page, channel] = <[OwnedFd; 2]>::try_from(ends).map_err(|_| malformed())?;
        Ok((SimGuest::new(domid, port, page.as_fd(), channel)?, page))
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
        match line.split_once(' ').unwrap_or((line, "")) {
            ("ok", rest) => Ok((rest.to_owned(), fds)),
            ("error", refusal) => Err(error_of(refusal)),
            _ => Err(malformed()),
        }
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
