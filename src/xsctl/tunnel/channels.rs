//! One end of a tunnel: its channels, each between a local descriptor and frames, by two threads.
//!
//! A channel may have a *window* of bytes under way in each direction; the reader of a descriptor waits for credit, which
//! the writer at the other end gives back as it writes. So a stream that its reader does not take delays no other
//! channel, and the memory of both ends is bounded ([`window`](super::window)).
//!
//! What arrives is written at once if that does not block: a thread that has to be woken is what a pause consists of
//! beside the round trips.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::frame::{Frame, LockStep, PAYLOAD_BYTES_MAX, Port};
use super::local::Local;
use super::window::{self, Credit, WINDOW_BYTES, Window};

/// What one end of a tunnel does with requests of the other.
pub trait End {
    /// Whether the other end may send streams.
    fn takes_streams(&self) -> bool;
    /// Connects to a socket of the daemon.
    fn open(&mut self, port: Port) -> io::Result<UnixStream>;
    /// Executes a step of the lock, and returns the result for the other end; or takes such a result.
    fn lock(&mut self, step: LockStep) -> Option<LockStep>;
}

/// One end of a tunnel.
pub struct Mux {
    out: Mutex<Box<dyn Write + Send>>,
    channels: Mutex<Channels>,
    /// The sum of the windows of all channels.
    windows: Arc<AtomicUsize>,
    /// The results of the lock's steps. Without a sender once the tunnel has ended, so that no step waits for a result.
    locked: (Mutex<Option<Sender<LockStep>>>, Receiver<LockStep>),
}

#[derive(Default)]
struct Channels {
    has_ended: bool,
    /// The number of the last channel that this end opened.
    last: u32,
    open: BTreeMap<u32, Arc<Channel>>,
}

/// An open channel. Dropping it ends its threads, once what has arrived is written.
struct Channel {
    incoming: Sender<Item>,
    credit: Arc<Credit>,
    window: Arc<Window>,
    to: Option<Arc<Local>>,
    /// Descriptors to be sent with the next bytes.
    pending: Mutex<Vec<OwnedFd>>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.credit.end();
    }
}

/// What has arrived for a local descriptor: bytes, and descriptors to be sent with the first of them.
type Item = (Vec<u8>, Vec<OwnedFd>);

impl Mux {
    /// Makes an end that sends its frames to `out`.
    pub fn new(out: impl Write + Send + 'static) -> Arc<Mux> {
        let out = Mutex::new(Box::new(out) as Box<dyn Write + Send>);
        let (sender, results) = unbounded();
        let locked = (Mutex::new(Some(sender)), results);
        Arc::new(Mux { out, channels: Mutex::default(), windows: Arc::default(), locked })
    }

    /// Sends a frame. Blocks until the other end's transport has taken it.
    ///
    /// # Errors
    /// The tunnel has ended.
    pub fn send(&self, frame: &Frame) -> io::Result<()> {
        self.send_all(std::slice::from_ref(frame))
    }

    /// Sends frames by one write.
    fn send_all(&self, frames: &[Frame]) -> io::Result<()> {
        Frame::write(frames, &mut *self.out.lock())
    }

    /// Whether the tunnel has not ended.
    pub fn is_open(&self) -> bool {
        !self.channels.lock().has_ended
    }

    /// Opens a channel to a socket of the daemon at the other end.
    ///
    /// # Errors
    /// The tunnel has ended; the system refuses descriptors or threads.
    pub fn open(self: &Arc<Mux>, port: Port) -> io::Result<UnixStream> {
        let (ours, its) = UnixStream::pair()?;
        let number = self.next();
        // The other end may close the channel as soon as it knows it.
        self.connect(number, ours)?;
        self.send(&Frame::Open(number, port))?;
        Ok(its)
    }

    /// Sends a step of the lock, and returns whether the lock is exclusive then.
    pub fn lock(&self, step: LockStep) -> bool {
        self.send(&Frame::Lock(step)).is_ok()
            && self.locked.1.recv().is_ok_and(|step| step == LockStep::IsExclusive)
    }

    /// Notes the result of a step, for [`Mux::lock`], which waits for it.
    pub fn locked(&self, step: LockStep) {
        if let Some(results) = &*self.locked.0.lock() {
            // The receiver lives as long as this.
            let _ = results.send(step);
        }
    }

    /// Handles the frames of the other end until it ends or breaks the rules; then ends all channels.
    pub fn dispatch(self: &Arc<Mux>, input: &mut impl Read, end: &mut impl End) {
        while let Ok(Some(frame)) = Frame::read(input) {
            if self.handle(frame, end).is_err() {
                break;
            }
        }
        let mut channels = self.channels.lock();
        channels.has_ended = true;
        let ended = std::mem::take(&mut channels.open);
        drop(channels);
        drop(ended);
        *self.locked.0.lock() = None;
    }

