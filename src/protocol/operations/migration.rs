//! The requests of the migration socket (docs/MIGRATION.md) and their parsers.

use super::super::args::{strings, text};
use super::request::domain;
use crate::types::{Domid, Errno};

/// Maximum length of a destination's name, in bytes: more than a socket's path or a host's name has.
pub const DESTINATION_BYTES_MAX: usize = 256;

/// A request of the migration socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationRequest {
    /// EXPORT_DOMAINS: quiesces the domains and writes their streams, for the destination that the client names.
    Export(Vec<Range>, Option<String>),
    /// EXPORT_DOMAINS with `check`: writes the streams without watches and transactions, and changes nothing.
    CheckExport(Vec<Range>),
    /// IMPORT_DOMAINS from the file descriptors sent with the request.
    Import(Import),
    /// DISCARD_DOMAINS: rolls back imports.
    Discard(Vec<Range>),
    /// DOMAIN_STATES: reports the migration state of each domain.
    States(Vec<Range>),
}

/// The options of IMPORT_DOMAINS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Import {
    /// Whether anything changes.
    pub mode: ImportMode,
    /// Whether a stream without a digest is refused.
    pub needs_digest: bool,
}

/// The mode of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMode {
    /// Imports the domains.
    Place,
    /// Imports the domains, and introduces each with the event channel in its stream.
    Introduce,
    /// Dry run: changes nothing, and returns the reply that an import would get.
    Check,
}

/// An argument that names domains: a single one, or all known ones in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// `<domid>`: one domain.
    One(Domid),
    /// `<first>-<last>`: the known domains among these, both ends included.
    Known(Domid, Domid),
}

pub fn export_domains(payload: &[u8]) -> Result<MigrationRequest, Errno> {
    let last = payload.strip_suffix(b"\0").ok_or(Errno::EINVAL)?;
    let begin = last.iter().rposition(|&byte| byte == 0).map_or(0, |at| at + 1);
    if &last[begin..] == b"check" {
        return Ok(MigrationRequest::CheckExport(ranges(&payload[..begin])?));
    }
    let Some(to) = last[begin..].strip_prefix(b"to=") else {
        return Ok(MigrationRequest::Export(ranges(payload)?, None));
    };
    let is_plain = |to: &&str| !to.is_empty() && !to.contains(char::is_control);
    let to = text(to).filter(is_plain).filter(|to| to.len() <= DESTINATION_BYTES_MAX);
    let to = to.ok_or(Errno::EINVAL)?.to_owned();
    Ok(MigrationRequest::Export(ranges(&payload[..begin])?, Some(to)))
}

pub fn import_domains(payload: &[u8]) -> Result<MigrationRequest, Errno> {
    let (mode, needs_digest) = match payload {
        b"" => (ImportMode::Place, false),
        b"digest\0" => (ImportMode::Place, true),
        b"introduce\0" => (ImportMode::Introduce, false),
        b"introduce\0digest\0" => (ImportMode::Introduce, true),
        b"check\0" => (ImportMode::Check, false),
        b"check\0digest\0" => (ImportMode::Check, true),
        _ => return Err(Errno::EINVAL),
    };
    Ok(MigrationRequest::Import(Import { mode, needs_digest }))
}

pub fn discard_domains(payload: &[u8]) -> Result<MigrationRequest, Errno> {
    Ok(MigrationRequest::Discard(ranges(payload)?))
}

pub fn domain_states(payload: &[u8]) -> Result<MigrationRequest, Errno> {
    Ok(MigrationRequest::States(ranges(payload)?))
}

/// Parses arguments of the forms `<domid>` and `<first>-<last>`.
fn ranges(payload: &[u8]) -> Result<Vec<Range>, Errno> {
    if payload.last() != Some(&0) {
        return Err(Errno::EINVAL);
    }
    let range = |part: &[u8]| match part.iter().position(|&byte| byte == b'-') {
        None => domain(part).map(Range::One),
        Some(at) => Ok(Range::Known(domain(&part[..at])?, domain(&part[at + 1..])?)),
    };
    strings(payload).map(range).collect()
}
