//! Descriptors that another process goes on with: it is started with open descriptors of the same numbers.
//!
//! A descriptor without `FD_CLOEXEC` is an inherited one that this process has not taken yet: Rust opens all others with
//! that flag, and taking a descriptor sets it. So a wrong number is refused, and none is taken twice.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Stat, fstat};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

// asm-generic/fcntl.h; the same on every architecture that Xen runs on.
const F_GETFD: c_int = 1;
const F_SETFD: c_int = 2;
const FD_CLOEXEC: c_int = 1;

/// The lowest number that can be taken: the standard streams belong to the runtime.
const LOWEST: RawFd = 3;

/// The kinds of descriptors that are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connected Unix stream socket.
    Stream,
    /// A listening Unix stream socket.
    Listener,
    /// A connected Unix packet socket.
    Packets,
    /// An epoll descriptor.
    Epoll,
    /// An event counter.
    Eventfd,
    /// A regular file, such as a memory file.
    File,
    /// The device `/dev/xen/evtchn`.
    Evtchn,
}

/// Makes the processes started from now on inherit the descriptors with these numbers, or not inherit them. On an
/// error some may be changed.
///
/// # Errors
/// EBADF for a number that is not open.
pub fn set_inheritable(numbers: &[RawFd], inheritable: bool) -> io::Result<()> {
    let flag = if inheritable { 0 } else { FD_CLOEXEC };
    numbers.iter().try_for_each(|&number| set_flags(number, flag))
}

/// Takes an inherited descriptor of this kind. It is not inherited by processes started from now on.
///
/// # Errors
/// `InvalidData` if the descriptor is not open, was not inherited, has been taken already or is of another kind.
pub fn take(number: RawFd, kind: Kind) -> io::Result<OwnedFd> {
    take_if(number, kind, |_| true)
}

/// Like [`take`], for a descriptor of which more is known.
///
/// # Errors
/// As [`take`]; `InvalidData` if `is_right` returns false.
pub fn take_if(
    number: RawFd,
    kind: Kind,
    is_right: impl FnOnce(&Stat) -> bool,
) -> io::Result<OwnedFd> {
    let wrong = |why: &str| {
        let text = format!("descriptor {number} cannot be taken: {why}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    if number < LOWEST {
        return Err(wrong("it is a standard stream's"));
    }
    match flags(number) {
        Err(_) => return Err(wrong("it is not open")),
        Ok(flags) if flags & FD_CLOEXEC != 0 => {
            return Err(wrong("it was not inherited, or is taken already"));
        }
        Ok(_) => set_flags(number, FD_CLOEXEC)?,
    }
    // SAFETY: the number is open, and nothing else in this process owns it: what this process opens has FD_CLOEXEC,
    // which was not set, and what this function took has it from then on. Only one thread takes descriptors.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match is_of(&fd, kind) && is_right(&fstat(&fd)?) {
        true => Ok(fd),
        false => Err(wrong(&format!("it is not the {kind:?} that was saved"))),
    }
}

fn is_of(fd: &OwnedFd, kind: Kind) -> bool {
    let is_socket = |of| {
        socket_domain(fd) == Ok(AddressFamily::UNIX)
            && socket_type(fd)
                == Ok(if kind == Kind::Packets {
                    SocketType::SEQPACKET
                } else {
                    SocketType::STREAM
                })
            && socket_acceptconn(fd) == Ok(of)
    };
    match kind {
        Kind::Stream | Kind::Packets => is_socket(false),
        Kind::Listener => is_socket(true),
        // These have no other identity: fstat(2) says nothing of them.
        Kind::Epoll => is_named(fd, "anon_inode:[eventpoll]"),
        Kind::Eventfd => is_named(fd, "anon_inode:[eventfd]"),
        Kind::File => {
            fstat(fd).is_ok_and(|about| is_type(&about, rustix::fs::FileType::RegularFile))
        }
        Kind::Evtchn => {
            let device = rustix::fs::stat("/dev/xen/evtchn");
            let is_same = |about: Stat| {
                is_type(&about, rustix::fs::FileType::CharacterDevice)
                    && device.is_ok_and(|device| device.st_rdev == about.st_rdev)
            };
            fstat(fd).is_ok_and(is_same)
        }
    }
}

