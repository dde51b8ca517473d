//! The naive model: a store in obvious code, without regard to speed. A transaction is the list of its operations,
//! which its end replays on the current store.

// Each test binary uses a part.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

/// Permissions that random operations set.
pub const PERMS: [&str; 10] =
    ["n0", "r0", "b0", "n0 r5", "n5", "n6 r5", "b7", "n7 w5", "n0 b7 r6", "w5 r6"];

/// The reply to an operation, as on the wire; a directory's names are sorted.
pub type Reply = Result<String, &'static str>;

/// A permission entry. The entry records the domain's incarnation, as the next domain with the same domid is a
/// different one.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    letter: char,
    domid: u16,
    incarnation: u32,
}

#[derive(Clone, Debug, PartialEq)]
struct Node {
    value: String,
    perms: Vec<Entry>,
}

/// An operation of the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Read(String),
    Directory(String),
    GetPerms(String),
    Write(String, String),
    Mkdir(String),
    Rm(String),
    SetPerms(String, String),
}

/// A change: its path, and whether watches above see it (`false`: only watches set exactly there).
type Change = (String, bool);

type Nodes = BTreeMap<String, Node>;

/// The living domains, each with its incarnation.
type Incarnations = BTreeMap<u16, u32>;

#[derive(Clone, Debug)]
struct Watch {
    connection: usize,
    path: String,
    token: String,
    depth: Option<usize>,
    relative: bool,
}

struct Transaction {
    log: Vec<(Op, Reply)>,
    /// The version of the model at its start.
    since: u64,
    /// Whether the transaction began on another host, whose requests the model does not know.
    moved: bool,
}

/// The state that moves with a domain.
#[derive(Debug, PartialEq)]
pub struct Carried {
    /// Path, value, and permissions as in SET_PERMS; an entry that matches no living domain has a `!`.
    pub nodes: Vec<[String; 3]>,
    /// The watches: path as the client wrote it, token, depth; in the order in which they were set.
    pub watches: Vec<(String, String, Option<usize>)>,
    /// Whether a transaction is open.
    pub open: bool,
}

pub struct Model {
    nodes: Nodes,
    incarnations: Incarnations,
    last_incarnation: u32,
    watches: Vec<Watch>,
    /// The domid of each connection.
    connections: Vec<u16>,
    transactions: BTreeMap<usize, Transaction>,
    /// Incremented by every change.
    version: u64,
}

/// Events by connection, in no order within one commit.
pub type Events = BTreeMap<usize, Vec<String>>;

impl Model {
    /// Returns the store of a new daemon, with connections of these domids.
    pub fn new(connections: &[u16]) -> Model {
        let control = vec![Entry { letter: 'n', domid: 0, incarnation: 1 }];
        let node = |perms: &Vec<Entry>| Node { value: String::new(), perms: perms.clone() };
        let nodes = ["/", "/tool", "/tool/xenstored"].map(|path| (path.to_owned(), node(&control)));
        Model {
            nodes: nodes.into(),
            incarnations: [(0, 1)].into(),
            last_incarnation: 1,
            watches: Vec::new(),
            connections: connections.to_vec(),
            transactions: BTreeMap::new(),
            version: 0,
        }
    }

    /// Creates a domain with its partition root.
    pub fn create(&mut self, domid: u16) -> Events {
        self.last_incarnation += 1;
        self.incarnations.insert(domid, self.last_incarnation);
        let home = format!("/local/domain/{domid}");
        let mut events = self.request_as(0, &Op::Mkdir(home.clone())).1;
        merge(&mut events, self.request_as(0, &Op::SetPerms(home, format!("n{domid}"))).1);
        events
    }

    /// Models a domain's death: ends its connection and removes the nodes that it owns.
    pub fn destroy(&mut self, domid: u16) -> Events {
        let before = self.nodes.clone();
        let incarnations = self.incarnations.clone();
        self.version += 1;
        for (connection, _) in
            self.connections.clone().iter().enumerate().filter(|(_, of)| **of == domid)
        {
            self.reset(connection);
        }
        self.incarnations.remove(&domid);
        let owned = |node: &Node| node.perms[0].domid == domid;
        let roots: Vec<_> =
            before.iter().filter(|(_, node)| owned(node)).map(|(path, _)| path.clone()).collect();
        let mut changes = Vec::new();
        for root in roots {
            if self.nodes.contains_key(&root) {
                remove(&mut self.nodes, &root, &mut changes);
            }
        }
        for node in self.nodes.values_mut() {
            let mut at = 0;
            // The owner's entry stays: a living owner has another domid, and the dead one's nodes have been removed.
            node.perms.retain(|entry| {
                at += 1;
                at == 1 || entry.domid != domid
            });
        }
        self.fire(&before, &incarnations, &changes)
    }

