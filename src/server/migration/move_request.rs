//! Requests about migrating domains, sent to their owner threads by threads that may block.

use crossbeam::channel::Sender;

use crate::domain::Domain;
use crate::migration::stream::state::Client;
use crate::server::author::Author;
use crate::server::standing::Standing;
use crate::store::DomainSnapshot;
use crate::sync::Arc;
use crate::types::{Domid, Errno, Presence};

/// A domain whose domid is kept free for an import, or the state that conflicts.
pub type Expected = Result<Arc<Domain>, Presence>;

/// A domain whose import has ended, with its connection and partitions if the import succeeded.
pub type ImportEnd = (Arc<Domain>, Option<(Client, DomainSnapshot)>);

/// The outcome of an import that succeeded: that of the domain's INTRODUCE, if the client asked for it.
pub type Introduced = Option<Result<(), Errno>>;

/// An export of a domain, for which its owner thread makes a mark.
pub struct Export {
    /// The version of the exported connection.
    pub version: u64,
    /// The exported partitions.
    pub seen: DomainSnapshot,
    /// The client.
    pub by: Arc<Author>,
    /// The destination that the client named.
    pub to: Option<Arc<str>>,
}

/// A request of [`OwnerThreads`](super::owner_threads::OwnerThreads) to a domain's owner thread, with its reply
/// address. The request keeps its order among events.
pub enum MoveRequest {
    /// See [`OwnerThreads::undo_quiesce`](super::owner_threads::OwnerThreads::undo_quiesce).
    UndoQuiesce(Domid, MoveReply<()>),
    /// See [`OwnerThreads::save_connections`](super::owner_threads::OwnerThreads::save_connections).
    SaveConnection(Domid, MoveReply<(Client, u64)>),
    /// See [`OwnerThreads::mark`](super::owner_threads::OwnerThreads::mark).
    Mark(Export, MoveReply<u64>),
    /// See [`OwnerThreads::expect`](super::owner_threads::OwnerThreads::expect).
    Expect(Domid, Arc<Author>, MoveReply<Expected>),
    /// See [`OwnerThreads::standings`](super::owner_threads::OwnerThreads::standings).
    Standing(Domid, MoveReply<Standing>),
    /// See [`OwnerThreads::arrive`](super::owner_threads::OwnerThreads::arrive).
    Arrive(ImportEnd, Arc<Author>, bool, MoveReply<Introduced>),
    /// See [`OwnerThreads::discard`](super::owner_threads::OwnerThreads::discard).
    Discard(Domid, MoveReply<(DomainSnapshot, bool)>),
}

/// The reply address of one of several requests sent at the same time.
pub struct MoveReply<R> {
    /// The index of the request.
    pub at: usize,
    /// Collects the replies.
    pub sender: Sender<(usize, Result<R, Errno>)>,
}

impl<R> MoveReply<R> {
    /// Sends the reply.
    pub fn send(self, result: Result<R, Errno>) {
        // Cannot fail: the channel has room for each reply, and the receiver waits for all.
        let _ = self.sender.send((self.at, result));
    }
}
