//! A daemon, its simulated host, and connections by name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::words::Domid;

use super::HANG;
use super::client::{Client, Event, Link};
use super::daemon::Daemon;
use super::ring::Ring;
use super::wire::{op, show};

/// How the control domain speaks with the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Socket,
    Ring,
}

/// The token of the watches that barriers use.
const BARRIER: &str = "~";

pub struct World {
    pub daemon: Daemon,
    pub host: SimClient,
    /// A connection of the control domain's that tables do not see.
    pub admin: Client,
    control: Control,
    clients: BTreeMap<String, Client>,
    /// Domains that exist and are not introduced.
    pub guests: BTreeMap<u16, SimGuest>,
    /// Event channels of all domains that were created here.
    pub ports: BTreeMap<u16, u32>,
    /// Clients that watch for barriers.
    watching: BTreeSet<String>,
    barriers: u32,
}

impl World {
    pub fn new(control: Control, shards: u16) -> World {
        World::around(Daemon::start(shards), control)
    }

    pub fn around(daemon: Daemon, control: Control) -> World {
        let host = SimClient::connect(daemon.path("sim")).unwrap();
        let mut admin = Client::new("admin", Link::Socket(daemon.connect()));
        admin.mkdir("/barrier").unwrap();
        admin.set_perms("/barrier", "r0").unwrap();
        World {
            daemon,
            host,
            admin,
            control,
            clients: BTreeMap::new(),
            guests: BTreeMap::new(),
            ports: BTreeMap::new(),
            watching: BTreeSet::new(),
            barriers: 0,
        }
    }

    /// The connection of this name, made when it is first asked for: `dom0` is the control domain
    /// by whatever the world is for, `dom0.<x>` another connection of it by socket, `dom<n>` a
    /// guest whose home `/local/domain/<n>` it owns.
    pub fn client(&mut self, name: &str) -> &mut Client {
        if !self.clients.contains_key(name) {
            let link = match domid_of(name) {
                0 if name == "dom0" && self.control == Control::Ring => {
                    Link::Ring(Ring { guest: self.host.attach_control().unwrap() })
                }
                0 => Link::Socket(self.daemon.connect()),
                domid => {
                    self.create(domid);
                    let home = format!("/local/domain/{domid}");
                    self.admin.mkdir(&home).unwrap();
                    self.admin.set_perms(&home, &format!("n{domid}")).unwrap();
                    self.introduce(domid);
                    return self.clients.get_mut(name).unwrap();
                }
            };
            self.clients.insert(name.to_owned(), Client::new(name, link));
        }
        self.clients.get_mut(name).unwrap()
    }

    /// The guest `domid`, as [`World::client`].
    pub fn guest(&mut self, domid: u16) -> &mut Client {
        self.client(&format!("dom{domid}"))
    }

    /// The daemon's log, with all that was logged before now: lines are written in their order, after
    /// the requests that caused them.
    pub fn log(&mut self) -> String {
        self.barriers += 1;
        let mark = format!("mark-{}-of-the-log", self.barriers);
        self.admin.control(&format!("print {mark}")).unwrap();
        let started = Instant::now();
        loop {
            let log = self.daemon.log();
            if log.contains(&format!("control: {mark}\n")) {
                return log;
            }
            assert!(started.elapsed() < HANG, "{mark} is not in the log");
            std::thread::yield_now();
        }
    }

    /// Creates a domain on the host; the daemon does not know it yet.
    pub fn create(&mut self, domid: u16) {
        let guest = self.host.create(Some(Domid(domid))).unwrap();
        assert_eq!(guest.domid, Domid(domid));
        self.ports.insert(domid, guest.port);
        self.guests.insert(domid, guest);
        self.clients.remove(&format!("dom{domid}"));
        self.watching.remove(&format!("dom{domid}"));
    }

    /// Introduces a domain that was created here, through the admin's connection.
    pub fn introduce(&mut self, domid: u16) {
        let port = self.ports[&domid];
        let reply = self.admin.request(op::INTRODUCE, 0, format!("{domid}\x001\0{port}\0"));
        assert_eq!(reply.as_deref(), Ok(&b"OK\0"[..]), "INTRODUCE {domid}");
        self.connect_guest(domid);
    }

