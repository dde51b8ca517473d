//! The echo server's threads.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use xenstored::host::sim::SimHost;
use xenstored::host::{Channels, Host, Port};
use xenstored::protocol::{Frame, HEADER_BYTES, Operation, WATCH_EVENT, frame};
use xenstored::transport::{Ring, Transport};
use xenstored::types::Domid;

use super::line::{After, Line};
use super::{ANSWER, ANSWER_LEN, NUMBER, RING, SCRIPT, Scripted, append_header, script};

const NEWS: Token = Token(usize::MAX);
const CHANNELS: Token = Token(usize::MAX - 1);
/// Maximum number of ports taken at once.
const PORTS: usize = 64;

/// A message between threads.
enum News {
    /// A client with this number connected.
    Accepted(u32, UnixStream),
    /// A domain's ring is to be served.
    Introduced(Domid, Port),
    /// Events for connections of this thread.
    Events(Vec<Scripted>),
}

/// The sending end of a thread's message queue.
#[derive(Clone)]
struct Mailbox {
    news: Sender<News>,
    waker: Arc<Waker>,
}

impl Mailbox {
    fn send(&self, news: News) -> io::Result<()> {
        self.news.send(news).map_err(|_| io::Error::other("a thread has ended"))?;
        self.waker.wake()
    }
}

/// Serves at `socket` with this many threads, forever; and the rings of a simulated host. The first requests of each
/// connection get the messages in `replies`, in order.
///
/// # Errors
/// Those of bind(2), of accept(2), of thread creation.
pub fn serve(socket: &Path, host: SimHost, threads: usize, replies: Vec<u8>) -> io::Result<()> {
    let host = Arc::new(host);
    let replies: Arc<[u8]> = replies.into();
    let listener = UnixListener::bind(socket)?;
    let (mut mailboxes, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..threads.max(1) {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), NEWS)?);
        let (news, receiver) = channel();
        mailboxes.push(Mailbox { news, waker });
        ends.push((poll, receiver));
    }
    let mailboxes: Arc<[Mailbox]> = mailboxes.into();
    for (number, (poll, news)) in ends.into_iter().enumerate() {
        let mut thread = Thread::new(number, poll, Arc::clone(&host), Arc::clone(&mailboxes))?;
        thread.replies = Arc::clone(&replies);
        thread::Builder::new().name(format!("echo-{number}")).spawn(move || {
            if let Err(error) = thread.run(&news) {
                eprintln!("loadgen echo: {error}");
            }
        })?;
    }
    for number in 0.. {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        let news = News::Accepted(number, UnixStream::from_std(stream));
        mailboxes[number as usize % mailboxes.len()].send(news)?;
    }
    Ok(())
}

/// A thread, with every `threads`-th socket and every `threads`-th domain's ring.
struct Thread {
    number: usize,
    poll: Poll,
    host: Arc<SimHost>,
    channels: Box<dyn Channels>,
    mailboxes: Arc<[Mailbox]>,
    /// The replies to the first requests of each connection.
    replies: Arc<[u8]>,
    /// Indexed by number and by domid, each divided by the number of threads. Boxed, because a line is moved out of the
    /// table while its requests are processed.
    sockets: Vec<Option<Box<Line>>>,
    rings: Vec<Option<Box<Line>>>,
    ports: HashMap<Port, u32>,
    /// Connections with unsent output, and those to be processed again.
    unsent: Vec<u32>,
    again: VecDeque<u32>,
    /// Events for the other threads' connections.
    away: Vec<Vec<Scripted>>,
}

impl Thread {
    fn new(
        number: usize,
        poll: Poll,
        host: Arc<SimHost>,
        mailboxes: Arc<[Mailbox]>,
    ) -> io::Result<Thread> {
        let channels = host.open_channels()?;
        let fd = channels.raw_fd();
        poll.registry().register(&mut SourceFd(&fd), CHANNELS, Interest::READABLE)?;
        let mut thread = Thread {
            number,
            poll,
            channels,
            away: mailboxes.iter().map(|_| Vec::new()).collect(),
            mailboxes,
            replies: Arc::default(),
            sockets: Vec::new(),
            rings: Vec::new(),
            ports: HashMap::new(),
            unsent: Vec::new(),
            again: VecDeque::new(),
            host,
        };
        if let (0, Some(port)) = (number, thread.host.control_port()?) {
            thread.introduce(Domid::CONTROL, port)?;
        }
        Ok(thread)
    }

