//! A connection that sends at fixed times, regardless of replies.
//!
//! Latency is measured from the intended time of sending, not from the actual one: a client that waits for a slow
//! reply before it sends the next request would omit exactly the requests that suffer ("coordinated omission").

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::os::fd::{AsRawFd, OwnedFd};

use super::connection::Connection;
use super::link::Link;
use super::load::{Tally, histogram, record};
use super::message::Request;
use crate::trouble::{ClientError, Result};
use crate::wrong;
use xenstored::protocol::ERROR;

/// Timeout without any reply.
const TIMEOUT: Duration = Duration::from_secs(60);
const LINK: Token = Token(0);
const TIMER: Token = Token(1);

/// An open-loop client with its timer.
pub struct Paced {
    poll: Poll,
    timer: OwnedFd,
    connection: Connection,
    framing_only: bool,
}

impl Paced {
    /// Connects a paced client to a daemon's socket.
    pub fn connect(socket: &Path, framing_only: bool) -> Result<Paced> {
        Paced::new(Link::connect(socket)?, framing_only)
    }

    /// Creates a paced client over this link.
    pub fn new(mut link: Link, framing_only: bool) -> Result<Paced> {
        let cannot = |error| ClientError::io("cannot poll a connection", error);
        let poll = Poll::new().map_err(cannot)?;
        link.register(poll.registry(), LINK).map_err(cannot)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, flags).map_err(|e| cannot(e.into()))?;
        let raw = timer.as_raw_fd();
        poll.registry().register(&mut SourceFd(&raw), TIMER, Interest::READABLE).map_err(cannot)?;
        Ok(Paced { poll, timer, connection: Connection::new(link), framing_only })
    }

    /// Measures the mean round-trip time in a closed loop with one outstanding request.
    pub fn fastest(&mut self, request: &Request, time: Duration) -> Result<Duration> {
        let started = Instant::now();
        let mut replies = 0;
        while started.elapsed() < time {
            // The second request would be due after the end, so this is one request and its reply.
            replies += self.run(request, TIMEOUT, Duration::from_nanos(1))?.requests;
        }
        Ok(started.elapsed() / u32::try_from(replies.max(1)).unwrap_or(u32::MAX))
    }

    /// Sends `request` every `interval` for `time`. Latencies are measured from the intended time of sending to the
    /// reply.
    pub fn run(&mut self, request: &Request, interval: Duration, time: Duration) -> Result<Tally> {
        let started = Instant::now();
        let mut tally = Tally { requests: 0, elapsed: time, latency: histogram() };
        let ends = |due| due >= started + time;
        self.run_until(request, (started, interval), ends, |_, waited| {
            tally.requests += 1;
            record(&mut tally.latency, waited);
        })?;
        tally.elapsed = started.elapsed();
        Ok(tally)
    }

    /// Sends `request` at intervals from a time on, until `ends` returns true for the next due time. Calls `answered`
    /// for each reply with the request's due time and the latency from then.
    pub fn run_until(
        &mut self,
        request: &Request,
        (mut due, interval): (Instant, Duration),
        ends: impl Fn(Instant) -> bool,
        mut answered: impl FnMut(Instant, Duration),
    ) -> Result<()> {
        let mut waiting: VecDeque<(u32, Instant)> = VecDeque::new();
        let mut next_req = 1;
        let mut events = Events::with_capacity(4);
        loop {
            let mut is_over = ends(due);
            while !is_over && due <= Instant::now() {
                self.connection.queue_request(request, next_req);
                waiting.push_back((next_req, due));
                next_req += 1;
                due += interval;
                is_over = ends(due);
            }
            self.connection.flush()?;
            if is_over && waiting.is_empty() {
                return Ok(());
            }
            if !is_over {
                self.set_timer(due.saturating_duration_since(Instant::now()))?;
            }
            match self.poll.poll(&mut events, Some(TIMEOUT)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            if events.is_empty() {
                wrong!("timed out: no reply for {TIMEOUT:?}");
            }
            if events.iter().any(|event| event.token() == LINK) {
                self.take(request, &mut waiting, &mut answered)?;
            }
        }
    }

    fn take(
        &mut self,
        request: &Request,
        waiting: &mut VecDeque<(u32, Instant)>,
        answered: &mut impl FnMut(Instant, Duration),
    ) -> Result<()> {
        self.connection.receive()?;
        let now = Instant::now();
        while let Some(message) = self.connection.message()? {
            let Some((req_id, due)) = waiting.pop_front() else {
                wrong!("unsolicited reply: {message:?}")
            };
            let answers = message.req_id == req_id
                && (self.framing_only
                    || message.kind != ERROR && request.expect.matches(message.payload));
            if !answers {
                wrong!("the reply to {} {req_id} is {message:?}", request.kind.name());
            }
            answered(due, now.saturating_duration_since(due));
        }
        Ok(())
    }

    /// Arms the timer to fire once after `time`.
    fn set_timer(&self, time: Duration) -> Result<()> {
        // Zero would disarm the timer.
        let time = time.max(Duration::from_nanos(1));
        let value = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
            .map_err(|error| ClientError::io("cannot set a timer", error.into()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use xenstored::protocol::{Frame, Operation, append_request, frame};

    use super::*;
    use crate::client::Expect;

    /// Replies to every request, but only after `stall` to the first.
    fn stalling_server(listener: &UnixListener, stall: Duration) {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut input, mut bytes) = (Vec::new(), [0; 4096]);
        let mut pause = Some(stall);
        while let Ok(len @ 1..) = stream.read(&mut bytes) {
            if let Some(stall) = pause.take() {
                thread::sleep(stall);
            }
            input.extend_from_slice(&bytes[..len]);
            let mut answers = Vec::new();
            while let Frame::Message { header, rest, .. } = frame(&input) {
                append_request(&mut answers, Operation::Read, header.req_id.get(), 0, b"abc");
                input = rest.to_vec();
            }
            stream.write_all(&answers).unwrap();
        }
    }

    #[test]
    fn stall_counts_in_the_latency_of_every_request_due_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || stalling_server(&listener, Duration::from_millis(200)));
        let mut paced = Paced::connect(&path, false).unwrap();
        let read = Request::new(Operation::Read, b"name\0", Expect::Payload(b"abc".to_vec()));
        let (interval, time) = (Duration::from_millis(1), Duration::from_millis(300));
        let tally = paced.run(&read, interval, time).unwrap();
        drop(paced);
        server.join().unwrap();
        assert_eq!(tally.requests, 300);
        // A client that waits for replies would have seen one slow request of some hundred. Of these 300, the 100
        // that were due in the first half of the stall waited at least for its second half.
        let slow = tally.latency.count_between(90_000_000, u64::MAX);
        assert!(slow >= 100, "{slow}");
    }
}
