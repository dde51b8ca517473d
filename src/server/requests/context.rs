//! A request in progress, and its reply.

use std::borrow::Cow;

use crate::protocol::Header;
use crate::server::author::Author;
use crate::server::mailbox::{Message, ReplyTo};
use crate::server::session::Session;
use crate::server::session::core::Core;
use crate::store::{Caller, Executed};
use crate::sync::Arc;
use crate::types::Errno;

/// The payload of a reply that only acknowledges (xenstore.txt).
pub const ACK: &[u8] = b"OK\0";

/// The payload of a reply, or its error.
pub type Reply = Result<Cow<'static, [u8]>, Errno>;

/// Whether a request was consumed.
pub enum Outcome {
    /// The request was replied to, or its connection is parked for the reply.
    Used,
    /// The request has to wait, and is retried.
    Retry,
}

/// A request in progress: the core, the client and its rights, and the message's header.
pub struct RequestContext<'a> {
    /// The part of the worker that sessions use.
    pub core: &'a mut Core,
    /// The client's session.
    pub session: &'a mut Session,
    /// The client's domain with its rights at the beginning of the quantum.
    pub caller: &'a Caller,
    /// The message's header.
    pub header: &'a Header,
}

impl RequestContext<'_> {
    /// Queues the reply.
    pub fn reply(&mut self, result: Result<&[u8], Errno>) {
        self.session.reply(self.header, result, None);
    }

    /// Returns the client as the author of changes of domains' states. Cost: the first time that of [`Author::of`].
    pub fn author(&mut self) -> Arc<Author> {
        let (domid, pid) = (self.session.domid(), self.session.pid);
        let author = self.session.author.get_or_insert_with(|| Arc::new(Author::of(domid, pid)));
        Arc::clone(author)
    }

    /// Parks the connection until another thread replies. Returns the reply address.
    pub fn park(&mut self) -> ReplyTo {
        self.session.park(self.core, self.header)
    }

    /// Replies to a request that changed nodes, once removed nodes are settled. If these are many, the reaper settles
    /// them, and only this client waits. So the quota is free after the reply, as in C xenstored.
    pub fn conclude(&mut self, executed: Executed) {
        let Executed { ticket, removed, replaced, .. } = executed;
        // Here, outside of the store's locks: freeing large partitions takes long.
        drop(replaced);
        let Some(rest) = self.core.shared.store.settle(removed) else {
            return self.session.reply(self.header, Ok(ACK), ticket);
        };
        let reply_to = self.park();
        self.session.post_reply = Some(Vec::new());
        let mailboxes = self.core.shared.mailboxes.clone();
        let done = move || {
            drop(ticket);
            // `send`, since the reaper has no pass at whose end the worker would be woken.
            mailboxes.send(reply_to.thread, Message::Reply(reply_to, Ok(ACK.to_vec())));
        };
        self.core.shared.store.reap(rest, Box::new(done));
    }
}

/// Returns a text as a NUL-terminated payload.
pub fn text_reply(text: String) -> Cow<'static, [u8]> {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    Cow::Owned(bytes)
}
