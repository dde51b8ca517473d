//! Paths of requests and events, as bytes, and their relations.

use super::step::{Step, Who};

/// Returns the absolute path of a request.
pub fn path(step: &Step) -> Option<Vec<u8>> {
    let Step::Request { who, payload, .. } = step else { return None };
    let first = payload.split(|&byte| byte == 0).next().unwrap_or_default();
    Some(absolute(*who, first))
}

/// Makes a client's path absolute.
pub fn absolute(who: Who, path: &[u8]) -> Vec<u8> {
    match path.first() {
        Some(b'/' | b'@') => path.to_vec(),
        _ => [format!("/local/domain/{}/", who.domid()).as_bytes(), path].concat(),
    }
}

/// Returns a path's ancestors, the nearest first, without the root.
pub fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().rev().filter(|(at, byte)| *at > 0 && **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}

/// Returns whether one path equals the other, or is its ancestor or descendant.
pub fn are_related(one: &[u8], other: &[u8]) -> bool {
    lies_below(one, other) || lies_below(other, one)
}

/// Returns whether `low` equals `high` or is below it.
pub fn lies_below(low: &[u8], high: &[u8]) -> bool {
    high == b"/" || low.strip_prefix(high).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Returns whether a node exists at the start of every sequence; guests can change it only if the control domain
/// allows it.
pub fn is_given(path: &[u8]) -> bool {
    [&b"/t"[..], b"/local", b"/local/domain"].contains(&path)
        || path.strip_prefix(b"/local/domain/").is_some_and(|rest| !rest.contains(&b'/'))
}

/// Returns whether a path may be invalid: characters outside of xenstore.txt's set, empty names, or a length near the
/// limits of xs_wire.h, which depend on the client.
pub fn is_no_path(path: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
    let specials = [&b"@introduceDomain"[..], b"@releaseDomain"];
    let is_unknown = path.starts_with(b"@") && !specials.contains(&path);
    let is_spoilt =
        path.windows(2).any(|two| two == b"//") || path.len() > 1 && path.ends_with(b"/");
    let is_long = path.len() > 2047;
    path.is_empty() || is_long || is_unknown || is_spoilt || !path.iter().all(is_letter)
}
