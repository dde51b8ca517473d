//! The traces `io` and `obj` of connections.
//!
//! A disabled trace costs one relaxed load; its text is formatted only if it is enabled.

use std::fmt::{self, Display, Formatter};

use super::mailbox::ReplyTo;
use super::session::output::Output;
use crate::domain::Domain;
use crate::log;
use crate::protocol::{Frame, Header, frame, message_name};
use crate::sync::Arc;

/// The number of bytes shown of a payload: enough for ordinary paths and tokens, while a line stays readable.
const PAYLOAD_SHOWN_BYTES: usize = 256;

/// A connection's name in the log: its worker and its number there.
struct Name(u16, u64);

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A payload of arbitrary bytes, escaped: NUL is `\x00`.
struct Payload<'a>(&'a [u8]);

impl Display for Payload<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(PAYLOAD_SHOWN_BYTES) {
            Some((shown, [_, ..])) => write!(f, "\"{}\"...", shown.escape_ascii()),
            _ => write!(f, "\"{}\"", self.0.escape_ascii()),
        }
    }
}

/// Returns a connection's name in traces and in the log.
pub fn name(reply_to: &ReplyTo) -> impl Display + use<> {
    Name(reply_to.thread, reply_to.id)
}

/// Traces a request.
#[inline]
pub fn request(reply_to: &ReplyTo, domain: &Arc<Domain>, header: &Header, payload: &[u8]) {
    if tracing::enabled!(target: log::IO, tracing::Level::TRACE) {
        message(reply_to, domain, "in", header, payload);
    }
}

/// Traces a request whose reply is another thread's: it has been executed as far as its own thread does that.
#[inline]
pub fn waits(reply_to: &ReplyTo, domain: &Arc<Domain>, header: &Header) {
    if tracing::enabled!(target: log::IO, tracing::Level::TRACE) {
        message(reply_to, domain, "wait", header, &[]);
    }
}

/// Traces a reply or event queued in the output's buffer from `start` on.
#[inline]
pub fn queued(reply_to: &ReplyTo, domain: &Arc<Domain>, output: &Output, start: usize) {
    if tracing::enabled!(target: log::IO, tracing::Level::TRACE)
        && let Frame::Message { header, payload, .. } = frame(output.queued_from(start))
    {
        message(reply_to, domain, "out", header, payload);
    }
}

// Not inlined: each request only checks twice whether the trace is enabled, and the rest of the code would bloat the
// path of a request.
#[cold]
#[inline(never)]
fn message(reply_to: &ReplyTo, domain: &Arc<Domain>, way: &str, header: &Header, payload: &[u8]) {
    tracing::trace!(
        target: log::IO,
        connection = %name(reply_to),
        domid = domain.domid.0,
        req = header.req_id.get(),
        tx = header.tx_id.get(),
        len = header.len.get(),
        payload = %Payload(payload),
        "{way} {}",
        message_name(header.kind.get())
    );
}

/// Traces the creation or end of a connection, or of one of its objects.
pub fn object(reply_to: &ReplyTo, domain: &Arc<Domain>, what: fmt::Arguments<'_>) {
    tracing::trace!(
        target: log::OBJ,
        connection = %name(reply_to),
        domid = domain.domid.0,
        "{what}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_payload_is_truncated_in_traces() {
        let shown = |len: usize| Payload(&vec![b'v'; len]).to_string();
        assert_eq!(shown(256), format!("\"{}\"", "v".repeat(256)));
        assert_eq!(shown(257), format!("\"{}\"...", "v".repeat(256)));
        assert_eq!(Payload(b"/a\0").to_string(), "\"/a\\x00\"");
    }
}
