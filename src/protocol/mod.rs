//! The messages of xs_wire.h: headers, frames, arguments, replies. Bytes in, bytes out; no I/O.

mod args;
mod frame;
mod kind;
mod reply;

pub use args::{decimal, one_string, strings, text};
pub use frame::{Frame, HEADER_BYTES, Header, MESSAGE_BYTES_MAX, REQUEST_PAYLOAD_BYTES_MAX, frame};
pub use kind::{ERROR, Kind, WATCH_EVENT, kind_name};
pub use reply::{ReplySlot, append_error, append_event, append_reply};
