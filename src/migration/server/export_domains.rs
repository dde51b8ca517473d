//! EXPORT_DOMAINS: quiesce, snapshot, write, mark.

use std::collections::BTreeMap;
use std::io::{self, BufWriter};
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::Outcome;
use super::run_parallel::run_parallel;
use super::timed_file::TimedFile;
use crate::migration::store::left_behind;
use crate::migration::store::write_domains::{
    ExportedDomain, Form, snapshot_domains, write_domains,
};
use crate::migration::stream::VERSION;
use crate::migration::stream::fields::Order;
use crate::server::OwnerThreads;
use crate::store::{DomainSnapshot, Store, Tree};
use crate::sync::Arc;
use crate::types::{Domid, Errno, Logged, PathBuf};

/// The format written: the newest version, in the byte order that needs no conversion. Every host that Xen runs on is
/// little-endian.
const FORM: Form = (VERSION, Order::Little);
/// Buffer size of writes of small records to a pipe or file.
const WRITE_BYTES: usize = 1 << 16;

/// Exports domains into one stream, or each into its own. Cost: their connections on their owner threads, all locks
/// of the store for the snapshot, and their nodes. `to` is the destination, if the client named it.
///
/// # Errors
/// `EINVAL` if there is neither one descriptor nor one per domain; `EIO` if one cannot be written, in which case
/// nothing is exported.
pub fn export_domains(
    owners: &OwnerThreads,
    domids: &[Domid],
    to: Option<&str>,
    descriptors: Vec<OwnedFd>,
) -> Result<Vec<Outcome>, Errno> {
    if descriptors.is_empty() || descriptors.len() != 1 && descriptors.len() != domids.len() {
        return Err(Errno::EINVAL);
    }
    let began = Instant::now();
    let registry = owners.store().registry();
    let is_quiesced =
        |&&domid: &&Domid| registry.get(domid).is_some_and(|it| it.presence().is_quiesced());
    // Domains to be unquiesced if this fails.
    let served: Vec<Domid> = domids.iter().filter(|domid| !is_quiesced(domid)).copied().collect();
    // Fails for single domains only; the others are exported.
    let mut failed = owners.quiesce(domids);
    let drained = began.elapsed();
    // One snapshot for all domains, so that a backend and its frontend are of the same moment.
    let Collected { versions, leaving, gone, behind } = collect(owners, domids);
    failed.extend(gone);
    let snapshot = began.elapsed();
    let nodes = write(owners, domids, &leaving, descriptors).map_err(|error| {
        tracing::warn!(%error, domids = %Logged(domids), "cannot write an export");
        // A reader may have any part of the streams, but no reply has reported an export, so all domains are served
        // again.
        owners.undo_quiesce(&served);
        Errno::EIO
    })?;
    let domids: Vec<Domid> = leaving.iter().map(|leaving| leaving.seen.domid).collect();
    tracing::info!(
        domains = domids.len(),
        domids = %Logged(&domids),
        nodes = nodes.iter().sum::<u64>(),
        drained_us = drained.as_micros(),
        snapshot_us = (snapshot - drained).as_micros(),
        written_us = (began.elapsed() - snapshot).as_micros(),
        to,
        pid = owners.by().pid,
        command = owners.by().command,
        "exported"
    );
    let exports = versions.into_iter().zip(leaving.into_iter().map(|leaving| leaving.seen));
    // Last: without a mark RELEASE cannot end a domain here, so until now nothing but the quiesce has to be undone.
    let marks = owners.mark(exports.collect(), to.map(Arc::from).as_ref());
    let marks = domids.into_iter().zip(marks).zip(nodes);
    let mut outcomes = outcomes(failed, marks);
    say_behind(&behind, &mut outcomes);
    // A domain with an error reply is not exported, so it is served again.
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err());
    let failed: Vec<Domid> = failed.filter_map(|outcome| outcome.domid).collect();
    let undone: Vec<Domid> = served.into_iter().filter(|domid| failed.contains(domid)).collect();
    owners.undo_quiesce(&undone);
    Ok(outcomes)
}

/// The collected state of the domains to export.
struct Collected {
    /// The versions of the connections.
    versions: Vec<u64>,
    leaving: Vec<ExportedDomain>,
    /// Domains that could not be collected, with the error.
    gone: Vec<(Domid, Errno)>,
    /// The subtree left out of each domain's export, if any.
    behind: BTreeMap<Domid, PathBuf>,
}

