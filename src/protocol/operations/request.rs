//! Typed requests, and the parsers from payloads to requests. Each parser returns `EINVAL` for a malformed payload.

use WatchColumns::{PathToken, PathTokenDepth};

use super::super::args::{Strings, decimal, one_string, strings};
use super::super::token::unescape;
use crate::types::{Domid, Errno};

/// A request from the store's socket or a ring, with well-formed arguments. Paths, quota names and permission entries
/// are kept as the client wrote them, because their meaning depends on the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// READ to SET_PERMS: an operation on one path.
    Node(&'a [u8], NodeRequest<'a>),
    /// WATCH: path, token, and depth (`None` for unlimited).
    Watch(&'a [u8], &'a [u8], Option<u16>),
    /// UNWATCH: path and token.
    Unwatch(&'a [u8], &'a [u8]),
    /// RESET_WATCHES.
    ResetWatches,
    /// TRANSACTION_START.
    StartTransaction,
    /// TRANSACTION_END.
    EndTransaction(TransactionEnd),
    /// CONTROL: the command's words.
    Control(Strings<'a>),
    /// A request about a domain, served by that domain's owner thread.
    Domain(Domid, DomainRequest),
    /// QUIESCE of these domains, sorted and without duplicates.
    Quiesce(Vec<Domid>, Form),
    /// UNQUIESCE of these domains, sorted and without duplicates.
    Unquiesce {
        /// The domains.
        domids: Vec<Domid>,
        /// Whether to serve those too that another host may have.
        forced: bool,
        /// The form of the reply.
        form: Form,
    },
    /// GET_DOMAIN_PATH.
    GetDomainPath(Domid),
    /// IS_DOMAIN_INTRODUCED.
    IsDomainIntroduced(Domid),
    /// GET_FEATURE of a domain; `None` for the client's own.
    GetFeature(Option<Domid>),
    /// SET_FEATURE: domain and new feature bits.
    SetFeature(Domid, u32),
    /// GET_QUOTA: the names of all quotas.
    QuotaNames,
    /// GET_QUOTA: domain (`None` for the defaults) and quota name.
    GetQuota(Option<Domid>, &'a [u8]),
    /// SET_QUOTA: domain (`None` for the defaults), name and value. Name and value are parsed after the domain is
    /// looked up.
    SetQuota(Option<Domid>, &'a [u8], &'a [u8]),
}

/// An operation on one path (xenstore.txt, "Database read, write and permissions operations").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeRequest<'a> {
    /// READ.
    Read,
    /// DIRECTORY.
    Directory,
    /// DIRECTORY_PART: the offset in bytes into the list.
    DirectoryPart(u32),
    /// GET_PERMS.
    GetPerms,
    /// WRITE: the new value.
    Write(&'a [u8]),
    /// MKDIR.
    Mkdir,
    /// RM.
    Rm,
    /// SET_PERMS: the new entries.
    SetPerms(Strings<'a>),
}

/// The outcome that TRANSACTION_END requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEnd {
    /// Commit (`T`).
    Commit,
    /// Abort (`F`).
    Abort,
}

/// A request about a domain, as sent to its owner thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainRequest {
    /// INTRODUCE: the frame number of the ring page, if the client knows one, and the domain's unbound event channel.
    Introduce(Option<u64>, u32),
    /// RELEASE. With a mark it succeeds only if the domain is unchanged since the export with that mark.
    Release(Option<u64>),
    /// RESUME: the domain's next shutdown is reported again.
    Resume,
    /// SET_TARGET: the domain gains the rights of this other domain.
    SetTarget(Domid),
    /// GET_DOMAIN_WATCHES: the index of the first watch to list, and the format.
    ListWatches(usize, WatchListing),
    /// ADD_DOMAIN_WATCHES: watches to register on the domain's behalf.
    AddWatches(Vec<NewWatch>),
    /// START_DOMAIN_TRANSACTION: the non-zero id of a transaction to start on the domain's behalf.
    StartTransaction(u32),
}

/// The encoding of an extension's arguments and reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// NUL-terminated strings.
    Strings,
    /// Text for people and scripts, as a CONTROL command: a line per item; bytes of tokens that are not printable as
    /// `\xhh`.
    Text,
}

/// The columns of a watch list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchColumns {
    /// Path and token.
    PathToken,
    /// Path, token and depth.
    PathTokenDepth,
}

/// The format of a watch list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchListing {
    /// Strings or text.
    pub form: Form,
    /// The columns to list for each watch.
    pub columns: WatchColumns,
}

/// A watch to register on a domain's behalf, with the arguments that the domain would send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWatch {
    /// The path: absolute, relative or special.
    pub path: Box<[u8]>,
    /// The domain's token.
    pub token: Box<[u8]>,
    /// Levels below the path that the watch covers; `None` for unlimited.
    pub depth: Option<u16>,
}

type Parsed<'a> = Result<Request<'a>, Errno>;

pub fn read(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Node(one_string(payload)?, NodeRequest::Read))
}

pub fn directory(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Node(one_string(payload)?, NodeRequest::Directory))
}

pub fn directory_part(payload: &[u8]) -> Parsed<'_> {
    let [path, offset] = exactly(strings(payload))?;
    // Strict, as xenstore.txt requires a decimal number; C xenstored accepts more (COMPATIBILITY.md,
    // directory-part-offset).
    Ok(Request::Node(path, NodeRequest::DirectoryPart(decimal(offset)?)))
}

