//! The requests about domains, on the side of the one who asks: arguments, what can be answered at
//! once, and what is for the domain's home thread.

use std::borrow::Cow;

use super::connection::Connection;
use super::domains::DomainRequest;
use super::mailbox::Message;
use super::requests::ACK;
use super::thread::{Place, Thread};
use crate::domain::{Domain, Quota, SERVER_FEATURES};
use crate::protocol::{Header, Kind, decimal, one_string, strings, text};
use crate::sync::Arc;
use crate::words::{Domid, Errno};

/// Prefix of the names of soft quotas in GET_QUOTA and SET_QUOTA.
const SOFT: &str = "soft-";

type Answer = Result<Cow<'static, [u8]>, Errno>;

impl Thread {
    /// INTRODUCE to SET_QUOTA. `None` if the answer comes later.
    pub(super) fn domain_matter(
        &mut self,
        place: Place,
        connection: &mut Connection,
        header: &Header,
        kind: Kind,
        payload: &[u8],
    ) -> Option<Answer> {
        let forwarded = match kind {
            Kind::Introduce => parse_introduce(payload),
            Kind::Release => self.parse_release(payload),
            Kind::Resume => self.one_guest(payload).map(|domid| (domid, DomainRequest::Resume)),
            Kind::SetTarget => parse_set_target(payload),
            _ => return Some(self.domain_answer(connection, kind, payload)),
        };
        match forwarded {
            Err(errno) => Some(Err(errno)),
            Ok((domid, request)) => {
                self.ask_home_thread(place, connection, header, domid, request);
                None
            }
        }
    }

    /// Parks who asks until the domain's home thread answers.
    pub(super) fn ask_home_thread(
        &self,
        place: Place,
        connection: &mut Connection,
        header: &Header,
        domid: Domid,
        request: DomainRequest,
    ) {
        let asker = self.park(place, connection, header);
        let home = self.home_thread(domid);
        self.shared.mailboxes.post(home, Message::Domain(asker, domid, request));
    }

    fn domain_answer(&self, connection: &Connection, kind: Kind, payload: &[u8]) -> Answer {
        match kind {
            Kind::GetDomainPath => {
                let domid = parse_domid(one_string(payload)?)?;
                Ok(text_answer(format!("/local/domain/{domid}")))
            }
            Kind::IsDomainIntroduced => {
                let domid = parse_domid(one_string(payload)?)?;
                let domain = self.shared.store.registry().get(domid);
                let introduced = domain.is_some_and(|domain| domain.is_introduced());
                let yes = domid == Domid::SELF || introduced;
                Ok(Cow::Borrowed(if yes { b"T\0" } else { b"F\0" }))
            }
            Kind::GetFeature => self.get_feature(connection, payload),
            Kind::SetFeature => self.set_feature(payload),
            Kind::GetQuota => self.get_quota(payload),
            _ => self.set_quota(payload),
        }
    }

    /// The one argument of RELEASE and RESUME: a domain that is not the control domain.
    fn one_guest(&self, payload: &[u8]) -> Result<Domid, Errno> {
        self.guest(one_string(payload)?)
    }

    /// RELEASE: the domain and maybe the mark of an export (docs/MIGRATION.md).
    fn parse_release(&self, payload: &[u8]) -> Result<(Domid, DomainRequest), Errno> {
        let arguments = payload.strip_suffix(&[0]).ok_or(Errno::EINVAL)?;
        let arguments: Vec<_> = arguments.split(|&byte| byte == 0).collect();
        let (domid, mark) = match arguments[..] {
            [domid] => (domid, None),
            [domid, mark] => (domid, Some(decimal(mark)?)),
            _ => return Err(Errno::EINVAL),
        };
        Ok((self.guest(domid)?, DomainRequest::Release(mark)))
    }

    /// A number that is not a privileged domain's.
    pub(super) fn guest(&self, digits: &[u8]) -> Result<Domid, Errno> {
        let domid = parse_domid(digits)?;
        if self.shared.store.registry().is_privileged(domid) {
            return Err(Errno::EINVAL);
        }
        Ok(domid)
    }

    /// A domain that exists, or ENOENT.
    fn existing(&self, domid: &[u8]) -> Result<Arc<Domain>, Errno> {
        self.shared.known_domain(parse_domid(domid)?).ok_or(Errno::ENOENT)
    }

    fn get_feature(&self, connection: &Connection, payload: &[u8]) -> Answer {
        let mut arguments = strings(payload);
        let features = match (arguments.next(), arguments.next()) {
            (None, _) => connection.domain.features(),
            (Some(_), _) if !self.shared.store.registry().is_privileged(connection.domid()) => {
                return Err(Errno::EACCES);
            }
            (Some(domid), None) => self.existing(domid)?.features(),
            _ => return Err(Errno::EINVAL),
        };
        Ok(text_answer(features.to_string()))
    }

