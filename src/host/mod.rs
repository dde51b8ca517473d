//! What the daemon needs of a hypervisor: event channels, ring pages, the states of domains.
//!
//! Two hosts exist behind these traits: [`sim`], where guests are processes of any Linux machine,
//! and [`xen`], the devices in `/dev/xen`. All the unsafe code of the daemon is in this folder.

pub mod page;
pub mod sim;
#[cfg(any(feature = "holds", all(test, target_arch = "x86_64")))]
pub mod valgrind;
pub mod xen;

use std::io;
use std::os::fd::RawFd;

pub use page::{
    CONNECTION, ERROR, EVTCHN_PORT, REQ_CONS, REQ_PROD, REQ_RING, RING_BYTES, RSP_CONS, RSP_PROD,
    RSP_RING, RingPage, SERVER_FEATURES,
};

use crate::words::Domid;

/// An event channel of ours, as the thread that bound it knows it (`evtchn_port_t`).
pub type Port = u32;

/// A guest's own number of one of its pages, as INTRODUCE has it (`xen_pfn_t`).
pub type Gfn = u64;

/// What the hypervisor says of a domain that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainState {
    /// Tells two incarnations of one domid apart.
    pub unique_id: u64,
    /// It shut down, crashed or suspended; it may be resumed.
    pub shutdown: bool,
    /// It is being destroyed and will not run again.
    pub dying: bool,
}

/// A hypervisor, as every thread may use it. Nothing here may be called with a lock of the store
/// held: each call can be a system call.
pub trait Host: Send + Sync {
    /// Opens a handle for event channels, one for each thread, like opening `/dev/xen/evtchn`.
    fn open_channels(&self) -> io::Result<Box<dyn Channels>>;

    /// Maps the page of the domain's ring: grant reference 1, or, if that cannot be had, the page with
    /// the number that INTRODUCE gave; or the control domain's own page.
    fn map_ring(&self, domid: Domid, gfn: Option<Gfn>) -> io::Result<RingPage>;

    /// The state of a domain, `None` if it does not exist (or no longer).
    fn domain(&self, domid: Domid) -> io::Result<Option<DomainState>>;

    /// Appends to `changed` the domains of `known` whose state may have changed since the last call, after
    /// the port of [`Channels::bind_changes`] fired. A domain named without need costs a query; one left
    /// out is never noticed. A host that cannot tell names all of `known`. Only who bound that port may
    /// ask: what is told to one asker may not be told to another.
    ///
    /// # Errors
    /// The host's. What was taken before it is in `changed`; the caller asks for the state of all domains
    /// that it knows, since the host may not name again what it named in the call that failed.
    fn changed(
        &self,
        known: &mut dyn Iterator<Item = Domid>,
        changed: &mut Vec<Domid>,
    ) -> io::Result<()>;

    /// The event channel of the control domain's kernel, if it has one (`/proc/xen/xsd_port`).
    fn control_port(&self) -> io::Result<Option<Port>>;
}

/// What [`Channels::pending`] took.
#[derive(Debug, Default)]
pub struct Pending {
    /// How many ports, also before an error.
    pub count: usize,
    /// Why it took no more. Ports may be lost with it, masked: all that are bound are looked at.
    pub error: Option<io::Error>,
}

impl Pending {
    /// The count, for a caller that does not go on after an error.
    ///
    /// # Errors
    /// The host's.
    pub fn all(self) -> io::Result<usize> {
        self.error.map_or(Ok(self.count), Err)
    }
}

/// One thread's event-channel handle. It reports the ports that the thread itself bound.
pub trait Channels: Send {
    /// Becomes readable when a port is pending. Watched edge-triggered: read until `pending`
    /// answers 0.
    fn raw_fd(&self) -> RawFd;

    /// Binds to the domain's unbound port `remote`; answers the local port.
    fn bind_interdomain(&mut self, domid: Domid, remote: Port) -> io::Result<Port>;

    /// Binds the port that fires when domains shut down or die (`VIRQ_DOM_EXC`).
    ///
    /// # Errors
    /// `AlreadyExists` if another process has it: another daemon runs.
    fn bind_changes(&mut self) -> io::Result<Port>;

    /// Gives a port back. It is not reported again.
    fn unbind(&mut self, port: Port) -> io::Result<()>;

    /// Takes pending ports, at most `ports.len()`. A port reported is masked until [`Channels::unmask`].
    /// Never blocks; fewer than asked for, without an error, means that none is left: whatever comes then
    /// makes the handle readable anew.
    fn pending(&mut self, ports: &mut [Port]) -> Pending;

    /// Lets a port be reported again; at once if it was notified meanwhile.
    fn unmask(&mut self, port: Port) -> io::Result<()>;

    /// Notifies the other end. Never blocks.
    fn notify(&mut self, port: Port) -> io::Result<()>;
}
