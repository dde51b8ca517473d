//! A host in memory: pages of one memory file, event channels as flags. Nothing in it runs by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use xenstored::host::{Channels, DomainState, Gfn, Host, Pending, Port, RingPage};
use xenstored::types::Domid;
use zerocopy::IntoBytes;

/// The port of every domain's end of its channel.
pub const REMOTE_PORT: Port = 1;
/// Domains that a host may have in its life.
const PAGES_MAX: u64 = 256;
const PAGE_BYTES: u64 = 4096;

/// A host; clones are the same host.
#[derive(Clone)]
pub struct MemoryHost(Arc<Mutex<Table>>);

struct Table {
    pages: OwnedFd,
    domains: BTreeMap<Domid, Domain>,
    /// The incarnations created so far, each with its page.
    created: u64,
    changed: BTreeSet<Domid>,
    ports: Vec<LocalPort>,
    /// An eventfd for each event channel handle.
    handles: Vec<OwnedFd>,
}

struct Domain {
    unique_id: u64,
    shutdown: bool,
    page: RingPage,
    bound: Option<Port>,
    /// Whether the daemon has notified it since it last looked.
    notified: bool,
}

/// A port bound by the daemon.
struct LocalPort {
    handle: usize,
    /// `None` for the port of changes, and after the unbinding.
    domid: Option<Domid>,
    is_bound: bool,
    pending: bool,
    masked: bool,
}

impl MemoryHost {
    pub fn new() -> MemoryHost {
        let pages = memfd_create("simulated-pages", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&pages, PAGES_MAX * PAGE_BYTES).unwrap();
        MemoryHost(Arc::new(Mutex::new(Table {
            pages,
            domains: BTreeMap::new(),
            created: 0,
            changed: BTreeSet::new(),
            ports: Vec::new(),
            handles: Vec::new(),
        })))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap()
    }

    /// Creates a domain, and returns its page.
    pub fn create(&self, domid: u16) -> RingPage {
        let mut table = self.table();
        let page = RingPage::map(table.pages.as_fd(), table.created * PAGE_BYTES).unwrap();
        table.created += 1;
        assert!(table.created < PAGES_MAX);
        let unique_id = table.created;
        let (shutdown, bound, notified) = Default::default();
        let domain = Domain { unique_id, shutdown, page: page.clone(), bound, notified };
        assert!(table.domains.insert(Domid(domid), domain).is_none());
        page
    }

    pub fn exists(&self, domid: u16) -> bool {
        self.table().domains.contains_key(&Domid(domid))
    }

    /// Destroys a domain.
    pub fn destroy(&self, domid: u16) {
        let mut table = self.table();
        table.domains.remove(&Domid(domid)).unwrap();
        table.change(Domid(domid));
    }

    /// Notifies the daemon of a domain's ring.
    pub fn notify_daemon(&self, domid: u16) {
        let mut table = self.table();
        if let Some(port) = table.domains.get(&Domid(domid)).and_then(|domain| domain.bound) {
            table.raise(port);
        }
    }

    /// Takes the daemon's notification of a domain.
    pub fn take_notified(&self, domid: u16) -> bool {
        let mut table = self.table();
        let domain = table.domains.get_mut(&Domid(domid));
        domain.is_some_and(|domain| std::mem::take(&mut domain.notified))
    }
}

impl Table {
    fn change(&mut self, domid: Domid) {
        self.changed.insert(domid);
        let changes = self.ports.iter().position(|port| port.is_bound && port.domid.is_none());
        if let Some(port) = changes {
            self.raise(Port::try_from(port).unwrap());
        }
    }

    fn port(&mut self, port: Port) -> Option<&mut LocalPort> {
        self.ports.get_mut(usize::try_from(port).unwrap()).filter(|port| port.is_bound)
    }

    fn raise(&mut self, port: Port) {
        let Some(local) = self.port(port) else { return };
        local.pending = true;
        let (handle, masked) = (local.handle, local.masked);
        if !masked {
            rustix::io::write(&self.handles[handle], 1_u64.as_bytes()).unwrap();
        }
    }

    fn bind(&mut self, handle: usize, domid: Option<Domid>) -> Port {
        let (is_bound, pending, masked) = (true, false, false);
        self.ports.push(LocalPort { handle, domid, is_bound, pending, masked });
        Port::try_from(self.ports.len() - 1).unwrap()
    }
}