    fn set_feature(&self, payload: &[u8]) -> Answer {
        let mut arguments = strings(payload);
        let (Some(domid), Some(features), None) =
            (arguments.next(), arguments.next(), arguments.next())
        else {
            return Err(Errno::EINVAL);
        };
        let features = decimal(features)?;
        let domain = self.existing(domid)?;
        if domain.is_introduced() {
            return Err(Errno::EBUSY);
        }
        if features & !SERVER_FEATURES != 0 {
            return Err(Errno::EINVAL);
        }
        domain.set_features(features);
        Ok(Cow::Borrowed(ACK))
    }

    fn get_quota(&self, payload: &[u8]) -> Answer {
        let arguments: Vec<_> = strings(payload).collect();
        let registry = self.shared.store.registry();
        match arguments[..] {
            [] => Ok(text_answer(quota_names())),
            [name] => {
                let value = match parse_quota(name)? {
                    Some(quota) => registry.defaults().get(quota),
                    None => registry.defaults().soft_memory(),
                };
                Ok(text_answer(value.to_string()))
            }
            [domid, name] => {
                let domain = self.existing(domid)?;
                let value = match parse_quota(name)? {
                    Some(quota) => domain.limits().get(quota),
                    None => domain.limits().soft_memory(),
                };
                Ok(text_answer(value.to_string()))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn set_quota(&self, payload: &[u8]) -> Answer {
        let arguments: Vec<_> = strings(payload).collect();
        let (domain, name, value) = match arguments[..] {
            [name, value] => (None, name, value),
            [domid, name, value] => (Some(self.existing(domid)?), name, value),
            _ => return Err(Errno::EINVAL),
        };
        // The greatest number says in C that a quota is not supported.
        let value = decimal(value).ok().filter(|&value| value != u32::MAX).ok_or(Errno::EINVAL)?;
        let registry = self.shared.store.registry();
        match parse_quota(name)? {
            Some(quota) => registry.set_limit(domain.as_deref(), quota, value),
            None => registry.set_soft_memory(domain.as_deref(), value),
        }
        Ok(Cow::Borrowed(ACK))
    }
}

fn text_answer(text: String) -> Cow<'static, [u8]> {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    Cow::Owned(bytes)
}

fn parse_domid(digits: &[u8]) -> Result<Domid, Errno> {
    Domid::parse(digits).ok_or(Errno::EINVAL)
}

/// INTRODUCE: domain, its page's number, event channel, and whatever follows. The number is only
/// needed where there is no grant of the page, so whatever is no number counts as none.
fn parse_introduce(payload: &[u8]) -> Result<(Domid, DomainRequest), Errno> {
    let mut arguments = strings(payload);
    let (Some(domid), Some(gfn), Some(port)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err(Errno::EINVAL);
    };
    let domid = parse_domid(domid)?;
    let port = decimal(port)?;
    if port == 0 || !domid.is_real() || domid == Domid::CONTROL {
        return Err(Errno::EINVAL);
    }
    Ok((domid, DomainRequest::Introduce(decimal(gfn).ok(), port)))
}

fn parse_set_target(payload: &[u8]) -> Result<(Domid, DomainRequest), Errno> {
    let mut arguments = strings(payload);
    let (Some(domid), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err(Errno::EINVAL);
    };
    let (domid, target) = (parse_domid(domid)?, parse_domid(target)?);
    if domid == Domid::CONTROL {
        return Err(Errno::EINVAL);
    }
    Ok((domid, DomainRequest::SetTarget(target)))
}

/// A quota by name; `None` for the soft memory quota.
fn parse_quota(name: &[u8]) -> Result<Option<Quota>, Errno> {
    let name = text(name).ok_or(Errno::EINVAL)?;
    match name.strip_prefix(SOFT) {
        Some(name) if Quota::from_name(name) == Some(Quota::Memory) => Ok(None),
        Some(_) => Err(Errno::EINVAL),
        None => Quota::from_name(name).map(Some).ok_or(Errno::EINVAL),
    }
}

/// All names, separated by blanks, a soft quota after its hard one.
fn quota_names() -> String {
    let mut names = Vec::new();
    for quota in Quota::all() {
        names.push(quota.name().to_owned());
        if quota == Quota::Memory {
            names.push(format!("{SOFT}{}", quota.name()));
        }
    }
    names.join(" ")
}
