//! What a domain takes along when it leaves: from a cut of the store, with no lock held.
//!
//! Of each domain, in the order of their numbers: CONNECTION_DATA, DOMAIN_DATA, the nodes, the
//! watches in the order in which it set them, the transactions. Nodes come subtree by subtree in the
//! order of their roots, each node before those below it and those in the order of their names. So
//! the same state is always the same bytes.
//!
//! A domain's nodes are those of the homes with its key (words/key.rs): its home, its backends and
//! device model in whichever domains, `/libxl/<d>`; and the `/vm/<uuid>` that its node `vm` names. A
//! home of another domain that lies below its own, as a driver domain has them, is that one's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use rayon::prelude::*;

use super::bytes::{Fault, Order};
use super::state::Client;
use super::stream::{
    Domain as DomainRecord, Node as NodeRecord, Record, Transport, Writer, append,
};
use crate::domain::{Domain, Quota};
use crate::store::{Node, Store, Tree};
use crate::sync::Arc;
use crate::words::{
    Access, Births, Domid, Entry, Layout, Path, PathBuf, PathSpace, PermSet, ShardId,
    domain_of_home, home_prefix,
};

/// The name that C gives to the soft memory quota.
pub(super) const SOFT_MEMORY: &str = "soft-memory";
/// Where the nodes of virtual machines are, which outlive a domain.
const MACHINES: &[u8] = b"/vm/";

/// A domain that leaves.
pub struct Leaving {
    /// Which.
    pub domain: Arc<Domain>,
    /// What its home thread has of it, if it is introduced: connection, watches, transactions. Their
    /// conn-ids are ignored; in the stream it is the domid.
    pub client: Option<Client>,
}

/// A subtree that is to be written.
struct Subtree<'t> {
    domid: Domid,
    root: PathBuf,
    node: &'t Arc<Node>,
}

/// Writes a stream of `leaving`, whose nodes are those of `trees` ([`Store::cut`]); answers the
/// output and how many nodes were written. Cost: a look at every home of the domains' shards, and
/// their nodes, shared among rayon's threads by subtrees; their records are in memory.
///
/// Left out are nodes whose owner is dead, as they are about to be removed.
///
/// # Errors
/// The output's; `InvalidInput` for what the format has no room for.
pub fn export<W: Write>(
    store: &Store,
    trees: &[Tree],
    leaving: &[Leaving],
    (version, order): (u32, Order),
    output: W,
) -> io::Result<(W, u64)> {
    let births = store.registry().births();
    let domids = leaving.iter().map(|leaving| leaving.domain.domid).collect();
    let subtrees = subtrees(store.layout(), trees, &domids, births);
    let written: Result<Vec<(Domid, Vec<u8>, u64)>, Fault> = (subtrees.par_iter())
        .map(|subtree| {
            let mut out = Vec::new();
            let nodes = write_subtree(subtree, births, (version, order), &mut out)?;
            Ok((subtree.domid, out, nodes))
        })
        .collect();
    let written = written.map_err(|fault| io::Error::new(io::ErrorKind::InvalidInput, fault))?;
    let mut by_domid: BTreeMap<Domid, Vec<Vec<u8>>> = BTreeMap::new();
    let mut count = 0;
    for (domid, records, nodes) in written {
        by_domid.entry(domid).or_default().push(records);
        count += nodes;
    }
    let mut writer = Writer::new(output, version, order)?;
    let sorted: BTreeMap<Domid, &Leaving> =
        leaving.iter().map(|leaving| (leaving.domain.domid, leaving)).collect();
    for (domid, leaving) in sorted {
        let records = by_domid.remove(&domid).unwrap_or_default();
        write_domain(store, leaving, &records, &mut writer)?;
    }
    Ok((writer.end()?, count))
}

/// The subtrees of domains, in the order in which they are written.
fn subtrees<'t>(
    layout: Layout,
    trees: &'t [Tree],
    domids: &BTreeSet<Domid>,
    births: &Births,
) -> Vec<Subtree<'t>> {
    let shards: BTreeSet<ShardId> = domids.iter().map(|&domid| layout.of_domain(domid)).collect();
    let trees_of = shards.iter().filter_map(|shard| trees.get(usize::from(shard.0)));
    let mut found: Vec<Subtree<'t>> = trees_of
        .flat_map(Tree::homes)
        .filter_map(|(root, node)| {
            let domid = domain_of_home(root.as_path())?;
            let root = root.clone();
            domids.contains(&domid).then_some(Subtree { domid, root, node })
        })
        .collect();
    // What several domains name as theirs goes with the first.
    let mut machines = BTreeSet::new();
    for &domid in domids {
        if let Some((root, node)) = machine(layout, trees, domid, births)
            && machines.insert(root.clone())
        {
            found.push(Subtree { domid, root, node });
        }
    }
    found.sort_by(|a, b| (a.domid, &a.root).cmp(&(b.domid, &b.root)));
    found
}