    /// Adds a connection of a domain, and returns its number.
    pub fn connect(&mut self, domid: u16) -> usize {
        self.connections.push(domid);
        self.connections.len() - 1
    }

    /// Makes a domain known, unless it is.
    pub fn admit(&mut self, domid: u16) {
        if !self.incarnations.contains_key(&domid) {
            self.last_incarnation += 1;
            self.incarnations.insert(domid, self.last_incarnation);
        }
    }

    pub fn reset(&mut self, connection: usize) {
        self.watches.retain(|watch| watch.connection != connection);
        self.transactions.remove(&connection);
    }

    /// Runs a request outside of transactions.
    pub fn request(&mut self, connection: usize, op: &Op) -> (Reply, Events) {
        self.request_as(self.connections[connection], op)
    }

    fn request_as(&mut self, domid: u16, op: &Op) -> (Reply, Events) {
        let before = self.nodes.clone();
        let mut changes = Vec::new();
        let reply = apply(&mut self.nodes, &self.incarnations, domid, op, &mut changes);
        if self.nodes != before {
            self.version += 1;
        }
        let incarnations = self.incarnations.clone();
        (reply, self.fire(&before, &incarnations, &changes))
    }

    pub fn start(&mut self, connection: usize) {
        let transaction = Transaction { log: Vec::new(), since: self.version, moved: false };
        self.transactions.insert(connection, transaction);
    }

    /// Adds a request, to which the daemon replied `got`, to the connection's transaction; returns the expected reply
    /// as an error if it differs. That is certain only while the store is unchanged since the transaction began: later,
    /// the daemon may have taken its snapshot at any moment since. The comparison at END is exact in any case.
    pub fn in_transaction_request(
        &mut self,
        connection: usize,
        op: &Op,
        got: Reply,
    ) -> Result<(), Reply> {
        let domid = self.connections[connection];
        let transaction = &self.transactions[&connection];
        if transaction.since == self.version && !transaction.moved {
            let mut nodes = self.nodes.clone();
            for (op, _) in &transaction.log {
                let _ = apply(&mut nodes, &self.incarnations, domid, op, &mut Vec::new());
            }
            let wanted = apply(&mut nodes, &self.incarnations, domid, op, &mut Vec::new());
            if wanted != got {
                return Err(wanted);
            }
        }
        self.transactions.get_mut(&connection).unwrap().log.push((op.clone(), got));
        Ok(())
    }

    /// Fires a special path. Every domain may watch @releaseDomain, only the control domain @introduceDomain.
    pub fn special(&self, name: &str) -> Events {
        let mut events = Events::new();
        for watch in self.watches.iter().filter(|watch| watch.path == name) {
            let may_know = name == "@releaseDomain" || self.connections[watch.connection] == 0;
            if may_know && watch.depth.is_none() {
                let event = format!("{name}|{}", watch.token);
                events.entry(watch.connection).or_default().push(event);
            }
        }
        events
    }

    /// Returns whether the connection has a transaction.
    pub fn is_open(&self, connection: usize) -> bool {
        self.transactions.contains_key(&connection)
    }

    /// Returns whether the store has changed since the connection's transaction began.
    pub fn has_changed(&self, connection: usize) -> bool {
        self.transactions[&connection].since != self.version
    }

    /// Returns whether the connection's transaction would commit.
    pub fn would_commit(&self, connection: usize) -> bool {
        let mut nodes = self.nodes.clone();
        let domid = self.connections[connection];
        let mut repeat = |op| apply(&mut nodes, &self.incarnations, domid, op, &mut Vec::new());
        self.transactions[&connection].log.iter().all(|(op, then)| repeat(op) == *then)
    }

    /// Returns the number of a connection's watches.
    pub fn watch_count(&self, connection: usize) -> usize {
        self.watches.iter().filter(|watch| watch.connection == connection).count()
    }

    /// Returns the number of nodes that a domain owns.
    pub fn node_count(&self, domid: u16) -> usize {
        self.nodes.values().filter(|node| node.perms[0].domid == domid).count()
    }