fn collect(owners: &OwnerThreads, domids: &[Domid]) -> Collected {
    let (store, mut gone) = (owners.store(), Vec::new());
    // The snapshot is taken before the connections are saved: a write in between changes a root, or sends an event to
    // the connection, so the mark detects it.
    let trees = store.snapshot_all();
    let seen = snapshot_domains(store, &trees, domids);
    let behind = left_out(store, &trees, domids, &seen);
    // Writers copy every node that a snapshot holds, and the write takes long; `seen` holds only the domains' own.
    drop(trees);
    let carried = seen.into_iter().zip(owners.save_connections(domids));
    let leaving = carried.filter_map(|(seen, carried)| {
        let domid = seen.domid;
        // It may have died since it was quiesced.
        let domain = store.registry().get(domid).ok_or(Errno::ENOENT);
        match carried.and_then(|(client, version)| Ok((domain?, client, version))) {
            Ok((domain, client, version)) => {
                Some((version, ExportedDomain { domain, client: Some(client), seen }))
            }
            Err(errno) => {
                gone.push((domid, errno));
                None
            }
        }
    });
    let (versions, leaving) = leaving.unzip();
    Collected { versions, leaving, gone, behind }
}

/// Returns the subtree that is left out of each domain's export, if any.
pub(super) fn left_out(
    store: &Store,
    trees: &[Tree],
    domids: &[Domid],
    seen: &[DomainSnapshot],
) -> BTreeMap<Domid, PathBuf> {
    let named = domids.iter().map(|&domid| Some((domid, left_behind(store, trees, domid)?)));
    let mut behind: BTreeMap<Domid, PathBuf> = named.flatten().collect();
    // A subtree that another domain of this export includes is not left out.
    behind.retain(|_, path| {
        seen.iter().all(|seen| seen.partitions.iter().all(|(root, _)| root != path))
    });
    behind
}

/// Reports the subtree left out of each exported domain, in the log and in its reply.
fn say_behind(behind: &BTreeMap<Domid, PathBuf>, outcomes: &mut [Outcome]) {
    for outcome in outcomes {
        if let (Some(domid), Ok(words)) = (outcome.domid, &mut outcome.result)
            && let Some(path) = behind.get(&domid)
        {
            let path = path.as_path();
            tracing::warn!(
                %domid,
                %path,
                "path left out of an export: the domain can write its node vm"
            );
            words.push(path.to_string());
        }
    }
}

/// Writes the streams, several in parallel; returns the number of nodes of each domain in `leaving`. Each
/// stream may wait for its own reader.
pub(super) fn write(
    owners: &OwnerThreads,
    domids: &[Domid],
    leaving: &[ExportedDomain],
    mut descriptors: Vec<OwnedFd>,
) -> io::Result<Vec<u64>> {
    let write_one = |(leaving, descriptor): (&[ExportedDomain], OwnedFd)| {
        let output = BufWriter::with_capacity(WRITE_BYTES, TimedFile::new(descriptor)?);
        let (_, nodes) = write_domains(owners.store(), leaving, FORM, output)?;
        io::Result::Ok(nodes)
    };
    if descriptors.len() == 1
        && let Some(descriptor) = descriptors.pop()
    {
        return write_one((leaving, descriptor));
    }
    let mut rest = leaving;
    // A domain that failed has no stream.
    let streams = domids.iter().zip(descriptors).filter_map(|(&domid, descriptor)| {
        let (first, after) = rest.split_first().filter(|(first, _)| first.domain.domid == domid)?;
        rest = after;
        Some((std::slice::from_ref(first), descriptor))
    });
    let mut nodes = Ok(Vec::new());
    run_parallel(streams.collect(), write_one, |written| match (&mut nodes, written) {
        (Ok(nodes), Ok(more)) => nodes.extend(more),
        (Ok(_), Err(error)) => nodes = Err(error),
        (Err(_), _) => {}
    });
    nodes
}

/// Returns the outcome of each domain, from those that failed, and the marks and nodes of the others.
fn outcomes(
    failed: Vec<(Domid, Errno)>,
    marks: impl Iterator<Item = ((Domid, Result<u64, Errno>), u64)>,
) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = marks
        .map(|((domid, mark), nodes)| match mark {
            Ok(mark) => Outcome::done(domid, &[mark, nodes]),
            Err(errno) => Outcome::failed(domid, errno, "it changed during its export"),
        })
        .collect();
    for (domid, errno) in failed {
        // A domain that failed to quiesce could not be collected either, and has one outcome.
        if outcomes.iter().all(|outcome| outcome.domid != Some(domid)) {
            outcomes.push(Outcome::failed(domid, errno, "it is not introduced, or was unquiesced"));
        }
    }
    outcomes.sort_by_key(|outcome| outcome.domid);
    outcomes
}
