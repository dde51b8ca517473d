//! What must hold after each pass, when everything is calm, and when all clients are gone.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use xenstored::domain::Quota;
use xenstored::store::{Node, NodeArc, Sizes, check};
use xenstored::types::{Domid, PathBuf};

use crate::common::ring::at;
use crate::link::Link;
use crate::simulation::{EVENT_TIMEOUT, SNAPSHOT_AGE_MAX, Simulation};
use crate::steps::GUESTS;

/// How late a guest's events may expire: the interval of ticks.
const TICK: Duration = Duration::from_millis(250);

/// Returns an error unless two values are equal.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?} instead of {wanted:?}")) }
}

impl Simulation {
    /// Checks the sessions of a worker after its pass, and the accounts of all domains.
    pub fn check_pass(&mut self, worker: usize) -> Result<(), String> {
        let now = self.server.time_of_pass(worker);
        for session in self.server.sessions() {
            let reply_to = session.reply_to;
            if usize::from(reply_to.thread) != worker {
                continue;
            }
            let number = self.connections[&format!("{}.{}", reply_to.thread, reply_to.id)];
            let name = &self.clients[number].name;
            same(
                &format!("watches of {name}"),
                session.watches.iter().count(),
                self.model.watch_count(number),
            )?;
            let open = usize::from(self.model.is_open(number));
            same(&format!("transactions of {name}"), session.transactions.len(), open)?;
            // A pass that ends in time may leave out clients that have much to do.
            let is_due = |until: &Instant| *until <= now && self.setup.look_us == 0;
            if let Some(until) = session.next_timeout().filter(is_due) {
                return Err(format!("{name} waits although its timeout has passed at {until:?}"));
            }
            let takes_events = session.is_guest() && !session.is_quiesced();
            let oldest = session.output.oldest_event().filter(|_| takes_events);
            if oldest.is_some_and(|queued| queued + EVENT_TIMEOUT + TICK < now) {
                return Err(format!("{name} still has an event that has expired"));
            }
            for open in session.transactions.values() {
                let since = open.snapshots_from.filter(|_| !open.transaction.is_behind());
                if since.is_some_and(|since| since + SNAPSHOT_AGE_MAX <= now) {
                    return Err(format!("{name} keeps an old snapshot"));
                }
            }
        }
        self.check_accounts()?;
        self.check_quiesced()
    }

    /// Checks that the pages of quiesced domains are left alone.
    fn check_quiesced(&mut self) -> Result<(), String> {
        for session in self.server.sessions() {
            let domid = session.domid().0;
            if !session.is_quiesced() || session.parked.is_some() {
                continue;
            }
            let Some(Link::Ring(ring)) =
                self.rings.get(&domid).map(|ring| &self.clients[*ring].link)
            else {
                continue;
            };
            let indices = (ring.page.load(at::REQ_CONS), ring.page.load(at::RSP_PROD));
            let before = self.quiesced.get_mut(&domid).ok_or("it is quiesced by nothing")?;
            let before = *before.get_or_insert(indices);
            same(&format!("page of the quiesced domain {domid}"), indices, before)?;
        }
        Ok(())
    }

    fn check_accounts(&self) -> Result<(), String> {
        let registry = self.server.shared().store.registry();
        for domain in GUESTS.iter().filter_map(|domid| registry.get(Domid(*domid))) {
            let domid = domain.domid.0;
            let used = |quota| usize::try_from(domain.account.used(quota)).unwrap();
            if self.server.is_settled() {
                let nodes = self.model.node_count(domid);
                same(&format!("nodes of {domid}"), used(Quota::Nodes), nodes)?;
            }
            let ring = self.rings.get(&domid);
            let watches = ring.map_or(0, |ring| self.model.watch_count(*ring));
            same(&format!("watches of {domid}"), used(Quota::Watches), watches)?;
            let open = ring.is_some_and(|ring| self.model.is_open(*ring));
            let name = format!("transactions of {domid}");
            same(&name, used(Quota::Transactions), usize::from(open))?;
        }
        Ok(())
    }

    /// Returns whether a client waits for a reservation, or the end of one.
    pub fn waits_for_reservation(&self) -> bool {
        self.server.sessions().any(|session| session.next_timeout().is_some())
    }

