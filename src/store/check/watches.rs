//! The check of the watches: tries by themselves, and against those that connections have set.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::super::{Store, is_global};
use super::findings::Findings;
use crate::sync::Arc;
use crate::types::{Layout, Path, PathBuf, ShardId};
use crate::watch::{Entry, Trie};

/// Snapshots of all tries.
pub struct Tries {
    /// One trie per shard, the root shard's last.
    shards: Vec<Trie>,
    global: Arc<Trie>,
}

/// The watches of a thread's connections, and a snapshot of the tries. The thread takes both between two of its
/// requests, so the tries' watches of this thread must be exactly these, whatever other threads do.
pub struct WatchList {
    /// The thread's number.
    pub thread: u16,
    /// The watches that the thread's connections have set.
    pub watches: Vec<(PathBuf, Entry)>,
    /// The tries at that moment.
    pub tries: Tries,
}

impl Tries {
    /// Takes snapshots of all tries. Each snapshot is taken under its own lock, so two snapshots may be of different
    /// moments.
    pub fn of(store: &Store) -> Tries {
        let shards = store.layout.all().map(|shard| store.shards.read(shard).watches.clone());
        Tries::new(shards, store.publisher.global.load())
    }

    pub(super) fn new(shards: impl Iterator<Item = Trie>, global: Arc<Trie>) -> Tries {
        Tries { shards: shards.collect(), global }
    }

    /// Returns the tries with their shards; `None` is the global watch trie.
    fn all(&self) -> impl Iterator<Item = (Option<ShardId>, &Trie)> {
        let shards = (0..).map(|shard| Some(ShardId(shard))).zip(&self.shards);
        shards.chain([(None, &*self.global)])
    }

    /// Checks that each trie has as many watches as it counts, all on paths that belong to it. Returns their number.
    pub(super) fn check(&self, layout: Layout, findings: &mut Findings) -> usize {
        let mut sum = 0;
        for (shard, trie) in self.all() {
            let mut count = 0;
            each(trie, |path, _| {
                count += 1;
                if belongs(layout, path) != shard {
                    findings.add(|| format!("a watch on {path} is in {}", name(shard)));
                }
            });
            if trie.len() != count {
                findings.add(|| {
                    format!(
                        "{} has {count} watches, but its counter says {}",
                        name(shard),
                        trie.len()
                    )
                });
            }
            sum += count;
        }
        sum
    }
}

impl WatchList {
    /// Compares the thread's watches with the tries' watches of that thread, both ways. Cost: all watches.
    pub fn check(self, layout: Layout) -> Findings {
        let mut findings = Findings::default();
        // By `seq`, which a thread uses once.
        let mut found: HashMap<u64, (Option<ShardId>, PathBuf, Entry), RandomState> =
            HashMap::default();
        for (shard, trie) in self.tries.all() {
            each(trie, |path, entry| {
                if entry.watcher.thread == self.thread {
                    let place = (shard, path.to_buf(), *entry);
                    if found.insert(entry.watcher.seq, place).is_some() {
                        findings.add(|| format!("the watch on {path} is in the tries twice"));
                    }
                }
            });
        }
        for (path, entry) in self.watches {
            let (path, domid) = (path.as_path(), entry.domid);
            let right = belongs(layout, path);
            match found.remove(&entry.watcher.seq) {
                Some((shard, at, other)) => {
                    let same = shard == right && other == entry;
                    if !same || !at.as_path().components().eq(path.components()) {
                        findings.add(|| {
                            let at = at.as_path();
                            format!(
                                "domain {domid}'s watch on {path} is a different watch on {at} \
                                 in {}",
                                name(shard)
                            )
                        });
                    }
                }
                None => findings
                    .add(|| format!("domain {domid}'s watch on {path} is not in {}", name(right))),
            }
        }
        for (shard, path, entry) in found.into_values() {
            let (path, thread, domid) = (path.as_path(), self.thread, entry.domid);
            findings.add(|| {
                format!(
                    "{} has a watch of domain {domid} on {path} that no connection of thread \
                         {thread} has set",
                    name(shard)
                )
            });
        }
        findings
    }
}

/// Returns the shard whose trie holds watches on `path`; `None` for the global watch trie.
fn belongs(layout: Layout, path: Path<'_>) -> Option<ShardId> {
    if is_global(path) { None } else { Some(layout.partition(path).shard) }
}

fn each(trie: &Trie, mut visit: impl FnMut(Path<'_>, &Entry)) {
    trie.each(|path, entries| entries.iter().for_each(|entry| visit(path, entry)));
}

fn name(shard: Option<ShardId>) -> String {
    match shard {
        Some(ShardId(shard)) => format!("the trie of shard {shard}"),
        None => "the global watch trie".into(),
    }
}
