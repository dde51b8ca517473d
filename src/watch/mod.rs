//! Watches: who is told of which change.
//!
//! [`Matches`] in a [`Trie`] are the watches that a change concerns, found at the cost of its path's depth
//! and the matches. There is one in each shard, under the shard's lock, and one *upper* trie for watches on
//! paths that have homes below them (see `words::has_homes_below`) and on special paths: those are every
//! shard's concern, so a writer looks at a copy of it that costs a pointer. So no guest can
//! take every shard's lock by watching.
//!
//! What is found is pushed as one [`Batch`] for each thread that serves a watcher.

mod event;
mod matches;
mod trie;
mod upper;

pub use event::{Batch, Event, Outlet};
pub use matches::Matches;
pub use trie::{Entries, Entry, Trie, Watcher};
pub use upper::Upper;
