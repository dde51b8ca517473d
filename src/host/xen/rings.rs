//! Mapping of ring pages: by grant, by frame number, and domain 0's own.

use std::io;
use std::os::fd::AsFd;

use super::abi::{GNTTAB_RESERVED_XENSTORE, MapGrantRef, MmapBatch};
use super::ioctl::call;
use super::{open, within};
use crate::host::{Gfn, RingPage};
use crate::types::Domid;

/// Maps a domain's ring page. Each mapping has its own open file, which is closed here but lives until the page is
/// unmapped, and then releases its reference to the domain.
pub fn map(domid: Domid, gfn: Option<Gfn>) -> io::Result<RingPage> {
    // Linux offers the page of its own kernel's ring as a file.
    if domid == Domid::CONTROL {
        return RingPage::map(open("/proc/xen/xsd_kva")?.as_fd(), 0);
    }
    // The grant comes first: a frame number may name any page of the guest, and mapping by number needs rights over all
    // of them.
    let error = match by_grant(domid) {
        Ok(page) => return Ok(page),
        Err(error) => within("grant of the ring page", error),
    };
    // A toolstack that builds domains without grants (older ones, Xen's on Arm) passes the frame number.
    let Some(gfn) = gfn else { return Err(error) };
    by_number(domid, gfn)
        .map_err(|other| io::Error::new(other.kind(), format!("{error}; page {gfn:#x}: {other}")))
}

/// Maps the page that the domain granted for this purpose; needs no privilege over its other pages.
fn by_grant(domid: Domid) -> io::Result<RingPage> {
    let gntdev = open("/dev/xen/gntdev")?;
    let grant = MapGrantRef {
        count: 1,
        pad: 0,
        index: 0,
        domid: domid.0.into(),
        grant_ref: GNTTAB_RESERVED_XENSTORE,
    };
    // SAFETY: the device is /dev/xen/gntdev, and the argument holds one grant.
    let (_, grant) = unsafe { call(gntdev.as_fd(), grant)? };
    RingPage::map(gntdev.as_fd(), grant.index)
}

/// Maps a page of the domain by frame number; needs the privilege to map any of its pages.
pub fn by_number(domid: Domid, gfn: Gfn) -> io::Result<RingPage> {
    let privcmd = open("/dev/xen/privcmd")?;
    // This mapping is not accessed until the ioctl has put the page there.
    let page = RingPage::map(privcmd.as_fd(), 0)?;
    let mut error = 0i32;
    let batch = MmapBatch {
        num: 1,
        dom: domid.0,
        addr: page.address(),
        arr: (&raw const gfn).expose_provenance() as u64,
        err: (&raw mut error).expose_provenance() as u64,
    };
    // SAFETY: the device is /dev/xen/privcmd; `page` is a mapping of it of one frame, and both addresses point to one
    // number each, live until the call returns.
    unsafe { call(privcmd.as_fd(), batch)? };
    match error {
        0 => Ok(page),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
