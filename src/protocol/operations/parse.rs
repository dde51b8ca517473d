//! The parsers of operations: from a payload to a request. Each returns `EINVAL` for a payload of another form.

use super::super::args::{Strings, decimal, one_string, strings};
use super::super::token::unescape;
use super::{
    DomainRequest, Form, MigrationRequest, NewWatch, NodeRequest, Range, Request, WatchListing,
};
use crate::words::{Domid, Errno};

type Parsed<'a> = Result<Request<'a>, Errno>;

pub fn read(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Node(one_string(payload)?, NodeRequest::Read))
}

pub fn directory(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Node(one_string(payload)?, NodeRequest::Directory))
}

pub fn directory_part(payload: &[u8]) -> Parsed<'_> {
    let [path, offset] = exactly(strings(payload))?;
    Ok(Request::Node(path, NodeRequest::DirectoryPart(decimal(offset)?)))
}

pub fn get_perms(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Node(one_string(payload)?, NodeRequest::GetPerms))
}

/// The value is what follows the path's NUL, whatever its bytes.
pub fn write(payload: &[u8]) -> Parsed<'_> {
    let end = payload.iter().position(|&byte| byte == 0).ok_or(Errno::EINVAL)?;
    Ok(Request::Node(&payload[..end], NodeRequest::Write(&payload[end + 1..])))
}

pub fn mkdir(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Node(one_string(payload)?, NodeRequest::Mkdir))
}

pub fn rm(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Node(one_string(payload)?, NodeRequest::Rm))
}

pub fn set_perms(payload: &[u8]) -> Parsed<'_> {
    let mut strings = strings(payload);
    let path = strings.next().ok_or(Errno::EINVAL)?;
    Ok(Request::Node(path, NodeRequest::SetPerms(strings)))
}

pub fn watch(payload: &[u8]) -> Parsed<'_> {
    let mut strings = strings(payload);
    let (Some(path), Some(token)) = (strings.next(), strings.next()) else {
        return Err(Errno::EINVAL);
    };
    match (strings.next(), strings.next()) {
        (None, _) => Ok(Request::Watch(path, token, None)),
        (Some(depth), None) => Ok(Request::Watch(path, token, Some(limited_depth(depth)?))),
        _ => Err(Errno::EINVAL),
    }
}

pub fn unwatch(payload: &[u8]) -> Parsed<'_> {
    let [path, token] = exactly(strings(payload))?;
    Ok(Request::Unwatch(path, token))
}

pub fn transaction_end(payload: &[u8]) -> Parsed<'_> {
    match one_string(payload)? {
        b"T" => Ok(Request::EndTransaction(true)),
        b"F" => Ok(Request::EndTransaction(false)),
        _ => Err(Errno::EINVAL),
    }
}

pub fn control(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Control(strings(payload)))
}

/// Domain, its page's number, event channel, and whatever follows. The number is only needed where there is no grant
/// of the page, so whatever is no number counts as none.
pub fn introduce(payload: &[u8]) -> Parsed<'_> {
    let mut strings = strings(payload);
    let (Some(domid), Some(gfn), Some(port)) = (strings.next(), strings.next(), strings.next())
    else {
        return Err(Errno::EINVAL);
    };
    let (domid, port) = (domain(domid)?, decimal(port)?);
    if port == 0 || !domid.is_real() || domid == Domid::CONTROL {
        return Err(Errno::EINVAL);
    }
    Ok(Request::Domain(domid, DomainRequest::Introduce(decimal(gfn).ok(), port)))
}

/// The domain and maybe the mark of an export (docs/MIGRATION.md).
pub fn release(payload: &[u8]) -> Parsed<'_> {
    let arguments = payload.strip_suffix(&[0]).ok_or(Errno::EINVAL)?;
    let mut arguments = arguments.split(|&byte| byte == 0);
    let domid = domain(arguments.next().unwrap_or_default())?;
    let mark = arguments.next().map(decimal).transpose()?;
    match arguments.next() {
        None => Ok(Request::Domain(domid, DomainRequest::Release(mark))),
        Some(_) => Err(Errno::EINVAL),
    }
}

pub fn resume(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Domain(domain(one_string(payload)?)?, DomainRequest::Resume))
}

pub fn set_target(payload: &[u8]) -> Parsed<'_> {
    let mut strings = strings(payload);
    let (Some(domid), Some(target)) = (strings.next(), strings.next()) else {
        return Err(Errno::EINVAL);
    };
    let (domid, target) = (domain(domid)?, domain(target)?);
    if domid == Domid::CONTROL {
        return Err(Errno::EINVAL);
    }
    Ok(Request::Domain(domid, DomainRequest::SetTarget(target)))
}

pub fn get_domain_path(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::GetDomainPath(domain(one_string(payload)?)?))
}

pub fn is_domain_introduced(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::IsDomainIntroduced(domain(one_string(payload)?)?))
}

pub fn get_feature(payload: &[u8]) -> Parsed<'_> {
    let mut strings = strings(payload);
    match (strings.next(), strings.next()) {
        (None, _) => Ok(Request::GetFeature(None)),
        (Some(domid), None) => Ok(Request::GetFeature(Some(domain(domid)?))),
        _ => Err(Errno::EINVAL),
    }
}

