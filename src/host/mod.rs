//! The hypervisor interface of the daemon: event channels, ring pages, domain states.
//!
//! Two hosts implement these traits: [`sim`], whose guests are processes on any Linux machine, and [`xen`], which
//! uses the devices in `/dev/xen`. All unsafe code of the daemon is in this folder.

pub mod inherited;
mod none;
pub mod page;
mod saved;
pub mod sim;
#[cfg(any(feature = "holds", all(test, target_arch = "x86_64")))]
pub mod valgrind;
pub mod xen;

use std::io;
use std::os::fd::RawFd;

pub use none::NoHost;
pub use page::{
    CONNECTION, ERROR, EVTCHN_PORT, REQ_CONS, REQ_PROD, REQ_RING, RING_BYTES, RSP_CONS, RSP_PROD,
    RSP_RING, RingPage, SERVER_FEATURES,
};
pub use saved::{SavedBinding, SavedChannels, SavedHost, SavedSim};

use crate::types::Domid;

/// A local event channel port (`evtchn_port_t`), valid for the handle that bound it.
pub type Port = u32;

/// A guest frame number, as passed to INTRODUCE (`xen_pfn_t`).
pub type Gfn = u64;

/// The state of an existing domain, as the hypervisor reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainState {
    /// Distinguishes two incarnations of one domid.
    pub unique_id: u64,
    /// The domain shut down, crashed or suspended; it may be resumed.
    pub shutdown: bool,
    /// The domain is being destroyed and will not run again.
    pub dying: bool,
}

/// A hypervisor, shared by all threads. Callers hold no lock of the store: each call may be a system call.
pub trait Host: Send + Sync {
    /// Opens an event channel handle, like opening `/dev/xen/evtchn`. Each thread has its own handle. A handle reports
    /// only its own ports, so no thread is woken for another one's guests.
    fn open_channels(&self) -> io::Result<Box<dyn Channels>>;

    /// Maps a domain's ring page: by grant reference 1 or, if that fails, by the frame number from INTRODUCE. For the
    /// control domain, maps its own page.
    fn map_ring(&self, domid: Domid, gfn: Option<Gfn>) -> io::Result<RingPage>;

    /// Returns the state of a domain, `None` if the domain does not exist (or no longer).
    fn domain(&self, domid: Domid) -> io::Result<Option<DomainState>>;

    /// Appends to `changed` the domains of `known` whose state may have changed since the last call. Called after the
    /// port of [`Channels::bind_changes`] fired. A false positive costs a query; a domain left out is never noticed.
    /// A host that cannot distinguish appends all of `known`. Only the process that bound that port may call this,
    /// since a change is reported once.
    ///
    /// # Errors
    /// Those of the host. `changed` keeps the domains appended before the error. The caller then queries the state of
    /// every known domain, because the host may not repeat the reports of the failed call.
    fn changed(
        &self,
        known: &mut dyn Iterator<Item = Domid>,
        changed: &mut Vec<Domid>,
    ) -> io::Result<()>;

    /// Returns the event channel port of the control domain's kernel, if there is one (`/proc/xen/xsd_port`).
    fn control_port(&self) -> io::Result<Option<Port>>;

    /// Returns what another process needs to go on with this host, if it inherits the descriptors. Changes nothing.
    ///
    /// # Errors
    /// `Unsupported` if the host belongs to this process alone.
    fn save(&self) -> io::Result<SavedHost> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Goes on with a handle that another process saved ([`Channels::save`]) after it had saved its host. Ports keep
    /// their numbers and stay bound, masked or not as they were. The caller unmasks each port once and looks at each
    /// ring and each known domain once: the other process may have taken notifications and not acted on them.
    ///
    /// # Errors
    /// `InvalidData` if a descriptor was not inherited or is not the one that was saved; `Unsupported` as for
    /// [`Host::save`].
    fn adopt_channels(&self, saved: SavedChannels) -> io::Result<Box<dyn Channels>> {
        let _ = saved;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Notes that another process goes on with this host, so this process no longer ends it. Dropping the host and its
    /// handles then changes nothing for the other process.
    fn let_go(&self) {}
}

/// The result of [`Channels::pending`].
#[derive(Debug, Default)]
pub struct Pending {
    /// Number of ports stored, including those before an error.
    pub count: usize,
    /// The error that ended the call. The call may have lost ports, which stay masked, so the caller checks all bound
    /// ports.
    pub error: Option<io::Error>,
}

impl Pending {
    /// Returns the count, for callers that stop at an error.
    ///
    /// # Errors
    /// That of the host.
    pub fn all(self) -> io::Result<usize> {
        self.error.map_or(Ok(self.count), Err)
    }
}

/// An event channel handle of one thread. A handle reports only the ports bound through it. Dropping it unbinds them,
/// unless another process goes on with it.
pub trait Channels: Send {
    /// Returns a descriptor that becomes readable when a port is pending. The descriptor is watched edge-triggered:
    /// call `pending` until that returns 0.
    fn raw_fd(&self) -> RawFd;

    /// Binds to the domain's unbound port `remote` and returns the local port.
    fn bind_interdomain(&mut self, domid: Domid, remote: Port) -> io::Result<Port>;

    /// Binds the port that fires when a domain shuts down or dies (`VIRQ_DOM_EXC`).
    ///
    /// # Errors
    /// `AlreadyExists` if another process has bound it, which means that another daemon is running.
    fn bind_changes(&mut self) -> io::Result<Port>;

    /// Unbinds a port, which is not reported again.
    fn unbind(&mut self, port: Port) -> io::Result<()>;

    /// Takes pending ports, at most `ports.len()`. A reported port stays masked until [`Channels::unmask`]. Never
    /// blocks. A count below `ports.len()` without an error means that no port is left: the next one makes the handle
    /// readable again.
    fn pending(&mut self, ports: &mut [Port]) -> Pending;

    /// Unmasks a port; one that was notified in the meantime is reported at once.
    fn unmask(&mut self, port: Port) -> io::Result<()>;

    /// Notifies the remote end. Never blocks.
    fn notify(&mut self, port: Port) -> io::Result<()>;

    /// Returns what another process needs to go on with this handle, if it inherits the descriptors. Changes nothing. If
    /// the other process failed after it had adopted the handle, unmask each port once and look at each ring and each
    /// known domain once, as [`Host::adopt_channels`] requires of the other process: it may have taken notifications.
    ///
    /// # Errors
    /// `Unsupported` if the handle belongs to this process alone.
    fn save(&self) -> io::Result<SavedChannels> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
