//! Export of domains from a snapshot of the store, with no lock held.
//!
//! The records of each domain, in ascending order of domid: CONNECTION_DATA, DOMAIN_DATA, the nodes, the watches in the
//! order in which they were set, the transactions. Nodes come subtree by subtree in the order of the roots, each node
//! before its descendants, in directory order (`name::order`). So equal states give equal bytes, and an importing
//! daemon that lists names in the order of creation lists them in the same order as this one.
//!
//! A domain's nodes are those of the partitions with its key (types/key.rs): its own, its backends and device models in
//! any domains, `/libxl/<d>`; and the `/vm/<uuid>` named by its node `vm`. A partition of another domain that lies
//! below one of these, such as a backend in a driver domain's directory, belongs to that other domain.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::thread;

use crossbeam::channel::bounded;

use super::vm_nodes::{Machine, machine};
use crate::domain::{Domain, Quota};
use crate::migration::stream::fields::{Order, StreamError};
use crate::migration::stream::state::Client;
use crate::migration::stream::{
    Domain as DomainRecord, Node as NodeRecord, Record, Transport, Watch, Writer, append,
};
use crate::store::{DomainSnapshot, Node, NodeArc, Store, Tree};
use crate::sync::Arc;
use crate::sync::workers::Workers;
use crate::types::{Births, Domid, PathBuf};

/// C xenstored's name of the soft memory quota.
pub(super) const SOFT_MEMORY: &str = "soft-memory";

/// Domains whose records are in memory at the same time: some megabytes, and enough domains to occupy all workers.
const DOMAINS_AT_ONCE: usize = 64;

/// Up to this many domains are looked up by the calling thread, and also written by it if they have few nodes
/// ([`FEW_NODES`]). Rayon's threads would have to be woken and put to sleep for each of many small batches, and would
/// take cores from the guests that stay.
const FEW_DOMAINS: usize = 16;
/// Up to this many nodes are written and placed by one thread.
pub const FEW_NODES: usize = 2048;

/// Initial capacity for the records of an ordinary subtree.
const SUBTREE_BYTES: usize = 4096;

/// A domain to export.
pub struct ExportedDomain {
    /// The exported domain.
    pub domain: Arc<Domain>,
    /// The owner thread's state of the domain, if it is introduced: connection, watches, transactions. The conn-ids of
    /// this state are ignored; in the stream the conn-id is the domid.
    pub client: Option<Client>,
    /// The domain's nodes ([`snapshot_domains`]).
    pub seen: DomainSnapshot,
}

/// The records of a domain as consecutive pieces.
struct Records {
    pieces: Vec<Vec<u8>>,
    nodes: u64,
}

/// The version and the byte order of a stream.
pub type Form = (u32, Order);

/// Returns the nodes of each domain in a snapshot of the store ([`Store::snapshot_all`]). A `/vm/<uuid>` named by
/// several domains goes with the first. Cost: the domains' partitions, shared among the workers if the domains are
/// many.
pub fn snapshot_domains(store: &Store, trees: &[Tree], domids: &[Domid]) -> Vec<DomainSnapshot> {
    let see_one = |&domid: &Domid| {
        let mut seen = DomainSnapshot::of(store, trees, domid);
        seen.partitions.sort_by(|(root, _), (other, _)| root.as_path().order(other.as_path()));
        (seen, machine(store, trees, domid))
    };
    let seen: Vec<_> = match domids.len() {
        ..=FEW_DOMAINS => domids.iter().map(see_one).collect(),
        _ => Workers::find().map(domids, see_one),
    };
    let mut machines = BTreeSet::new();
    let with_machine = |(mut seen, machine): (DomainSnapshot, Option<Machine<'_>>)| {
        match machine {
            Some((root, Some(node))) if machines.insert(root.clone()) => {
                let is_before =
                    |(other, _): &(PathBuf, _)| other.as_path().order(root.as_path()).is_lt();
                let at = seen.partitions.partition_point(is_before);
                seen.partitions.insert(at, (root, NodeArc::clone(node)));
            }
            // Its creation would be missing in the export, so it invalidates the mark.
            Some((root, None)) => seen.absent = Some(root),
            _ => {}
        }
        seen
    };
    seen.into_iter().map(with_machine).collect()
}

