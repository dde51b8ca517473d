//! The requests that move domains, on the side of the one who asks: as operations and as commands of
//! CONTROL (docs/PROTOCOL-EXTENSIONS.md). What is asked of one domain goes to its home thread; what
//! is asked of many, to each one's, and the last of them answers.

use std::borrow::Cow;

use super::Shared;
use super::connection::Connection;
use super::domain_watches::{Listing, NewWatch, unescape};
use super::domains::DomainRequest;
use super::gathering::{Gathered, Share, shares};
use super::mailbox::Message;
use super::requests::ACK;
use super::thread::{Place, Thread};
use super::watch_requests::limited_depth;
use crate::protocol::{Header, Kind, decimal};
use crate::store::{Generations, Op, Verb};
use crate::words::{Domid, Errno, Path};

/// Domains in one QUIESCE or UNQUIESCE: if all but one of them cannot be served, the reply that
/// names them still fits.
pub const DOMAINS_MAX: usize = 256;

/// Where it is written which of these operations there are: a node for each, whose value is its
/// number. They are the control domain's alone, like the operations.
const OPERATIONS: &str = "/tool/xenstored/operations";

/// The commands of CONTROL, and what `-d` as their first argument makes of them.
const COMMANDS: [(&[u8], Kind, Option<Kind>); 5] = [
    (b"quiesce", Kind::Quiesce, None),
    (b"unquiesce", Kind::Unquiesce, None),
    (b"get-domain-watches", Kind::GetDomainWatches, Some(Kind::GetDomainWatchesDepth)),
    (b"add-domain-watches", Kind::AddDomainWatches, Some(Kind::AddDomainWatchesDepth)),
    (b"start-domain-transaction", Kind::StartDomainTransaction, None),
];

/// What is asked.
enum Asked {
    /// Of each: QUIESCE or UNQUIESCE.
    Of(Vec<Domid>, fn(Share) -> Message),
    /// Of one.
    OfOne(Domid, DomainRequest),
}

type Answer = Result<Cow<'static, [u8]>, Errno>;

/// The operation that a command of CONTROL stands for, and its arguments; `None` for other commands.
pub fn command<'w, 'p>(words: &'w [&'p [u8]]) -> Option<(Kind, &'w [&'p [u8]])> {
    let (name, arguments) = words.split_first()?;
    let (_, kind, with_depth) = COMMANDS.iter().find(|(command, ..)| command == name)?;
    match (with_depth, arguments) {
        (Some(kind), [b"-d", arguments @ ..]) => Some((*kind, arguments)),
        _ => Some((*kind, arguments)),
    }
}

impl Thread {
    /// An operation that Xen does not have, as a message.
    pub(super) fn migration_message(
        &mut self,
        place: Place,
        connection: &mut Connection,
        header: &Header,
        kind: Kind,
        payload: &[u8],
    ) -> Option<Answer> {
        // The design writes the last argument of GET_DOMAIN_WATCHES without a NUL.
        let payload = payload.strip_suffix(&[0]).unwrap_or(payload);
        let arguments: Vec<_> = payload.split(|&byte| byte == 0).collect();
        self.migration_matter(place, connection, header, kind, (&arguments, false))
    }

    /// An operation that Xen does not have, and whether it was asked as a command of CONTROL, where
    /// everything is text. `None` if the answer comes later.
    pub(super) fn migration_matter(
        &mut self,
        place: Place,
        connection: &mut Connection,
        header: &Header,
        kind: Kind,
        (arguments, is_text): (&[&[u8]], bool),
    ) -> Option<Answer> {
        match self.parse(kind, arguments, is_text) {
            Err(errno) => Some(Err(errno)),
            Ok(Asked::OfOne(domid, request)) => {
                self.ask_home_thread(place, connection, header, domid, request);
                None
            }
            Ok(Asked::Of(domids, message)) => {
                let asker = self.park(place, connection, header);
                let mailboxes = self.shared.mailboxes.clone();
                let answer = move |gathered: Gathered| {
                    let result = gathered.map(|failed| show(&failed, is_text));
                    mailboxes.post(asker.thread, Message::Answer(asker, result));
                };
                for share in shares(&domids, answer) {
                    let home = self.home_thread(share.domid());
                    self.shared.mailboxes.post(home, message(share));
                }
                None
            }
        }
    }