pub fn set_feature(payload: &[u8]) -> Parsed<'_> {
    let [domid, features] = exactly(strings(payload))?;
    Ok(Request::SetFeature(domain(domid)?, decimal(features)?))
}

pub fn get_quota(payload: &[u8]) -> Parsed<'_> {
    let mut strings = strings(payload);
    match (strings.next(), strings.next(), strings.next()) {
        (None, ..) => Ok(Request::QuotaNames),
        (Some(name), None, _) => Ok(Request::GetQuota(None, name)),
        (Some(domid), Some(name), None) => Ok(Request::GetQuota(Some(domain(domid)?), name)),
        _ => Err(Errno::EINVAL),
    }
}

pub fn set_quota(payload: &[u8]) -> Parsed<'_> {
    let mut strings = strings(payload);
    match (strings.next(), strings.next(), strings.next(), strings.next()) {
        (Some(name), Some(value), None, _) => Ok(Request::SetQuota(None, name, value)),
        (Some(domid), Some(name), Some(value), None) => {
            Ok(Request::SetQuota(Some(domain(domid)?), name, value))
        }
        _ => Err(Errno::EINVAL),
    }
}

pub fn quiesce<'a>(arguments: &[&'a [u8]], form: Form) -> Parsed<'a> {
    Ok(Request::Quiesce(domains(arguments)?, form))
}

pub fn unquiesce<'a>(arguments: &[&'a [u8]], form: Form) -> Parsed<'a> {
    Ok(Request::Unquiesce(domains(arguments)?, form))
}

pub fn get_domain_watches<'a>(arguments: &[&'a [u8]], form: Form, has_depth: bool) -> Parsed<'a> {
    let &[domid, index] = arguments else { return Err(Errno::EINVAL) };
    let listing = WatchListing { form, has_depth };
    let request = DomainRequest::ListWatches(decimal::<u32>(index)? as usize, listing);
    Ok(Request::Domain(domain(domid)?, request))
}

pub fn add_domain_watches<'a>(arguments: &[&'a [u8]], form: Form, has_depth: bool) -> Parsed<'a> {
    let [domid, tuples @ ..] = arguments else { return Err(Errno::EINVAL) };
    if tuples.is_empty() {
        return Err(Errno::EINVAL);
    }
    let tuples = tuples.chunks(if has_depth { 3 } else { 2 });
    let watches = tuples.map(|tuple| new_watch(tuple, form, has_depth));
    let watches = watches.collect::<Result<_, _>>()?;
    Ok(Request::Domain(domain(domid)?, DomainRequest::AddWatches(watches)))
}

fn new_watch(tuple: &[&[u8]], form: Form, has_depth: bool) -> Result<NewWatch, Errno> {
    let (path, token, depth) = match *tuple {
        [path, token] if !has_depth => (path, token, None),
        [path, token, b""] => (path, token, None),
        [path, token, depth] => (path, token, Some(limited_depth(depth)?)),
        _ => return Err(Errno::EINVAL),
    };
    let token = match form {
        Form::Strings => token.into(),
        Form::Text => unescape(token)?,
    };
    Ok(NewWatch { path: path.into(), token, depth })
}

pub fn start_domain_transaction<'a>(arguments: &[&'a [u8]], _form: Form) -> Parsed<'a> {
    let &[domid, id] = arguments else { return Err(Errno::EINVAL) };
    let id = decimal(id).ok().filter(|&id| id != 0).ok_or(Errno::EINVAL)?;
    Ok(Request::Domain(domain(domid)?, DomainRequest::StartTransaction(id)))
}

pub fn export_domains(payload: &[u8]) -> Result<MigrationRequest, Errno> {
    Ok(MigrationRequest::Export(ranges(payload)?))
}

pub fn import_domains(payload: &[u8]) -> Result<MigrationRequest, Errno> {
    match payload {
        b"" => Ok(MigrationRequest::Import(false)),
        b"check\0" => Ok(MigrationRequest::Import(true)),
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

fn domain(digits: &[u8]) -> Result<Domid, Errno> {
    Domid::parse(digits).ok_or(Errno::EINVAL)
}

/// Returns the domains that are named, each once, by number.
fn domains(arguments: &[&[u8]]) -> Result<Vec<Domid>, Errno> {
    let domids = arguments.iter().map(|digits| domain(digits));
    let mut domids = domids.collect::<Result<Vec<_>, _>>()?;
    domids.sort_unstable();
    domids.dedup();
    if domids.is_empty() { Err(Errno::EINVAL) } else { Ok(domids) }
}

/// Depths beyond every path's are all alike.
fn limited_depth(digits: &[u8]) -> Result<u16, Errno> {
    Ok(u16::try_from(decimal::<u32>(digits)?).unwrap_or(u16::MAX))
}

/// Returns the strings if there are exactly `N`.
fn exactly<const N: usize>(mut strings: Strings<'_>) -> Result<[&[u8]; N], Errno> {
    let mut all = [&[][..]; N];
    for slot in &mut all {
        *slot = strings.next().ok_or(Errno::EINVAL)?;
    }
    if strings.next().is_some() { Err(Errno::EINVAL) } else { Ok(all) }
}
