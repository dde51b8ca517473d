//! Xen's libraries, as Debian's `xenstored` and `oxenstored` of Xen 4.17 call them, on this
//! project's simulated host (docs/SIM.md). The two daemons run as they are, without a hypervisor.
//!
//! ```text
//!    xenstored, oxenstored (Debian's programs, unchanged)
//!      | libxenevtchn.so.1   libxengnttab.so.1   libxenctrl.so.4.17   libc.so.6
//!      v                                                                  v
//!    channels: event channels   grants: ring pages   control: domains   files: paths
//!      |           |                 |                   |
//!      +-----------+----- host ------+-------------------+
//!                           v
//!            xenstored::host::sim, its socket at $XENSTORED_SIM_SOCKET
//! ```
//!
//! One library stands for all of them: links with their names in a directory that is in
//! `LD_LIBRARY_PATH` lead to it, and the loader maps a file once. It defines no symbol versions,
//! which the loader remarks upon ("no version information available") and accepts.
//!
//! Nothing that the daemons never call does anything: see `unused`. What Xen charges for a
//! notification, one system call, is charged here too.

mod channels;
mod control;
mod files;
mod grants;
mod host;
mod unused;
