//! The daemon's half of the simulated host. It asks the host only when a domain is introduced: pages are mapped, event
//! channels are descriptors, and the domains' states are in shared memory, so no request waits for the host.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Child;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use rustix::io::retry_on_intr;

use super::channels::SimChannels;
use super::client::SimClient;
use super::fds::{has_fixed_length, is_scarce};
use super::lines::XENSTORE_PORT;
use super::start::start;
use super::states::States;
use crate::host::inherited::{Kind, take};
use crate::host::page::PAGE_BYTES;
use crate::host::{
    Channels, DomainState, Gfn, Host, Port, RingPage, SavedChannels, SavedHost, SavedSim,
};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::types::Domid;

/// A daemon's connection to a simulated host, which outlives it. At its end another daemon may serve the host.
pub struct SimHost {
    shared: Arc<Shared>,
    /// The host's process if this daemon started it.
    process: Mutex<Option<Child>>,
    guests: usize,
    /// Whether a daemon started the host: this one or one that it goes on for.
    is_new: bool,
    /// Whether another process goes on with the host.
    is_let_go: AtomicBool,
}

/// The state that the handles of event channels share.
pub struct Shared {
    client: Mutex<SimClient>,
    /// A copy of the client's descriptor, to wait for its end.
    connection: OwnedFd,
    states: States,
    /// The memory file of `states`.
    states_file: OwnedFd,
    /// The eventfd signalled when a domain shuts down or dies.
    bell: Arc<OwnedFd>,
    table: Mutex<Table>,
}

struct Table {
    /// The word of each domain's last change when it was last reported.
    reported: Vec<u32>,
    /// The bound channels, by inode, which identifies a channel among all that are open.
    bound: BTreeSet<u64>,
    changes_bound: bool,
}

/// A channel, claimed for one handle.
pub enum Claim {
    /// The host's end of a domain's channel.
    Guest { channel: OwnedFd, inode: u64 },
    /// The eventfd signalled when a domain shuts down or dies.
    Changes(Arc<OwnedFd>),
}

impl Claim {
    /// Returns the descriptor to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Claim::Guest { channel, .. } => channel.as_fd(),
            Claim::Changes(bell) => bell.as_fd(),
        }
    }
}

impl SimHost {
    /// Connects to the host at the socket `path` as its daemon.
    ///
    /// # Errors
    /// `ResourceBusy` if another daemon serves it; `NotFound` and `ConnectionRefused` if there is no host.
    pub fn connect(path: &Path) -> io::Result<SimHost> {
        let mut client = SimClient::connect(path)?;
        let (guests, [states, bell]) = client.serve()?;
        SimHost::new(client, states, bell, guests)
    }

    fn new(
        client: SimClient,
        states: OwnedFd,
        bell: OwnedFd,
        guests: usize,
    ) -> io::Result<SimHost> {
        let reported = vec![0; usize::from(Domid::FIRST_RESERVED)];
        let table = Table { reported, bound: BTreeSet::new(), changes_bound: false };
        let shared = Shared {
            connection: client.stream().try_clone_to_owned()?,
            states: States::map(states.as_fd())?,
            states_file: states,
            bell: Arc::new(bell),
            client: Mutex::new(client),
            table: Mutex::new(table),
        };
        Ok(SimHost {
            shared: Arc::new(shared),
            process: Mutex::new(None),
            guests,
            is_new: false,
            is_let_go: AtomicBool::new(false),
        })
    }

    /// Goes on with the connection of another process, which saved it.
    ///
    /// # Errors
    /// `InvalidData` if that was another kind of host, or a descriptor is not the one that was saved.
    pub fn adopt(saved: SavedHost) -> io::Result<SimHost> {
        let SavedHost::Sim(saved) = saved else { return Err(io::ErrorKind::InvalidData.into()) };
        let client = SimClient::of(take(saved.client, Kind::Stream)?);
        let states = take(saved.states, Kind::File)?;
        let bell = take(saved.bell, Kind::Eventfd)?;
        let host = SimHost::new(client, states, bell, saved.guests)?;
        let mut table = host.shared.table.lock();
        for (domid, word) in saved.reported {
            let reported = table.reported.get_mut(usize::from(domid));
            *reported.ok_or(io::ErrorKind::InvalidData)? = word;
        }
        drop(table);
        Ok(SimHost { is_new: saved.is_new, ..host })
    }

    /// Connects to the host at `path`, or to a new one if there is none: a process of `program`, which ends with its
    /// daemon.
    ///
    /// # Errors
    /// As [`SimHost::connect`]; those of starting the process.
    pub fn find_or_start(path: &Path, program: &Path) -> io::Result<SimHost> {
        match SimHost::connect(path) {
            Err(error) if is_absence(&error) => {
                let started = start(path, program);
                // If it was not started, another daemon may have started one at the same time.
                match (SimHost::connect(path), started) {
                    (Err(error), Err(start)) if is_absence(&error) => Err(start),
                    (host, started) => {
                        let (is_new, process) = (started.is_ok(), Mutex::new(started.ok()));
                        host.map(|host| SimHost { process, is_new, ..host })
                    }
                }
            }
            found => found,
        }
    }

    /// Returns whether this daemon started the host, or one that it goes on for.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Returns the number of guests that the host had when this daemon connected.
    pub fn guests(&self) -> usize {
        self.guests
    }

