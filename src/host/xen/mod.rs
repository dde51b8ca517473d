//! A real Xen host: the devices in `/dev/xen` and the files in `/proc/xen` of Linux.
//!
//! docs/COMPATIBILITY.md says which parts were tested on which Xen release, and which were only derived from its
//! sources.

mod abi;
mod channels;
mod hypercall;
mod ioctl;
mod rings;
mod stable;
mod start;
mod states;
mod sysctl;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

pub use channels::XenChannels;
pub use start::StartError;

use self::states::States;
use super::{Channels, DomainState, Gfn, Host, Port, RingPage, SavedChannels, SavedHost};
use crate::sync::Mutex;
use crate::types::Domid;

/// The hypervisor under this control domain.
pub struct XenHost {
    // Queries share the one buffer of their interface. They are rare: births, INTRODUCE, and changes of domains.
    states: Mutex<States>,
}

impl XenHost {
    /// Opens the devices. Requires root, the modules xen-privcmd, xen-evtchn and xen-gntdev, and `/proc/xen`.
    pub fn open() -> Result<XenHost, StartError> {
        start::check(Path::new("/"))?;
        let states = States::open().map_err(StartError::Other)?;
        Ok(XenHost { states: Mutex::new(states) })
    }

    /// Goes on with the host of another process, which saved it. The other process's binding of `VIRQ_DOM_EXC` lives on
    /// in its handle.
    ///
    /// # Errors
    /// As [`XenHost::open`]; `InvalidData` if that was another kind of host.
    pub fn adopt(saved: &SavedHost) -> Result<XenHost, StartError> {
        match saved {
            SavedHost::Xen => XenHost::open(),
            SavedHost::Sim(_) => Err(StartError::Other(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Returns the hypervisor's release and the interface in use, for the log.
    pub fn describe(&self) -> io::Result<String> {
        self.states.lock().describe()
    }

    /// Maps a domain's page by frame number, as `map_ring` does without a grant.
    pub fn map_by_number(&self, domid: Domid, gfn: Gfn) -> io::Result<RingPage> {
        rings::by_number(domid, gfn)
    }
}

impl Host for XenHost {
    fn open_channels(&self) -> io::Result<Box<dyn Channels>> {
        Ok(Box::new(XenChannels::open()?))
    }

    fn map_ring(&self, domid: Domid, gfn: Option<Gfn>) -> io::Result<RingPage> {
        rings::map(domid, gfn)
    }

    fn domain(&self, domid: Domid) -> io::Result<Option<DomainState>> {
        self.states.lock().domain(domid)
    }

    fn changed(
        &self,
        known: &mut dyn Iterator<Item = Domid>,
        changed: &mut Vec<Domid>,
    ) -> io::Result<()> {
        self.states.lock().changed(known, changed)
    }

    fn control_port(&self) -> io::Result<Option<Port>> {
        let path = "/proc/xen/xsd_port";
        let text = std::fs::read_to_string(path).map_err(|error| within(path, error))?;
        text.trim().parse().map(Some).map_err(|error| io::Error::other(format!("{path}: {error}")))
    }

    fn save(&self) -> io::Result<SavedHost> {
        Ok(SavedHost::Xen)
    }

    fn adopt_channels(&self, saved: SavedChannels) -> io::Result<Box<dyn Channels>> {
        let SavedChannels::Xen { device, ports } = saved else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        Ok(Box::new(XenChannels::adopt(device, ports)?))
    }
}

/// Opens a device for reading and writing, non-blocking.
fn open(path: &str) -> io::Result<OwnedFd> {
    // NONBLOCK: otherwise a read of /dev/xen/evtchn would wait for a port.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| within(path, error.into()))
}

/// Prefixes an error with its subject.
fn within(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