    /// Returns the slot of a connection.
    fn slot(&mut self, number: u32) -> &mut Option<Box<Line>> {
        let place = (number & !RING) as usize / self.mailboxes.len();
        let lines = if number & RING == 0 { &mut self.sockets } else { &mut self.rings };
        if place >= lines.len() {
            lines.resize_with(place + 1, || None);
        }
        &mut lines[place]
    }

    fn run(&mut self, news: &Receiver<News>) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let wait = (!self.again.is_empty()).then_some(std::time::Duration::ZERO);
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    NEWS => news.try_iter().try_for_each(|news| self.hear(news))?,
                    CHANNELS => self.take_ports()?,
                    Token(number) => self.serve(u32::try_from(number).unwrap_or(u32::MAX)),
                }
            }
            for _ in 0..self.again.len() {
                if let Some(number) = self.again.pop_front() {
                    self.serve(number);
                }
            }
            self.send()?;
        }
    }

    fn hear(&mut self, news: News) -> io::Result<()> {
        match news {
            News::Accepted(number, mut stream) => {
                let token = Token(number as usize);
                self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
                *self.slot(number) = Some(Box::new(Line::new(Transport::Socket(stream))));
            }
            News::Introduced(domid, port) => self.introduce(domid, port)?,
            News::Events(events) => events.iter().for_each(|&event| self.tell(event)),
        }
        Ok(())
    }

    /// Starts to serve a domain's ring.
    fn introduce(&mut self, domid: Domid, remote: Port) -> io::Result<()> {
        let page = self.host.map_ring(domid, None)?;
        let port = self.channels.bind_interdomain(domid, remote)?;
        let number = RING | u32::from(domid.0);
        let line = Line::new(Transport::Ring(Ring::new(page, port, remote, None)));
        *self.slot(number) = Some(Box::new(line));
        self.ports.insert(port, number);
        // Requests written earlier have sent no notification here.
        self.again.push_back(number);
        Ok(())
    }

    fn take_ports(&mut self) -> io::Result<()> {
        let mut ports = [0; PORTS];
        loop {
            let count = self.channels.pending(&mut ports).all()?;
            for port in &ports[..count] {
                let Some(&number) = self.ports.get(port) else { continue };
                if let Some(line) = self.slot(number)
                    && let Transport::Ring(ring) = &mut line.transport
                {
                    ring.masked = true;
                }
                self.serve(number);
            }
            if count < ports.len() {
                return Ok(());
            }
        }
    }

    /// Replies to all requests received on a connection; closes it on an error.
    fn serve(&mut self, number: u32) {
        // The line is taken out of its slot, as replies may be sent to any connection.
        let Some(mut line) = self.slot(number).take() else { return };
        match line.receive().and_then(|open| self.answer(number, &mut line).map(|()| open)) {
            Ok(true) => {
                if !std::mem::replace(&mut line.queued, true) {
                    self.unsent.push(number);
                }
                *self.slot(number) = Some(line);
            }
            _ => self.end(*line),
        }
    }

    fn answer(&mut self, number: u32, line: &mut Line) -> io::Result<()> {
        let mut taken = 0;
        while let Frame::Message { header, payload, .. } = frame(&line.input[taken..]) {
            taken += HEADER_BYTES + payload.len();
            let rest = &self.replies[line.replied..];
            if let Frame::Message { payload, .. } = frame(rest) {
                let len = HEADER_BYTES + payload.len();
                line.output.extend_from_slice(&rest[..len]);
                line.replied += len;
                continue;
            }
            let words = [header.kind.get(), header.req_id.get(), header.tx_id.get()];
            self.reply(number, words, payload, &mut line.output)?;
        }
        line.input.drain(..taken);
        Ok(())
    }

    /// Appends the reply to a request of connection `number`, and handles its events.
    fn reply(
        &mut self,
        number: u32,
        words @ [kind, req_id, tx_id]: [u32; 3],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        match kind {
            SCRIPT => {
                let (reply, events) = script(payload).ok_or(io::ErrorKind::InvalidData)?;
                if let Some(len) = reply {
                    append(out, words, len);
                }
                for event in events {
                    match event.0 {
                        own if own == number => append(out, [WATCH_EVENT, 0, 0], event.1),
                        _ => self.tell(event),
                    }
                }
            }
            NUMBER => {
                append_header(out, [kind, req_id, tx_id, 4]);
                out.extend_from_slice(&number.to_le_bytes());
            }
            _ => {
                if kind == Operation::Introduce as u32 {
                    self.find_ring(payload)?;
                }
                append_header(out, [kind, req_id, tx_id, ANSWER_LEN]);
                out.extend_from_slice(ANSWER);
            }
        }
        Ok(())
    }

    /// Sends an event, or passes it to another thread.
    fn tell(&mut self, (number, len): Scripted) {
        let thread = (number & !RING) as usize % self.mailboxes.len();
        if thread != self.number {
            return self.away[thread].push((number, len));
        }
        let Some(line) = self.slot(number) else { return };
        append(&mut line.output, [WATCH_EVENT, 0, 0], len);
        if !std::mem::replace(&mut line.queued, true) {
            self.unsent.push(number);
        }
    }

    /// Handles INTRODUCE, the only request that is interpreted: reads domid and port.
    fn find_ring(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut words = payload.split(|&byte| byte == 0).map(|word| str::from_utf8(word).ok());
        let domid = words.next().flatten().and_then(|word| word.parse().ok()).map(Domid);
        let port = words.nth(1).flatten().and_then(|word| word.parse().ok());
        let (Some(domid), Some(port)) = (domid, port) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let thread = usize::from(domid.0) % self.mailboxes.len();
        match thread == self.number {
            true => self.introduce(domid, port),
            false => self.mailboxes[thread].send(News::Introduced(domid, port)),
        }
    }

    /// Sends all output: one write per connection, one message per other thread.
    fn send(&mut self) -> io::Result<()> {
        for number in std::mem::take(&mut self.unsent) {
            let Some(mut line) = self.slot(number).take() else { continue };
            match line.send(&mut *self.channels) {
                Ok(After::Again) => self.again.push_back(number),
                Ok(after) => self.listen(number, &mut line, matches!(after, After::WaitForRoom))?,
                Err(_) => {
                    self.end(*line);
                    continue;
                }
            }
            *self.slot(number) = Some(line);
        }
        for (thread, events) in self.away.iter_mut().enumerate() {
            if !events.is_empty() {
                self.mailboxes[thread].send(News::Events(std::mem::take(events)))?;
            }
        }
        Ok(())
    }

    /// Polls a socket for writability only while it is full, so that only clients that do not read cost the extra
    /// calls.
    fn listen(&mut self, number: u32, line: &mut Line, for_room: bool) -> io::Result<()> {
        let Transport::Socket(socket) = &mut line.transport else { return Ok(()) };
        if std::mem::replace(&mut line.waits_for_room, for_room) == for_room {
            return Ok(());
        }
        let interest =
            if for_room { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.poll.registry().reregister(socket, Token(number as usize), interest)
    }

    fn end(&mut self, line: Line) {
        match line.transport {
            Transport::Socket(mut socket) => {
                let _ = self.poll.registry().deregister(&mut socket);
            }
            Transport::Ring(ring) => {
                self.ports.remove(&ring.port);
                let _ = self.channels.unbind(ring.port);
            }
        }
    }
}

/// Appends a message of `len` zero bytes.
fn append(out: &mut Vec<u8>, [kind, req_id, tx_id]: [u32; 3], len: u16) {
    append_header(out, [kind, req_id, tx_id, u32::from(len)]);
    out.resize(out.len() + usize::from(len), 0);
}