/// The `/vm/<uuid>` that a domain's node `vm` names.
fn machine<'t>(
    layout: Layout,
    trees: &'t [Tree],
    domid: Domid,
    births: &Births,
) -> Option<(PathBuf, &'t Arc<Node>)> {
    let get = |path: Path<'_>| {
        let home = layout.home(path);
        trees.get(usize::from(home.shard.0))?.get(&home, path)
    };
    let naming = get(machine_name(domid).as_path())?;
    let perms: Vec<_> = entries(&naming.perms, births).collect();
    let root = machine_named(domid, &perms, naming.value())?;
    Some((root.to_buf(), get(root)?))
}

/// The node that names a domain's `/vm/<uuid>`.
pub(super) fn machine_name(domid: Domid) -> PathBuf {
    let mut path = PathSpace::new();
    home_prefix(domid, &mut path);
    path.extend_from_slice(b"vm");
    Path::parse(&path).unwrap_or(Path::ROOT).to_buf()
}

/// What such a node names, given its permissions and value: nothing if it was left to the domain to
/// write, or the domain could take another's along.
pub(super) fn machine_named<'v>(
    domid: Domid,
    perms: &[Entry],
    value: &'v [u8],
) -> Option<Path<'v>> {
    let (owner, others) = perms.split_first()?;
    let means = |entry: &&Entry| !entry.ignored && [domid, Domid::ANY].contains(&entry.domid);
    let access = others.iter().find(means).map_or(owner.access, |entry| entry.access);
    if owner.domid == domid || access.allows(Access::WRITE) {
        return None;
    }
    let name = value.strip_prefix(MACHINES).filter(|name| !name.contains(&b'/'))?;
    Path::parse(value).ok().filter(|_| !name.is_empty())
}

/// Appends the records of a subtree; answers how many there are. A guest chooses how deep it is, so
/// there is no recursion.
fn write_subtree(
    subtree: &Subtree<'_>,
    births: &Births,
    (version, order): (u32, Order),
    out: &mut Vec<u8>,
) -> Result<u64, Fault> {
    let lives = |node: &Node| births.holds(node.perms.owner(), node.perms.stamp());
    let mut path = subtree.root.as_path().bytes().to_vec();
    let blank = NodeRecord { pending: None, path: vec![], value: vec![], perms: vec![] };
    let mut record = Record::Node(blank);
    let mut count = 0;
    let mut write = |path: &[u8], node: &Node| {
        if let Record::Node(record) = &mut record {
            fill(record, path, node, births);
        }
        count += 1;
        append(&record, version, order, out)
    };
    if !lives(subtree.node) {
        return Ok(0);
    }
    write(&path, subtree.node)?;
    let mut open = vec![(path.len(), subtree.node.children().iter())];
    while let Some((len, children)) = open.last_mut() {
        path.truncate(*len);
        match children.next() {
            None => drop(open.pop()),
            // A name without a node is a home of its own.
            Some((name, Some(child))) if lives(child) => {
                path.push(b'/');
                path.extend_from_slice(name.bytes());
                write(&path, child)?;
                open.push((path.len(), child.children().iter()));
            }
            Some(_) => {}
        }
    }
    Ok(count)
}

/// Puts a node into a record, whose room is used again.
fn fill(record: &mut NodeRecord, path: &[u8], node: &Node, births: &Births) {
    record.path.clear();
    record.path.extend_from_slice(path);
    record.value.clear();
    record.value.extend_from_slice(node.value());
    record.perms.clear();
    record.perms.extend(entries(&node.perms, births));
}

/// The entries, those that mean nobody who lives marked: elsewhere nothing knows when they were set.
fn entries(perms: &PermSet, births: &Births) -> impl Iterator<Item = Entry> {
    perms.entries().iter().map(|entry| {
        let holds = entry.domid == Domid::ANY || births.holds(entry.domid, perms.stamp());
        Entry { ignored: entry.ignored || !holds, ..*entry }
    })
}

fn write_domain<W: Write>(
    store: &Store,
    leaving: &Leaving,
    nodes: &[Vec<u8>],
    writer: &mut Writer<W>,
) -> io::Result<()> {
    let domain = &leaving.domain;
    let id = u32::from(domain.domid.0);
    if let Some(client) = &leaving.client {
        let mut connection = client.connection.clone();
        connection.id = id;
        if let Transport::Ring(domid, target, _) = &mut connection.transport {
            let subject = store.registry().subject(domain);
            (*domid, *target) = (subject.domid, subject.target);
        }
        writer.write(&Record::Connection(connection))?;
    }
    writer.write(&Record::Domain(domain_record(domain)))?;
    nodes.iter().try_for_each(|records| writer.write_appended(records))?;
    let Some(client) = &leaving.client else { return Ok(()) };
    for watch in &client.watches {
        let mut watch = watch.clone();
        watch.connection = id;
        writer.write(&Record::Watch(watch))?;
    }
    for &tx_id in client.transactions.keys() {
        writer.write(&Record::Transaction { connection: id, tx_id })?;
    }
    Ok(())
}

fn domain_record(domain: &Domain) -> DomainRecord {
    let own = |quota: Quota| Some((quota.name().into(), domain.own_limit(quota)?));
    let soft = domain.own_soft_memory().map(|value| (SOFT_MEMORY.into(), value));
    DomainRecord {
        domid: domain.domid,
        features: Some(domain.features()),
        quotas: Quota::all().filter_map(own).chain(soft).collect(),
    }
}
