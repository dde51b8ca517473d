//! Requests that migrate domains, on the client's worker (docs/PROTOCOL-EXTENSIONS.md). A request about many domains is
//! scattered to their owner threads, and the last of these replies.

use super::context::{ACK, Reply, RequestContext};
use crate::protocol::operations::{DOMAINS_MAX, Form};
use crate::server::mailbox::Message;
use crate::server::migration::scatter_gather::{Joined, Part, parts};
use crate::types::{Domid, Errno};

/// Parks the connection until the owner threads of all domains have done their parts, and returns `None`; or returns
/// the error if the request is refused.
pub fn ask_owner_threads(
    cx: &mut RequestContext<'_>,
    domids: &[Domid],
    form: Form,
    message: impl Fn(Part) -> Message,
) -> Option<Reply> {
    let registry = cx.core.registry();
    if domids.iter().any(|&domid| registry.is_privileged(domid)) {
        return Some(Err(Errno::EINVAL));
    }
    if domids.len() > DOMAINS_MAX {
        return Some(Err(Errno::E2BIG));
    }
    let reply_to = cx.park();
    let mailboxes = cx.core.shared.mailboxes.clone();
    let reply = move |joined: Joined| {
        let result = joined.map(|failed| show(&failed, form));
        // `post`: the last part ends on a worker, which wakes others at the end of its pass.
        mailboxes.post(reply_to.thread, Message::Reply(reply_to, result));
    };
    for part in parts(domids, reply) {
        let owner = cx.core.shared.owner_thread(part.domid());
        cx.core.shared.mailboxes.post(owner, message(part));
    }
    None
}

/// Returns the reply to QUIESCE or UNQUIESCE: OK and the failed domains; in the text form OK, or a line for each failed
/// domain.
fn show(failed: &[(Domid, Errno)], form: Form) -> Vec<u8> {
    if form == Form::Strings {
        let named = failed.iter().map(|(domid, errno)| format!("{domid}\0{errno}\0"));
        return [ACK.to_vec(), named.collect::<String>().into_bytes()].concat();
    }
    if failed.is_empty() {
        return ACK.to_vec();
    }
    let lines = failed.iter().map(|(domid, errno)| format!("{domid} {errno}\n"));
    (lines.collect::<String>() + "\0").into_bytes()
}
