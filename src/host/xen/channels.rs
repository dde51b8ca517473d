use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use foldhash::{HashSet, HashSetExt};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::abi::{BindInterdomain, BindVirq, Notify, Unbind};
use super::ioctl::{Argument, call};
use super::open;
use crate::host::{Channels, Pending, Port};
use crate::words::Domid;

/// One opening of `/dev/xen/evtchn`. The kernel knows which ports were bound through it, reports
/// only those, and closes them with it.
pub struct XenChannels {
    device: OwnedFd,
    /// The ports bound now. The kernel leaves a pending port in its queue when the port is
    /// unbound, so what is read must be compared.
    bound: HashSet<Port>,
}

impl XenChannels {
    pub(super) fn open() -> io::Result<XenChannels> {
        Ok(XenChannels { device: open("/dev/xen/evtchn")?, bound: HashSet::new() })
    }

    fn call<T: Argument>(&self, argument: T) -> io::Result<u32> {
        // SAFETY: `device` is /dev/xen/evtchn, and its arguments are plain numbers.
        Ok(unsafe { call(self.device.as_fd(), argument)?.0 })
    }

    fn bind<T: Argument>(&mut self, argument: T) -> io::Result<Port> {
        let port = self.call(argument)?;
        self.bound.insert(port);
        Ok(port)
    }
}

impl Channels for XenChannels {
    fn raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }

    fn bind_interdomain(&mut self, domid: Domid, remote: Port) -> io::Result<Port> {
        self.bind(BindInterdomain { remote_domain: domid.0.into(), remote_port: remote })
    }

    fn bind_changes(&mut self) -> io::Result<Port> {
        self.bind(BindVirq { virq: xen_sys::VIRQ_DOM_EXC })
    }

    fn unbind(&mut self, port: Port) -> io::Result<()> {
        self.bound.remove(&port);
        self.call(Unbind { port }).map(drop)
    }

    fn pending(&mut self, ports: &mut [Port]) -> Pending {
        let mut kept = 0;
        while kept < ports.len() {
            let room = &mut ports[kept..];
            // Also after a read that found room left: the kernel wakes only for a port that finds its
            // queue empty, and one that comes while a read copies does not (evtchn_interrupt,
            // evtchn_read). It would lie there, and with it the handle, for ever.
            let bytes = match rustix::io::read(&self.device, room.as_mut_bytes()) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(bytes) => bytes,
                Err(Errno::INTR) => continue,
                Err(error) => return Pending { count: kept, error: Some(error.into()) },
            };
            let read = kept..kept + bytes / size_of::<Port>();
            for i in read {
                if self.bound.contains(&ports[i]) {
                    ports[kept] = ports[i];
                    kept += 1;
                }
            }
        }
        Pending { count: kept, error: None }
    }

    fn unmask(&mut self, port: Port) -> io::Result<()> {
        rustix::io::write(&self.device, port.as_bytes())?;
        Ok(())
    }

    fn notify(&mut self, port: Port) -> io::Result<()> {
        self.call(Notify { port }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    /// Channels over a pipe, which stands for the kernel's queue of pending ports.
    fn channels(bound: &[Port]) -> (XenChannels, OwnedFd) {
        let (device, queue) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        (XenChannels { device, bound: bound.iter().copied().collect() }, queue)
    }

    #[test]
    fn a_port_pending_when_it_was_unbound_is_not_reported() {
        let (mut channels, queue) = channels(&[3, 4]);
        rustix::io::write(&queue, [9u32, 3, 9, 4, 9, 9].as_bytes()).unwrap();
        let mut ports = [0; 2];
        let mut all: Vec<Port> = Vec::new();
        // Slices of which nothing is kept do not look like the end.
        loop {
            match channels.pending(&mut ports).all().unwrap() {
                0 => break,
                taken => all.extend(&ports[..taken]),
            }
        }
        assert_eq!(all, [3, 4]);
        assert_eq!(channels.pending(&mut ports).all().unwrap(), 0);
    }

    #[test]
    fn a_short_read_is_not_the_end() {
        // A read of datagrams gives one, whatever room it has: as the kernel's does, of a port that
        // comes while it copies.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (device, queue) =
            socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        let mut channels = XenChannels { device, bound: [3, 4].into_iter().collect() };
        rustix::io::write(&queue, 3u32.as_bytes()).unwrap();
        rustix::io::write(&queue, 4u32.as_bytes()).unwrap();
        let mut ports = [0; 8];
        assert_eq!(channels.pending(&mut ports).all().unwrap(), 2);
        assert_eq!(ports[..2], [3, 4]);
    }

    #[test]
    fn pending_when_a_read_fails_returns_what_was_taken_before() {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (device, queue) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        rustix::io::write(&queue, [3u32, 4].as_bytes()).unwrap();
        // An end that closes with bytes unread resets the other, once that has taken its own.
        rustix::io::write(&device, b"unread").unwrap();
        drop(queue);
        let mut channels = XenChannels { device, bound: [3, 4].into_iter().collect() };
        let mut ports = [0; 8];
        let taken = channels.pending(&mut ports);
        assert_eq!((taken.count, &ports[..2]), (2, &[3, 4][..]));
        assert_eq!(Errno::from_io_error(&taken.error.unwrap()), Some(Errno::CONNRESET));
    }
}
