//! Domain states by a hypercall whose layout depends on the hypervisor's release: before Xen 4.21.

use std::collections::BTreeMap;
use std::io;
use std::mem::offset_of;

use rustix::io::Errno;

use super::abi::{
    DomainInfo, GetDomainInfoList, SYSCTL_VERSIONS, Sysctl, XEN_DOMINF_DYING, XEN_DOMINF_SHUTDOWN,
    XEN_SYSCTL_GETDOMAININFOLIST,
};
use super::hypercall::{Buffer, Privcmd};
use super::within;
use crate::host::DomainState;
use crate::types::Domid;

/// Domains described by one hypercall. The output of that many fits 29 pages on x86.
const BATCH: usize = 1024;

#[derive(zerocopy::FromZeros)]
#[repr(C)]
struct Shared {
    sysctl: Sysctl,
    list: [DomainInfo; BATCH],
}

/// The hypercall `XEN_SYSCTL_getdomaininfolist`, and the states that [`Listing::changed`] saw last.
pub struct Listing {
    shared: Buffer<Shared>,
    version: u32,
    seen: BTreeMap<Domid, DomainState>,
}

impl Listing {
    /// Probes the hypervisor's version; returns `None` if it is not a known one.
    pub fn open(privcmd: &Privcmd) -> io::Result<Option<Listing>> {
        let mut listing = Listing { shared: Buffer::new()?, version: 0, seen: BTreeMap::new() };
        for version in SYSCTL_VERSIONS {
            listing.version = version;
            match listing.list(privcmd, Domid::CONTROL, 1) {
                Ok(_) => return Ok(Some(listing)),
                // sysctl.c checks the version first, and returns EACCES if it is not its own.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::ACCESS) => (),
                Err(error) => return Err(within("getdomaininfolist", error)),
            }
        }
        Ok(None)
    }

    /// Returns the version in use, one of [`SYSCTL_VERSIONS`].
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the state of a domain, `None` if it does not exist. Uses the hypercall of `changed`, so that only one
    /// versioned layout has to be known.
    pub fn domain(&mut self, privcmd: &Privcmd, domid: Domid) -> io::Result<Option<DomainState>> {
        let first = self.list(privcmd, domid, 1)?.first();
        // Describes the first domain from `domid` on, which may be a later one.
        Ok(first.filter(|info| info.domain == domid.0).map(DomainState::from))
    }

    /// Returns those of `known` that may have changed since the last call. Costs one hypercall per 1,024 existing
    /// domains between the lowest and the highest known domid.
    pub fn changed(
        &mut self,
        privcmd: &Privcmd,
        known: &mut dyn Iterator<Item = Domid>,
    ) -> io::Result<Vec<Domid>> {
        let mut known: Vec<Domid> = known.collect();
        known.sort_unstable();
        let (Some(&lowest), Some(&highest)) = (known.first(), known.last()) else {
            return Ok(Vec::new());
        };
        let mut now = self.states(privcmd, lowest, highest)?;
        // Unknown domains have no nodes and no connection that a death could end.
        now.retain(|domid, _| known.binary_search(domid).is_ok());
        known.retain(|domid| may_differ(self.seen.get(domid), now.get(domid)));
        // Only after a complete listing: after an error the next call compares with the older one again.
        self.seen = now;
        Ok(known)
    }

    /// Returns the states of all domains from `lowest` to `highest`.
    fn states(
        &mut self,
        privcmd: &Privcmd,
        lowest: Domid,
        highest: Domid,
    ) -> io::Result<BTreeMap<Domid, DomainState>> {
        let mut states = BTreeMap::new();
        let mut next = lowest;
        // Not a snapshot. A domain that changes between two hypercalls fires the VIRQ again.
        loop {
            let list = self.list(privcmd, next, BATCH)?;
            let wanted = list.iter().take_while(|info| info.domain <= highest.0);
            states.extend(wanted.map(|info| (Domid(info.domain), DomainState::from(info))));
            match list.last() {
                Some(last) if list.len() == BATCH && last.domain < highest.0 => {
                    next = Domid(last.domain + 1);
                }
                _ => return Ok(states),
            }
        }
    }

