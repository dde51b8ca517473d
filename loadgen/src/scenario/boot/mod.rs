//! Boots of domains, modelled on libxl, Linux and xenconsoled.
//!
//! ```text
//!   toolstack   a socket each   makes the domain and its devices, waits for their backends,
//!                               runs the hotplug scripts
//!   kernel      domain 0's ring watches for new backends and connects them
//!   guest       a ring each     finds its devices and connects them
//!   console     a socket        watches for new domains and gives them a terminal
//! ```
//!
//! Based on libxl's and Linux's sources: about 440 requests, 110 events and 16 transactions per domain. A domain has
//! booted when both its devices are connected at both ends and its console has a terminal.

mod arrivals;
mod console;
mod guest;
mod kernel;
mod replay;
mod share;
mod storm;
mod toolstack;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::host_of;
use crate::client::{Blocking, Client, Link, Stage, Watch, words};
use crate::target::{Running, Target};
use crate::trouble::{ClientError, Result};

use arrivals::Arrivals;
pub use share::{Share, serve};
pub use storm::all;

/// The devices of a domain with a backend in the kernel: class and number.
const DEVICES: [(&str, u32); 2] = [("vbd", 51712), ("vif", 0)];

/// Up to this many domains have their own toolstack, whose connection and watch live as long as the domain. Later
/// domains of a larger host, and all domains of a larger storm, share [`SHARED`] toolstacks. A connection takes a
/// descriptor here and in the daemon, as a ring does, and a process has 20,000.
const TOOLSTACKS_MAX: usize = 5000;
const SHARED: usize = 64;

/// Number of domains that boot concurrently while a host fills up.
const IN_PARALLEL: usize = 8;
/// Timeout of a boot; thousands of domains boot in less.
const TIMEOUT: Duration = Duration::from_secs(300);

/// XenbusState of xen/io/xenbus.h, as text.
mod state {
    pub const INITIALISING: &str = "1";
    pub const INIT_WAIT: &str = "2";
    pub const INITIALISED: &str = "3";
    pub const CONNECTED: &str = "4";
}

/// A host with its daemon, its control domain's kernel and its console daemon.
pub(super) struct Machine {
    pub(super) stage: Stage,
    socket: PathBuf,
    pub(super) host: RefCell<SimClient>,
    arrivals: Arrivals,
    /// Toolstacks of living domains, each with its watch.
    toolstacks: RefCell<Vec<Client>>,
    /// Number of toolstacks above which further domains share existing ones.
    toolstacks_max: Cell<usize>,
    /// Index of the next shared toolstack.
    turn: Cell<usize>,
    pub(super) guests: RefCell<Vec<(Domid, Client)>>,
    /// Another host, to which all domains are to be migrated and on which they already exist.
    elsewhere: RefCell<Option<SimClient>>,
    /// The kernel's backends, each with the watch on its frontend once it is connected.
    backends: RefCell<HashMap<String, Option<Watch>>>,
    /// The console daemon's watches, one for each served domain.
    consoles: RefCell<Vec<Watch>>,
}

impl Machine {
    /// Starts the domain services on a fresh daemon.
    pub(super) fn new(running: &Running, target: &Target) -> Result<Rc<Machine>> {
        // The directories shared by all domains, as made by xen-init-dom0. A daemon that replies also serves the
        // control domain's ring.
        let mut toolstack = Blocking::connect(&running.socket)?;
        for path in [
            "/libxl/0",
            "/vm/dom0",
            "/local/domain/0/backend/vbd",
            "/local/domain/0/backend/vif",
            "/local/domain/0/backend/console",
        ] {
            toolstack.write(path, "")?;
        }
        toolstack.flush()?;
        let cannot = |error| ClientError::io("cannot use the simulated host", error);
        let mut host = host_of(running, target)?;
        // The kernel ends with its connection, like that of a real machine.
        let ring = host.attach_control().map_err(cannot)?;
        let machine = Machine::bare(&running.socket, host)?;
        let kernel = machine.stage.client(Link::Ring(Box::new(ring)))?;
        let console = machine.stage.connect(&running.socket)?;
        machine.stage.serve(kernel::run(Rc::downgrade(&machine), kernel));
        machine.stage.serve(console::run(Rc::downgrade(&machine), console));
        Ok(machine)
    }

    /// Creates a part of a machine for a separate process: toolstacks and guests.
    fn share(socket: &Path, sim: &Path) -> Result<Rc<Machine>> {
        let cannot = |error| ClientError::io("cannot connect to the simulated host", error);
        Machine::bare(socket, SimClient::connect(sim).map_err(cannot)?)
    }

    fn bare(socket: &Path, host: SimClient) -> Result<Rc<Machine>> {
        Ok(Rc::new(Machine {
            stage: Stage::new()?,
            socket: socket.to_owned(),
            host: RefCell::new(host),
            arrivals: Arrivals::of(socket)?,
            toolstacks: RefCell::default(),
            toolstacks_max: Cell::new(TOOLSTACKS_MAX),
            turn: Cell::default(),
            guests: RefCell::default(),
            elsewhere: RefCell::default(),
            backends: RefCell::default(),
            consoles: RefCell::default(),
        }))
    }

    /// Drops the state of dead domains, once the kernel has been notified that their backends are gone.
    pub(super) async fn forget(self: Rc<Machine>) -> Result<()> {
        // The dead domains' rings are broken by now.
        self.guests.take();
        self.toolstacks.take();
        let toolstack = self.stage.connect(&self.socket)?;
        while !self.backends.borrow().is_empty() {
            toolstack.must(Operation::GetDomainPath, 0, b"0\0").await?;
        }
        let consoles = self.consoles.take();
        for watch in consoles {
            watch.remove().await?;
        }
        Ok(())
    }