    /// Returns the nodes: paths and values.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node.value.as_str()))
    }

    /// Ends a transaction: it commits if each of its requests would get the same reply now.
    pub fn end(&mut self, connection: usize, commit: bool) -> (Reply, Events) {
        let transaction = self.transactions.remove(&connection).unwrap();
        if !commit {
            return (Ok("OK|".to_owned()), Events::new());
        }
        if transaction.moved {
            return (Err("EAGAIN"), Events::new());
        }
        let domid = self.connections[connection];
        let before = self.nodes.clone();
        let mut changes = Vec::new();
        for (op, then) in &transaction.log {
            let now = apply(&mut self.nodes, &self.incarnations, domid, op, &mut changes);
            if now != *then {
                self.nodes = before;
                return (Err("EAGAIN"), Events::new());
            }
        }
        // A commit causes one event per path, whichever operations touched it.
        let mut once: BTreeMap<String, bool> = BTreeMap::new();
        for (path, subtree) in changes {
            *once.entry(path).or_default() |= subtree;
        }
        let changes: Vec<_> = once.into_iter().collect();
        if self.nodes != before {
            self.version += 1;
        }
        let incarnations = self.incarnations.clone();
        (Ok("OK|".to_owned()), self.fire(&before, &incarnations, &changes))
    }

    pub fn watch(
        &mut self,
        connection: usize,
        path: &str,
        token: &str,
        depth: Option<usize>,
    ) -> (Reply, Events) {
        let absolute = absolute(self.connections[connection], path);
        let same = |watch: &Watch| {
            watch.connection == connection && watch.path == absolute && watch.token == token
        };
        if self.watches.iter().any(same) {
            return (Err("EEXIST"), Events::new());
        }
        self.watches.push(Watch {
            connection,
            path: absolute,
            token: token.to_owned(),
            depth,
            relative: !path.starts_with(['/', '@']),
        });
        (Ok("OK|".to_owned()), [(connection, vec![format!("{path}|{token}")])].into())
    }

    pub fn unwatch(&mut self, connection: usize, path: &str, token: &str) -> Reply {
        let absolute = absolute(self.connections[connection], path);
        let before = self.watches.len();
        self.watches.retain(|watch| {
            watch.connection != connection || watch.path != absolute || watch.token != token
        });
        if self.watches.len() < before { Ok("OK|".to_owned()) } else { Err("ENOENT") }
    }

    /// Returns the state that moves with a domain.
    pub fn carried(&self, connection: usize) -> Carried {
        let domid = self.connections[connection];
        let entry = |entry: &Entry| {
            let is_alive = self.incarnations.get(&entry.domid) == Some(&entry.incarnation);
            format!("{}{}{}", entry.letter, entry.domid, if is_alive { "" } else { "!" })
        };
        let perms = |node: &Node| node.perms.iter().map(entry).collect::<Vec<_>>().join(" ");
        let own = self.nodes.iter().filter(|(path, _)| key(path) == Some(domid));
        let nodes = own.map(|(path, node)| [path.clone(), node.value.clone(), perms(node)]);
        let set = self.watches.iter().filter(|watch| watch.connection == connection);
        let watches = set.map(|watch| (watch.shown(domid), watch.token.clone(), watch.depth));
        let open = self.transactions.contains_key(&connection);
        Carried { nodes: nodes.collect(), watches: watches.collect(), open }
    }

    /// Models a domain's return from another host: its transaction can only fail, and its watches fire on all paths
    /// that do not move with it.
    pub fn moved(&mut self, connection: usize) -> Events {
        if let Some(transaction) = self.transactions.get_mut(&connection) {
            transaction.moved = true;
        }
        let domid = self.connections[connection];
        let others = |watch: &&Watch| {
            let is_own = key(&watch.path) == Some(domid) && !leads_to_others(&watch.path);
            watch.connection == connection && !is_own
        };
        let set = self.watches.iter().filter(others);
        let events = set.map(|watch| format!("{}|{}", watch.shown(domid), watch.token));
        [(connection, events.collect())].into()
    }

    /// Returns the events of one commit, matching every watch against every change.
    fn fire(&self, before: &Nodes, incarnations: &Incarnations, changes: &[Change]) -> Events {
        let mut events = Events::new();
        let mut seen = BTreeSet::new();
        for (path, subtree) in changes {
            for (number, watch) in self.watches.iter().enumerate() {
                let domid = self.connections[watch.connection];
                let readable = |nodes: &Nodes, path: &str| {
                    nodes.get(path).is_some_and(|node| may(node, incarnations, domid).0)
                };
                let was_there = before.contains_key(path) || self.nodes.contains_key(path);
                let removed = was_there && !self.nodes.contains_key(path);
                let visible = readable(before, path)
                    || readable(&self.nodes, path)
                    || removed && readable(before, &parent(path));
                let below = distance(&watch.path, path);
                let fits = match below {
                    Some(0) => true,
                    Some(levels) => *subtree && watch.depth.is_none_or(|depth| levels <= depth),
                    None => false,
                };
                if visible && fits && seen.insert((path.clone(), number)) {
                    let prefix = format!("/local/domain/{domid}/");
                    let shown = if watch.relative { &path[prefix.len()..] } else { path };
                    let event = format!("{shown}|{}", watch.token);
                    events.entry(watch.connection).or_default().push(event);
                }
            }
        }
        events
    }
}

