//! The sweep after a domain's death: removes the nodes that it owned, anywhere (XSA-419), or gives them to the
//! control domain (`--keep-orphans`).

use super::context::{Caller, Context, Effects, Ledger};
use super::forest::{LockSet, Locked};
use super::remove::detach;
use super::write::set_perms;
use super::{Executed, Generations, Store, StoreError};
use crate::domain::Domain;
use crate::sync::Arc;
use crate::types::{Domid, Entry, Path, PathBuf, PermSet, ShardId};

/// Removes every node of dead incarnations of `domain`'s domid, with all nodes below, and fires the watches. If the
/// registry keeps orphans, gives each node to the control domain instead and fires none, as C xenstored does. The
/// registry has buried the domain, so no more nodes can be created for it. Returns the removals to settle. Cost: visits
/// every shard for each of the domid's entries in the index of owners.
pub fn sweep(
    store: &Store,
    domain: &Domain,
    by: &Caller,
    generations: &mut Generations,
) -> Vec<Executed> {
    let sweep = Sweep { store, domain, by };
    let mut swept = Vec::new();
    // The index is read again for each step: when a node changes its owner, its children become new entries, which are
    // later in the order. The order is by path over all shards, so a partition that is removed together with a node
    // above is in the same change as that node.
    // The index is read again for each step: when a node changes its owner, its children become new entries, which
    // are later in the order. The order is by path over all shards, so a partition that is removed together with a
    // node above is in the same change as that node.
    let mut last = None;
    while let Some((path, shard)) = sweep.next_owned(last.as_ref()) {
        let removed = sweep.one(shard, path.as_path(), generations.next(store));
        // No step is refused: the daemon has the control domain's rights and no quota.
        swept.extend(removed.ok());
        last = Some(path);
    }
    swept
}

struct Sweep<'a> {
    store: &'a Store,
    /// The incarnation that died.
    domain: &'a Domain,
    /// The caller whose rights the sweep uses.
    by: &'a Caller,
}

impl Sweep<'_> {
    fn next_owned(&self, last: Option<&PathBuf>) -> Option<(PathBuf, ShardId)> {
        let next = |shard| {
            let here = self.store.shards.read(shard);
            Some((here.tree.owned_after(self.domain.domid, last)?, shard))
        };
        // One shard's lock at a time: what changes in between, the sweep checks again under the lock of its step.
        self.store.layout.all().filter_map(next).min()
    }

    fn one(&self, shard: ShardId, path: Path<'_>, generation: u64) -> Result<Executed, StoreError> {
        let Sweep { store, domain, by } = *self;
        let (partition, registry) = (store.layout.partition(path), &store.registry);
        let mut executed =
            store.shards.with_locks(LockSet::one(shard, true), |locked: &mut Locked<'_>| {
                let Some(here) = locked.shard_mut(shard) else { return Ok(Executed::default()) };
                let Some(node) = here.tree.get(&partition, path) else {
                    here.tree.forget_owned(domain.domid, path);
                    return Ok(Executed::default());
                };
                // The index was read under an earlier lock, and it does not distinguish incarnations of a number: the
                // node may belong to another domain by now, or to a living incarnation.
                let perms = &node.perms;
                let lives = registry.owner(perms.owner(), perms.stamp()).is_some();
                if perms.owner() != domain.domid || lives {
                    return Ok(Executed::default());
                }
                let ledger = Ledger::Accounts;
                let mut cx = Context { registry, caller: by, generation, ledger, path: None };
                if path.is_special() || path.is_root() || registry.keeps_orphans() {
                    // The stamp stays, so that entries hold as before, and none holds for the next incarnation of the
                    // number. The children are the next entries of the index. Special nodes and the root are never
                    // removed. Of these only the root fires: it alone has watches that see its permissions.
                    let owner = Entry { domid: Domid::CONTROL, ..perms.entries()[0] };
                    let perms = PermSet::new(perms.stamp(), owner, &perms.entries()[1..]);
                    let mut effects = Effects::default();
                    set_perms(&mut cx, locked, path, &Arc::new(perms), &mut effects)?;
                    if path.is_root() {
                        return Ok(store.record(locked, None, &mut effects.changes, by));
                    }
                    return Ok(Executed::default());
                }
                let mut changes = detach(&mut cx, locked, path)?.into_iter().collect();
                Ok(store.record(locked, None, &mut changes, by))
            })?;
        store.publisher.conclude(&mut executed, by);
        Ok(executed)
    }
}
