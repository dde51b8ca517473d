//! Import of a domain: its part of a stream, and its placement in the store.
//!
//! A stream is read to its end and checked ([`State`]) before it is used. Each domain is then imported as a whole or
//! not at all.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;
use thiserror::Error;

use super::vm_nodes::{machine_name, machine_named};
use super::write_domains::SOFT_MEMORY;
use crate::domain::{Domain, Quota};
use crate::migration::stream::state::{Client, State};
use crate::migration::stream::{Domain as DomainRecord, Node, Transport};
use crate::store::{
    Caller, DomainSnapshot, Executed, Generations, ImportError, ImportedNode, Store, check_import,
    import_subtrees,
};
use crate::sync::Arc;
use crate::types::Presence;
use crate::types::{Domid, Entry, Layout, PathBuf, PermSet, Perms, domain_of_partition};

/// A domain's part of a stream.
pub struct ImportedDomain {
    /// The domid, which does not change.
    pub domid: Domid,
    /// The domain's nodes, each after its parent.
    pub nodes: Vec<(PathBuf, Node)>,
    /// The domain's features and quotas.
    pub domain: Option<DomainRecord>,
    /// The domain's connection, watches and transactions, which its owner thread takes once the nodes are in place.
    pub client: Option<Client>,
}

/// The reason why a domain cannot be imported.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlaceError {
    /// The domain is not registered in the store: the caller must register it first, after the host has confirmed that
    /// it exists.
    #[error("domain {0} does not exist")]
    Unknown(Domid),
    /// A domain with this domid is in this state.
    #[error("domid {0} is in use: {why}", why = .1.in_the_way())]
    Taken(Domid, Presence),
    /// The domid is in use, or at least its nodes exist.
    #[error("domid {0} is in use: node {path} already exists", path = .1.as_path())]
    Occupied(Domid, PathBuf),
    /// The target, whose rights the domain has (SET_TARGET), does not exist here.
    #[error("domain {0} has domain {1} as its target, which does not exist")]
    NoTarget(Domid, Domid),
    /// The store refuses the domain's nodes.
    #[error("domain {0}: {1}")]
    Nodes(Domid, ImportError),
}

/// Splits a state by domain. Returns the domains' parts, and the number of nodes that belong to none of them. The
/// control domain is not migrated.
pub fn split_by_domain(state: State) -> (Vec<ImportedDomain>, usize) {
    // The partition of a path does not depend on the number of shards.
    let layout = Layout::new(1);
    let mut arrivals: BTreeMap<Domid, ImportedDomain> = BTreeMap::new();
    let mut machines = HashMap::<PathBuf, Domid, RandomState>::default();
    for domid in state.domids().into_iter().filter(|&domid| domid != Domid::CONTROL) {
        let named = state.nodes.get(machine_name(domid).as_path().bytes());
        // The source has left out such a subtree. The check is repeated, as the stream may come from another daemon.
        let machine = named.and_then(|node| machine_named(domid, &node.perms, &node.value));
        if let Some(root) = machine {
            machines.entry(root.to_buf()).or_insert(domid);
        }
        arrivals.insert(domid, ImportedDomain { domid, nodes: vec![], domain: None, client: None });
    }
    let mut left = 0;
    for (path, node) in state.nodes {
        let root = layout.partition(path.as_path()).root;
        let domid = domain_of_partition(root).or_else(|| machines.get(root.bytes()).copied());
        match domid.and_then(|domid| arrivals.get_mut(&domid)) {
            Some(arrival) => arrival.nodes.push((path, node)),
            None => left += 1,
        }
    }
    for (domid, record) in state.domains {
        if let Some(arrival) = arrivals.get_mut(&domid) {
            arrival.domain = Some(record);
        }
    }
    for client in state.clients.into_values() {
        // The sockets of a live update belong to no domain that moves.
        if let Transport::Ring(domid, ..) = client.connection.transport
            && let Some(arrival) = arrivals.get_mut(&domid)
        {
            arrival.client = Some(client);
        }
    }
    (arrivals.into_values().collect(), left)
}

