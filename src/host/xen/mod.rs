//! A real Xen host.
