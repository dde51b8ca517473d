//! What a thread that may wait asks of the home threads of domains that move.

use crossbeam::channel::Sender;

use crate::domain::Domain;
use crate::migration::stream::state::Client;
use crate::shard::standing::Standing;
use crate::store::DomainSnapshot;
use crate::sync::Arc;
use crate::words::{Domid, Errno, Presence};

/// A domain whose number is kept free for an import, or the state that is in the way.
pub type Expected = Result<Arc<Domain>, Presence>;

/// A domain whose import is over, with what it brought if it arrived: its connection, its homes.
pub type ImportEnd = (Arc<Domain>, Option<(Client, DomainSnapshot)>);

/// What [`OwnerThreads`](super::owner_threads::OwnerThreads) ask of a domain's home thread, and where the reply goes. It keeps its place among events.
pub enum MoveRequest {
    /// See [`OwnerThreads::undo_quiesce`](super::owner_threads::OwnerThreads::undo_quiesce).
    UndoQuiesce(Domid, MoveReply<()>),
    /// See [`OwnerThreads::save_connections`](super::owner_threads::OwnerThreads::save_connections).
    SaveConnection(Domid, MoveReply<(Client, u64)>),
    /// See [`OwnerThreads::mark`](super::owner_threads::OwnerThreads::mark).
    Mark(u64, DomainSnapshot, MoveReply<u64>),
    /// See [`OwnerThreads::expect`](super::owner_threads::OwnerThreads::expect).
    Expect(Domid, MoveReply<Expected>),
    /// See [`OwnerThreads::standings`](super::owner_threads::OwnerThreads::standings).
    Standing(Domid, MoveReply<Standing>),
    /// See [`OwnerThreads::arrive`](super::owner_threads::OwnerThreads::arrive).
    Arrive(Arc<Domain>, Option<(Client, DomainSnapshot)>, MoveReply<()>),
    /// See [`OwnerThreads::discard`](super::owner_threads::OwnerThreads::discard).
    Discard(Domid, MoveReply<(DomainSnapshot, bool)>),
}

/// Where the reply to one of several requests goes.
pub struct MoveReply<R> {
    /// Which of them it is.
    pub at: usize,
    /// Takes the replies.
    pub sender: Sender<(usize, Result<R, Errno>)>,
}

impl<R> MoveReply<R> {
    /// Sends it.
    pub fn send(self, result: Result<R, Errno>) {
        // There is room for each, and a thread that waits for them.
        let _ = self.sender.send((self.at, result));
    }
}
