//! The messages of xs_wire.h: headers, frames, arguments, operations, replies. Bytes in, bytes out; no I/O.

mod args;
mod client;
mod frame;
pub mod operations;
mod reply;
mod token;

pub use args::{Strings, decimal, one_string, strings, text};
pub use client::{Input, Message, append_request, request};
pub use frame::{Frame, HEADER_BYTES, Header, MESSAGE_BYTES_MAX, REQUEST_PAYLOAD_BYTES_MAX, frame};
pub use operations::{ERROR, Operation, WATCH_EVENT, message_name};
pub use reply::{ReplySlot, append_error, append_event, append_reply};
pub use token::escape;
