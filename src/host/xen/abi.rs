//! What the Xen devices of Linux and the hypervisor read and write, bit by bit, as far as xen-sys
//! lacks it.
//!
//! Sources: Linux, include/uapi/xen/{evtchn,gntdev,privcmd}.h; Xen, xen/include/public/{sysctl,
//! domctl,version,grant_table}.h.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::ioctl::{Direction, Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use xen_sys::domid_t;

/// The argument of an ioctl; its type says which. All of the Xen devices' ioctls have numbers
/// made by `_IOC(_IOC_NONE, group, number, size)`, whatever they read or write.
pub trait Argument: Copy {
    /// The device's letter.
    const GROUP: u8;
    /// The ioctl's number within the group.
    const NUMBER: u8;
}

macro_rules! argument {
    ($type:ty, $group:literal, $number:literal, $bytes:literal) => {
        impl Argument for $type {
            const GROUP: u8 = $group;
            const NUMBER: u8 = $number;
        }
        const _: () = assert!(size_of::<$type>() == $bytes);
    };
}

/// Makes the ioctl that the argument belongs to. Answers its result, which is not negative, and
/// the argument as the kernel left it.
///
/// # Safety
/// Counts and addresses in the argument must be true, and `fd` must be the device of its group.
pub unsafe fn call<T: Argument>(fd: BorrowedFd<'_>, argument: T) -> io::Result<(u32, T)> {
    // SAFETY: `Call` describes the argument to the kernel by its size; the caller vouches for
    // what it refers to.
    let (result, argument) = unsafe { ioctl(fd.as_fd(), Call(argument))? };
    Ok((result.cast_unsigned(), argument))
}

struct Call<T>(T);

// SAFETY: the opcode carries the argument's size and the kernel reads and writes nothing else,
// but for what the caller of `call` vouches for. `as_ptr` points to a `T`, which
// `output_from_ptr` reads back.
unsafe impl<T: Argument> Ioctl for Call<T> {
    type Output = (IoctlOutput, T);
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::from_components(Direction::None, T::GROUP, T::NUMBER, size_of::<T>())
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(
        result: IoctlOutput,
        argument: *mut std::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        // SAFETY: it is the pointer that `as_ptr` gave.
        Ok((result, unsafe { argument.cast::<T>().read() }))
    }
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

/// Of `__HYPERVISOR_xen_version`: answers the release as major << 16 | minor.
pub const XENVER_VERSION: u64 = 0;

/// Of `__HYPERVISOR_sysctl`: describes the domains that exist, in the order of their numbers.
pub const XEN_SYSCTL_GETDOMAININFOLIST: u32 = 6;

/// The versions of the sysctl interface whose [`GetDomainInfoList`] and [`DomainInfo`] are the
/// ones below, newest first, with the releases that have them. A release with a later version
/// needs a look at sysctl.h and domctl.h, and a line here if nothing in them differs.
pub const SYSCTL_VERSIONS: [u32; 3] = [
    0x16, // 4.21, 4.22
    0x15, // 4.17 to 4.20
    0x14, // 4.16
];

/// `struct xen_sysctl` with the member `getdomaininfolist` of its union.
#[derive(Clone, Copy)]
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
#[derive(Clone, Copy)]
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
#[derive(Clone, Copy)]
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
/// Words of `struct xen_arch_domainconfig`, the padding after its 12 bytes before 4.21 included.
#[cfg(target_arch = "aarch64")]
const ARCH_CONFIG_WORDS: usize = 2;

/// Of [`DomainInfo::flags`]: nothing of the domain runs any more and its resources are being
/// given back.
pub const XEN_DOMINF_DYING: u32 = 1 << 0;
/// Of [`DomainInfo::flags`]: it shut down, whatever the reason.
pub const XEN_DOMINF_SHUTDOWN: u32 = 1 << 2;

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