    /// Creates all further domains on another host too, with the same page and channel.
    pub(super) fn prepare_to_move(&self, other: SimClient) {
        self.elsewhere.replace(Some(other));
    }

    /// Ends the toolstacks, once their domains run.
    pub(super) fn dismiss_toolstacks(&self) {
        self.toolstacks.take();
    }

    /// Reduces domains to about a hundred nodes: removes the network, and libxl's copies of the devices' keys.
    pub(super) async fn make_small(
        self: Rc<Machine>,
        domains: RangeInclusive<usize>,
    ) -> Result<()> {
        let toolstack = self.stage.connect(&self.socket)?;
        let network = DEVICES[1];
        for number in domains {
            let domid = storm::domid(number)?;
            let copies = format!("/libxl/{domid}/device");
            for path in [copies, backend(domid, network), frontend(domid, network)] {
                toolstack.must(Operation::Rm, 0, &words(&[&path])).await?;
            }
        }
        let is_network = |device: &String| device.contains(&format!("/{}/", network.0));
        while self.backends.borrow().keys().any(is_network) {
            toolstack.must(Operation::GetDomainPath, 0, b"0\0").await?;
        }
        Ok(())
    }

    /// Creates a domain on the simulated host.
    fn new_domain(&self, domid: Domid) -> Result<SimGuest> {
        let cannot = |error| ClientError::io(format!("cannot create {domid}"), error);
        let mut host = self.host.borrow_mut();
        let Some(other) = &mut *self.elsewhere.borrow_mut() else {
            return host.create(Some(domid)).map_err(cannot);
        };
        let guest = host.create(Some(domid)).map_err(cannot)?;
        let page = host.page(domid).map_err(cannot)?;
        let channel = host.channel(domid).map_err(cannot)?;
        other.adopt(domid, page.as_fd(), channel.as_fd()).map_err(cannot)?;
        Ok(guest)
    }

    /// Boots these domains, [`IN_PARALLEL`] at a time.
    pub(super) fn fill(self: &Rc<Machine>, domains: RangeInclusive<usize>) -> Result<()> {
        let end = *domains.end();
        let next = Rc::new(Cell::new(*domains.start()));
        for _ in 0..IN_PARALLEL {
            let (machine, next) = (Rc::clone(self), Rc::clone(&next));
            self.stage.spawn(async move {
                while next.get() <= end {
                    let number = next.replace(next.get() + 1);
                    Rc::clone(&machine).boot(storm::domid(number)?).await?;
                }
                Ok(())
            });
        }
        self.stage.run(TIMEOUT)
    }

    /// Boots a domain, by its own toolstack or, beyond the maximum, by a shared one.
    pub(super) async fn boot(self: Rc<Machine>, domid: Domid) -> Result<()> {
        let living = self.toolstacks.borrow().len();
        if living < self.toolstacks_max.get() {
            let toolstack = self.stage.connect(&self.socket)?;
            toolstack::create(Rc::clone(&self), toolstack.clone(), domid).await?;
            self.toolstacks.borrow_mut().push(toolstack);
            return Ok(());
        }
        let turn = self.turn.replace(self.turn.get() + 1);
        let toolstack = self.toolstacks.borrow()[turn % SHARED.min(living)].clone();
        toolstack::create(self, toolstack, domid).await
    }

    /// Makes all further domains share this many toolstacks.
    fn share_toolstacks(&self, connections: usize) -> Result<()> {
        for _ in 0..connections {
            self.toolstacks.borrow_mut().push(self.stage.connect(&self.socket)?);
        }
        self.toolstacks_max.set(connections);
        Ok(())
    }
}

/// Returns the nodes of a dead domain that the toolstack removes, in addition to those that the daemon removes.
pub(super) fn remains(domid: Domid) -> Vec<String> {
    let mut paths = vec![home(domid), format!("/libxl/{domid}"), vm(domid)];
    // The device's node is removed first, because the kernel is notified of its removal.
    for device in DEVICES.into_iter().chain([("console", 0)]) {
        paths.push(backend(domid, device));
        paths.push(format!("/local/domain/0/backend/{}/{domid}", device.0));
    }
    paths
}

fn vm(domid: Domid) -> String {
    format!("/vm/00000000-0000-0000-0000-{:012}", domid.0)
}

fn home(domid: Domid) -> String {
    format!("/local/domain/{domid}")
}

fn frontend(domid: Domid, (class, number): (&str, u32)) -> String {
    format!("/local/domain/{domid}/device/{class}/{number}")
}

fn backend(domid: Domid, (class, number): (&str, u32)) -> String {
    format!("/local/domain/0/backend/{class}/{domid}/{number}")
}

/// Creates a directory with these permissions.
async fn make(client: &Client, tx_id: u32, path: &str, permissions: &[&str]) -> Result<()> {
    client.must(Operation::Mkdir, tx_id, &words(&[path])).await?;
    let request = words(&[&[path], permissions].concat());
    client.must(Operation::SetPerms, tx_id, &request).await.map(drop)
}

/// Switches a device's state as Linux's `xenbus_switch_state` does: it reads the old state in the same transaction,
/// so that a removed device is not recreated.
async fn switch(client: &Client, device: &str, new: &str) -> Result<()> {
    let path = format!("{device}/state");
    client
        .transact(async |tx| {
            client.read(tx, &path).await?;
            client.write(tx, &path, new).await
        })
        .await
        .map(drop)
}
