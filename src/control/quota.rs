//! The commands `quota` and `quota-soft`.

use super::{CommandResult, ack, text};
use crate::domain::{Quota, Registry};
use crate::types::{Domid, Errno};

/// Runs `quota`: shows the limits, a domain's usage, or the peak usages, or sets a limit.
pub fn hard(registry: &Registry, arguments: &[&[u8]]) -> CommandResult {
    match arguments {
        [] => Ok(text(&values(Quota::all().map(|quota| (quota, registry.defaults().get(quota)))))),
        [b"set", name, value] => {
            // For domains that become known later, as in C xenstored of 2026; running ones keep their limits
            // (docs/COMPATIBILITY.md).
            registry.set_limit(None, quota(name)?, number(value)?);
            ack()
        }
        [b"max"] => Ok(text(&peaks(registry))),
        [b"max", b"-r"] => {
            registry.reset_peaks();
            Ok(text(&peaks(registry)))
        }
        [domid] => {
            let domid = Domid::parse(domid).ok_or(Errno::EINVAL)?;
            Ok(text(&account(registry, domid).ok_or(Errno::ENOENT)?))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Runs `quota-soft`: shows or sets the only soft quota, memory.
pub fn soft(registry: &Registry, arguments: &[&[u8]]) -> CommandResult {
    match arguments {
        [] => Ok(text(&values([(Quota::Memory, registry.defaults().soft_memory())]))),
        [b"set", name, value] if quota(name)? == Quota::Memory => {
            registry.set_soft_memory(None, number(value)?);
            ack()
        }
        _ => Err(Errno::EINVAL),
    }
}

fn values(quotas: impl IntoIterator<Item = (Quota, u32)>) -> String {
    let mut text = String::from("Quota settings:\n");
    for (quota, value) in quotas {
        text.push_str(&format!("{:<17}: {value:>8} {}\n", quota.name(), quota.description()));
    }
    text
}

fn peaks(registry: &Registry) -> String {
    let mut text = String::from("Max. seen accounting values:\n");
    for quota in Quota::all() {
        text.push_str(&format!("{:<17}: {:>8}\n", quota.name(), registry.peak(quota)));
    }
    text
}

/// Returns a domain's usage, its peak usage, and, where any, its refused requests.
fn account(registry: &Registry, domid: Domid) -> Option<String> {
    let domain = registry.get(domid)?;
    let account = &domain.account;
    let mut text = format!("Domain {domid}:\n");
    for quota in Quota::all() {
        let (used, peak) = (account.used(quota), account.peak(quota));
        text.push_str(&format!("{:<17}: {used:>8} (max {peak:>8})", quota.name()));
        match account.refused(quota) {
            0 => text.push('\n'),
            refused => text.push_str(&format!(" refused {refused}\n")),
        }
    }
    Some(text)
}

fn quota(name: &[u8]) -> Result<Quota, Errno> {
    let name = std::str::from_utf8(name).ok();
    name.and_then(Quota::from_name).ok_or(Errno::EINVAL)
}

/// Parses a new limit of at least 1, as in C xenstored, so that a typing error does not lift a limit.
/// SET_QUOTA accepts 0.
fn number(digits: &[u8]) -> Result<u32, Errno> {
    let value = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
    value.filter(|value| (1..=i32::MAX.unsigned_abs()).contains(value)).ok_or(Errno::EINVAL)
}