    /// Makes a created domain's ring the connection of its name.
    pub fn connect_guest(&mut self, domid: u16) {
        if let Some(guest) = self.guests.remove(&domid) {
            let name = format!("dom{domid}");
            self.clients.insert(name.clone(), Client::new(&name, Link::Ring(Ring { guest })));
        }
    }

    /// Destroys a domain; its connection is gone with it.
    pub fn destroy(&mut self, domid: u16) {
        self.host.destroy(Domid(domid)).unwrap();
        self.close(&format!("dom{domid}"));
    }

    /// Gives a connection away, to another thread.
    pub fn take(&mut self, name: &str) -> Client {
        self.watching.remove(name);
        self.clients.remove(name).unwrap()
    }

    /// Drops a connection.
    pub fn close(&mut self, name: &str) {
        self.clients.remove(name);
        self.watching.remove(name);
    }

    pub fn names(&self) -> Vec<String> {
        self.clients.keys().cloned().collect()
    }

    /// The client's barrier watch is gone: set a new one when it is needed.
    pub fn watches_were_reset(&mut self, name: &str) {
        self.watching.remove(name);
    }

    /// All events of commits that were answered before now, the barriers' own left out: an event
    /// that is caused after them must arrive after them, so its arrival proves them complete.
    pub fn events_until_now(&mut self, name: &str) -> Vec<Event> {
        let mut events = Vec::new();
        if self.watching.insert(name.to_owned()) {
            let client = self.client(name);
            client.watch("/barrier", BARRIER).unwrap();
            loop {
                match client.next_event() {
                    event if event == format!("/barrier|{BARRIER}") => break,
                    event => events.push(event),
                }
            }
        }
        self.barriers += 1;
        let path = format!("/barrier/{}", self.barriers);
        self.admin.write(&path, "").unwrap();
        let client = self.client(name);
        let last = format!("{path}|{BARRIER}");
        loop {
            match client.next_event() {
                event if event == last => break,
                event => events.push(event),
            }
        }
        events.retain(|event| !is_barrier(event));
        events
    }

    /// The next event that is not a barrier's.
    pub fn next_event(&mut self, name: &str) -> Event {
        let client = self.client(name);
        loop {
            match client.next_event() {
                event if is_barrier(&event) => {}
                event => return event,
            }
        }
    }

    /// Waits until a domain's death has come through: its incarnation's events are sent last.
    pub fn until_released(&mut self, domid: u16) {
        let token = format!("gone{}", self.barriers);
        self.barriers += 1;
        let path = format!("@releaseDomain/{domid}");
        self.admin.watch(&path, &token).unwrap();
        assert_eq!(self.admin.next_event(), format!("{path}|{token}"));
        self.destroy(domid);
        assert_eq!(self.admin.next_event(), format!("{path}|{token}"));
        self.admin.unwatch(&path, &token).unwrap();
        self.admin.take_events();
    }

    /// How many nodes a domain owns, as `quota <domid>` says.
    pub fn nodes_of(&mut self, domid: u16) -> u32 {
        self.accounted(domid, "nodes")
    }

    /// A line of `quota <domid>`.
    pub fn accounted(&mut self, domid: u16, quota: &str) -> u32 {
        let text = show(&self.admin.control(&format!("quota {domid}")).unwrap());
        let line = text.lines().find(|line| line.split(':').next().unwrap().trim() == quota);
        let line = line.unwrap_or_else(|| panic!("no {quota} in {text}"));
        let value = line.split(':').nth(1).unwrap().split_whitespace().next().unwrap();
        value.parse().unwrap()
    }

    /// The daemon's own check of its counts and indices.
    pub fn check_store(&mut self) {
        let found = self.admin.control("check").map(|found| show(&found));
        assert_eq!(found.as_deref(), Ok("OK|"));
    }
}

fn is_barrier(event: &Event) -> bool {
    event.starts_with("/barrier")
}

/// The number in `dom<n>` or `dom<n>.<x>`.
pub fn domid_of(name: &str) -> u16 {
    let digits = name.strip_prefix("dom").and_then(|rest| rest.split('.').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("who is {name}?"))
}
