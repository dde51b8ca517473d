//! The path from a message to its reply: the checks that every request passes, in their order, and the function that
//! executes each kind of request.

pub mod context;
mod control;
mod domain;
mod migration;
mod node;
mod transaction;
mod watch;

use std::borrow::Cow;

use self::context::{ACK, Outcome, RequestContext, text_reply};
use super::mailbox::Message;
use super::session::core::Core;
use super::session::reservations::{Admission, await_reservation};
use super::session::{Pending, Session};
use super::trace;
use crate::log;
use crate::protocol::operations::{Access, Form, Parser, Request, Row, TransactionId, command};
use crate::protocol::{Frame, frame, strings};
use crate::store::Caller;
use crate::sync::Arc;
use crate::types::Errno;

/// The result of [`serve_first`].
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'s> {
    /// A request was consumed; this follows it.
    Served(&'s [u8]),
    /// The request has to wait, and is retried.
    Waits,
    /// The request is incomplete.
    Incomplete,
    /// The request has this length, which is over the limit, so that the message boundaries that follow are lost.
    TooLong(u32),
}

/// Serves the first request of a session's input.
pub fn serve_first<'s>(
    core: &mut Core,
    session: &mut Session,
    caller: &Caller,
    stream: &'s [u8],
) -> Step<'s> {
    let pending = std::mem::replace(&mut session.pending, Pending::Nothing);
    match frame(stream) {
        Frame::Incomplete(_) => Step::Incomplete,
        Frame::TooLong(len) => Step::TooLong(len),
        Frame::Message { header, payload, rest } => {
            // A retried request was traced at its first attempt.
            if pending != Pending::Retry {
                trace::request(&session.reply_to, &session.domain, header, payload);
            }
            match serve(&mut RequestContext { core, session, caller, header }, payload) {
                Outcome::Used => Step::Served(rest),
                Outcome::Retry => {
                    session.pending = Pending::Retry;
                    Step::Waits
                }
            }
        }
    }
}

fn serve(cx: &mut RequestContext<'_>, payload: &[u8]) -> Outcome {
    match admit(cx, payload) {
        Ok(request) => dispatch(cx, request),
        Err(errno) => {
            cx.reply(Err(errno));
            Outcome::Used
        }
    }
}

/// Checks a request in the order on which clients rely: of several errors they see the first.
fn admit<'p>(cx: &RequestContext<'_>, payload: &'p [u8]) -> Result<Request<'p>, Errno> {
    let row = Row::of(cx.header.kind.get()).ok_or(Errno::ENOSYS)?;
    let worker = Some(cx.core.number);
    let domid = Some(cx.caller.domain.domid);
    // Before the payload is parsed, so that a panic names the request.
    log::set_context(log::Context { worker, operation: row.name, domid });
    let is_privileged = cx.caller.subject.privileged;
    let is_allowed = match row.access {
        Access::Any => true,
        Access::OwnOnly => is_privileged || strings(payload).next().is_none(),
        Access::Privileged => is_privileged,
    };
    let id = cx.header.tx_id.get();
    match (row.parser, row.transaction) {
        // Served by the migration socket only.
        (Parser::Migration(_), _) => Err(Errno::ENOSYS),
        _ if !is_allowed => Err(Errno::EACCES),
        (_, TransactionId::Open) if id != 0 && !cx.session.transactions.contains_key(&id) => {
            Err(Errno::ENOENT)
        }
        (Parser::Payload(parse), _) => parse(payload),
        (Parser::Arguments(parse), _) => {
            // The protocol's document describes the last argument of GET_DOMAIN_WATCHES without a NUL.
            let payload = payload.strip_suffix(&[0]).unwrap_or(payload);
            let arguments: Vec<_> = payload.split(|&byte| byte == 0).collect();
            parse(&arguments, Form::Strings)
        }
    }
}

fn dispatch(cx: &mut RequestContext<'_>, request: Request<'_>) -> Outcome {
    let ack = |()| Cow::Borrowed(ACK);
    let reply = match request {
        Request::Node(path, request) => return node::serve(cx, path, request),
        Request::EndTransaction(end) => return transaction::end(cx, end),
        Request::StartTransaction => match await_reservation(cx.core, cx.session) {
            Admission::Parked => return Outcome::Retry,
            Admission::Admitted => Some(transaction::start(cx)),
        },
        Request::Watch(path, token, depth) => {
            watch::watch(cx, path, token, depth);
            // `watch` queues the reply itself, since the initial event follows directly.
            None
        }
        Request::Unwatch(path, token) => Some(watch::unwatch(cx, path, token).map(ack)),
        Request::ResetWatches => {
            cx.session.drop_watches(cx.core);
            // The reply means that the watches' quota is free, so the request is retried until they have left the
            // tries. Dropping again is a no-op. The transactions are dropped last, as `admit` checks this request's
            // transaction id at each retry.
            if !cx.core.former.are_out(cx.session.former_watches) {
                return Outcome::Retry;
            }
            cx.session.drop_transactions();
            Some(Ok(ack(())))
        }
        Request::Control(words) => {
            let words: Vec<_> = words.collect();
            match command(&words) {
                Some(Ok(request)) => return dispatch(cx, request),
                Some(Err(errno)) => Some(Err(errno)),
                None => control::serve(cx, &words),
            }
        }
        Request::Domain(domid, request) => domain::ask_owner_thread(cx, domid, request),
        Request::Quiesce(domids, form) => {
            let by = cx.author();
            let message = |part| Message::Quiesce(part, Arc::clone(&by));
            migration::ask_owner_threads(cx, &domids, form, message)
        }
        Request::Unquiesce { domids, forced, form } => {
            let by = cx.author();
            let message = |part| Message::Unquiesce { part, forced, by: Arc::clone(&by) };
            migration::ask_owner_threads(cx, &domids, form, message)
        }
        Request::GetDomainPath(domid) => Some(Ok(text_reply(format!("/local/domain/{domid}")))),
        Request::IsDomainIntroduced(domid) => Some(Ok(domain::is_introduced(cx, domid))),
        Request::GetFeature(domid) => Some(domain::get_feature(cx, domid)),
        Request::SetFeature(domid, bits) => Some(domain::set_feature(cx, domid, bits).map(ack)),
        Request::QuotaNames => Some(Ok(text_reply(domain::quota_names()))),
        Request::GetQuota(domid, name) => Some(domain::get_quota(cx, domid, name)),
        Request::SetQuota(domid, name, value) => {
            Some(domain::set_quota(cx, domid, name, value).map(ack))
        }
    };
    if let Some(reply) = reply {
        cx.reply(reply.as_deref().map_err(|errno| *errno));
    }
    Outcome::Used
}