pub fn get_perms(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Node(one_string(payload)?, NodeRequest::GetPerms))
}

/// The value is everything after the path's NUL and may contain any bytes.
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
        b"T" => Ok(Request::EndTransaction(TransactionEnd::Commit)),
        b"F" => Ok(Request::EndTransaction(TransactionEnd::Abort)),
        _ => Err(Errno::EINVAL),
    }
}

pub fn control(payload: &[u8]) -> Parsed<'_> {
    Ok(Request::Control(strings(payload)))
}

/// Parses domain, frame number and event channel; ignores further arguments. The frame number is needed only without a
/// grant of the page, so an invalid one counts as absent.
pub fn introduce(payload: &[u8]) -> Parsed<'_> {
    let mut strings = strings(payload);
    let (Some(domid), Some(gfn), Some(port)) = (strings.next(), strings.next(), strings.next())
    else {
        return Err(Errno::EINVAL);
    };
    let (domid, port) = (domain(domid)?, decimal(port)?);
    // C xenstored would rebind the control domain's channel (COMPATIBILITY.md, introduce-control).
    if port == 0 || !domid.is_real() || domid == Domid::CONTROL {
        return Err(Errno::EINVAL);
    }
    Ok(Request::Domain(domid, DomainRequest::Introduce(decimal(gfn).ok(), port)))
}

/// Parses the domain and the optional mark of an export (docs/MIGRATION.md).
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
    let (forced, domids) = match arguments {
        [b"force", domids @ ..] => (true, domids),
        domids => (false, domids),
    };
    Ok(Request::Unquiesce { domids: domains(domids)?, forced, form })
}

pub fn get_domain_watches<'a>(arguments: &[&'a [u8]], form: Form) -> Parsed<'a> {
    list_watches(arguments, WatchListing { form, columns: PathToken })
}

pub fn get_domain_watches_depth<'a>(arguments: &[&'a [u8]], form: Form) -> Parsed<'a> {
    list_watches(arguments, WatchListing { form, columns: PathTokenDepth })
}

fn list_watches<'a>(arguments: &[&'a [u8]], listing: WatchListing) -> Parsed<'a> {
    let &[domid, index] = arguments else { return Err(Errno::EINVAL) };
    let request = DomainRequest::ListWatches(decimal::<u32>(index)? as usize, listing);
    Ok(Request::Domain(domain(domid)?, request))
}

pub fn add_domain_watches<'a>(arguments: &[&'a [u8]], form: Form) -> Parsed<'a> {
    add_watches(arguments, WatchListing { form, columns: PathToken })
}

pub fn add_domain_watches_depth<'a>(arguments: &[&'a [u8]], form: Form) -> Parsed<'a> {
    add_watches(arguments, WatchListing { form, columns: PathTokenDepth })
}

fn add_watches<'a>(arguments: &[&'a [u8]], listing: WatchListing) -> Parsed<'a> {
    let [domid, tuples @ ..] = arguments else { return Err(Errno::EINVAL) };
    if tuples.is_empty() {
        return Err(Errno::EINVAL);
    }
    let columns = match listing.columns {
        PathToken => 2,
        PathTokenDepth => 3,
    };
    let watches = tuples.chunks(columns).map(|tuple| new_watch(tuple, listing));
    let watches = watches.collect::<Result<_, _>>()?;
    Ok(Request::Domain(domain(domid)?, DomainRequest::AddWatches(watches)))
}

fn new_watch(tuple: &[&[u8]], listing: WatchListing) -> Result<NewWatch, Errno> {
    let (path, token, depth) = match *tuple {
        [path, token] if listing.columns == PathToken => (path, token, None),
        // No limit (docs/PROTOCOL-EXTENSIONS.md, ADD_DOMAIN_WATCHES).
        [path, token, b""] => (path, token, None),
        [path, token, depth] => (path, token, Some(limited_depth(depth)?)),
        _ => return Err(Errno::EINVAL),
    };
    let token = match listing.form {
        Form::Strings => token.into(),
        Form::Text => unescape(token)?,
    };
    Ok(NewWatch { path: path.into(), token, depth })
}

pub fn start_domain_transaction<'a>(arguments: &[&'a [u8]], _form: Form) -> Parsed<'a> {
    let &[domid, id] = arguments else { return Err(Errno::EINVAL) };
    // In a header 0 means no transaction.
    let id = decimal(id).ok().filter(|&id| id != 0).ok_or(Errno::EINVAL)?;
    Ok(Request::Domain(domain(domid)?, DomainRequest::StartTransaction(id)))
}

pub(super) fn domain(digits: &[u8]) -> Result<Domid, Errno> {
    // Stricter than C xenstored, to which an empty text is domain 0 (COMPATIBILITY.md, Numbers).
    Domid::parse(digits).ok_or(Errno::EINVAL)
}

/// Returns the named domains, sorted and without duplicates.
fn domains(arguments: &[&[u8]]) -> Result<Vec<Domid>, Errno> {
    let domids = arguments.iter().map(|digits| domain(digits));
    let mut domids = domids.collect::<Result<Vec<_>, _>>()?;
    domids.sort_unstable();
    domids.dedup();
    if domids.is_empty() { Err(Errno::EINVAL) } else { Ok(domids) }
}

/// Parses a depth. Depths larger than any path's are equivalent and saturate.
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
