//! The client's side of the host's socket: how a process becomes a guest, or a hypervisor's hand.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::SimGuest;
use super::lines::{Listed, REPLY_MAX, Reason};
use super::socket::{receive_with, send_with};
use crate::host::Port;
use crate::words::Domid;

/// A connection to the host. Domains that it creates end when it is dropped, unless kept.
///
/// Each call is one request and waits for its reply, some 100 us. Its errors are those of the
/// connection, and the host's refusals: `NotFound` for no such domain, `AlreadyExists`,
/// `ResourceBusy`, `PermissionDenied`, `StorageFull`, `InvalidInput`, with the host's words.
#[derive(Debug)]
pub struct SimClient {
    stream: UnixStream,
}

impl SimClient {
    /// Connects to the socket of a host.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<SimClient> {
        Ok(SimClient { stream: UnixStream::connect(path)? })
    }

    /// Becomes a new domain, with this number or the next that is free. It ends with this
    /// connection.
    pub fn create(&mut self, domid: Option<Domid>) -> io::Result<SimGuest> {
        let request = domid.map_or("create".into(), |domid| format!("create {domid}"));
        Ok(self.become_guest(&request)?.0)
    }

    /// As [`SimClient::create`] with this number; answers the page's memory file too, which
    /// [`SimClient::adopt`] wants.
    pub fn create_with_page(&mut self, domid: Domid) -> io::Result<(SimGuest, OwnedFd)> {
        self.become_guest(&format!("create {domid}"))
    }

    /// As [`SimClient::create`], but the domain lives until it is destroyed.
    pub fn create_kept(&mut self, domid: Option<Domid>) -> io::Result<SimGuest> {
        let request = domid.map_or("create keep".into(), |domid| format!("create {domid} keep"));
        Ok(self.become_guest(&request)?.0)
    }

    /// The host's end of a domain's channel, to be adopted with it.
    pub fn channel(&mut self, domid: Domid) -> io::Result<OwnedFd> {
        let (_, fds) = self.ask(&format!("channel {domid}"))?;
        let [channel] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| malformed())?;
        Ok(channel)
    }

    /// Makes a domain of another host one of this host too: its page's memory file, and that
    /// host's end of its channel. Here it ends with this connection; its guest notices nothing.
    /// Answers its port.
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

    /// Becomes the control domain's kernel, until this connection ends.
    pub fn attach_control(&mut self) -> io::Result<SimGuest> {
        Ok(self.become_guest("attach 0")?.0)
    }

    /// Shuts a domain down.
    pub fn shutdown(&mut self, domid: Domid, reason: Reason) -> io::Result<()> {
        self.ask(&format!("shutdown {domid} {}", reason.name())).map(drop)
    }

    /// Lets a domain that shut down go on.
    pub fn resume(&mut self, domid: Domid) -> io::Result<()> {
        self.ask(&format!("resume {domid}")).map(drop)
    }

    /// Destroys a domain, whoever created it.
    pub fn destroy(&mut self, domid: Domid) -> io::Result<()> {
        self.ask(&format!("destroy {domid}")).map(drop)
    }

    /// All domains, the control domain first: one request for each 256 of them.
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

    /// One request and its reply: what follows the `ok`, and the descriptors.
    fn ask(&mut self, request: &str) -> io::Result<(String, Vec<OwnedFd>)> {
        self.ask_with(request, &[])
    }

    /// As [`SimClient::ask`], descriptors with the request.
    fn ask_with(
        &mut self,
        request: &str,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<(String, Vec<OwnedFd>)> {
        let line = format!("{request}\n");
        // A socket has room for a line: the reply to each is waited for before the next is sent.
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

/// The error that a refusal's first word names.
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
