//! The requests that move domains, on the side of the client (docs/PROTOCOL-EXTENSIONS.md). What is requested of
//! many domains goes to each one's home thread, and the last of them replies.

use std::borrow::Cow;

use super::{ACK, Message, Reply, RequestContext, Shared};
use crate::protocol::operations::{DOMAINS_MAX, Form, Parser, TABLE};
use crate::shard::migration::{Gathered, Share, shares};
use crate::store::{Generations, Op, Verb};
use crate::words::{Domid, Errno, Path};

/// Holds a node for each extension that the daemon has, whose value is its number. The nodes are the control
/// domain's alone, like the operations.
const OPERATIONS: &str = "/tool/xenstored/operations";

/// Parks the connection until the home threads of all domains have replied, and returns `None`; or returns why the
/// request is refused.
pub fn ask_home_threads(
    cx: &mut RequestContext<'_>,
    domids: &[Domid],
    form: Form,
    message: fn(Share) -> Message,
) -> Option<Reply> {
    let registry = cx.thread.shared.store.registry();
    if domids.iter().any(|&domid| registry.is_privileged(domid)) {
        return Some(Err(Errno::EINVAL));
    }
    if domids.len() > DOMAINS_MAX {
        return Some(Err(Errno::E2BIG));
    }
    let asker = cx.park();
    let mailboxes = cx.thread.shared.mailboxes.clone();
    let answer = move |gathered: Gathered| {
        let result = gathered.map(|failed| show(&failed, form));
        mailboxes.post(asker.thread, Message::Answer(asker, result));
    };
    for share in shares(domids, answer) {
        let home = cx.thread.home_thread(share.domid());
        cx.thread.shared.mailboxes.post(home, message(share));
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

impl Shared {
    /// Announces the extensions that the store's socket and rings serve.
    pub(in crate::shard) fn announce_operations(&self) {
        for row in TABLE.iter().filter(|row| matches!(row.parser, Parser::Arguments(_))) {
            self.announce(row.name, &(row.operation as u32).to_string());
        }
    }

    /// Writes down one of them, or what else there is to be known about moving domains.
    pub(in crate::shard) fn announce(&self, name: &str, value: &str) {
        let path = format!("{OPERATIONS}/{name}");
        let Ok(path) = Path::parse(path.as_bytes()) else { return };
        let op = Op { path, verb: Verb::Write(Cow::Borrowed(value.as_bytes())) };
        let (caller, mut generations) = (self.daemon_caller(), Generations::default());
        if let Err(error) = self.store.execute(&caller, &op, &mut generations, &mut Vec::new()) {
            tracing::error!(%error, path = %op.path, "it is not announced");
        }
    }
}