/// Places a domain's nodes in the store, and sets its features, quotas and target. `by` is the control domain.
/// Watchers are notified of the nodes as if `by` had created them; the caller sets the domain's own watches
/// afterwards, so that these do not fire for it. Returns also the imported partitions. Cost: see
/// [`import_subtrees`].
///
/// A permission of a domain that does not live here applies to no domain, not even to a later incarnation of that
/// domid. Quotas with unknown names are ignored.
///
/// # Errors
/// The reason why the domain cannot be imported; then nothing is changed.
pub fn place_domain(
    store: &Store,
    arrival: &ImportedDomain,
    by: &Caller,
    generations: &mut Generations,
) -> Result<(Executed, DomainSnapshot), PlaceError> {
    let (domain, target) = admit(store, arrival)?;
    // Stamped with the present: entries apply to domains that live here now, and to no later ones.
    let imported_nodes = imported_nodes(pairs(&arrival.nodes), store.registry().now());
    let placed = import_subtrees(store, arrival.domid, &imported_nodes, by, generations);
    let placed = placed.map_err(|error| refusal(arrival.domid, error))?;
    // Only now, when nothing can fail any more: an import takes effect completely or not at all.
    if let Some(target) = target {
        store.registry().set_target(&domain, &target);
    }
    if let Some(record) = &arrival.domain {
        settle_in(store, &domain, record);
    }
    Ok(placed)
}

/// Checks that a domain could be imported now. Cost: see [`check_import`].
///
/// # Errors
/// The reason why it cannot.
pub fn check_domain(store: &Store, arrival: &ImportedDomain) -> Result<(), PlaceError> {
    admit(store, arrival)?;
    let imported_nodes = imported_nodes(pairs(&arrival.nodes), store.registry().now());
    check_import(store, &imported_nodes).map_err(|error| refusal(arrival.domid, error))
}

/// Returns the domain, and its target (SET_TARGET), if it has one.
fn admit(
    store: &Store,
    arrival: &ImportedDomain,
) -> Result<(Arc<Domain>, Option<Arc<Domain>>), PlaceError> {
    let (domid, registry) = (arrival.domid, store.registry());
    let domain = registry.get(domid).ok_or(PlaceError::Unknown(domid))?;
    // With IMPORT_DOMAINS the owner thread has excluded this; tests place domains without one.
    if domain.is_introduced() {
        return Err(PlaceError::Taken(domid, domain.presence()));
    }
    let client = arrival.client.as_ref();
    let target = match client.map(|client| client.connection.transport) {
        Some(Transport::Ring(_, Some(target), _)) => {
            Some(registry.get(target).ok_or(PlaceError::NoTarget(domid, target))?)
        }
        _ => None,
    };
    Ok((domain, target))
}

fn refusal(domid: Domid, error: ImportError) -> PlaceError {
    match error {
        ImportError::Occupied(path) => PlaceError::Occupied(domid, path),
        other => PlaceError::Nodes(domid, other),
    }
}

/// Returns the pairs of a list by reference.
fn pairs<A, B>(list: &[(A, B)]) -> impl Iterator<Item = (&A, &B)> {
    list.iter().map(|(one, other)| (one, other))
}

/// Returns the nodes of a stream, their permissions stamped with `now`. Nodes with equal permissions, which most are,
/// share one set.
pub fn imported_nodes<'n>(
    nodes: impl IntoIterator<Item = (&'n PathBuf, &'n Node)>,
    now: u64,
) -> Vec<ImportedNode<'n>> {
    let mut sets = HashMap::<&'n [Entry], Perms, RandomState>::default();
    let imported = |(path, node): (&'n PathBuf, &'n Node)| {
        let (owner, others) = node.perms.split_first()?;
        let set = || Arc::new(PermSet::new(now, *owner, others));
        let perms = Arc::clone(sets.entry(&node.perms).or_insert_with(set));
        Some(ImportedNode { path, perms, value: &node.value })
    };
    // A state has no node without an owner.
    nodes.into_iter().filter_map(imported).collect()
}

fn settle_in(store: &Store, domain: &Arc<Domain>, record: &DomainRecord) {
    let registry = store.registry();
    if let Some(features) = record.features {
        domain.set_features(features);
    }
    for (name, value) in &record.quotas {
        match std::str::from_utf8(name) {
            Ok(SOFT_MEMORY) => registry.set_soft_memory(Some(domain), *value),
            Ok(name) => {
                if let Some(quota) = Quota::from_name(name) {
                    registry.set_limit(Some(domain), quota, *value);
                }
            }
            Err(_) => {}
        }
    }
}
