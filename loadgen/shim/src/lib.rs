//! Xen's libraries, as called by Debian's `xenstored` and `oxenstored` of Xen 4.17, implemented on this project's
//! simulated host (docs/SIM.md), a process of its own: after one of these daemons another can serve it. Both daemons run
//! unmodified, without a hypervisor.
//!
//! ```text
//!    xenstored, oxenstored (Debian's programs, unchanged)
//!      | libxenevtchn.so.1   libxengnttab.so.1   libxenctrl.so.4.17   libc.so.6
//!      v                                                                  v
//!    channels: event channels   grants: ring pages   control: domains   files: paths
//!      |           |                 |                   |
//!      +-----------+----- host ------+-------------------+
//!                           v
//!            xenstored sim host, its socket at $XENSTORED_SIM_SOCKET
//! ```
//!
//! One shared library stands in for all of them: a directory in `LD_LIBRARY_PATH` has links with their names to it, and
//! the loader maps a file only once. The library defines no symbol versions, which the loader reports ("no version
//! information available") but accepts.
//!
//! C xenstored can update itself: the next program finds handles and ports as it left them (`successor`).
//!
//! Functions that the daemons never call are stubs: see `unused`. A notification costs one system call, as on Xen.

mod channels;
mod control;
mod files;
mod grants;
mod host;
mod successor;
mod unused;
