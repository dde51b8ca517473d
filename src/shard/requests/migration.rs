//! The requests that move domains, on the side of the client (docs/PROTOCOL-EXTENSIONS.md). What is requested of
//! many domains goes to each one's home thread, and the last of them replies.

use super::context::{ACK, Reply, RequestContext};
use crate::protocol::operations::{DOMAINS_MAX, Form};
use crate::shard::mailbox::Message;
use crate::shard::migration::scatter_gather::{Gathered, Share, shares};
use crate::words::{Domid, Errno};

/// Parks the connection until the home threads of all domains have replied, and returns `None`; or returns why the
/// request is refused.
pub fn ask_home_threads(
    cx: &mut RequestContext<'_>,
    domids: &[Domid],
    form: Form,
    message: fn(Share) -> Message,
) -> Option<Reply> {
    let registry = cx.core.shared.store.registry();
    if domids.iter().any(|&domid| registry.is_privileged(domid)) {
        return Some(Err(Errno::EINVAL));
    }
    if domids.len() > DOMAINS_MAX {
        return Some(Err(Errno::E2BIG));
    }
    let asker = cx.park();
    let mailboxes = cx.core.shared.mailboxes.clone();
    let answer = move |gathered: Gathered| {
        let result = gathered.map(|failed| show(&failed, form));
        mailboxes.post(asker.thread, Message::Answer(asker, result));
    };
    for share in shares(domids, answer) {
        let home = cx.core.shared.home_thread(share.domid());
        cx.core.shared.mailboxes.post(home, message(share));
    }
    None
}

/// The answer to QUIESCE or UNQUIESCE: OK, and the domains for which nothing was done. As a text:
/// OK, or a line for each of those.
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