    /// Describes the first `max` domains (at most [`BATCH`]) with a domid of at least `first`, in ascending order.
    fn list(&mut self, privcmd: &Privcmd, first: Domid, max: usize) -> io::Result<&[DomainInfo]> {
        let max = max.min(BATCH);
        self.shared.get_mut().sysctl = Sysctl {
            cmd: XEN_SYSCTL_GETDOMAININFOLIST,
            interface_version: self.version,
            list: GetDomainInfoList {
                first_domain: first.0,
                max_domains: u32::try_from(max).expect("at most BATCH"),
                buffer: self.shared.address() + offset_of!(Shared, list) as u64,
                num_domains: 0,
            },
            rest: [0; 13],
        };
        // SAFETY: sysctl takes a `struct xen_sysctl`, the first field; the list at the address in it is in the same
        // buffer and has room for `max`. Any bits are valid values of both.
        unsafe { privcmd.with_buffer(xen_sys::__HYPERVISOR_sysctl, &mut self.shared)? };
        let shared = self.shared.get();
        let count = shared.sysctl.list.num_domains as usize;
        Ok(&shared.list[..count.min(max)])
    }
}

/// Returns whether a domain may have changed between two queries. A domain that is shut down may have been resumed
/// and have shut down again: a resumption is not announced.
fn may_differ(before: Option<&DomainState>, now: Option<&DomainState>) -> bool {
    now.is_none_or(|state| state.shutdown || now != before)
}

impl From<&DomainInfo> for DomainState {
    /// Distinguishes two incarnations of a domid by the uuid set by the toolstack: libxl generates one per creation,
    /// unless the configuration fixes it. An incarnation that ends and begins again between two queries with the same
    /// domid and uuid goes unnoticed; Xen allocates domids upwards, so that takes a fixed domid too, or 32,751
    /// creations. `dying` is late: Xen sets this flag when the destruction has progressed as far as it can while other
    /// domains still map the domain's pages.
    fn from(info: &DomainInfo) -> DomainState {
        let uuid = u128::from_le_bytes(info.handle);
        // Folded, since the id has 64 bits. Two random uuids still differ except with a chance of 2^-64.
        let halves = (uuid >> 64) ^ (uuid & u128::from(u64::MAX));
        DomainState {
            unique_id: u64::try_from(halves).expect("the upper half is 0"),
            shutdown: info.flags & XEN_DOMINF_SHUTDOWN != 0,
            dying: info.flags & XEN_DOMINF_DYING != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn info(handle: [u8; 16], flags: u32) -> DomainInfo {
        DomainInfo { domain: 5, flags, handle, ..DomainInfo::new_zeroed() }
    }

    #[test]
    fn domain_state_is_decoded_from_flags_and_uuid() {
        // Blocked and shut down with reason 3 (crash).
        let crashed = DomainState::from(&info([7; 16], 1 << 4 | 1 << 2 | 3 << 16));
        assert!(crashed.shutdown && !crashed.dying);
        let running = DomainState::from(&info([0; 16], 1 << 5));
        assert!(!running.shutdown && !running.dying);
        assert!(DomainState::from(&info([0; 16], 1)).dying);
    }

    #[test]
    fn repeated_suspend_may_be_a_change() {
        let [running, suspended] =
            [0, XEN_DOMINF_SHUTDOWN].map(|flags| DomainState::from(&info([1; 16], flags)));
        assert!(!may_differ(Some(&running), Some(&running)));
        assert!(may_differ(None, Some(&running)));
        assert!(may_differ(Some(&running), Some(&suspended)));
        // The domain was resumed in between, without an announcement.
        assert!(may_differ(Some(&suspended), Some(&suspended)));
        assert!(may_differ(Some(&running), None));
    }

    #[test]
    fn each_uuid_byte_distinguishes_incarnations() {
        let unique_id = |handle| DomainState::from(&info(handle, 0)).unique_id;
        for i in 0..16 {
            let mut other = [0x35; 16];
            other[i] ^= 0x80;
            assert_ne!(unique_id([0x35; 16]), unique_id(other), "byte {i}");
        }
    }
}
