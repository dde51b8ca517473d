//! What the Xen devices of Linux and the hypervisor read and write, bit by bit, as far as xen-sys
//! lacks it.
//!
//! Sources: Linux, include/uapi/xen/{evtchn,gntdev,privcmd}.h; Xen, xen/include/public/{sysctl,
//! domctl,version,grant_table}.h.

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
        const _: () = assert!(size_of::<$type>() == $bytes);
    };
}

/// `IOCTL_EVTCHN_BIND_VIRQ`; answers the port.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BindVirq {
    pub virq: u32,
}
argument!(BindVirq, b'E', 0, 4);

/// `IOCTL_EVTCHN_BIND_INTERDOMAIN`; answers the local port.
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

/// The grant through which every domain's ring is shared (grant_table.h,
/// `GNTTAB_RESERVED_XENSTORE`).
pub const GNTTAB_RESERVED_XENSTORE: u32 = 1;

/// `IOCTL_GNTDEV_MAP_GRANT_REF` for one grant: `index` is answered, the offset for mmap(2).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MapGrantRef {
    /// How many grants follow: 1, as this type has room for no more.
    pub count: u32,
    pub pad: u32,
    pub index: u64,
    pub domid: u32,
    pub grant_ref: u32,
}
argument!(MapGrantRef, b'G', 0, 24);

/// `IOCTL_PRIVCMD_HYPERCALL`; answers the hypercall's result.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Hypercall {
    pub op: u64,
    pub args: [u64; 5],
}
argument!(Hypercall, b'P', 0, 48);

/// `IOCTL_PRIVCMD_MMAPBATCH_V2` for one frame, which replaces the page at `addr` of a mapping of
/// the device.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MmapBatch {
    /// How many frames `arr` names and `err` has room for: 1.
    pub num: u32,
    pub dom: domid_t,
    pub addr: u64,
    /// The address of the frames' numbers.
    pub arr: u64,
    /// The address of an error for each frame, as a negative errno or 0.
    pub err: u64,
}
argument!(MmapBatch, b'P', 4, 32);
const _: () = assert!(size_of::<xen_pfn_t>() == size_of::<Gfn>());

/// Of `__HYPERVISOR_xen_version`: answers the release as major << 16 | minor.
pub const XENVER_VERSION: u64 = 0;

/// Of `__HYPERVISOR_sysctl`: describes the domains that exist, in the order of their numbers.
pub const XEN_SYSCTL_GETDOMAININFOLIST: u32 = 6;

/// Of `__HYPERVISOR_domctl`: the state of a domain; from 4.21 on, without a version. Of
/// `DOMID_INVALID`: that of a domain that changed since it was last described so, `ENOENT` if none
/// did; only for the domain that has `VIRQ_DOM_EXC`.
pub const XEN_DOMCTL_GET_DOMAIN_STATE: u32 = 90;

/// "No domain" (xen.h).
pub const DOMID_INVALID: domid_t = 0x7FF4;

/// `struct xen_domctl` with the member `get_domain_state` of its union.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct Domctl {
    pub cmd: u32,
    /// 0: the command is one of the stable ones.
    pub interface_version: u32,
    /// Asked for; answered.
    pub domain: domid_t,
    pub pad: [u16; 3],
    pub state: GetDomainState,
    /// The union has 128 bytes, and the hypervisor copies them all.
    pub rest: [u64; 14],
}
const _: () = assert!(size_of::<Domctl>() == 16 + 128);

/// `struct xen_domctl_get_domain_state`.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct GetDomainState {
    /// `STATE_*`; 0 for a domain that changed and is no more.
    pub state: u16,
    pub caps: u16,
    /// Must be 0.
    pub pad: u32,
    pub unique_id: u64,
}
const _: () = assert!(size_of::<GetDomainState>() == 16);

/// Of [`GetDomainState::state`]: it exists.
pub const STATE_EXIST: u16 = 0x0001;
/// Of [`GetDomainState::state`]: it shut down, whatever the reason.
pub const STATE_SHUTDOWN: u16 = 0x0002;
/// Of [`GetDomainState::state`]: nothing of it runs any more; its resources have been given back but
/// for what others hold. (`0x0004`, "dying", comes before: the destruction has begun.)
pub const STATE_DEAD: u16 = 0x0008;

/// The versions of the sysctl interface whose [`GetDomainInfoList`] and [`DomainInfo`] are the
/// ones below, newest first. Releases from 4.21 on have [`XEN_DOMCTL_GET_DOMAIN_STATE`] instead.
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
    /// The union has 128 bytes, and the hypervisor copies them all.
    pub rest: [u64; 13],
}
const _: () = assert!(size_of::<Sysctl>() == 8 + 128);

/// `struct xen_sysctl_getdomaininfolist`.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct GetDomainInfoList {
    /// Domains with lower numbers are passed over.
    pub first_domain: domid_t,
    pub max_domains: u32,
    /// The address of as many [`DomainInfo`].
    pub buffer: u64,
    /// Answered.
    pub num_domains: u32,
}
const _: () = assert!(size_of::<GetDomainInfoList>() == 24);

/// `struct xen_domctl_getdomaininfo`, up to the part that differs between architectures.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct DomainInfo {
    pub domain: domid_t,
    pub pad1: u16,
    pub flags: u32,
    /// Pages total, maximal, outstanding, shared, paged; the frame of shared_info; processor time.
    pub pages_and_time: [u64; 7],
    pub nr_online_vcpus: u32,
    pub max_vcpu_id: u32,
    pub ssidref: u32,
    /// The uuid that the toolstack gave.
    pub handle: [u8; 16],
    pub cpupool: u32,
    pub gpaddr_bits: u8,
    pub pad2: [u8; 7],
    pub arch_config: [u64; ARCH_CONFIG_WORDS],
}
const _: () = assert!(size_of::<DomainInfo>() == 104 + 8 * ARCH_CONFIG_WORDS);

/// Words of `struct xen_arch_domainconfig`.
#[cfg(target_arch = "x86_64")]
const ARCH_CONFIG_WORDS: usize = 1;
/// Words of `struct xen_arch_domainconfig`, the padding after its 12 bytes included.
#[cfg(target_arch = "aarch64")]
const ARCH_CONFIG_WORDS: usize = 2;

/// Of [`DomainInfo::flags`]: nothing of the domain runs any more and its resources are being
/// given back.
pub const XEN_DOMINF_DYING: u32 = 1 << 0;
/// Of [`DomainInfo::flags`]: it shut down, whatever the reason.
pub const XEN_DOMINF_SHUTDOWN: u32 = 1 << 2;

#[cfg(test)]
mod tests {
    use rustix::ioctl::{Ioctl, Opcode};

    use super::*;
    use crate::host::xen::ioctl::Call;

    #[test]
    fn ioctl_numbers_are_those_of_the_headers() {
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
