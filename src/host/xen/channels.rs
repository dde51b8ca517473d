use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use foldhash::{HashSet, HashSetExt};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::abi::{BindInterdomain, BindVirq, Notify, Unbind};
use super::ioctl::{Argument, call};
use super::open;
use crate::host::inherited::{Kind, take};
use crate::host::{Channels, Pending, Port, SavedChannels};
use crate::types::Domid;

/// An open file of `/dev/xen/evtchn`. The kernel tracks the ports bound through it, reports only those, and unbinds
/// them when it is closed.
pub struct XenChannels {
    device: OwnedFd,
    /// The ports bound now. The kernel leaves an unbound port in its queue if it was pending, so reads are filtered
    /// by this set.
    bound: HashSet<Port>,
}

impl XenChannels {
    pub(super) fn open() -> io::Result<XenChannels> {
        Ok(XenChannels { device: open("/dev/xen/evtchn")?, bound: HashSet::new() })
    }

    /// Goes on with another process's open file, in which the ports are bound.
    ///
    /// # Errors
    /// `InvalidData` if the descriptor is not that of the device.
    pub(super) fn adopt(device: RawFd, ports: Vec<Port>) -> io::Result<XenChannels> {
        let device = take(device, Kind::Evtchn)?;
        Ok(XenChannels { device, bound: ports.into_iter().collect() })
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
        // First, so that the port is filtered even if the ioctl fails.
        self.bound.remove(&port);
        self.call(Unbind { port }).map(drop)
    }

    fn pending(&mut self, ports: &mut [Port]) -> Pending {
        let mut kept = 0;
        while kept < ports.len() {
            let room = &mut ports[kept..];
            // Read again even after a short read: the kernel wakes only for a port that finds its queue empty, not
            // for one that arrives while a read copies (evtchn_interrupt, evtchn_read). That port, and with it the
            // handle, would be stuck forever.
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
        // The device unmasks the ports that are written to it (evtchn_write).
        rustix::io::write(&self.device, port.as_bytes())?;
        Ok(())
    }

    fn notify(&mut self, port: Port) -> io::Result<()> {
        self.call(Notify { port }).map(drop)
    }

    fn save(&self) -> io::Result<SavedChannels> {
        let mut ports: Vec<Port> = self.bound.iter().copied().collect();
        ports.sort_unstable();
        Ok(SavedChannels::Xen { device: self.device.as_raw_fd(), ports })
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    /// Channels over a pipe, which stands in for the kernel's queue of pending ports.
    fn channels(bound: &[Port]) -> (XenChannels, OwnedFd) {
        let (device, queue) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        (XenChannels { device, bound: bound.iter().copied().collect() }, queue)
    }

    #[test]
    fn pending_port_is_not_reported_after_unbind() {
        let (mut channels, queue) = channels(&[3, 4]);
        rustix::io::write(&queue, [9u32, 3, 9, 4, 9, 9].as_bytes()).unwrap();
        let mut ports = [0; 2];
        let mut all: Vec<Port> = Vec::new();
        // A read whose ports are all filtered out does not count as the end.
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
    fn short_read_does_not_end_the_pending_ports() {
        // A read of a datagram socket returns one datagram whatever the room, like the kernel's read when a port
        // arrives during the copy.
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
    fn failed_read_keeps_the_ports_read_before_it() {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (device, queue) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        rustix::io::write(&queue, [3u32, 4].as_bytes()).unwrap();
        // If a socket is closed with unread bytes, the other end fails with a reset once it has read its own.
        rustix::io::write(&device, b"unread").unwrap();
        drop(queue);
        let mut channels = XenChannels { device, bound: [3, 4].into_iter().collect() };
        let mut ports = [0; 8];
        let taken = channels.pending(&mut ports);
        assert_eq!((taken.count, &ports[..2]), (2, &[3, 4][..]));
        assert_eq!(Errno::from_io_error(&taken.error.unwrap()), Some(Errno::CONNRESET));
    }
}
