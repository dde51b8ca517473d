//! Execution of the clients' requests.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use super::adopted;
use super::{SimServer, new_domain};
use crate::host::sim::fds::is_scarce;
use crate::host::sim::lines::{HELP, LINE_MAX, REPLY_MAX, Request, SimError, XENSTORE_PORT};
use crate::host::sim::socket::send_with;
use crate::sync::{Arc, Ordering};
use crate::types::Domid;

struct Reply {
    /// Without its newline.
    line: String,
    /// Descriptors attached to the reply.
    fds: Vec<Arc<OwnedFd>>,
    created: Option<Domid>,
}

impl Reply {
    fn line(line: String) -> Reply {
        Reply { line, fds: Vec::new(), created: None }
    }

    fn ok() -> Reply {
        Reply::line("ok".into())
    }

    fn lending(fd: Arc<OwnedFd>) -> Reply {
        Reply { fds: vec![fd], ..Reply::ok() }
    }

    fn of_domain(domid: Domid, fds: impl IntoIterator<Item = OwnedFd>) -> Reply {
        let fds = fds.into_iter().map(Arc::new).collect();
        Reply { fds, ..Reply::line(format!("ok {domid} {XENSTORE_PORT}")) }
    }
}

impl SimServer {
    /// Executes a request line and sends the reply. Returns whether the connection stays open.
    pub(super) fn answer(&mut self, key: usize, line: &[u8]) -> bool {
        if line.len() > LINE_MAX {
            self.send(key, &Reply::line(format!("error {}", SimError::TooLong)));
            return false;
        }
        let request = Request::parse(line).ok_or(SimError::Syntax);
        match request.and_then(|request| Ok((request, self.perform(key, request)?))) {
            Err(refusal) => self.send(key, &Reply::line(format!("error {refusal}"))),
            Ok((request, reply)) => {
                let sent = self.send(key, &reply);
                // `keep` takes effect only after the send: a domain whose descriptors did not reach the client ends
                // with the connection.
                let keep = matches!(
                    request,
                    Request::Create { keep: true, .. } | Request::Adopt { keep: true, .. }
                );
                if let Some(domid) = reply.created.filter(|_| sent && keep) {
                    self.owners.remove(&domid);
                }
                // The client of these waits for the end of its connection.
                sent && !matches!(request, Request::Leave | Request::Stop)
            }
        }
    }

    fn perform(&mut self, key: usize, request: Request) -> Result<Reply, SimError> {
        match request {
            Request::Create { domid, .. } => self.create(key, domid),
            Request::Attach { domid } => self.attach(key, domid),
            Request::Shutdown { domid, reason } => {
                self.domains.set_shutdown(guest(domid)?, Some(reason))?;
                Ok(Reply::ok())
            }
            Request::Resume { domid } => {
                self.domains.set_shutdown(guest(domid)?, None)?;
                Ok(Reply::ok())
            }
            Request::Destroy { domid } => {
                self.domains.destroy(guest(domid)?)?;
                self.owners.remove(&domid);
                Ok(Reply::ok())
            }
            Request::List { from } => {
                let listed = self.domains.list(from);
                let words = listed.iter().map(|domain| format!(" {domain}"));
                Ok(Reply::line(format!("ok{}", words.collect::<String>())))
            }
            Request::Page { domid } => {
                Ok(Reply::lending(self.domains.page(self.lent(key, domid)?)?))
            }
            Request::Channel { domid } => {
                Ok(Reply::lending(self.domains.channel(self.lent(key, domid)?)?))
            }
            Request::Adopt { domid, .. } => self.adopt(key, guest(domid)?),
            Request::Serve => self.admit_daemon(key),
            Request::Leave => {
                if self.daemon != Some(key) {
                    return Err(SimError::NotTheDaemon);
                }
                if self.unused.ends_with_daemon() {
                    self.stop.store(true, Ordering::Release);
                }
                Ok(Reply::ok())
            }
            Request::Status => Ok(Reply::line(format!("ok {}", self.status()))),
            Request::Stop => {
                self.stop.store(true, Ordering::Release);
                Ok(Reply::ok())
            }
            Request::Help => Ok(Reply::line(HELP.into())),
        }
    }

