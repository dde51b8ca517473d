//! Payloads of requests, requests to be sent many times, and the expected replies.

use xenstored::protocol::{HEADER_BYTES, Operation, request};

/// Encodes strings as a payload, each with its NUL.
pub fn words(strings: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(strings.iter().map(|string| string.len() + 1).sum());
    for string in strings {
        out.extend_from_slice(string.as_bytes());
        out.push(0);
    }
    out
}

/// Encodes a WRITE payload: a path with its NUL, and a value without one.
pub fn payload(path: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = words(&[path]);
    out.extend_from_slice(value.as_ref());
    out
}

/// Returns the path and the token in an event's payload, or `None` if it is malformed.
pub fn event(payload: &[u8]) -> Option<(&str, &str)> {
    let (path, token) = str::from_utf8(payload).ok()?.strip_suffix('\0')?.split_once('\0')?;
    (!token.contains('\0')).then_some((path, token))
}

/// The expected reply. A reply to another request than the oldest is always wrong, as is an unexpected error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this payload.
    Payload(Vec<u8>),
    /// A payload with this prefix.
    Prefix(Vec<u8>),
    /// A payload of this many strings.
    Strings(usize),
}

impl Expect {
    /// Expects the reply of a request without a result.
    pub fn ok() -> Expect {
        Expect::Payload(b"OK\0".to_vec())
    }

    /// Returns whether `payload` matches. Cost: its length.
    pub fn matches(&self, payload: &[u8]) -> bool {
        match self {
            Expect::Payload(expected) => payload == expected,
            Expect::Prefix(prefix) => payload.starts_with(prefix),
            Expect::Strings(count) => {
                payload.iter().filter(|&&byte| byte == 0).count() == *count
                    && payload.last().is_none_or(|&byte| byte == 0)
            }
        }
    }
}

/// Number of digits of the counter in a changing value.
const COUNTER_DIGITS: usize = 8;

/// A request to be sent many times.
pub struct Request {
    /// The operation of the request.
    pub kind: Operation,
    bytes: Vec<u8>,
    /// Whether the request ends with a counter.
    counts: bool,
    /// The expected reply.
    pub expect: Expect,
}

impl Request {
    /// Creates a request that is the same each time.
    pub fn new(kind: Operation, payload: &[u8], expect: Expect) -> Request {
        let bytes = request(kind, 0, payload);
        Request { kind, bytes, counts: false, expect }
    }

    /// Creates a WRITE of `prefix` and 8 digits that differ each time, so that a daemon cannot skip equal values or
    /// the replay of equal replies.
    pub fn write_changing(path: &str, prefix: &str) -> Request {
        let value = payload(path, format!("{prefix}{:0COUNTER_DIGITS$}", 0));
        Request { counts: true, ..Request::new(Operation::Write, &value, Expect::ok()) }
    }

    /// Appends the request with this id to `out`; the counter, if any, is derived from the id.
    pub fn append(&self, out: &mut Vec<u8>, req_id: u32) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        out[start + 4..start + 8].copy_from_slice(&req_id.to_le_bytes());
        if self.counts {
            let mut rest = req_id;
            for digit in out[start + HEADER_BYTES..].iter_mut().rev().take(COUNTER_DIGITS) {
                *digit = b"0123456789"[rest as usize % 10];
                rest /= 10;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changing_write_ends_with_an_eight_digit_counter() {
        let request = Request::write_changing("/a", "x ");
        let (mut first, mut second) = (Vec::new(), Vec::new());
        request.append(&mut first, 7);
        request.append(&mut second, 123_456_789);
        assert_eq!(&first[HEADER_BYTES..], b"/a\0x 00000007");
        assert_eq!(&second[HEADER_BYTES..], b"/a\0x 23456789");
        assert_eq!(&first[4..8], &7u32.to_le_bytes());
    }

    #[test]
    fn expectations_accept_only_matching_replies() {
        assert!(Expect::ok().matches(b"OK\0"));
        assert!(!Expect::ok().matches(b"OK"));
        assert!(Expect::Prefix(b"7/".to_vec()).matches(b"7/9"));
        assert!(!Expect::Prefix(b"7/".to_vec()).matches(b"8/9"));
        assert!(Expect::Strings(2).matches(b"a\0b\0"));
        assert!(!Expect::Strings(2).matches(b"a\0b\0c"));
        assert!(Expect::Strings(0).matches(b""));
    }

    #[test]
    fn event_has_exactly_two_strings() {
        assert_eq!(event(b"/a/b\0t\0"), Some(("/a/b", "t")));
        assert_eq!(event(b"/a\0\0"), Some(("/a", "")));
        for bad in [&b"/a\0t"[..], b"/a\0", b"/a\0t\0u\0", b"\xff\0t\0"] {
            assert_eq!(event(bad), None);
        }
    }
}
