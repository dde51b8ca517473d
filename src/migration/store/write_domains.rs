//! What a domain takes along when it leaves: from a cut of the store, with no lock held.
//!
//! Of each domain, in the order of their numbers: CONNECTION_DATA, DOMAIN_DATA, the nodes, the
//! watches in the order in which it set them, the transactions. Nodes come subtree by subtree in the
//! order of their roots, each node before those below it, as directories list them (`name::order`). So
//! the same state is always the same bytes, and a daemon that lists names in the order of creation
//! lists them as this one does.
//!
//! A domain's nodes are those of the homes with its key (words/key.rs): its home, its backends and
//! device model in whichever domains, `/libxl/<d>`; and the `/vm/<uuid>` that its node `vm` names. A
//! home of another domain that lies below its own, as a driver domain has them, is that one's.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::thread;

use crossbeam::channel::bounded;

use super::vm_nodes::{Machine, entries, machine};
use crate::domain::{Domain, Quota};
use crate::migration::stream::fields::{Fault, Order};
use crate::migration::stream::state::Client;
use crate::migration::stream::{
    Domain as DomainRecord, Node as NodeRecord, Record, Transport, Watch, Writer, append,
};
use crate::store::{DomainSnapshot, Node, NodeArc, Store, Tree};
use crate::sync::Arc;
use crate::sync::workers::Workers;
use crate::words::{Births, Domid, PathBuf};

/// The name that C gives to the soft memory quota.
pub(super) const SOFT_MEMORY: &str = "soft-memory";

/// Domains whose records are in memory at the same time: some megabytes, and enough of them that all
/// of the workers have work.
const DOMAINS_AT_ONCE: usize = 64;

/// So few domains are looked up by whoever asks, and written by it if they have few nodes
/// ([`FEW_NODES`]). Rayon's threads would have to be woken and put to sleep for each of many small
/// batches, and take cores from the guests that stay.
const FEW_DOMAINS: usize = 16;
/// So many nodes are few: they are written, and put in place, by one thread.
pub const FEW_NODES: usize = 2048;

/// Room for the records of an ordinary subtree.
const SUBTREE_BYTES: usize = 4096;

/// A domain that leaves.
pub struct ExportedDomain {
    /// Which.
    pub domain: Arc<Domain>,
    /// What its home thread has of it, if it is introduced: connection, watches, transactions. Their
    /// conn-ids are ignored; in the stream it is the domid.
    pub client: Option<Client>,
    /// What belongs to it ([`snapshot_domains`]).
    pub seen: DomainSnapshot,
}

/// The records of a domain, in pieces that follow each other.
struct Records {
    pieces: Vec<Vec<u8>>,
    nodes: u64,
}

/// The version of a stream, and its byte order.
pub type Form = (u32, Order);

/// What belongs to each of some domains in a cut of the store ([`Store::cut`]). What several domains
/// name as theirs goes with the first. Cost: their homes, of many domains shared among the workers.
pub fn snapshot_domains(store: &Store, trees: &[Tree], domids: &[Domid]) -> Vec<DomainSnapshot> {
    let see_one = |&domid: &Domid| {
        let mut seen = store.domain_snapshot(trees, domid);
        seen.homes.sort_by(|(root, _), (other, _)| root.as_path().order(other.as_path()));
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
                let at = seen.homes.partition_point(is_before);
                seen.homes.insert(at, (root, NodeArc::clone(node)));
            }
            Some((root, None)) => seen.absent = Some(root),
            _ => {}
        }
        seen
    };
    seen.into_iter().map(with_machine).collect()
}

/// Writes a stream of `leaving`, who are in the order of their numbers; answers the output and how
/// many nodes each domain has. Cost: their nodes; unless they are few, shared among the workers
/// by subtrees, while what is ready is written. The records of 64 domains are in memory three times
/// at most: being made, ready, being written.
///
/// Left out are nodes whose owner is dead, as they are about to be removed.
///
/// # Errors
/// The output's; `InvalidInput` for what the format has no room for.
pub fn write_domains<W: Write>(
    store: &Store,
    leaving: &[ExportedDomain],
    form: Form,
    output: W,
) -> io::Result<(W, Vec<u64>)> {
    let mut writer = Writer::new(output, form.0, form.1)?;
    let mut nodes = Vec::with_capacity(leaving.len());
    let mut write = |made: Result<Vec<Records>, Fault>| {
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
        let make = |some: &[ExportedDomain]| workers.map(some, make_one).into_iter().collect();
        make_while_writing(leaving.chunks(DOMAINS_AT_ONCE), make, write)?;
    }
    Ok((writer.end()?, nodes))
}

