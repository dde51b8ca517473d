//! The requests of the migration socket (docs/MIGRATION.md), and their parsers.

use super::super::args::strings;
use super::request::domain;
use crate::words::{Domid, Errno};

/// A request of the migration socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationRequest {
    /// EXPORT_DOMAINS: domains are quiesced and their streams written.
    Export(Vec<Range>),
    /// IMPORT_DOMAINS from the descriptors that come along.
    Import(ImportMode),
    /// DISCARD_DOMAINS: imports are taken back.
    Discard(Vec<Range>),
    /// DOMAIN_STATES.
    States(Vec<Range>),
}

/// What is done with the streams of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMode {
    /// Their domains are put in place.
    Place,
    /// Nothing: the reply is what it would be.
    Check,
}

/// Domains of a request of the migration socket: one, or the known ones of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// `<domid>`.
    One(Domid),
    /// `<first>-<last>`.
    Known(Domid, Domid),
}

pub fn export_domains(payload: &[u8]) -> Result<MigrationRequest, Errno> {
    Ok(MigrationRequest::Export(ranges(payload)?))
}

pub fn import_domains(payload: &[u8]) -> Result<MigrationRequest, Errno> {
    match payload {
        b"" => Ok(MigrationRequest::Import(ImportMode::Place)),
        b"check\0" => Ok(MigrationRequest::Import(ImportMode::Check)),
        _ => Err(Errno::EINVAL),
    }
}

pub fn discard_domains(payload: &[u8]) -> Result<MigrationRequest, Errno> {
    Ok(MigrationRequest::Discard(ranges(payload)?))
}

pub fn domain_states(payload: &[u8]) -> Result<MigrationRequest, Errno> {
    Ok(MigrationRequest::States(ranges(payload)?))
}

/// Returns the domains of `<domid>` and `<first>-<last>`.
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