impl MemoryHost {
    /// Returns the handles that the daemon opened, for the process that goes on.
    pub fn adopt_channels(&self) -> Vec<Box<dyn Channels>> {
        let numbered = |(number, fd): (usize, &OwnedFd)| {
            let handle = Handle { host: self.clone(), number, raw: fd.as_raw_fd() };
            Box::new(handle) as Box<dyn Channels>
        };
        self.table().handles.iter().enumerate().map(numbered).collect()
    }
}

impl Host for MemoryHost {
    fn open_channels(&self) -> io::Result<Box<dyn Channels>> {
        let mut table = self.table();
        if table.ports.is_empty() {
            table.bind(usize::MAX, None);
            table.ports[0].is_bound = false; // No port has the number 0.
        }
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let raw = fd.as_raw_fd();
        table.handles.push(fd);
        Ok(Box::new(Handle { host: self.clone(), number: table.handles.len() - 1, raw }))
    }

    fn map_ring(&self, domid: Domid, _: Option<Gfn>) -> io::Result<RingPage> {
        let table = self.table();
        let domain = table.domains.get(&domid).ok_or(io::ErrorKind::NotFound)?;
        Ok(domain.page.clone())
    }

    fn domain(&self, domid: Domid) -> io::Result<Option<DomainState>> {
        let state = |domain: &Domain| DomainState {
            unique_id: domain.unique_id,
            shutdown: domain.shutdown,
            dying: false,
        };
        Ok(self.table().domains.get(&domid).map(state))
    }

    fn changed(
        &self,
        _: &mut dyn Iterator<Item = Domid>,
        changed: &mut Vec<Domid>,
    ) -> io::Result<()> {
        changed.extend(std::mem::take(&mut self.table().changed));
        Ok(())
    }

    fn control_port(&self) -> io::Result<Option<Port>> {
        Ok(Some(REMOTE_PORT))
    }
}

/// The event channel handle of a worker.
struct Handle {
    host: MemoryHost,
    number: usize,
    raw: RawFd,
}

impl Channels for Handle {
    fn raw_fd(&self) -> RawFd {
        self.raw
    }

    fn bind_interdomain(&mut self, domid: Domid, remote: Port) -> io::Result<Port> {
        let mut table = self.host.table();
        let domain = table.domains.get(&domid).ok_or(io::ErrorKind::NotFound)?;
        if remote != REMOTE_PORT || domain.bound.is_some() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let port = table.bind(self.number, Some(domid));
        table.domains.get_mut(&domid).unwrap().bound = Some(port);
        Ok(port)
    }

    fn bind_changes(&mut self) -> io::Result<Port> {
        Ok(self.host.table().bind(self.number, None))
    }

    fn unbind(&mut self, port: Port) -> io::Result<()> {
        let mut table = self.host.table();
        let local = table.port(port).ok_or(io::ErrorKind::NotFound)?;
        local.is_bound = false;
        let domid = local.domid;
        let domain = domid.and_then(|domid| table.domains.get_mut(&domid));
        // The domid may have a new incarnation by now, with a binding of its own.
        if let Some(domain) = domain.filter(|domain| domain.bound == Some(port)) {
            domain.bound = None;
        }
        Ok(())
    }

    fn pending(&mut self, ports: &mut [Port]) -> Pending {
        let mut table = self.host.table();
        let mut count = 0;
        for (number, port) in table.ports.iter_mut().enumerate() {
            let is_due = port.handle == self.number && port.is_bound && port.pending;
            if is_due && !port.masked && count < ports.len() {
                (port.pending, port.masked) = (false, true);
                ports[count] = Port::try_from(number).unwrap();
                count += 1;
            }
        }
        Pending { count, error: None }
    }

    fn unmask(&mut self, port: Port) -> io::Result<()> {
        let mut table = self.host.table();
        let local = table.port(port).ok_or(io::ErrorKind::NotFound)?;
        local.masked = false;
        if local.pending {
            table.raise(port);
        }
        Ok(())
    }

    fn notify(&mut self, port: Port) -> io::Result<()> {
        let mut table = self.host.table();
        let domid = table.port(port).ok_or(io::ErrorKind::NotFound)?.domid;
        let domain = domid.and_then(|domid| table.domains.get_mut(&domid));
        if let Some(domain) = domain.filter(|domain| domain.bound == Some(port)) {
            domain.notified = true;
        }
        Ok(())
    }
}
