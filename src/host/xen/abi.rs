//! The binary interface of Linux's Xen devices and of the hypervisor, as far as xen-sys lacks it.
//!
//! Sources: Linux, include/uapi/xen/{evtchn,gntdev,privcmd}.h; Xen,
//! xen/include/public/{sysctl,domctl,version,grant_table}.h.

use std::mem::size_of;

use xen_sys::{domid_t, xen_pfn_t};
use zerocopy::FromZeros;

use super::ioctl::Argument;
use crate::host::Gfn;

macro_rules! argument {
    ($type:ty, $group:literal, $number:literal, $bytes:literal) => {
        impl Argument for $type {
            const GROUP: u8 = $group;
            const NUMBER: u8 = $number;
        }
        // The size is part of the ioctl's number, so with a wrong layout the kernel knows no such ioctl.
        const _: () = assert!(size_of::<$type>() == $bytes);
    };
}

/// `IOCTL_EVTCHN_BIND_VIRQ`; returns the port.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BindVirq {
    pub virq: u32,
}
argument!(BindVirq, b'E', 0, 4);

/// `IOCTL_EVTCHN_BIND_INTERDOMAIN`; returns the local port.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BindInterdomain {
    pub remote_domain: u32,
    pub remote_port: u32,
}
argument!(BindInterdomain, b'E', 1, 8);

/// `IOCTL_EVTCHN_UNBIND`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Unbind {
    pub port: u32,
}
argument!(Unbind, b'E', 3, 4);

/// `IOCTL_EVTCHN_NOTIFY`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Notify {
    pub port: u32,
}
argument!(Notify, b'E', 4, 4);

/// The grant reference of every domain's ring page (grant_table.h, `GNTTAB_RESERVED_XENSTORE`).
pub const GNTTAB_RESERVED_XENSTORE: u32 = 1;

/// `IOCTL_GNTDEV_MAP_GRANT_REF` for one grant. The kernel sets `index`, the offset for mmap(2).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MapGrantRef {
    /// Number of grants that follow: 1, the only count that this type has room for.
    pub count: u32,
    pub pad: u32,
    pub index: u64,
    pub domid: u32,
    pub grant_ref: u32,
}
argument!(MapGrantRef, b'G', 0, 24);

/// `IOCTL_PRIVCMD_HYPERCALL`; returns the hypercall's result.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Hypercall {
    pub op: u64,
    pub args: [u64; 5],
}
argument!(Hypercall, b'P', 0, 48);

/// `IOCTL_PRIVCMD_MMAPBATCH_V2` for one frame, which replaces the page at `addr` in a mapping of the device.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MmapBatch {
    /// Number of entries in `arr` and `err`: 1.
    pub num: u32,
    pub dom: domid_t,
    pub addr: u64,
    /// Address of the frame numbers.
    pub arr: u64,
    /// Address of one error per frame, a negative errno or 0.
    pub err: u64,
}
argument!(MmapBatch, b'P', 4, 32);
const _: () = assert!(size_of::<xen_pfn_t>() == size_of::<Gfn>());

/// Command of `__HYPERVISOR_xen_version`: returns the release as major << 16 | minor.
pub const XENVER_VERSION: u64 = 0;

/// Command of `__HYPERVISOR_sysctl`: describes the existing domains in ascending order of domid.
pub const XEN_SYSCTL_GETDOMAININFOLIST: u32 = 6;

/// Command of `__HYPERVISOR_domctl`: returns the state of a domain; needs no interface version from 4.21 on. For
/// `DOMID_INVALID` it returns the state of a domain that changed since it was last returned this way, or `ENOENT` if
/// none did. Reserved to the domain that has `VIRQ_DOM_EXC`.
pub const XEN_DOMCTL_GET_DOMAIN_STATE: u32 = 90;

/// "No domain" (xen.h).
pub const DOMID_INVALID: domid_t = 0x7FF4;

/// `struct xen_domctl` with the member `get_domain_state` of its union.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct Domctl {
    pub cmd: u32,
    /// 0: the command belongs to the stable interface.
    pub interface_version: u32,
    /// In: the domain queried. Out: the domain described.
    pub domain: domid_t,
    pub pad: [u16; 3],
    pub state: GetDomainState,
    /// The union has 128 bytes, all of which the hypervisor copies.
    pub rest: [u64; 14],
}
const _: () = assert!(size_of::<Domctl>() == 16 + 128);

/// `struct xen_domctl_get_domain_state`.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct GetDomainState {
    /// `STATE_*`; 0 for a changed domain that no longer exists.
    pub state: u16,
    pub caps: u16,
    /// Must be 0.
    pub pad: u32,
    pub unique_id: u64,
}
const _: () = assert!(size_of::<GetDomainState>() == 16);

