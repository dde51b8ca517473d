//! Paths of requests and events, as bytes, and how they lie to each other.

use super::step::{Step, Who};

/// The path of a request, from the root on.
pub fn path(step: &Step) -> Option<Vec<u8>> {
    let Step::Request { who, payload, .. } = step else { return None };
    let first = payload.split(|&byte| byte == 0).next().unwrap_or_default();
    Some(absolute(*who, first))
}

/// A path as somebody says it, from the root on.
pub fn absolute(who: Who, path: &[u8]) -> Vec<u8> {
    match path.first() {
        Some(b'/' | b'@') => path.to_vec(),
        _ => [format!("/local/domain/{}/", who.domid()).as_bytes(), path].concat(),
    }
}

/// A path's parents, the nearest first, without the root.
pub fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().rev().filter(|(at, byte)| *at > 0 && **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}

/// Whether one lies at or below the other.
pub fn are_related(one: &[u8], other: &[u8]) -> bool {
    lies_below(one, other) || lies_below(other, one)
}

/// Whether a path is another, or lies below it.
pub fn lies_below(low: &[u8], high: &[u8]) -> bool {
    high == b"/" || low.strip_prefix(high).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Every sequence finds these, and only the control domain makes them unless it lets others.
pub fn is_given(path: &[u8]) -> bool {
    [&b"/t"[..], b"/local", b"/local/domain"].contains(&path)
        || path.strip_prefix(b"/local/domain/").is_some_and(|rest| !rest.contains(&b'/'))
}

/// Whether this may be no path: other letters than xenstore.txt's, empty names, or a length near
/// the limits of xs_wire.h, which depend on who asks.
pub fn is_no_path(path: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
    let specials = [&b"@introduceDomain"[..], b"@releaseDomain"];
    let is_unknown = path.starts_with(b"@") && !specials.contains(&path);
    let is_spoilt =
        path.windows(2).any(|two| two == b"//") || path.len() > 1 && path.ends_with(b"/");
    let is_long = path.len() > 2047;
    path.is_empty() || is_long || is_unknown || is_spoilt || !path.iter().all(is_letter)
}
