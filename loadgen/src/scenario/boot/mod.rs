//! Domains are started, as libxl, Linux and xenconsoled do it.
//!
//! ```text
//!   toolstack   a socket each   makes the domain and its devices, waits for their backends,
//!                               runs the hotplug scripts
//!   kernel      domain 0's ring learns of new backends and connects them
//!   guest       a ring each     finds its devices and connects them
//!   console     a socket        learns of new domains and gives them a terminal
//! ```
//!
//! Modelled on libxl's and Linux's sources: about 440 requests, 110 events and 16 transactions a
//! domain. A domain is done when both its devices are connected at both ends and its console has a
//! terminal.

mod console;
mod guest;
mod kernel;
mod replay;
mod storm;
mod toolstack;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use xenstored::host::sim::SimClient;
use xenstored::protocol::Kind;
use xenstored::words::Domid;

use super::host_of;
use crate::client::{Blocking, Client, Link, Stage, Watch, words};
use crate::target::{Running, Target};
use crate::trouble::{Result, Trouble};

pub use storm::all;

/// The devices of a domain that have a backend in the kernel: class and number.
const DEVICES: [(&str, u32); 2] = [("vbd", 51712), ("vif", 0)];

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
    /// Domains that the console daemon has not looked for yet: what it would ask the hypervisor.
    new_domains: RefCell<VecDeque<Domid>>,
    /// Toolstacks of living domains, each with its watch.
    toolstacks: RefCell<Vec<Client>>,
    guests: RefCell<Vec<Client>>,
    /// The kernel's backends, each with the watch on its frontend once it is connected.
    backends: RefCell<HashMap<String, Option<Watch>>>,
    /// The console daemon's watches, one for each domain that it serves.
    consoles: RefCell<Vec<Watch>>,
}

impl Machine {
    /// Starts what serves domains on a daemon that just began.
    pub(super) fn new(running: &Running, target: &Target) -> Result<Rc<Machine>> {
        // What xen-init-dom0 leaves: the directories that all domains have in common. Whoever has
        // answered has also begun to serve the control domain's ring.
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
        let cannot = |error| Trouble::io("cannot use the simulated host", error);
        let mut host = host_of(running, target)?;
        let stage = Stage::new()?;
        // It ends with its connection, as the machine's own does.
        let ring = host.attach_control().map_err(cannot)?;
        let kernel = stage.client(Link::Ring(Box::new(ring)))?;
        let console = stage.connect(&running.socket)?;
        let machine = Rc::new(Machine {
            stage,
            socket: running.socket.clone(),
            host: RefCell::new(host),
            new_domains: RefCell::default(),
            toolstacks: RefCell::default(),
            guests: RefCell::default(),
            backends: RefCell::default(),
            consoles: RefCell::default(),
        });
        machine.stage.serve(kernel::run(Rc::downgrade(&machine), kernel));
        machine.stage.serve(console::run(Rc::downgrade(&machine), console));
        Ok(machine)
    }

    /// Forgets its domains, which are dead, once the kernel has heard that their backends are gone.
    pub(super) async fn forget(self: Rc<Machine>) -> Result<()> {
        // Their rings are broken by now.
        self.guests.take();
        self.toolstacks.take();
        let toolstack = self.stage.connect(&self.socket)?;
        while !self.backends.borrow().is_empty() {
            toolstack.must(Kind::GetDomainPath, 0, b"0\0").await?;
        }
        let consoles = self.consoles.take();
        for watch in consoles {
            watch.remove().await?;
        }
        Ok(())
    }

    /// Starts a domain, by a toolstack of its own.
    pub(super) async fn boot(self: Rc<Machine>, domid: Domid) -> Result<()> {
        let toolstack = self.stage.connect(&self.socket)?;
        toolstack::create(self, toolstack, domid).await
    }
}

/// What a toolstack removes of a dead domain, besides what the daemon does.
pub(super) fn remains(domid: Domid) -> Vec<String> {
    let mut paths = vec![home(domid), format!("/libxl/{domid}"), vm(domid)];
    // The device first: its removal is what the kernel hears of.
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

/// A directory with these permissions.
async fn make(client: &Client, tx_id: u32, path: &str, permissions: &[&str]) -> Result<()> {
    client.must(Kind::Mkdir, tx_id, &words(&[path])).await?;
    let request = words(&[&[path], permissions].concat());
    client.must(Kind::SetPerms, tx_id, &request).await.map(drop)
}

/// As Linux's `xenbus_switch_state`: the old state is read in the same transaction, so that a
/// device that vanished does not come back.
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
