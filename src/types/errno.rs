use std::fmt;

/// The error names of the wire protocol: the closed set of `xsd_errors` in xs_wire.h.
///
/// Clients read any other name as `EINVAL`, so no other name may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)] // The variants are the errno names.
pub enum Errno {
    EINVAL,
    EACCES,
    EEXIST,
    EISDIR,
    ENOENT,
    ENOMEM,
    ENOSPC,
    EIO,
    ENOTEMPTY,
    ENOSYS,
    EROFS,
    EBUSY,
    EAGAIN,
    EISCONN,
    E2BIG,
    EPERM,
}

impl Errno {
    /// Returns the name as sent on the wire, with its NUL (xenstore.txt, "Error replies").
    pub fn wire(self) -> &'static [u8] {
        match self {
            Errno::EINVAL => b"EINVAL\0",
            Errno::EACCES => b"EACCES\0",
            Errno::EEXIST => b"EEXIST\0",
            Errno::EISDIR => b"EISDIR\0",
            Errno::ENOENT => b"ENOENT\0",
            Errno::ENOMEM => b"ENOMEM\0",
            Errno::ENOSPC => b"ENOSPC\0",
            Errno::EIO => b"EIO\0",
            Errno::ENOTEMPTY => b"ENOTEMPTY\0",
            Errno::ENOSYS => b"ENOSYS\0",
            Errno::EROFS => b"EROFS\0",
            Errno::EBUSY => b"EBUSY\0",
            Errno::EAGAIN => b"EAGAIN\0",
            Errno::EISCONN => b"EISCONN\0",
            Errno::E2BIG => b"E2BIG\0",
            Errno::EPERM => b"EPERM\0",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