    fn parse(&self, kind: Kind, arguments: &[&[u8]], is_text: bool) -> Result<Asked, Errno> {
        if let Kind::Quiesce | Kind::Unquiesce = kind {
            let message = if kind == Kind::Quiesce { Message::Quiesce } else { Message::Unquiesce };
            return Ok(Asked::Of(self.guests(arguments)?, message));
        }
        let (domid, arguments) = arguments.split_first().ok_or(Errno::EINVAL)?;
        let has_depth = matches!(kind, Kind::GetDomainWatchesDepth | Kind::AddDomainWatchesDepth);
        let request = match (kind, arguments) {
            (Kind::StartDomainTransaction, [id]) => {
                let id = decimal(id).ok().filter(|&id| id != 0).ok_or(Errno::EINVAL)?;
                DomainRequest::StartTransaction(id)
            }
            (Kind::GetDomainWatches | Kind::GetDomainWatchesDepth, [index]) => {
                let listing = Listing { is_text, has_depth };
                DomainRequest::ListWatches(decimal::<u32>(index)? as usize, listing)
            }
            (Kind::AddDomainWatches | Kind::AddDomainWatchesDepth, [_, ..]) => {
                let tuples = arguments.chunks(if has_depth { 3 } else { 2 });
                let watches = tuples.map(|tuple| parse_watch(tuple, has_depth, is_text));
                DomainRequest::AddWatches(watches.collect::<Result<_, _>>()?)
            }
            _ => return Err(Errno::EINVAL),
        };
        Ok(Asked::OfOne(self.guest(domid)?, request))
    }

    /// The domains that are named, each once, by number.
    fn guests(&self, arguments: &[&[u8]]) -> Result<Vec<Domid>, Errno> {
        let domids = arguments.iter().map(|digits| self.guest(digits));
        let mut domids = domids.collect::<Result<Vec<_>, _>>()?;
        domids.sort_unstable();
        domids.dedup();
        match domids.len() {
            0 => Err(Errno::EINVAL),
            1..=DOMAINS_MAX => Ok(domids),
            _ => Err(Errno::E2BIG),
        }
    }
}

fn parse_watch(tuple: &[&[u8]], has_depth: bool, is_text: bool) -> Result<NewWatch, Errno> {
    let (path, token, depth) = match *tuple {
        [path, token] if !has_depth => (path, token, None),
        [path, token, b""] => (path, token, None),
        [path, token, depth] => (path, token, Some(limited_depth(decimal(depth)?))),
        _ => return Err(Errno::EINVAL),
    };
    let token = if is_text { unescape(token)? } else { token.into() };
    Ok(NewWatch { path: path.into(), token, depth })
}

/// The answer to QUIESCE or UNQUIESCE: OK, and the domains for which nothing was done. As a text:
/// OK, or a line for each of those.
fn show(failed: &[(Domid, Errno)], is_text: bool) -> Vec<u8> {
    if !is_text {
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
    /// Writes down which operations there are that Xen does not have.
    pub(super) fn announce_operations(&self) {
        for kind in Kind::EXTENSIONS {
            self.announce(kind.name(), &(kind as u32).to_string());
        }
    }

    /// Writes down one of them, or what else there is to be known about moving domains.
    pub(super) fn announce(&self, name: &str, value: &str) {
        let path = format!("{OPERATIONS}/{name}");
        let Ok(path) = Path::parse(path.as_bytes()) else { return };
        let op = Op { path, verb: Verb::Write(Cow::Borrowed(value.as_bytes())) };
        let (caller, mut generations) = (self.daemon_caller(), Generations::default());
        if let Err(errno) = self.store.execute(&caller, &op, &mut generations, &mut Vec::new()) {
            tracing::error!(%errno, path = %op.path, "it is not announced");
        }
    }
}