/// Bit of [`GetDomainState::state`]: the domain exists.
pub const STATE_EXIST: u16 = 0x0001;
/// Bit of [`GetDomainState::state`]: the domain shut down, for any reason.
pub const STATE_SHUTDOWN: u16 = 0x0002;
/// Bit of [`GetDomainState::state`]: the domain no longer runs, and its resources have been freed except those that
/// others hold. (The bit before it, `0x0004`, "dying", says only that the destruction has begun.)
pub const STATE_DEAD: u16 = 0x0008;

/// The sysctl interface versions in which [`GetDomainInfoList`] and [`DomainInfo`] have the layout below, newest
/// first. Releases from 4.21 on have [`XEN_DOMCTL_GET_DOMAIN_STATE`] instead.
pub const SYSCTL_VERSIONS: [u32; 2] = [
    0x15, // 4.17 to 4.20
    0x14, // 4.16
];

/// `struct xen_sysctl` with the member `getdomaininfolist` of its union.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct Sysctl {
    pub cmd: u32,
    pub interface_version: u32,
    pub list: GetDomainInfoList,
    /// The union has 128 bytes, all of which the hypervisor copies.
    pub rest: [u64; 13],
}
const _: () = assert!(size_of::<Sysctl>() == 8 + 128);

/// `struct xen_sysctl_getdomaininfolist`.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct GetDomainInfoList {
    /// The lowest domid to describe.
    pub first_domain: domid_t,
    pub max_domains: u32,
    /// Address of an array of `max_domains` [`DomainInfo`].
    pub buffer: u64,
    /// Out: the number of domains described.
    pub num_domains: u32,
}
const _: () = assert!(size_of::<GetDomainInfoList>() == 24);

/// `struct xen_domctl_getdomaininfo`, up to its architecture-dependent part.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct DomainInfo {
    pub domain: domid_t,
    pub pad1: u16,
    pub flags: u32,
    /// Pages: total, maximum, outstanding, shared, paged; then the frame of shared_info and the CPU time.
    pub pages_and_time: [u64; 7],
    pub nr_online_vcpus: u32,
    pub max_vcpu_id: u32,
    pub ssidref: u32,
    /// The uuid set by the toolstack.
    pub handle: [u8; 16],
    pub cpupool: u32,
    pub gpaddr_bits: u8,
    pub pad2: [u8; 7],
    pub arch_config: [u64; ARCH_CONFIG_WORDS],
}
const _: () = assert!(size_of::<DomainInfo>() == 104 + 8 * ARCH_CONFIG_WORDS);

/// Size of `struct xen_arch_domainconfig` in words.
#[cfg(target_arch = "x86_64")]
const ARCH_CONFIG_WORDS: usize = 1;
/// Size of `struct xen_arch_domainconfig` in words, including the padding after its 12 bytes.
#[cfg(target_arch = "aarch64")]
const ARCH_CONFIG_WORDS: usize = 2;

/// Bit of [`DomainInfo::flags`]: the domain no longer runs and its resources are being freed.
pub const XEN_DOMINF_DYING: u32 = 1 << 0;
/// Bit of [`DomainInfo::flags`]: the domain shut down, for any reason.
pub const XEN_DOMINF_SHUTDOWN: u32 = 1 << 2;

#[cfg(test)]
mod tests {
    use rustix::ioctl::{Ioctl, Opcode};

    use super::*;
    use crate::host::xen::ioctl::Call;

    #[test]
    fn ioctl_numbers_match_the_headers() {
        fn number<T: Argument>(argument: T) -> Opcode {
            Call(argument).opcode()
        }
        assert_eq!(number(BindVirq { virq: 3 }), 0x0004_4500);
        assert_eq!(number(BindInterdomain { remote_domain: 0, remote_port: 1 }), 0x0008_4501);
        assert_eq!(number(Unbind { port: 1 }), 0x0004_4503);
        assert_eq!(number(Notify { port: 1 }), 0x0004_4504);
        let grant = MapGrantRef { count: 1, pad: 0, index: 0, domid: 1, grant_ref: 1 };
        assert_eq!(number(grant), 0x0018_4700);
        assert_eq!(number(Hypercall { op: 35, args: [0; 5] }), 0x0030_5000);
        let batch = MmapBatch { num: 1, dom: 1, addr: 0, arr: 0, err: 0 };
        assert_eq!(number(batch), 0x0020_5004);
    }
}