/// Writes a stream of `leaving`, which are in ascending order of domid; returns the output and the number of nodes of
/// each domain. Cost: their nodes. Unless these are few, the workers share them by subtrees while finished records
/// are written. Memory: the records of up to 64 domains three times, in production, ready, and in output.
///
/// Nodes with a dead owner are left out, as their removal is due. A snapshot never changes in place, so a slow reader
/// delays no client of the store.
///
/// # Errors
/// Those of the output; `InvalidInput` for a value that the format cannot represent.
pub fn write_domains<W: Write>(
    store: &Store,
    leaving: &[ExportedDomain],
    form: Form,
    output: W,
) -> io::Result<(W, Vec<u64>)> {
    let mut writer = Writer::new(output, form.0, form.1)?;
    let mut nodes = Vec::with_capacity(leaving.len());
    let mut write = |made: Result<Vec<Records>, StreamError>| {
        let made = made.map_err(|fault| io::Error::new(io::ErrorKind::InvalidInput, fault))?;
        for of_one in made {
            nodes.push(of_one.nodes);
            of_one.pieces.iter().try_for_each(|piece| writer.write_appended(piece))?;
        }
        io::Result::Ok(())
    };
    if are_few(leaving) {
        for leaving in leaving {
            write(records(store, leaving, form, None).map(|of_one| vec![of_one]))?;
        }
    } else {
        let workers = Workers::find();
        let make_one = |leaving: &ExportedDomain| records(store, leaving, form, Some(&workers));
        // Subtrees are the unit of work, so one large domain is also shared among the threads.
        let make = |some: &[ExportedDomain]| workers.map(some, make_one).into_iter().collect();
        make_while_writing(leaving.chunks(DOMAINS_AT_ONCE), make, write)?;
    }
    Ok((writer.end()?, nodes))
}

/// Produces output from each item on a separate thread, while the previous output is written. If the system refuses
/// that thread, the calling thread alternates between both.
///
/// # Errors
/// Those of `write`; the remaining items are not processed.
fn make_while_writing<T: Send, R: Send>(
    items: impl Iterator<Item = T> + Clone + Send,
    make: impl Fn(T) -> R + Sync,
    write: impl FnMut(R) -> io::Result<()>,
) -> io::Result<()> {
    // One batch is ready while one is made and one is written: three in memory.
    let (ready, to_write) = bounded(1);
    // The closure is lost with a thread that cannot be started, so its items are kept twice.
    let (rest, make) = (items.clone(), &make);
    thread::scope(|scope| {
        let making = move || {
            for item in items {
                // The receiver is gone if the output failed.
                if ready.send(make(item)).is_err() {
                    return;
                }
            }
        };
        let maker = thread::Builder::new().name("export".into());
        if let Err(error) = maker.spawn_scoped(scope, making) {
            tracing::warn!(%error, "cannot start an export thread, working on one thread");
            return rest.map(make).try_for_each(write);
        }
        // An error drops the receiver, which ends the other thread.
        to_write.into_iter().try_for_each(write)
    })
}

/// Returns whether one thread writes these domains. Cost: visits at most [`FEW_NODES`] + 1 nodes.
fn are_few(leaving: &[ExportedDomain]) -> bool {
    if leaving.len() > FEW_DOMAINS {
        return false;
    }
    let partitions = leaving.iter().flat_map(|leaving| &leaving.seen.partitions);
    // Never more than decides: a guest chooses how wide and how deep its tree is.
    let mut open: Vec<&NodeArc> = partitions.map(|(_, node)| node).take(FEW_NODES + 1).collect();
    let mut nodes = open.len();
    while nodes <= FEW_NODES
        && let Some(node) = open.pop()
    {
        let known = open.len();
        let children = node.children().iter().filter_map(|(_, child)| child.as_ref());
        open.extend(children.take(FEW_NODES + 1 - nodes));
        nodes += open.len() - known;
    }
    nodes <= FEW_NODES
}

/// Produces all records of a domain, its subtrees in sequence or shared among the workers.
fn records(
    store: &Store,
    leaving: &ExportedDomain,
    form: Form,
    workers: Option<&Workers>,
) -> Result<Records, StreamError> {
    let births = store.registry().births();
    let [before, after] = around(store, leaving, form)?;
    let subtree = |(root, node): &(PathBuf, NodeArc)| write_subtree(root, node, births, form);
    let partitions = &leaving.seen.partitions;
    let subtrees: Vec<(Vec<u8>, u64)> = match workers {
        Some(workers) => {
            workers.map(partitions, subtree).into_iter().collect::<Result<_, StreamError>>()?
        }
        None => partitions.iter().map(subtree).collect::<Result<_, StreamError>>()?,
    };
    let nodes = subtrees.iter().map(|(_, nodes)| nodes).sum();
    let subtrees = subtrees.into_iter().map(|(piece, _)| piece);
    Ok(Records { pieces: [before].into_iter().chain(subtrees).chain([after]).collect(), nodes })
}