impl Watch {
    /// Returns the path as the client wrote it.
    fn shown(&self, domid: u16) -> String {
        let home = format!("/local/domain/{domid}/");
        let relative = self.path.strip_prefix(&home).filter(|_| self.relative);
        relative.unwrap_or(&self.path).to_owned()
    }
}

/// Returns the domain that takes a path along when it is moved.
pub fn key(path: &str) -> Option<u16> {
    let names: Vec<&str> = path.split('/').skip(1).collect();
    let (own, others) = match names[..] {
        ["local", "domain", _, "backend", _, domid, ..] => (names[2], Some(domid)),
        ["local", "domain", _, "device-model", domid, ..] => (names[2], Some(domid)),
        ["local", "domain", domid, ..] | ["libxl", domid, ..] => (domid, None),
        _ => return None,
    };
    others.and_then(|domid| domid.parse().ok()).or_else(|| own.parse().ok())
}

/// Returns whether nodes that move with another domain can be below this path of a domain.
fn leads_to_others(path: &str) -> bool {
    let names: Vec<&str> = path.split('/').skip(1).collect();
    matches!(
        names[..],
        ["local", "domain", _]
            | ["local", "domain", _, "backend"]
            | ["local", "domain", _, "backend", _]
            | ["local", "domain", _, "device-model"]
    )
}

fn merge(into: &mut Events, more: Events) {
    for (connection, events) in more {
        into.entry(connection).or_default().extend(events);
    }
}

fn absolute(domid: u16, path: &str) -> String {
    if path.starts_with(['/', '@']) {
        path.to_owned()
    } else {
        format!("/local/domain/{domid}/{path}")
    }
}

fn parent(path: &str) -> String {
    match path.rfind('/').unwrap() {
        0 => "/".to_owned(),
        at => path[..at].to_owned(),
    }
}

/// Returns how many levels `path` is below `above`, if it is.
fn distance(above: &str, path: &str) -> Option<usize> {
    let names = |path: &str| {
        path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let (above, path) = (names(above), names(path));
    path.starts_with(&above).then(|| path.len() - above.len())
}

/// Returns whether a domain may read a node, may write it, and owns it.
fn may(node: &Node, incarnations: &Incarnations, domid: u16) -> (bool, bool, bool) {
    let holds = |entry: &Entry| {
        entry.domid == domid && incarnations.get(&domid) == Some(&entry.incarnation)
    };
    if domid == 0 || holds(&node.perms[0]) {
        return (true, true, true);
    }
    let entry = node.perms[1..].iter().find(|entry| holds(entry)).unwrap_or(&node.perms[0]);
    (matches!(entry.letter, 'r' | 'b'), matches!(entry.letter, 'w' | 'b'), false)
}

/// Returns EACCES, or ENOENT if the nearest ancestor that exists would allow the same.
fn error_for(
    nodes: &Nodes,
    path: &str,
    error: &'static str,
    allowed: impl Fn(&Node) -> bool,
) -> &'static str {
    let mut above = parent(path);
    while !nodes.contains_key(&above) {
        above = parent(&above);
    }
    if allowed(&nodes[&above]) { error } else { "EACCES" }
}

