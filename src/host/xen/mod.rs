//! A real Xen host: the devices in `/dev/xen` and the files in `/proc/xen` of Linux.
//!
//! Tried on Xen 4.17 (tests/xen). For 4.16 and 4.18 to 4.22 only the headers were compared: what
//! is used of them is the same; a later release is refused by name (see `abi::SYSCTL_VERSIONS`).

mod abi;
mod channels;
mod hypercall;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

pub use channels::XenChannels;

use self::abi::{
    DomainInfo, GNTTAB_RESERVED_XENSTORE, MapGrantRef, XEN_DOMINF_DYING, XEN_DOMINF_SHUTDOWN, call,
};
use self::hypercall::{BATCH, Hypercalls};
use super::{Channels, DomainState, Host, Port, RingPage};
use crate::sync::Mutex;
use crate::words::Domid;

/// The hypervisor that this control domain runs on.
pub struct XenHost {
    domains: Mutex<Domains>,
}

/// Asks for the states of domains and remembers what [`Host::changed`] last saw.
struct Domains {
    hypercalls: Hypercalls,
    seen: BTreeMap<Domid, DomainState>,
}

impl XenHost {
    /// Opens the devices. Needs root, and the modules xen-privcmd, xen-evtchn and xen-gntdev.
    ///
    /// # Errors
    /// `NotFound` where there is no Xen or a module is not loaded, with the device's name;
    /// `Unsupported` for a hypervisor whose interface is not known, with its release.
    pub fn open() -> io::Result<XenHost> {
        let hypercalls = Hypercalls::open()?;
        // A missing module is an error of the start, not of the first guest.
        open("/dev/xen/gntdev")?;
        Ok(XenHost { domains: Mutex::new(Domains { hypercalls, seen: BTreeMap::new() }) })
    }

    /// The hypervisor and its interface, for the log.
    pub fn describe(&self) -> io::Result<String> {
        let domains = self.domains.lock();
        let (major, minor) = domains.hypercalls.release()?;
        Ok(format!("Xen {major}.{minor}, sysctl version {:#x}", domains.hypercalls.version()))
    }
}

impl Host for XenHost {
    fn open_channels(&self) -> io::Result<Box<dyn Channels>> {
        Ok(Box::new(XenChannels::open()?))
    }

    /// Each mapping has a file of its own: it is closed here, lives on in the mapping, and takes
    /// the grant with it when the page is unmapped.
    fn map_ring(&self, domid: Domid) -> io::Result<RingPage> {
        if domid == Domid::CONTROL {
            return RingPage::map(open("/proc/xen/xsd_kva")?.as_fd(), 0);
        }
        let gntdev = open("/dev/xen/gntdev")?;
        let grant = MapGrantRef {
            count: 1,
            pad: 0,
            index: 0,
            domid: domid.0.into(),
            grant_ref: GNTTAB_RESERVED_XENSTORE,
        };
        // SAFETY: it is /dev/xen/gntdev, and one grant is what the argument holds.
        let (_, grant) = unsafe { call(gntdev.as_fd(), grant)? };
        RingPage::map(gntdev.as_fd(), grant.index)
    }

    fn domain(&self, domid: Domid) -> io::Result<Option<DomainState>> {
        let mut domains = self.domains.lock();
        let first = domains.hypercalls.list(domid, 1)?.first();
        Ok(first.filter(|info| info.domain == domid.0).map(DomainState::from))
    }

    /// Costs one hypercall for 1,024 existing domains between the lowest and the highest known.
    fn changed(&self, known: &mut dyn Iterator<Item = Domid>) -> io::Result<Vec<Domid>> {
        let mut known: Vec<Domid> = known.collect();
        known.sort_unstable();
        let (Some(&lowest), Some(&highest)) = (known.first(), known.last()) else {
            return Ok(Vec::new());
        };
        let mut domains = self.domains.lock();
        let mut now = domains.hypercalls.states(lowest, highest)?;
        now.retain(|domid, _| known.binary_search(domid).is_ok());
        known.retain(|domid| {
            let state = now.get(domid);
            state.is_none() || state != domains.seen.get(domid)
        });
        domains.seen = now;
        Ok(known)
    }

