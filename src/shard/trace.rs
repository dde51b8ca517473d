//! What the switches `io` and `obj` trace of connections.
//!
//! Off, each costs one relaxed load; what is shown is put together only when it is on.

use std::fmt::{self, Display, Formatter};

use super::mailbox::Asker;
use super::session::output::Output;
use crate::domain::Domain;
use crate::log;
use crate::protocol::{Frame, Header, frame, message_name};
use crate::sync::Arc;

/// Of a longer payload only so many bytes are shown: enough for every path and token of ordinary
/// use, and no line of a trace grows beyond what can be read.
const PAYLOAD_SHOWN_BYTES: usize = 256;

/// A connection as lines of the log name it: its thread and its number there.
struct Name(u16, u64);

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A payload, whose bytes are anything: NUL is `\x00`.
struct Payload<'a>(&'a [u8]);

impl Display for Payload<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(PAYLOAD_SHOWN_BYTES) {
            Some((shown, [_, ..])) => write!(f, "\"{}\"...", shown.escape_ascii()),
            _ => write!(f, "\"{}\"", self.0.escape_ascii()),
        }
    }
}

/// The name of a connection, in traces and in the log.
pub fn name(asker: &Asker) -> impl Display + use<> {
    Name(asker.thread, asker.id)
}

/// A request is taken.
#[inline]
pub fn request(asker: &Asker, domain: &Arc<Domain>, header: &Header, payload: &[u8]) {
    if tracing::enabled!(target: log::IO, tracing::Level::TRACE) {
        message(asker, domain, "in", header, payload);
    }
}

/// A reply or event was queued, which begins at `start` of the output's buffer.
#[inline]
pub fn queued(asker: &Asker, domain: &Arc<Domain>, output: &Output, start: usize) {
    if tracing::enabled!(target: log::IO, tracing::Level::TRACE)
        && let Frame::Message { header, payload, .. } = frame(output.queued_from(start))
    {
        message(asker, domain, "out", header, payload);
    }
}

// Not inlined: each request asks twice whether the trace is on, and that alone belongs on its path.
#[cold]
#[inline(never)]
fn message(asker: &Asker, domain: &Arc<Domain>, way: &str, header: &Header, payload: &[u8]) {
    tracing::trace!(
        target: log::IO,
        connection = %name(asker),
        domid = domain.domid.0,
        req = header.req_id.get(),
        tx = header.tx_id.get(),
        len = header.len.get(),
        payload = %Payload(payload),
        "{way} {}",
        message_name(header.kind.get())
    );
}

/// A connection, or a thing of it, comes or goes.
pub fn object(asker: &Asker, domain: &Arc<Domain>, what: fmt::Arguments<'_>) {
    tracing::trace!(
        target: log::OBJ,
        connection = %name(asker),
        domid = domain.domid.0,
        "{what}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_when_long_is_shown_in_part() {
        let shown = |len: usize| Payload(&vec![b'v'; len]).to_string();
        assert_eq!(shown(256), format!("\"{}\"", "v".repeat(256)));
        assert_eq!(shown(257), format!("\"{}\"...", "v".repeat(256)));
        assert_eq!(Payload(b"/a\0").to_string(), "\"/a\\x00\"");
    }
}
