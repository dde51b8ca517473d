//! What the daemon traces, in the order in which it happens: by this the model runs each request when the daemon does.

use std::cell::RefCell;
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Something that the daemon did.
#[derive(Debug)]
pub enum Observed {
    /// It replied to a request, with this type and payload.
    Replied { req: u32, kind: String, payload: String },
    /// It executed a request whose reply another thread sends.
    Waits { req: u32 },
    /// A domain became known.
    Born { domid: u16 },
    /// A domain's rights ended, and its nodes were removed.
    Died { domid: u16 },
    /// A connection of a socket began.
    Accepted { name: String },
    /// A connection of a domain's ring began.
    Connected { name: String, domid: u16 },
    /// A domain's requests are no longer taken.
    Quiesced { domid: u16 },
    /// A domain's requests are taken again.
    Unquiesced { domid: u16 },
    /// A connection was introduced again: its watches and transactions are gone.
    Reset { name: String },
    /// A connection ended.
    Disconnected { name: String },
}

thread_local! {
    static OBSERVED: RefCell<Vec<Observed>> = const { RefCell::new(Vec::new()) };
}

/// Takes what happened on this thread since the last call.
pub fn take() -> Vec<Observed> {
    OBSERVED.take()
}

/// A subscriber to the traces `io` and `obj`.
pub struct Observer;

impl Subscriber for Observer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        matches!(metadata.target(), "io" | "obj")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if let Some(observed) = line.parse() {
            OBSERVED.with_borrow_mut(|all| all.push(observed));
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The fields of a trace.
#[derive(Default)]
struct Line {
    message: String,
    connection: String,
    payload: String,
    domid: u64,
    req: u64,
}

impl Line {
    fn parse(self) -> Option<Observed> {
        let req = u32::try_from(self.req).unwrap();
        let domid = u16::try_from(self.domid).unwrap();
        let name = self.connection;
        match self.message.split_once(' ').unwrap_or((&self.message, "")) {
            ("out", "WATCH_EVENT") => None,
            ("out", kind) => {
                let shown = self.payload.strip_suffix('"').and_then(|text| text.strip_prefix('"'));
                let shown = shown.unwrap_or_else(|| panic!("too long a reply: {}", self.payload));
                let (kind, payload) = (kind.to_owned(), shown.replace("\\x00", "|"));
                Some(Observed::Replied { req, kind, payload })
            }
            ("wait", _) => Some(Observed::Waits { req }),
            ("create", "domain") => Some(Observed::Born { domid }),
            ("destroy", "domain") => Some(Observed::Died { domid }),
            ("create", "connection of a socket") => Some(Observed::Accepted { name }),
            ("create", "connection of a ring") => Some(Observed::Connected { name, domid }),
            ("quiesce", "") => Some(Observed::Quiesced { domid }),
            ("unquiesce", "") => Some(Observed::Unquiesced { domid }),
            ("introduce", "again") => Some(Observed::Reset { name }),
            ("destroy", "connection") => Some(Observed::Disconnected { name }),
            _ => None,
        }
    }
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "domid" => self.domid = value,
            "req" => self.req = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = match field.name() {
            "message" => &mut self.message,
            "connection" => &mut self.connection,
            "payload" => &mut self.payload,
            _ => return,
        };
        write!(text, "{value:?}").unwrap();
    }
}