/// Returns the records of a subtree and their number. Not recursive, as a guest chooses the depth.
pub(super) fn write_subtree(
    root: &PathBuf,
    root_node: &Node,
    births: &Births,
    (version, order): Form,
) -> Result<(Vec<u8>, u64), StreamError> {
    let mut out = Vec::with_capacity(SUBTREE_BYTES);
    let lives = |node: &Node| births.holds(node.perms.owner(), node.perms.stamp());
    let mut path = root.as_path().bytes().to_vec();
    let blank = NodeRecord { pending: None, path: vec![], value: vec![], perms: vec![] };
    let mut record = Record::Node(blank);
    let mut count = 0;
    let mut write = |path: &[u8], node: &Node| {
        if let Record::Node(record) = &mut record {
            fill(record, path, node, births);
        }
        count += 1;
        append(&record, version, order, &mut out)
    };
    // The sweep is about to remove it, with everything below.
    if !lives(root_node) {
        return Ok((out, 0));
    }
    write(&path, root_node)?;
    // The root's own slash is the one before the names of its children.
    let len = if root.as_path().is_root() { 0 } else { path.len() };
    let mut open = vec![(len, root_node.children().iter())];
    while let Some((len, children)) = open.last_mut() {
        path.truncate(*len);
        match children.next() {
            None => drop(open.pop()),
            // A name without a node is the root of another partition.
            Some((name, Some(child))) if lives(child) => {
                path.push(b'/');
                path.extend_from_slice(name.bytes());
                write(&path, child)?;
                open.push((path.len(), child.children().iter()));
            }
            // A dead owner's subtree is left out as a whole, as the sweep removes it.
            Some(_) => {}
        }
    }
    Ok((out, count))
}

/// Copies a node into a record, whose buffers are reused.
fn fill(record: &mut NodeRecord, path: &[u8], node: &Node, births: &Births) {
    record.path.clear();
    record.path.extend_from_slice(path);
    record.value.clear();
    record.value.extend_from_slice(node.value());
    record.perms.clear();
    record.perms.extend(node.perms.lasting(births));
}

/// Returns the records of a domain that precede its nodes, and those that follow them.
fn around(
    store: &Store,
    leaving: &ExportedDomain,
    (version, order): Form,
) -> Result<[Vec<u8>; 2], StreamError> {
    let domain = &leaving.domain;
    let id = u32::from(domain.domid.0);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if let Some(client) = &leaving.client {
        let mut connection = client.connection.clone();
        connection.id = id;
        // The owner thread saves no target: it is the registry's, and may have died since.
        if let Transport::Ring(domid, target, _) = &mut connection.transport {
            let subject = store.registry().subject(domain);
            (*domid, *target) = (subject.domid, subject.target);
        }
        append(&Record::Connection(connection), version, order, &mut before)?;
    }
    append(&Record::Domain(domain_record(domain)), version, order, &mut before)?;
    let watches = leaving.client.iter().flat_map(|client| &client.watches);
    let transactions = leaving.client.iter().flat_map(|client| client.transactions.keys());
    let watches = watches.map(|watch| Record::Watch(Watch { connection: id, ..watch.clone() }));
    let transactions = transactions.map(|&tx_id| Record::Transaction { connection: id, tx_id });
    for record in watches.chain(transactions) {
        append(&record, version, order, &mut after)?;
    }
    Ok([before, after])
}

/// All quotas are written, as by C xenstored: a domain keeps its limits even if the destination's defaults differ.
fn domain_record(domain: &Domain) -> DomainRecord {
    let limits = domain.limits();
    let hard = Quota::all().map(|quota| (quota.name().into(), limits.get(quota)));
    let soft = (SOFT_MEMORY.into(), limits.soft_memory());
    DomainRecord {
        domid: domain.domid,
        features: Some(domain.features()),
        quotas: hard.chain([soft]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{Resource, Rlimit, setrlimit};

    use super::*;

    const ITEMS: u32 = 100;

    fn written() -> Vec<u32> {
        let (mut written, workers) = (Vec::new(), Workers::find());
        let make = |item: u32| workers.map(vec![item; 3], |item| item + 1);
        make_while_writing(0..ITEMS, make, |made| {
            written.extend(made);
            Ok(())
        })
        .unwrap();
        written
    }

    /// Runs in the child process of the next test, with too little memory for another stack.
    #[test]
    #[ignore = "the next test runs it in a process of its own"]
    fn child_process_exports_without_threads() {
        let expected = (1..=ITEMS).flat_map(|item| [item; 3]).collect::<Vec<_>>();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
        let current = Some((size << 10) + (1 << 20));
        setrlimit(Resource::As, Rlimit { current, maximum: None }).unwrap();
        thread::Builder::new().spawn(|| {}).expect_err("no thread can be started");
        assert!(written() == expected);
        setrlimit(Resource::As, Rlimit { current: None, maximum: None }).unwrap();
        assert!(written() == expected);
    }

    #[test]
    fn export_without_further_threads_writes_the_same_records() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "migration::store::write_domains::tests::child_process_exports_without_threads",
                "--ignored",
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