    /// Reports that the daemon stops, which ends a host that a daemon started. Returns once the host's socket is
    /// removed, and its process is gone if this process started it. Does nothing if another process goes on with the
    /// host.
    pub fn leave(&self) -> io::Result<()> {
        if self.is_let_go.load(Ordering::Acquire) {
            return Ok(());
        }
        self.shared.client.lock().leave()?;
        if let Some(mut process) = self.process.lock().take() {
            process.wait()?;
        }
        Ok(())
    }

    /// Returns a wait for the end of the host, for a thread of its own.
    pub fn end(&self) -> impl FnOnce() + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || {
            shared.poll_end(None);
        }
    }

    /// Returns whether the host has ended, or the connection to it. Costs a system call.
    pub fn has_ended(&self) -> bool {
        self.shared.poll_end(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// Returns the memory file of a domain's page. Costs a request to the host.
    ///
    /// # Errors
    /// `NotFound` for an unknown domain, and those of the connection.
    pub fn page(&self, domid: Domid) -> io::Result<OwnedFd> {
        if self.shared.states.get(domid).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.shared.client.lock().page(domid)
    }
}

/// Returns whether a connection failed because there is no host, or no more.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    let absent = [NotFound, ConnectionRefused, ConnectionReset, BrokenPipe, UnexpectedEof];
    absent.contains(&error.kind())
}

impl Host for SimHost {
    fn open_channels(&self) -> io::Result<Box<dyn Channels>> {
        Ok(Box::new(SimChannels::new(self.shared.clone())?))
    }

    /// The host knows every domain's page, so the frame number is ignored.
    fn map_ring(&self, domid: Domid, _gfn: Option<Gfn>) -> io::Result<RingPage> {
        let file = self.page(domid)?;
        if !has_fixed_length(file.as_fd(), PAGE_BYTES) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        RingPage::map(file.as_fd(), 0)
    }

    fn domain(&self, domid: Domid) -> io::Result<Option<DomainState>> {
        Ok(self.shared.states.get(domid))
    }

    /// Compares the states of `known` with those last reported, at the cost of a read of memory each. Reports a domain
    /// that was introduced since the last call, too.
    fn changed(
        &self,
        known: &mut dyn Iterator<Item = Domid>,
        changed: &mut Vec<Domid>,
    ) -> io::Result<()> {
        let table = &mut *self.shared.table.lock();
        changed.extend(known.filter(|&domid| {
            let now = self.shared.states.change(domid);
            let reported = table.reported.get_mut(usize::from(domid.0));
            let before = reported.map_or(0, |reported| std::mem::replace(reported, now));
            now != before || now == 0
        }));
        Ok(())
    }

    fn control_port(&self) -> io::Result<Option<Port>> {
        Ok(Some(XENSTORE_PORT))
    }

    fn save(&self) -> io::Result<SavedHost> {
        let table = self.shared.table.lock();
        let words = (0..).zip(&table.reported);
        let reported = words.filter(|(_, word)| **word != 0).map(|(domid, word)| (domid, *word));
        Ok(SavedHost::Sim(SavedSim {
            client: self.shared.client.lock().stream().as_raw_fd(),
            states: self.shared.states_file.as_raw_fd(),
            bell: self.shared.bell.as_raw_fd(),
            reported: reported.collect(),
            guests: self.guests,
            is_new: self.is_new,
        }))
    }

    fn adopt_channels(&self, saved: SavedChannels) -> io::Result<Box<dyn Channels>> {
        let SavedChannels::Sim { epoll, bindings } = saved else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        Ok(Box::new(SimChannels::adopt(self.shared.clone(), epoll, bindings)?))
    }

    fn let_go(&self) {
        self.is_let_go.store(true, Ordering::Release);
    }
}

impl Shared {
    /// Waits for the end of the host. A hang-up is reported without being asked for, and no error but an interruption
    /// is possible.
    fn poll_end(&self, timeout: Option<&Timespec>) -> bool {
        let mut fds = [PollFd::new(&self.connection, PollFlags::empty())];
        retry_on_intr(|| poll(&mut fds, timeout)).is_ok_and(|ready| ready > 0)
    }

    /// Claims a domain's channel for one binding. Costs a request to the host.
    ///
    /// # Errors
    /// `NotFound` for an unknown domain, `InvalidInput` if the port is not the domain's xenstore port, `ResourceBusy`
    /// if it is already bound, `StorageFull` if too few descriptors are left, and those of the connection.
    pub fn claim(&self, domid: Domid, remote: Port) -> io::Result<Claim> {
        if self.states.get(domid).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if remote != XENSTORE_PORT {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let channel = self.client.lock().channel(domid)?;
        if is_scarce(&channel) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = fstat(&channel)?.st_ino;
        self.claim_channel(channel, inode)
    }

    /// Claims a channel for one binding.
    ///
    /// # Errors
    /// `ResourceBusy` if it is already bound.
    pub fn claim_channel(&self, channel: OwnedFd, inode: u64) -> io::Result<Claim> {
        if !self.table.lock().bound.insert(inode) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Ok(Claim::Guest { channel, inode })
    }

    /// Claims the change notifications for one binding.
    ///
    /// # Errors
    /// `AlreadyExists` if they are already claimed.
    pub fn claim_changes(&self) -> io::Result<Claim> {
        if std::mem::replace(&mut self.table.lock().changes_bound, true) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(Claim::Changes(self.bell.clone()))
    }

    /// Ends a claim.
    pub fn release(&self, claim: Claim) {
        let mut table = self.table.lock();
        match claim {
            Claim::Guest { inode, .. } => {
                table.bound.remove(&inode);
            }
            Claim::Changes(_) => table.changes_bound = false,
        }
    }
}