fn apply(
    nodes: &mut Nodes,
    incarnations: &Incarnations,
    domid: u16,
    op: &Op,
    changes: &mut Vec<Change>,
) -> Reply {
    let (Op::Read(raw)
    | Op::Directory(raw)
    | Op::GetPerms(raw)
    | Op::Write(raw, _)
    | Op::Mkdir(raw)
    | Op::Rm(raw)
    | Op::SetPerms(raw, _)) = op;
    let path = absolute(domid, raw);
    let reads = |node: &Node| may(node, incarnations, domid).0;
    let writes = |node: &Node| may(node, incarnations, domid).1;
    let owns = |node: &Node| may(node, incarnations, domid).2;
    let node = nodes.get(&path).cloned();
    let done = Ok("OK|".to_owned());
    match op {
        Op::Read(_) | Op::Directory(_) | Op::GetPerms(_) => {
            let Some(node) = node else { return Err(error_for(nodes, &path, "ENOENT", reads)) };
            if !reads(&node) {
                return Err(error_for(nodes, &path, "EACCES", reads));
            }
            Ok(match op {
                Op::Read(_) => node.value,
                Op::Directory(_) => {
                    children(nodes, &path).iter().map(|name| format!("{name}|")).collect()
                }
                _ => node
                    .perms
                    .iter()
                    .map(|entry| format!("{}{}|", entry.letter, entry.domid))
                    .collect(),
            })
        }
        Op::Write(_, value) => {
            match &node {
                Some(node) if !writes(node) => return Err("EACCES"),
                None if error_for(nodes, &path, "ENOENT", writes) == "EACCES" => {
                    return Err("EACCES");
                }
                Some(_) => {}
                None => create(nodes, incarnations, domid, &path),
            }
            nodes.get_mut(&path).unwrap().value.clone_from(value);
            changes.push((path, true));
            done
        }
        Op::Mkdir(_) => match node {
            Some(node) if !writes(&node) => Err("EACCES"),
            Some(_) => done,
            None if error_for(nodes, &path, "ENOENT", writes) == "EACCES" => Err("EACCES"),
            None => {
                create(nodes, incarnations, domid, &path);
                changes.push((path, true));
                done
            }
        },
        Op::Rm(_) => match node {
            Some(node) if !writes(&node) => Err("EACCES"),
            Some(_) => {
                remove(nodes, &path, changes);
                done
            }
            None if error_for(nodes, &path, "ENOENT", writes) == "EACCES" => Err("EACCES"),
            None if nodes.contains_key(&parent(&path)) => done,
            None => Err("ENOENT"),
        },
        Op::SetPerms(_, perms) => {
            let perms: Vec<Entry> = perms
                .split(' ')
                .map(|text| {
                    let domid = text[1..].parse().unwrap();
                    let incarnation = incarnations.get(&domid).copied().unwrap_or(0);
                    Entry { letter: text.chars().next().unwrap(), domid, incarnation }
                })
                .collect();
            if perms[0].incarnation == 0 {
                return Err("ENOENT");
            }
            let either = |node: &Node| writes(node) || owns(node);
            let Some(node) = node else { return Err(error_for(nodes, &path, "ENOENT", either)) };
            if !owns(&node) {
                return Err("EACCES");
            }
            if domid != 0 && perms[0].domid != node.perms[0].domid {
                return Err("EPERM");
            }
            nodes.get_mut(&path).unwrap().perms = perms;
            changes.push((path, true));
            done
        }
    }
}

fn children(nodes: &Nodes, path: &str) -> Vec<String> {
    let below = nodes.keys().filter(|other| *other != "/" && parent(other) == path);
    below.map(|child| child[child.rfind('/').unwrap() + 1..].to_owned()).collect()
}

/// Creates a node and its missing parents, each with its parent's permissions; the owner is the creator, if that is a
/// guest.
fn create(nodes: &mut Nodes, incarnations: &Incarnations, domid: u16, path: &str) {
    let above = parent(path);
    if !nodes.contains_key(&above) {
        create(nodes, incarnations, domid, &above);
    }
    let mut perms = nodes[&above].perms.clone();
    if domid != 0 {
        perms[0].domid = domid;
        perms[0].incarnation = incarnations[&domid];
    }
    nodes.insert(path.to_owned(), Node { value: String::new(), perms });
}

fn remove(nodes: &mut Nodes, root: &str, changes: &mut Vec<Change>) {
    let gone: Vec<_> =
        nodes.keys().filter(|path| distance(root, path).is_some()).cloned().collect();
    for path in gone {
        nodes.remove(&path);
        changes.push((path.clone(), path == root));
    }
}