    fn control_port(&self) -> io::Result<Option<Port>> {
        let path = "/proc/xen/xsd_port";
        match std::fs::read_to_string(path) {
            Ok(text) => match text.trim().parse() {
                Ok(port) => Ok(Some(port)),
                Err(error) => Err(io::Error::other(format!("{path}: {error}"))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(within(path, error)),
        }
    }
}

impl Hypercalls {
    /// The states of all domains from `lowest` to `highest`.
    fn states(
        &mut self,
        lowest: Domid,
        highest: Domid,
    ) -> io::Result<BTreeMap<Domid, DomainState>> {
        let mut states = BTreeMap::new();
        let mut next = lowest;
        loop {
            let list = self.list(next, BATCH)?;
            let wanted = list.iter().take_while(|info| info.domain <= highest.0);
            states.extend(wanted.map(|info| (Domid(info.domain), DomainState::from(info))));
            match list.last() {
                Some(last) if list.len() == BATCH && last.domain < highest.0 => {
                    next = Domid(last.domain + 1);
                }
                _ => return Ok(states),
            }
        }
    }
}

impl From<&DomainInfo> for DomainState {
    /// Two lives of a domid are told apart by the uuid that the toolstack gave them: libxl gives a
    /// fresh one to each creation, unless its configuration fixes it. Not seen is a life that
    /// ended and began again, with the same number and the same uuid, between two queries; Xen
    /// counts numbers upwards, so that takes a fixed number too, or 32,751 creations. (From 4.21 on
    /// XEN_DOMCTL_get_domain_state has a true unique id.) `dying` comes late: Xen sets it when the
    /// destruction has got as far as it can while others still map the domain's pages.
    fn from(info: &DomainInfo) -> DomainState {
        let uuid = u128::from_le_bytes(info.handle);
        let halves = (uuid >> 64) ^ (uuid & u128::from(u64::MAX));
        DomainState {
            unique_id: u64::try_from(halves).expect("the upper half is 0"),
            shutdown: info.flags & XEN_DOMINF_SHUTDOWN != 0,
            dying: info.flags & XEN_DOMINF_DYING != 0,
        }
    }
}

/// Opens a device for reading and writing, without ever waiting for it.
fn open(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| within(path, error.into()))
}

/// Puts the file's name before the error's text.
fn within(path: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(handle: [u8; 16], flags: u32) -> DomainInfo {
        DomainInfo {
            domain: 5,
            pad1: 0,
            flags,
            pages_and_time: [0; 7],
            nr_online_vcpus: 1,
            max_vcpu_id: 0,
            ssidref: 0,
            handle,
            cpupool: 0,
            gpaddr_bits: 0,
            pad2: [0; 7],
            arch_config: Default::default(),
        }
    }

    #[test]
    fn states_are_read_from_flags_and_uuid() {
        // Blocked and shut down with reason 3 (crash).
        let crashed = DomainState::from(&info([7; 16], 1 << 4 | 1 << 2 | 3 << 16));
        assert!(crashed.shutdown && !crashed.dying);
        let running = DomainState::from(&info([0; 16], 1 << 5));
        assert!(!running.shutdown && !running.dying);
        assert!(DomainState::from(&info([0; 16], 1)).dying);
    }

    #[test]
    fn each_byte_of_the_uuid_tells_lives_apart() {
        let unique_id = |handle| DomainState::from(&info(handle, 0)).unique_id;
        for i in 0..16 {
            let mut other = [0x35; 16];
            other[i] ^= 0x80;
            assert_ne!(unique_id([0x35; 16]), unique_id(other), "byte {i}");
        }
    }

    #[test]
    fn without_xen_the_error_names_the_device() {
        if std::path::Path::new("/dev/xen/privcmd").exists() {
            return; // tests/xen tries a host that has it.
        }
        let error = XenHost::open().err().expect("no host");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("/dev/xen/privcmd: "), "{error}");
    }
}
