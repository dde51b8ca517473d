//! One end of a tunnel: its channels, each between a local descriptor and frames, by two threads.
//!
//! A channel may have [`WINDOW_BYTES`] under way in each direction; the reader of a descriptor waits for credit, which
//! the writer at the other end gives back as it writes. So a stream that its reader does not take delays no other
//! channel, and the memory of both ends is bounded.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::frame::{Frame, LockStep, PAYLOAD_BYTES_MAX, Port};
use super::local::{Credit, Local};

/// The most bytes of a channel that are sent and not yet written: a move of one domain takes some kilobytes, and a
/// long stream still fills a line of 1 Gbit/s with a round trip of 2 ms.
pub const WINDOW_BYTES: usize = 256 * 1024;
/// The most channels at once, two threads each: the descriptors of one request (253), and some connections.
const CHANNELS_MAX: usize = 512;

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
    /// The results of the lock's steps. Without a sender once the tunnel has ended, so that no step waits for a result.
    locked: (Mutex<Option<Sender<LockStep>>>, Receiver<LockStep>),
}

#[derive(Default)]
struct Channels {
    has_ended: bool,
    /// The number of the last channel that this end opened.
    last: u32,
    open: BTreeMap<u32, Channel>,
}

/// An open channel. Dropping it ends its threads, once what has arrived is written.
struct Channel {
    incoming: Sender<Item>,
    credit: Arc<Credit>,
    /// The bytes that the other end may still send.
    window: Arc<AtomicUsize>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.credit.end();
    }
}

/// What has arrived for a local descriptor.
enum Item {
    Bytes(Vec<u8>),
    /// Descriptors to be sent with the next bytes.
    Descriptors(Vec<OwnedFd>),
}

impl Mux {
    /// Makes an end that sends its frames to `out`.
    pub fn new(out: impl Write + Send + 'static) -> Arc<Mux> {
        let out = Mutex::new(Box::new(out) as Box<dyn Write + Send>);
        let (sender, results) = unbounded();
        let locked = (Mutex::new(Some(sender)), results);
        Arc::new(Mux { out, channels: Mutex::default(), locked })
    }

    /// Sends a frame. Blocks until the other end's transport has taken it.
    ///
    /// # Errors
    /// The tunnel has ended.
    pub fn send(&self, frame: &Frame) -> io::Result<()> {
        frame.write(&mut *self.out.lock())
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
                if let Some(channel) = self.channels.lock().open.get(&number) {
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

    /// Passes bytes to the writer of a channel. Bytes for one that has ended are dropped: its end is on its way.
    fn arrive(&self, number: u32, bytes: Vec<u8>) -> io::Result<()> {
        let channels = self.channels.lock();
        let Some(channel) = channels.open.get(&number) else { return Ok(()) };
        let is_within = |left: usize| left.checked_sub(bytes.len()).filter(|_| !bytes.is_empty());
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        if channel.window.fetch_update(set, fetch, is_within).is_err() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // If the writer has failed, its end is on its way to the other end.
        let _ = channel.incoming.send(Item::Bytes(bytes));
        Ok(())
    }

    /// Makes a pipe for each stream, and passes their read ends to the channel's socket.
    fn receive_streams(self: &Arc<Mux>, number: u32, streams: &[u32]) -> io::Result<()> {
        let mut ends = Vec::new();
        for &stream in streams {
            let (reader, writer) = io::pipe()?;
            self.start(stream, None, Some(Local::Pipe(OwnedFd::from(writer).into())))?;
            ends.push(OwnedFd::from(reader));
        }
        if let Some(channel) = self.channels.lock().open.get(&number) {
            let _ = channel.incoming.send(Item::Descriptors(ends));
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
        self.start(number, Some(Local::Socket(socket)), Some(other))
    }

    /// Opens a channel: a thread that reads `from`, and one that writes `to`.
    fn start(
        self: &Arc<Mux>,
        number: u32,
        from: Option<Local>,
        to: Option<Local>,
    ) -> io::Result<()> {
        let (incoming, items) = unbounded();
        let credit = Arc::new(Credit::default());
        let window = Arc::new(AtomicUsize::new(WINDOW_BYTES));
        let channel =
            Channel { incoming, credit: Arc::clone(&credit), window: Arc::clone(&window) };
        let mut channels = self.channels.lock();
        if channels.has_ended || channels.open.contains_key(&number) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if channels.open.len() >= CHANNELS_MAX {
            return Err(io::Error::other("a tunnel has too many channels"));
        }
        channels.open.insert(number, channel);
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
            let sent = self.send_streams(number, received).and_then(|()| match len {
                0 => self.send(&Frame::Close(number)),
                len => self.send(&Frame::Data(number, bytes[..len].to_vec())),
            });
            if len == 0 || sent.is_err() {
                break;
            }
        }
        self.channels.lock().open.remove(&number);
    }

    /// Makes channels of descriptors that came with a request.
    fn send_streams(self: &Arc<Mux>, number: u32, received: Vec<OwnedFd>) -> io::Result<()> {
        if received.is_empty() {
            return Ok(());
        }
        let numbers: Vec<_> = received.iter().map(|_| self.next()).collect();
        self.send(&Frame::Streams(number, numbers.clone()))?;
        for (number, descriptor) in numbers.into_iter().zip(received) {
            self.start(number, Some(Local::Pipe(descriptor.into())), None)?;
        }
        Ok(())
    }

    /// Writes to a local descriptor what arrives, until the channel or the descriptor ends.
    fn write_to(&self, number: u32, to: &Local, items: &Receiver<Item>, window: &AtomicUsize) {
        let mut pending = Vec::new();
        for item in items {
            let bytes = match item {
                Item::Descriptors(descriptors) => {
                    pending.extend(descriptors);
                    continue;
                }
                Item::Bytes(bytes) => bytes,
            };
            let written = to.send(&bytes, std::mem::take(&mut pending));
            window.fetch_add(bytes.len(), Ordering::Relaxed);
            let len = u32::try_from(bytes.len()).unwrap_or(0);
            if written.and_then(|()| self.send(&Frame::Credit(number, len))).is_err() {
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
