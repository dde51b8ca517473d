//! The requests of the migration socket, from a message to its replies.

use std::io;
use std::os::unix::net::UnixStream;

use super::Outcome;
use super::check_export::check_export;
use super::discard_domains::discard_domains;
use super::domain_states::{AT_ONCE, domain_states};
use super::export_domains::export_domains;
use super::import_domains::import_domains;
use super::message::{Request, send};
use crate::protocol::operations::{DOMAINS_MAX, MigrationRequest, Parser, Range, Row};
use crate::protocol::{Header, ReplySlot};
use crate::server::OwnerThreads;
use crate::types::{Domid, Errno};

/// The payload of the last reply to a request.
const ACK: &[u8] = b"OK\0";

/// The replies to a request, sent in few batches because each wakes the client: one batch per stream of an import, one
/// per [`AT_ONCE`] domains of DOMAIN_STATES, otherwise a single one. The last batch is sent with the final reply.
pub(super) struct Replies<'c> {
    client: &'c UnixStream,
    header: Header,
    /// Number of batches still expected.
    left: usize,
    pending: Vec<u8>,
    /// The first error of the client's socket. The request is executed to its end regardless.
    taken: io::Result<()>,
}

impl Replies<'_> {
    pub(super) fn to(client: &UnixStream, header: Header) -> Replies<'_> {
        Replies { client, header, left: 1, pending: Vec::new(), taken: Ok(()) }
    }

    /// Appends the outcomes of one batch of domains.
    fn add(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            self.pending.extend(message(&self.header, Ok(&show(&outcome))));
        }
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            self.send();
        }
    }

    pub(super) fn end(mut self, result: Result<(), Errno>) -> io::Result<()> {
        self.pending.extend(message(&self.header, result.map(|()| ACK)));
        self.send();
        self.taken
    }

    fn send(&mut self) {
        if self.taken.is_ok() {
            self.taken = send(self.client, &self.pending);
        }
        self.pending.clear();
    }
}

/// Executes a request and sends the replies as they become available.
///
/// # Errors
/// The reason why nothing was done.
pub(super) fn perform(
    owners: &OwnerThreads,
    request: Request,
    replies: &mut Replies<'_>,
) -> Result<(), Errno> {
    let Request { header, payload, descriptors } = request;
    let parse = match Row::of(header.kind.get()).map(|row| row.parser) {
        Some(Parser::Migration(parse)) => parse,
        // Operations of the client socket are unknown here, as this socket's are there.
        Some(Parser::Payload(_) | Parser::Arguments(_)) | None => return Err(Errno::ENOSYS),
    };
    match parse(&payload)? {
        MigrationRequest::Export(ranges, to) => {
            let domids = few(domids(owners, &ranges, introduced)?)?;
            replies.add(export_domains(owners, &domids, to.as_deref(), descriptors)?);
        }
        MigrationRequest::CheckExport(ranges) => {
            let domids = few(domids(owners, &ranges, introduced)?)?;
            replies.add(check_export(owners, &domids, descriptors)?);
        }
        MigrationRequest::Import(import) => {
            if descriptors.is_empty() {
                return Err(Errno::EINVAL);
            }
            replies.left = descriptors.len();
            import_domains(owners, descriptors, import, |outcomes| replies.add(outcomes));
        }
        MigrationRequest::Discard(ranges) => {
            let domids = few(domids(owners, &ranges, OwnerThreads::arrived)?)?;
            replies.add(discard_domains(owners, &domids));
        }
        MigrationRequest::States(ranges) => {
            let domids = domids(owners, &ranges, |_, known| known.to_vec())?;
            // An empty list still has one batch, which is sent with the final reply.
            replies.left = domids.len().div_ceil(AT_ONCE).max(1);
            domain_states(owners, &domids, |outcomes| replies.add(outcomes));
        }
    }
    Ok(())
}

/// Returns those of the given domains that are introduced.
fn introduced(owners: &OwnerThreads, domids: &[Domid]) -> Vec<Domid> {
    let registry = owners.store().registry();
    let is_introduced =
        |domid: &&Domid| registry.get(**domid).is_some_and(|domain| domain.is_introduced());
    domids.iter().filter(is_introduced).copied().collect()
}

/// Returns the domains of the given ranges, without duplicates, in ascending order. `meant` selects among the known
/// domains of a range.
fn domids(
    owners: &OwnerThreads,
    ranges: &[Range],
    meant: fn(&OwnerThreads, &[Domid]) -> Vec<Domid>,
) -> Result<Vec<Domid>, Errno> {
    let registry = owners.store().registry();
    let mut domids = Vec::new();
    for &range in ranges {
        let (Range::One(first) | Range::Known(first, _)) = range;
        // A range that begins with a privileged domid is refused like a single one; further ones in a range are
        // skipped.
        if registry.is_privileged(first) {
            return Err(Errno::EINVAL);
        }
        match range {
            Range::One(domid) => domids.push(domid),
            Range::Known(first, last) => {
                let is_known = |&domid: &Domid| {
                    registry.get(domid).is_some() && !registry.is_privileged(domid)
                };
                let known: Vec<_> = (first.0..=last.0).map(Domid).filter(is_known).collect();
                domids.extend(meant(owners, &known));
            }
        }
    }
    domids.sort_unstable();
    domids.dedup();
    Ok(domids)
}

/// Checks the limit of domains that are quiesced together. Each of them pauses until the last one is exported, so more
/// would pause longer.
fn few(domids: Vec<Domid>) -> Result<Vec<Domid>, Errno> {
    if domids.len() > DOMAINS_MAX { Err(Errno::E2BIG) } else { Ok(domids) }
}

/// Encodes an outcome as strings: the domain, `OK` and the details; or the domain, the error and a sentence.
fn show(outcome: &Outcome) -> Vec<u8> {
    let domid = outcome.domid.map_or("-".into(), |domid| domid.to_string());
    let strings: Vec<String> = match &outcome.result {
        Ok(words) => ["OK".into()].into_iter().chain(words.iter().cloned()).collect(),
        // Sentences quote streams, and a NUL would end the string.
        Err((errno, why)) => vec![errno.to_string(), why.replace('\0', " ")],
    };
    let strings = [domid].into_iter().chain(strings);
    strings.flat_map(|string| [string.into_bytes(), vec![0]]).flatten().collect()
}

fn message(request: &Header, payload: Result<&[u8], Errno>) -> Vec<u8> {
    let mut message = Vec::new();
    let slot = ReplySlot::begin(&mut message, request);
    message.extend_from_slice(payload.unwrap_or_default());
    slot.finish(&mut message, payload.map(|_| ()));
    message
}
