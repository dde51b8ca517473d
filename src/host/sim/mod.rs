//! The simulated host: guests are processes on this machine (docs/SIM.md).
//!
//! ```text
//!    a guest (client, guest)               the daemon
//!   +------------------------+   lines    +--------------------------------+
//!   | SimClient  ------------|------------|-> server: one thread           |
//!   |                        |  ok + fds  |      | creates, destroys        |
//!   |                        |            |   domains: the table           |
//!   | SimGuest               |            |      ^ claims, pages, states   |
//!   |   page     ============|= a memfd ==|=>  RingPage    (no descriptor) |
//!   |   channel  ------------|- packets --|-> channels: one epoll a thread |
//!   +------------------------+            +--------------------------------+
//! ```
//!
//! A domain costs the daemon one descriptor: its end of the channel. The page is mapped once, when the domain is
//! created, and its memory file is closed; all views share that mapping. A domain that moves to another host takes
//! page and channel along (adopted).

mod adopted;
mod channels;
pub mod client;
mod domains;
mod fds;
pub mod guest;
mod lines;
mod server;
mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use channels::SimChannels;
pub use client::SimClient;
use domains::Domains;
pub use domains::XENSTORE_PORT;
pub use guest::SimGuest;
pub use lines::{Listed, Reason};
use server::{Server, Stop};

use crate::host::{Channels, DomainState, Gfn, Host, Port, RingPage};
use crate::sync::Arc;
use crate::types::Domid;

/// A host without a hypervisor. Dropping it ends its socket and thread; open handles keep their domains until they
/// are dropped too.
pub struct SimHost {
    domains: Arc<Domains>,
    path: PathBuf,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl SimHost {
    /// Starts a host with the control domain, and serves guests at the socket `path` (mode 0600). A stale socket is
    /// replaced. The open files limit is read here: domains and clients leave 1,024 descriptors, or a quarter of the
    /// limit, to the rest of the process.
    ///
    /// # Errors
    /// `AddrInUse` if another process serves the socket, `AlreadyExists` if the path is not a socket; those of
    /// bind(2), such as a path that is too long (108 bytes), and of thread creation.
    pub fn start(path: impl AsRef<Path>) -> io::Result<SimHost> {
        let path = path.as_ref().to_path_buf();
        let domains = Arc::new(Domains::new());
        let listener = socket::listen(&path)?;
        let (server, stop) = Server::new(listener, domains.clone())?;
        let thread = thread::Builder::new().name("sim-host".into()).spawn(|| server.run())?;
        Ok(SimHost { domains, path, stop, thread: Some(thread) })
    }
}

impl Host for SimHost {
    fn open_channels(&self) -> io::Result<Box<dyn Channels>> {
        Ok(Box::new(SimChannels::new(self.domains.clone())?))
    }

    /// The host knows every domain's page, so the frame number is ignored.
    fn map_ring(&self, domid: Domid, _gfn: Option<Gfn>) -> io::Result<RingPage> {
        self.domains.page(domid).ok_or(io::ErrorKind::NotFound.into())
    }

    fn domain(&self, domid: Domid) -> io::Result<Option<DomainState>> {
        Ok(self.domains.state(domid))
    }

    /// The simulated host tracks changes exactly, so it ignores `known` and may report domains that are not in it.
    fn changed(
        &self,
        _known: &mut dyn Iterator<Item = Domid>,
        changed: &mut Vec<Domid>,
    ) -> io::Result<()> {
        changed.extend(self.domains.changed());
        Ok(())
    }

    fn control_port(&self) -> io::Result<Option<Port>> {
        Ok(Some(XENSTORE_PORT))
    }
}

impl Drop for SimHost {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic in the thread has already been reported.
        }
        let _ = std::fs::remove_file(&self.path);
    }
}
