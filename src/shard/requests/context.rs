//! A request that is being served, and what it is replied with.

use std::borrow::Cow;

use crate::protocol::Header;
use crate::shard::mailbox::{Asker, Message};
use crate::shard::session::Session;
use crate::shard::session::core::Core;
use crate::store::{Caller, Executed};
use crate::words::Errno;

/// The payload of a reply that says nothing but yes (xenstore.txt).
pub const ACK: &[u8] = b"OK\0";

/// What a request is replied with.
pub type Reply = Result<Cow<'static, [u8]>, Errno>;

/// Whether a request was used.
pub enum Outcome {
    /// It was answered, or will be.
    Used,
    /// It has to wait and is tried again.
    Again,
}

/// A request that is being served: what it runs on, the client and its rights, and the message's header.
pub struct RequestContext<'a> {
    /// What sessions run on.
    pub core: &'a mut Core,
    /// The client.
    pub session: &'a mut Session,
    /// The client's domain with its rights of this moment.
    pub caller: &'a Caller,
    /// The message's header.
    pub header: &'a Header,
}

impl RequestContext<'_> {
    /// Queues the reply.
    pub fn reply(&mut self, result: Result<&[u8], Errno>) {
        self.session.reply(self.header, result, None);
    }

    /// Parks the connection until another thread replies. Returns the handle to which the reply is addressed.
    pub fn park(&mut self) -> Asker {
        self.session.park(self.core, self.header)
    }

    /// Replies to a request that changed something, once what it removed is accounted. If that is much, the reaper
    /// does it and only this client waits.
    pub fn conclude(&mut self, executed: Executed) {
        let Executed { ticket, removed, replaced } = executed;
        drop(replaced);
        let Some(rest) = self.core.shared.store.settle(removed) else {
            return self.session.reply(self.header, Ok(ACK), ticket);
        };
        let asker = self.park();
        self.session.late = Some(Vec::new());
        let mailboxes = self.core.shared.mailboxes.clone();
        let done = move || {
            drop(ticket);
            mailboxes.send(asker.thread, Message::Answer(asker, Ok(ACK.to_vec())));
        };
        self.core.shared.store.reap(rest, Box::new(done));
    }
}

/// A text as a payload.
pub fn text_reply(text: String) -> Cow<'static, [u8]> {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    Cow::Owned(bytes)
}