    /// Checks that every client has everything, and that nothing is in transit.
    pub fn check_calm(&mut self) -> Result<(), String> {
        for number in self.slots.clone() {
            self.waive_expired(number);
            let client = &self.clients[number];
            let is_ring = matches!(client.link, Link::Ring(_));
            let is_served = !is_ring || self.rings.get(&client.domid) == Some(&number);
            if matches!(client.link, Link::Closed)
                || !is_served
                || (is_ring && self.quiesced.contains_key(&client.domid))
            {
                continue;
            }
            if let Some(sent) = client.sent.front() {
                return Err(format!("{} has no reply to {:?}", client.name, sent.action));
            }
            if let Some(missing) = client.expected.missing() {
                return Err(format!("{} misses {missing:?}", client.name));
            }
        }
        let shared = self.server.shared();
        same("parked", shared.parked.load(Ordering::Relaxed), 0)?;
        same("waiters for reservations", shared.reservations.counts().waiting, 0)?;
        same("mailboxes", shared.mailboxes.0.iter().all(|mailbox| mailbox.is_empty()), true)?;
        for domain in GUESTS.iter().filter_map(|domid| shared.store.registry().get(Domid(*domid))) {
            let outstanding = domain.account.used(Quota::Outstanding);
            same(&format!("outstanding requests of {}", domain.domid), outstanding, 0)?;
            let undelivered = (domain.undelivered(), domain.unread_bytes());
            same(&format!("events caused by {}", domain.domid), undelivered, (0, 0))?;
        }
        self.check_nodes()
    }

    /// Compares all nodes with the model's.
    fn check_nodes(&self) -> Result<(), String> {
        let store = &self.server.shared().store;
        let mut todo: Vec<(PathBuf, NodeArc)> = Vec::new();
        for shard in store.layout().all() {
            let tree = store.snapshot(shard);
            todo.extend(tree.partitions().map(|(path, root)| (path.clone(), NodeArc::clone(root))));
        }
        let mut nodes = BTreeMap::new();
        while let Some((path, node)) = todo.pop() {
            for (name, child) in node.children().iter() {
                let below = path.as_path().child(name.bytes());
                todo.extend(child.as_ref().map(|child| (below, NodeArc::clone(child))));
            }
            nodes.insert(path.as_path().to_string(), text(&node));
        }
        // What the daemon says about itself, and its special nodes.
        nodes.retain(|path, _| !path.starts_with("/tool") && !path.starts_with('@'));
        let mut wanted: BTreeMap<_, _> = self.model.values().collect();
        wanted.retain(|path, _| !path.starts_with("/tool"));
        let got: BTreeMap<_, _> =
            nodes.iter().map(|(path, value)| (path.as_str(), value.as_str())).collect();
        same("nodes", got, wanted)
    }

    /// Runs the daemon's own check, which takes longer than all others.
    pub fn check_store(&self) -> Result<(), String> {
        let store = &self.server.shared().store;
        let mut findings = check(store).map_err(|_| "removals are not settled")?.findings;
        for list in self.server.watch_lists() {
            findings.append(list.check(store.layout()));
        }
        same("check", findings.sentences(), &[])
    }

    /// Checks that nothing is left when all clients are gone.
    pub fn check_end(&self) -> Result<(), String> {
        let shared = self.server.shared();
        // Its kernel stays.
        same("connections", self.server.sessions().count(), 1)?;
        same("clients", shared.clients.load(Ordering::Relaxed), 0)?;
        same("snapshots", self.server.snapshots(), 0)?;
        let store = &shared.store;
        same("known domains", store.registry().known(), vec![Domid::CONTROL])?;
        same("watches of all shards", store.global_watches(), 0)?;
        for shard in store.layout().all() {
            let sizes = Sizes::of(store, shard);
            same(&format!("watches of {shard:?}"), sizes.watches, 0)?;
            same(&format!("pinned partitions of {shard:?}"), sizes.pinned, 0)?;
            same(&format!("boundaries of {shard:?}"), sizes.boundaries, 0)?;
        }
        for quota in [Quota::Watches, Quota::Transactions, Quota::Outstanding] {
            let used = shared.control_domain.account.used(quota);
            same(&format!("{} of the control domain", quota.name()), used, 0)?;
        }
        Ok(())
    }
}

fn text(node: &Node) -> String {
    String::from_utf8(node.value().to_vec()).unwrap()
}
