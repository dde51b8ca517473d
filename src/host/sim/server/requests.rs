//! Execution of the clients' requests.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::{Server, new_domain};
use crate::host::sim::adopted;
use crate::host::sim::domains::XENSTORE_PORT;
use crate::host::sim::lines::{HELP, LINE_MAX, REPLY_MAX, Request, SimError};
use crate::host::sim::socket::send_with;
use crate::sync::Arc;
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

    fn of_domain(domid: Domid, fds: impl IntoIterator<Item = OwnedFd>) -> Reply {
        let fds = fds.into_iter().map(Arc::new).collect();
        Reply { fds, ..Reply::line(format!("ok {domid} {XENSTORE_PORT}")) }
    }
}

impl Server {
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
                sent
            }
        }
    }

    fn perform(&mut self, key: usize, request: Request) -> Result<Reply, SimError> {
        match request {
            Request::Create { domid, .. } => self.create(key, domid),
            Request::Attach { domid } => self.attach(key, domid),
            Request::Shutdown { domid, reason } => {
                self.domains.set_shutdown(guest(domid)?, Some(reason))?;
                Ok(Reply::line("ok".into()))
            }
            Request::Resume { domid } => {
                self.domains.set_shutdown(guest(domid)?, None)?;
                Ok(Reply::line("ok".into()))
            }
            Request::Destroy { domid } => {
                self.domains.destroy(guest(domid)?)?;
                self.owners.remove(&domid);
                Ok(Reply::line("ok".into()))
            }
            Request::List { from } => {
                let listed = self.domains.list(from);
                let words = listed.iter().map(|domain| format!(" {domain}"));
                Ok(Reply::line(format!("ok{}", words.collect::<String>())))
            }
            Request::Channel { domid } => {
                let channel = self.domains.channel(guest(domid)?).ok_or(SimError::NoDomain)?;
                Ok(Reply { fds: vec![channel], ..Reply::line("ok".into()) })
            }
            Request::Adopt { domid, .. } => self.adopt(key, guest(domid)?),
            Request::Help => Ok(Reply::line(HELP.into())),
        }
    }

    fn create(&mut self, key: usize, domid: Option<Domid>) -> Result<Reply, SimError> {
        let (parts, ends) = new_domain()?;
        if self.is_scarce(&parts.channel) {
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
        if self.is_scarce(&parts.channel) {
            return Err(SimError::Descriptors);
        }
        self.domains.insert(Some(domid), parts)?;
        self.owners.insert(domid, key);
        Ok(Reply { created: Some(domid), ..Reply::of_domain(domid, []) })
    }

    pub(super) fn is_scarce(&self, newest: &impl AsRawFd) -> bool {
        u64::try_from(newest.as_raw_fd()).is_ok_and(|fd| fd > self.last_fd)
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
        if self.kernel == Some(key) {
            self.kernel = None;
        }
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