    fn handle(self: &Arc<Mux>, frame: Frame, end: &mut impl End) -> io::Result<()> {
        match frame {
            Frame::Open(number, port) => match end.open(port) {
                Ok(socket) => self.connect(number, socket)?,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                // The connection ends, as if the daemon had closed it.
                Err(_) => self.send(&Frame::Close(number))?,
            },
            Frame::Data(number, bytes) => self.arrive(number, bytes)?,
            Frame::Streams(number, streams) if end.takes_streams() => {
                self.receive_streams(number, &streams)?;
            }
            Frame::Credit(number, bytes) => {
                if let Some(channel) = self.channel(number) {
                    channel.credit.give(bytes as usize);
                }
            }
            Frame::Close(number) => drop(self.channels.lock().open.remove(&number)),
            Frame::Lock(step) => {
                if let Some(result) = end.lock(step) {
                    self.send(&Frame::Lock(result))?;
                }
            }
            Frame::Streams(..) | Frame::Hello(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(())
    }

    fn channel(&self, number: u32) -> Option<Arc<Channel>> {
        self.channels.lock().open.get(&number).map(Arc::clone)
    }

    /// Writes bytes of a channel, as far as that blocks neither here nor at the other end, and passes the rest to its
    /// writer. Bytes for one that has ended are dropped: its end is on its way.
    fn arrive(&self, number: u32, mut bytes: Vec<u8>) -> io::Result<()> {
        let Some(channel) = self.channel(number) else { return Ok(()) };
        let arrived = channel.window.arrived(bytes.len()).filter(|_| !bytes.is_empty());
        let is_first = arrived.ok_or(io::ErrorKind::InvalidData)?;
        let mut with = std::mem::take(&mut *channel.pending.lock());
        if let (true, Some(to)) = (is_first, &channel.to) {
            // The writer gets the error, too.
            let written = to.send_now(&bytes, &with).unwrap_or(0);
            channel.window.written(written);
            bytes.drain(..written);
            if written > 0 {
                with.clear();
            }
        }
        if !bytes.is_empty() {
            // If the writer has failed, its end is on its way to the other end.
            let _ = channel.incoming.send((bytes, with));
        }
        Ok(())
    }

    /// Makes a pipe for each stream, and passes their read ends to the channel's socket.
    fn receive_streams(self: &Arc<Mux>, number: u32, streams: &[u32]) -> io::Result<()> {
        let (mut ends, size) = (Vec::new(), window::of_streams(streams.len()));
        for &stream in streams {
            let (reader, writer) = io::pipe()?;
            self.start(stream, size, None, Some(Local::writer(writer.into())?))?;
            ends.push(OwnedFd::from(reader));
        }
        if let Some(channel) = self.channel(number) {
            channel.pending.lock().extend(ends);
        }
        Ok(())
    }

    fn next(&self) -> u32 {
        let mut channels = self.channels.lock();
        channels.last += 1;
        channels.last
    }

    fn connect(self: &Arc<Mux>, number: u32, socket: UnixStream) -> io::Result<()> {
        let other = Local::Socket(socket.try_clone()?);
        self.start(number, WINDOW_BYTES, Some(Local::Socket(socket)), Some(other))
    }

    /// Opens a channel: a thread that reads `from`, and one that writes `to`.
    fn start(
        self: &Arc<Mux>,
        number: u32,
        size: usize,
        from: Option<Local>,
        to: Option<Local>,
    ) -> io::Result<()> {
        let (incoming, items) = unbounded();
        let (credit, to) = (Arc::new(Credit::of(size)), to.map(Arc::new));
        let window = Window::open(size, &self.windows).map(Arc::new);
        let window = window.ok_or_else(|| io::Error::other("a tunnel has too many channels"))?;
        let channel = Channel {
            incoming,
            credit: Arc::clone(&credit),
            window: Arc::clone(&window),
            to: to.clone(),
            pending: Mutex::default(),
        };
        let mut channels = self.channels.lock();
        if channels.has_ended || channels.open.contains_key(&number) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        channels.open.insert(number, Arc::new(channel));
        drop(channels);
        let thread = || thread::Builder::new().name(format!("channel {number}"));
        if let Some(from) = from {
            let mux = Arc::clone(self);
            thread().spawn(move || mux.read_from(number, &from, &credit))?;
        }
        if let Some(to) = to {
            let mux = Arc::clone(self);
            thread().spawn(move || mux.write_to(number, &to, &items, &window))?;
        }
        Ok(())
    }

    /// Sends what a local descriptor has, until it or the channel ends.
    fn read_from(self: &Arc<Mux>, number: u32, from: &Local, credit: &Credit) {
        let mut bytes = vec![0; PAYLOAD_BYTES_MAX];
        while let Some(allowed) = credit.take(PAYLOAD_BYTES_MAX) {
            let mut received = Vec::new();
            let len = from.receive(&mut bytes[..allowed], &mut received).unwrap_or(0);
            credit.give(allowed - len);
            let sent = match len {
                0 => self.send(&Frame::Close(number)),
                len => self.send_with(number, bytes[..len].to_vec(), received),
            };
            if len == 0 || sent.is_err() {
                break;
            }
        }
        self.channels.lock().open.remove(&number);
    }

    /// Sends bytes of a channel, and makes channels of the descriptors that came with them.
    fn send_with(
        self: &Arc<Mux>,
        number: u32,
        bytes: Vec<u8>,
        received: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let data = Frame::Data(number, bytes);
        if received.is_empty() {
            return self.send(&data);
        }
        let (numbers, size): (Vec<_>, _) =
            (received.iter().map(|_| self.next()).collect(), window::of_streams(received.len()));
        self.send_all(&[Frame::Streams(number, numbers.clone()), data])?;
        for (number, descriptor) in numbers.into_iter().zip(received) {
            self.start(number, size, Some(Local::Reader(descriptor.into())), None)?;
        }
        Ok(())
    }

    /// Writes to a local descriptor what arrives, until the channel or the descriptor ends.
    fn write_to(&self, number: u32, to: &Local, items: &Receiver<Item>, window: &Window) {
        for (bytes, with) in items {
            let written = to.send(&bytes, with);
            let credit = window.written(bytes.len());
            let given = |()| credit.map_or(Ok(()), |len| self.send(&Frame::Credit(number, len)));
            if written.and_then(given).is_err() {
                // The other end stops reading what goes nowhere; a tunnel that has ended needs no frame.
                let _ = self.send(&Frame::Close(number));
                break;
            }
        }
        self.channels.lock().open.remove(&number);
        to.end();
    }
}

#[cfg(test)]
mod tests;
