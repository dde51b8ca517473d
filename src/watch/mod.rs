//! Watches: who is told of which change.
//!
//! [`Matches`] in a [`Trie`] are the watches that a change concerns, found at the cost of its path's depth
//! and the matches. There is one in each shard, under the shard's lock, and one *upper* trie for watches on
//! paths that have homes below them (see `words::has_homes_below`) and on special paths: those are every
//! shard's concern, so a writer looks at a copy of it that costs a pointer. So no guest can
//! take every shard's lock by watching.
//!
//! A trie knows a connection's watches on one path as one [`Entry`], so a client with a thousand watches on a
//! path costs those who change it no more than a client with one. What is found is pushed as one [`Batch`] for
//! each thread that serves a watcher, and that thread finds the watches themselves.

mod entries;
mod event;
mod matches;
mod trie;
mod upper;

pub use entries::{Entries, Entry, Watcher};
pub use event::{Batch, Changed, Event, Nearest, Outlet, PENDING_WEIGHT};
pub use matches::{Matched, Matches, matches_of};
pub use trie::{Cursor, Trie};
pub use upper::Upper;