fn is_type(about: &Stat, wanted: rustix::fs::FileType) -> bool {
    rustix::fs::FileType::from_raw_mode(about.st_mode) == wanted
}

fn is_named(fd: &OwnedFd, name: &str) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|link| link.as_os_str() == name)
}

fn flags(number: RawFd) -> io::Result<c_int> {
    fcntl_flags(number, F_GETFD, 0)
}

fn set_flags(number: RawFd, flags: c_int) -> io::Result<()> {
    fcntl_flags(number, F_SETFD, flags).map(drop)
}

/// Gets or sets a descriptor's flags.
///
/// rustix requires an open descriptor, and whether the number is open is the question here.
fn fcntl_flags(number: RawFd, command: c_int, flags: c_int) -> io::Result<c_int> {
    unsafe extern "C" {
        fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    }
    // SAFETY: these two commands take and return plain numbers, and fail for a number that is not open.
    match unsafe { fcntl(number, command, flags) } {
        -1 => Err(io::Error::last_os_error()),
        flags => Ok(flags),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use rustix::event::epoll::{self, CreateFlags};
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::net::{SocketFlags, socketpair};

    use super::*;

    /// Gives up a descriptor, as a process does that starts its successor.
    fn inherited(fd: impl Into<OwnedFd>) -> RawFd {
        let number = fd.into().into_raw_fd();
        set_inheritable(&[number], true).unwrap();
        number
    }

    fn refusal(number: RawFd, kind: Kind) -> String {
        let error = take(number, kind).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        error.to_string()
    }

    /// Creates a descriptor of each kind that needs no hypervisor.
    fn each_kind() -> Vec<(Kind, OwnedFd)> {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let (stream, _) = UnixStream::pair().unwrap();
        let flags = SocketFlags::CLOEXEC;
        let (packets, _) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        vec![
            (Kind::Stream, stream.into()),
            (Kind::Listener, listener.into()),
            (Kind::Packets, packets),
            (Kind::Epoll, epoll::create(CreateFlags::CLOEXEC).unwrap()),
            (Kind::Eventfd, eventfd(0, EventfdFlags::CLOEXEC).unwrap()),
            (Kind::File, memfd_create("test", MemfdFlags::CLOEXEC).unwrap()),
        ]
    }

    #[test]
    fn inherited_descriptor_is_taken_once_and_as_its_kind_only() {
        for (kind, fd) in each_kind() {
            let number = inherited(fd);
            let fd = take(number, kind).unwrap();
            assert_eq!(fd.as_raw_fd(), number);
            let text = refusal(number, kind);
            assert!(text.contains("taken already"), "{text}");
        }
        let kinds = each_kind().into_iter().map(|(kind, _)| kind).chain([Kind::Evtchn]);
        for wanted in kinds {
            for (kind, fd) in each_kind().into_iter().filter(|(kind, _)| *kind != wanted) {
                let text = refusal(inherited(fd), wanted);
                assert!(text.contains(&format!("it is not the {wanted:?}")), "{kind:?}: {text}");
            }
        }
    }

    #[test]
    fn descriptors_that_were_not_inherited_are_refused() {
        for (kind, fd) in each_kind() {
            assert!(refusal(fd.as_raw_fd(), kind).contains("it was not inherited"));
        }
        for number in [RawFd::MIN, -1, 0, 2] {
            assert!(refusal(number, Kind::File).contains("a standard stream"));
        }
        assert!(refusal(RawFd::MAX, Kind::File).contains("it is not open"));
        assert!(set_inheritable(&[RawFd::MAX], true).is_err());
        assert!(set_inheritable(&[-1], false).is_err());
    }
}
