//! A daemon, its simulated host, and connections by name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::types::Domid;

use super::HANG;
use super::client::{Client, Event, Link};
use super::daemon::Daemon;
use super::ring::Ring;
use super::wire::{op, show};

/// The transport of the control domain's connection `dom0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Socket,
    Ring,
}

/// The token of barrier watches.
const BARRIER: &str = "~";

pub struct World {
    pub daemon: Daemon,
    pub host: SimClient,
    /// A connection of the control domain that tables do not use.
    pub admin: Client,
    control: Control,
    clients: BTreeMap<String, Client>,
    /// Domains that exist and are not introduced.
    pub guests: BTreeMap<u16, SimGuest>,
    /// The event channels of all domains that were created here.
    pub ports: BTreeMap<u16, u32>,
    /// The clients that have a barrier watch.
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

    /// Returns the connection of this name, opened at its first use: `dom0` is the control domain over the world's
    /// transport, `dom0.<x>` another connection of it by socket, `dom<n>` a guest that owns its partition root
    /// `/local/domain/<n>`.
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

    /// Returns the guest `domid`, as [`World::client`] does.
    pub fn guest(&mut self, domid: u16) -> &mut Client {
        self.client(&format!("dom{domid}"))
    }

    /// Returns the daemon's log with everything logged before now: lines are written in order, after the requests that
    /// caused them.
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

    /// Creates a domain on the host, unknown to the daemon until it is introduced.
    pub fn create(&mut self, domid: u16) {
        let guest = self.host.create(Some(Domid(domid))).unwrap();
        assert_eq!(guest.domid, Domid(domid));
        self.ports.insert(domid, guest.port);
        self.guests.insert(domid, guest);
        self.clients.remove(&format!("dom{domid}"));
        self.watching.remove(&format!("dom{domid}"));
    }

    /// Introduces a domain that was created here, over the admin connection.
    pub fn introduce(&mut self, domid: u16) {
        let port = self.ports[&domid];
        let reply = self.admin.request(op::INTRODUCE, 0, format!("{domid}\x001\0{port}\0"));
        assert_eq!(reply.as_deref(), Ok(&b"OK\0"[..]), "INTRODUCE {domid}");
        self.connect_guest(domid);
    }

    /// Opens the ring of a created domain as the connection of that domain's name.
    pub fn connect_guest(&mut self, domid: u16) {
        if let Some(guest) = self.guests.remove(&domid) {
            let name = format!("dom{domid}");
            self.clients.insert(name.clone(), Client::new(&name, Link::Ring(Ring { guest })));
        }
    }

    /// Destroys a domain and drops its connection.
    pub fn destroy(&mut self, domid: u16) {
        self.host.destroy(Domid(domid)).unwrap();
        self.close(&format!("dom{domid}"));
    }

    /// Moves a connection out of the world, for another thread.
    pub fn take(&mut self, name: &str) -> Client {
        self.watching.remove(name);
        self.clients.remove(name).unwrap()
    }

    pub fn close(&mut self, name: &str) {
        self.clients.remove(name);
        self.watching.remove(name);
    }

    pub fn names(&self) -> Vec<String> {
        self.clients.keys().cloned().collect()
    }

    /// Forgets the client's barrier watch, which the daemon dropped; the next barrier sets a new one.
    pub fn watches_were_reset(&mut self, name: &str) {
        self.watching.remove(name);
    }

    /// Returns all events of commits whose replies came before now, without the barriers' own: an event caused after
    /// those commits must arrive after their events, so its arrival proves that the list is complete.
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

    /// Waits for the next event that is not a barrier's.
    pub fn next_event(&mut self, name: &str) -> Event {
        let client = self.client(name);
        loop {
            match client.next_event() {
                event if is_barrier(&event) => {}
                event => return event,
            }
        }
    }

    /// Destroys a domain and waits until the daemon has handled its death: the events of its incarnation are sent last.
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

    /// Returns how many nodes a domain owns, according to `quota <domid>`.
    pub fn nodes_of(&mut self, domid: u16) -> u32 {
        self.accounted(domid, "nodes")
    }

    /// Returns the use of a quota, according to `quota <domid>`.
    pub fn accounted(&mut self, domid: u16, quota: &str) -> u32 {
        let text = show(&self.admin.control(&format!("quota {domid}")).unwrap());
        let line = text.lines().find(|line| line.split(':').next().unwrap().trim() == quota);
        let line = line.unwrap_or_else(|| panic!("no {quota} in {text}"));
        let value = line.split(':').nth(1).unwrap().split_whitespace().next().unwrap();
        value.parse().unwrap()
    }

    /// Replaces the daemon by another process of the same program, which goes on with its state.
    pub fn update(&mut self) {
        let program = env!("CARGO_BIN_EXE_xenstored");
        for words in [&format!("live-update -f {program}"), "live-update -s"] {
            let reply = self.admin.control(words).map(|reply| show(&reply));
            assert_eq!(reply.as_deref(), Ok("OK|"), "{words}");
        }
    }

    /// Runs the daemon's own check of its accounts and indices.
    pub fn check_store(&mut self) {
        let found = self.admin.control("check").map(|found| show(&found));
        assert_eq!(found.as_deref(), Ok("OK|"));
    }
}

fn is_barrier(event: &Event) -> bool {
    event.starts_with("/barrier")
}

/// Returns the number in `dom<n>` or `dom<n>.<x>`.
pub fn domid_of(name: &str) -> u16 {
    let digits = name.strip_prefix("dom").and_then(|rest| rest.split('.').next());
    digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("not the name of a domain: {name}"))
}