/// Makes of each item what is written, on a thread of its own while what was made before is written. If
/// the system refuses that thread, the calling one does both in turn.
///
/// # Errors
/// The writer's; then the rest is not made.
fn make_while_writing<T: Send, R: Send>(
    items: impl Iterator<Item = T> + Clone + Send,
    make: impl Fn(T) -> R + Sync,
    write: impl FnMut(R) -> io::Result<()>,
) -> io::Result<()> {
    let (ready, to_write) = bounded(1);
    let (rest, make) = (items.clone(), &make);
    thread::scope(|scope| {
        let making = move || {
            for item in items {
                // If the output failed nothing takes the rest.
                if ready.send(make(item)).is_err() {
                    return;
                }
            }
        };
        let maker = thread::Builder::new().name("export".into());
        if let Err(error) = maker.spawn_scoped(scope, making) {
            tracing::warn!(%error, "export thread refused, records are made and written in turn");
            return rest.map(make).try_for_each(write);
        }
        to_write.into_iter().try_for_each(write)
    })
}

/// Whether these are written by one thread. Cost: a look at no more nodes than are few.
fn are_few(leaving: &[ExportedDomain]) -> bool {
    if leaving.len() > FEW_DOMAINS {
        return false;
    }
    let homes = leaving.iter().flat_map(|leaving| &leaving.seen.homes);
    let mut open: Vec<&NodeArc> = homes.map(|(_, node)| node).take(FEW_NODES + 1).collect();
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

/// All records of a domain, its subtrees made one after another or shared among the workers.
fn records(
    store: &Store,
    leaving: &ExportedDomain,
    form: Form,
    workers: Option<&Workers>,
) -> Result<Records, Fault> {
    let births = store.registry().births();
    let [before, after] = around(store, leaving, form)?;
    let subtree = |(root, node): &(PathBuf, NodeArc)| write_subtree(root, node, births, form);
    let homes = &leaving.seen.homes;
    let subtrees: Vec<(Vec<u8>, u64)> = match workers {
        Some(workers) => workers.map(homes, subtree).into_iter().collect::<Result<_, Fault>>()?,
        None => homes.iter().map(subtree).collect::<Result<_, Fault>>()?,
    };
    let nodes = subtrees.iter().map(|(_, nodes)| nodes).sum();
    let subtrees = subtrees.into_iter().map(|(piece, _)| piece);
    Ok(Records { pieces: [before].into_iter().chain(subtrees).chain([after]).collect(), nodes })
}

/// The records of a subtree, and how many there are. A guest chooses how deep it is, so there is no
/// recursion.
fn write_subtree(
    root: &PathBuf,
    root_node: &Node,
    births: &Births,
    (version, order): Form,
) -> Result<(Vec<u8>, u64), Fault> {
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
    if !lives(root_node) {
        return Ok((out, 0));
    }
    write(&path, root_node)?;
    let mut open = vec![(path.len(), root_node.children().iter())];
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
    Ok((out, count))
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

/// The records of a domain that come before its nodes, and those that come after.
fn around(
    store: &Store,
    leaving: &ExportedDomain,
    (version, order): Form,
) -> Result<[Vec<u8>; 2], Fault> {
    let domain = &leaving.domain;
    let id = u32::from(domain.domid.0);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if let Some(client) = &leaving.client {
        let mut connection = client.connection.clone();
        connection.id = id;
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

/// All quotas, as C writes them: a domain keeps its limits where the defaults are others.
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

    /// The process of the next test, which has no memory for another stack.
    #[test]
    #[ignore = "the next test runs it in a process of its own"]
    fn without_threads() {
        let expected = (1..=ITEMS).flat_map(|item| [item; 3]).collect::<Vec<_>>();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
        let current = Some((size << 10) + (1 << 20));
        setrlimit(Resource::As, Rlimit { current, maximum: None }).unwrap();
        thread::Builder::new().spawn(|| {}).expect_err("no thread can be had");
        assert!(written() == expected);
        setrlimit(Resource::As, Rlimit { current: None, maximum: None }).unwrap();
        assert!(written() == expected);
    }

    #[test]
    fn records_when_no_thread_can_be_had_are_made_and_written_in_turn() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "migration::store::write_domains::tests::without_threads",
                "--ignored",
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
