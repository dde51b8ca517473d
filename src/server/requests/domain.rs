//! Requests about domains and quotas, on the client's worker: they are replied to at once or forwarded to the domain's
//! owner thread.

use std::borrow::Cow;

use super::context::{Reply, RequestContext, text_reply};
use crate::domain::{Domain, Quota, SERVER_FEATURES};
use crate::protocol::operations::DomainRequest;
use crate::protocol::{decimal, text};
use crate::server::mailbox::Message;
use crate::sync::Arc;
use crate::types::{Domid, Errno};

/// The prefix of the names of soft quotas in GET_QUOTA and SET_QUOTA.
const SOFT: &str = "soft-";

/// Parks the connection until the domain's owner thread replies, and returns `None`; or returns the error if the
/// request is refused.
pub fn ask_owner_thread(
    cx: &mut RequestContext<'_>,
    domid: Domid,
    request: DomainRequest,
) -> Option<Reply> {
    let is_for_any = matches!(request, DomainRequest::Introduce(..) | DomainRequest::SetTarget(_));
    // A domain with the control domain's rights is introduced and gets a target like others, but it cannot be released,
    // resumed or moved.
    if !is_for_any && cx.core.registry().is_privileged(domid) {
        return Some(Err(Errno::EINVAL));
    }
    let (reply_to, by) = (cx.park(), cx.author());
    let owner = cx.core.shared.owner_thread(domid);
    cx.core.shared.mailboxes.post(owner, Message::Domain(reply_to, domid, request, by));
    None
}

/// Returns the reply to IS_DOMAIN_INTRODUCED.
pub fn is_introduced(cx: &RequestContext<'_>, domid: Domid) -> Cow<'static, [u8]> {
    let domain = cx.core.registry().get(domid);
    let introduced = domain.is_some_and(|domain| domain.is_introduced());
    let yes = domid == Domid::SELF || introduced;
    Cow::Borrowed(if yes { b"T\0" } else { b"F\0" })
}

/// Returns a domain that exists on the host, or ENOENT.
fn existing(cx: &RequestContext<'_>, domid: Domid) -> Result<Arc<Domain>, Errno> {
    cx.core.shared.known_domain(domid).ok_or(Errno::ENOENT)
}

/// Executes GET_FEATURE of a domain, or of the connection's own.
pub fn get_feature(cx: &RequestContext<'_>, domid: Option<Domid>) -> Reply {
    let features = match domid {
        None => cx.session.domain.features(),
        Some(domid) => existing(cx, domid)?.features(),
    };
    Ok(text_reply(features.to_string()))
}

/// Executes SET_FEATURE.
///
/// # Errors
/// `EBUSY` once the domain is introduced, since its ring offers the features then; `EINVAL` for features that the
/// daemon does not have.
pub fn set_feature(cx: &RequestContext<'_>, domid: Domid, features: u32) -> Result<(), Errno> {
    let domain = existing(cx, domid)?;
    if domain.is_introduced() {
        return Err(Errno::EBUSY);
    }
    if features & !SERVER_FEATURES != 0 {
        return Err(Errno::EINVAL);
    }
    domain.set_features(features);
    Ok(())
}

/// Executes GET_QUOTA of a domain, or of the defaults.
pub fn get_quota(cx: &RequestContext<'_>, domid: Option<Domid>, name: &[u8]) -> Reply {
    let domain = domid.map(|domid| existing(cx, domid)).transpose()?;
    let defaults = cx.core.registry().defaults();
    let limits = domain.as_ref().map_or(defaults, |domain| domain.limits());
    let value = match parse_quota(name)? {
        Some(quota) => limits.get(quota),
        None => limits.soft_memory(),
    };
    Ok(text_reply(value.to_string()))
}

/// Executes SET_QUOTA of a domain, or of the defaults.
pub fn set_quota(
    cx: &RequestContext<'_>,
    domid: Option<Domid>,
    name: &[u8],
    value: &[u8],
) -> Result<(), Errno> {
    let domain = domid.map(|domid| existing(cx, domid)).transpose()?;
    // C xenstored reserves the greatest number for quotas that it does not support.
    let value = decimal(value).ok().filter(|&value| value != u32::MAX).ok_or(Errno::EINVAL)?;
    let registry = cx.core.registry();
    match parse_quota(name)? {
        Some(quota) => registry.set_limit(domain.as_deref(), quota, value),
        None => registry.set_soft_memory(domain.as_deref(), value),
    }
    Ok(())
}

/// Returns a quota by name; `None` for the soft memory quota.
fn parse_quota(name: &[u8]) -> Result<Option<Quota>, Errno> {
    let name = text(name).ok_or(Errno::EINVAL)?;
    match name.strip_prefix(SOFT) {
        Some(name) if Quota::from_name(name) == Some(Quota::Memory) => Ok(None),
        Some(_) => Err(Errno::EINVAL),
        None => Quota::from_name(name).map(Some).ok_or(Errno::EINVAL),
    }
}

/// Returns the names of all quotas, separated by blanks, a soft quota after its hard one.
pub fn quota_names() -> String {
    let mut names = Vec::new();
    for quota in Quota::all() {
        names.push(quota.name().to_owned());
        if quota == Quota::Memory {
            names.push(format!("{SOFT}{}", quota.name()));
        }
    }
    names.join(" ")
}
