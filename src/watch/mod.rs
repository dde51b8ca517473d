//! Watch registration and event matching.
//!
//! [`Matches`] finds the watches in a [`Trie`] that a change concerns, at the cost of the path's depth and the matches.
//! Each shard has a trie under its lock. The *global watch trie* ([`GlobalTrie`]) holds watches on paths with
//! partitions below (see `types::has_partitions_below`) and on special paths: changes in any shard may match these, and
//! if they were in every shard's trie, a guest could take all locks by setting watches. A writer reads a snapshot of
//! it, which costs a pointer.
//!
//! A trie holds a connection's watches on one path as one [`Entry`], so a client with a thousand watches on a path
//! costs writers no more than a client with one. The matches are pushed as one [`Batch`] for each thread that serves
//! a watcher, and that thread finds the individual watches.

mod entries;
mod event;
mod global_trie;
mod matches;
mod trie;

pub use entries::{Entries, Entry, Watcher};
pub use event::{Batch, Changed, Event, Nearest, Outlet, PENDING_WEIGHT};
pub use global_trie::GlobalTrie;
pub use matches::{Matched, Matches, matches_of};
pub use trie::{Cursor, Trie};