    fn create(&mut self, key: usize, domid: Option<Domid>) -> Result<Reply, SimError> {
        let (parts, ends) = new_domain()?;
        if is_scarce(&parts.channel) {
            return Err(SimError::Descriptors);
        }
        let domid = self.domains.insert(domid, parts)?;
        self.owners.insert(domid, key);
        Ok(Reply { created: Some(domid), ..Reply::of_domain(domid, ends) })
    }

    /// Adopts a domain of another host, with the descriptors received with the request.
    fn adopt(&mut self, key: usize, domid: Domid) -> Result<Reply, SimError> {
        let client = self.clients.get_mut(key).ok_or(SimError::NoEnds)?;
        let parts = adopted::parts(std::mem::take(&mut client.fds))?;
        if is_scarce(&parts.channel) {
            return Err(SimError::Descriptors);
        }
        self.domains.insert(Some(domid), parts)?;
        self.owners.insert(domid, key);
        Ok(Reply { created: Some(domid), ..Reply::of_domain(domid, []) })
    }

    /// Makes a client the daemon. Only one can serve the host at a time; one that was killed serves no more, even if
    /// the end of its connection has not been read yet.
    fn admit_daemon(&mut self, key: usize) -> Result<Reply, SimError> {
        if let Some(daemon) = self.daemon {
            if !self.has_hung_up(daemon) {
                return Err(SimError::Served);
            }
            self.close(daemon);
        }
        self.daemon = Some(key);
        let line = format!("ok {}", self.domains.guests());
        Ok(Reply { fds: self.domains.shared().into(), ..Reply::line(line) })
    }

    pub(super) fn has_hung_up(&self, key: usize) -> bool {
        let Some(client) = self.clients.get(key) else { return true };
        let mut fds = [PollFd::new(&client.stream, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = retry_on_intr(|| poll(&mut fds, Some(&now))); // No other error is possible.
        fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Returns the domain if its page and channel may be lent to this client: the control domain's only to the daemon.
    fn lent(&self, key: usize, domid: Domid) -> Result<Domid, SimError> {
        if self.daemon == Some(key) { Ok(domid) } else { guest(domid) }
    }

    fn attach(&mut self, key: usize, domid: Domid) -> Result<Reply, SimError> {
        if domid != Domid::CONTROL {
            return Err(SimError::NotThisDomain);
        }
        if self.kernel.is_some() {
            return Err(SimError::Attached);
        }
        let [page, channel] = &self.control;
        let ends = [page.try_clone()?, channel.try_clone()?];
        self.kernel = Some(key);
        Ok(Reply::of_domain(domid, ends))
    }

    /// Sends a reply. Returns whether the client's socket accepted all of the reply.
    fn send(&self, key: usize, reply: &Reply) -> bool {
        let Some(client) = self.clients.get(key) else { return false };
        let line = format!("{}\n", reply.line);
        debug_assert!(line.len() <= REPLY_MAX);
        let fds: Vec<_> = reply.fds.iter().map(|fd| fd.as_fd()).collect();
        send_with(client.stream.as_fd(), line.as_bytes(), &fds).is_ok_and(|sent| sent == line.len())
    }

    /// Closes a connection, and ends the domains that it owns.
    pub(super) fn close(&mut self, key: usize) {
        self.clients.try_remove(key);
        self.kernel.take_if(|kernel| *kernel == key);
        self.daemon.take_if(|daemon| *daemon == key);
        let owned: Vec<Domid> =
            self.owners.extract_if(.., |_, owner| *owner == key).map(|(domid, _)| domid).collect();
        for domid in owned {
            let _ = self.domains.destroy(domid); // The domain exists, as it has an owner.
        }
    }
}

/// Refuses the control domain, which lives as long as the host.
fn guest(domid: Domid) -> Result<Domid, SimError> {
    if domid == Domid::CONTROL { Err(SimError::NotThisDomain) } else { Ok(domid) }
}
