//! EXPORT_DOMAINS with `check`: what an export would write, without quiescing anything, for a tool that plans a move.

use std::os::fd::OwnedFd;

use super::Outcome;
use super::export_domains::{left_out, write};
use crate::domain::Quota;
use crate::migration::store::write_domains::{ExportedDomain, snapshot_domains};
use crate::migration::stream::state::Client;
use crate::server::OwnerThreads;
use crate::types::{Domid, Errno};

/// Writes the streams of domains into one descriptor, or each into its own, and changes nothing: the domains are served
/// meanwhile, and earlier marks stay valid. The streams have the nodes, quotas, features and targets at one time. Their
/// watches, transactions and bytes in transit are missing, since only a quiesced connection can be saved; the reply has
/// the numbers of the first two. Cost: all locks of the store for the snapshot, and the nodes of the domains.
///
/// # Errors
/// As of an export.
pub fn check_export(
    owners: &OwnerThreads,
    domids: &[Domid],
    descriptors: Vec<OwnedFd>,
) -> Result<Vec<Outcome>, Errno> {
    if descriptors.is_empty() || descriptors.len() != 1 && descriptors.len() != domids.len() {
        return Err(Errno::EINVAL);
    }
    let store = owners.store();
    let trees = store.snapshot_all();
    let seen = snapshot_domains(store, &trees, domids);
    let behind = left_out(store, &trees, domids, &seen);
    drop(trees);
    let leaving = seen.into_iter().filter_map(|seen| {
        let domain = store.registry().get(seen.domid).filter(|domain| domain.is_introduced())?;
        Some(ExportedDomain { client: Some(Client::new(seen.domid)), domain, seen })
    });
    let leaving: Vec<ExportedDomain> = leaving.collect();
    let nodes = write(owners, domids, &leaving, descriptors).map_err(|error| {
        tracing::warn!(%error, "cannot write the check of an export");
        Errno::EIO
    })?;
    let mut written = leaving.iter().zip(nodes).peekable();
    let outcome = |&domid: &Domid| {
        let Some((exported, nodes)) = written.next_if(|(it, _)| it.domain.domid == domid) else {
            return Outcome::failed(domid, Errno::ENOENT, "it is not introduced");
        };
        let account = &exported.domain.account;
        let used = [Quota::Watches, Quota::Transactions].map(|quota| account.used(quota));
        let words = [nodes].into_iter().chain(used).map(|number| number.to_string());
        let path = behind.get(&domid).map(|path| path.as_path().to_string());
        Outcome::said(domid, words.chain(path).collect())
    };
    Ok(domids.iter().map(outcome).collect())
}
