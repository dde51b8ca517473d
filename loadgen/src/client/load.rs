//! Many connections on one thread, each with a fixed number of outstanding requests.
//!
//! A closed loop: each reply is checked and triggers one request. A closed loop measures a daemon's throughput; the
//! latency of requests that arrive at their own times is measured by [`super::Paced`].

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use super::connection::Connection;
use super::link::Link;
use super::message::Request;
use super::random::Random;
use crate::trouble::{ClientError, Result};
use crate::wrong;
use xenstored::protocol::{ERROR, Message, WATCH_EVENT};

/// Timeout without any reply.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Significant decimal digits of recorded latencies.
const DIGITS: u8 = 3;
/// The highest recorded latency in nanoseconds, ten minutes; higher ones are clamped.
const LATENCY_MAX: u64 = 600_000_000_000;

/// The result of a round.
pub struct Tally {
    /// Number of replies, all as expected.
    pub requests: u64,
    /// Time from the first request to the last reply.
    pub elapsed: Duration,
    /// Latencies from sending a request to its reply, in nanoseconds.
    pub latency: Histogram<u64>,
}

/// A request mix: lists of requests with their weights.
pub type Mix = [(usize, Vec<Request>)];

/// A closed-loop load over many connections.
pub struct Load {
    poll: Poll,
    lanes: Vec<Lane>,
    /// Checks only the framing of replies, for an echo server.
    framing_only: bool,
}

struct Lane {
    connection: Connection,
    waiting: VecDeque<Waiting>,
    next_req: u32,
    random: Random,
}

struct Waiting {
    req_id: u32,
    part: usize,
    index: usize,
    sent: Instant,
}

impl Load {
    /// Creates a load over these links.
    pub fn new(links: Vec<Link>, framing_only: bool) -> Result<Load> {
        let cannot = |error| ClientError::io("cannot poll connections", error);
        let poll = Poll::new().map_err(cannot)?;
        let mut lanes = Vec::with_capacity(links.len());
        for (place, mut link) in links.into_iter().enumerate() {
            link.register(poll.registry(), Token(place)).map_err(cannot)?;
            lanes.push(Lane {
                connection: Connection::new(link),
                waiting: VecDeque::new(),
                next_req: 1,
                random: Random::new(place as u64),
            });
        }
        Ok(Load { poll, lanes, framing_only })
    }

    /// Keeps `depth` requests of `mix` outstanding on each of the first `connections` connections for `time`, then
    /// waits for the remaining replies.
    pub fn run(
        &mut self,
        mix: &Mix,
        connections: usize,
        depth: usize,
        time: Duration,
    ) -> Result<Tally> {
        let started = Instant::now();
        let mut tally = Tally { requests: 0, elapsed: time, latency: histogram() };
        for lane in &mut self.lanes[..connections] {
            (0..depth).for_each(|_| lane.queue(mix, started));
            lane.flush()?;
        }
        let mut open = connections;
        let mut events = Events::with_capacity(256);
        while open > 0 {
            self.wait(&mut events)?;
            for event in &events {
                let lane = &mut self.lanes[event.token().0];
                if lane.waiting.is_empty() {
                    // A ring's channel that is not drained is full after a few notifications, and then signals
                    // nothing more.
                    lane.connection.receive()?;
                    continue;
                }
                let goes_on = started.elapsed() < time;
                lane.serve(mix, goes_on, self.framing_only, &mut tally)?;
                open -= usize::from(lane.waiting.is_empty());
            }
        }
        tally.elapsed = started.elapsed();
        Ok(tally)
    }

    fn wait(&mut self, events: &mut Events) -> Result<()> {
        match self.poll.poll(events, Some(TIMEOUT)) {
            Ok(()) if events.is_empty() => wrong!("timed out: no reply for {TIMEOUT:?}"),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Creates a histogram of nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX, DIGITS)
        .unwrap_or_else(|_| unreachable!("{DIGITS} digits are allowed"))
}

/// Records a time in a histogram of nanoseconds.
pub fn record(latency: &mut Histogram<u64>, time: Duration) {
    latency.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

impl Lane {
    fn queue(&mut self, mix: &Mix, now: Instant) {
        let weights: usize = mix.iter().map(|(weight, _)| weight).sum();
        let mut drawn = if mix.len() > 1 { self.random.below(weights) } else { 0 };
        let mut part = 0;
        while drawn >= mix[part].0 {
            drawn -= mix[part].0;
            part += 1;
        }
        let index = self.random.below(mix[part].1.len());
        let req_id = self.next_req;
        self.next_req = self.next_req.wrapping_add(1);
        self.connection.queue_request(&mix[part].1[index], req_id);
        self.waiting.push_back(Waiting { req_id, part, index, sent: now });
    }

    fn flush(&mut self) -> Result<()> {
        // The rest is sent when replies have made room.
        self.connection.flush()?;
        Ok(())
    }

    /// Reads and checks the available replies, and sends one request for each.
    fn serve(
        &mut self,
        mix: &Mix,
        goes_on: bool,
        framing_only: bool,
        tally: &mut Tally,
    ) -> Result<()> {
        self.connection.receive()?;
        let now = Instant::now();
        let mut taken = 0;
        while let Some(message) = self.connection.message()? {
            let Some(waiting) = self.waiting.pop_front() else {
                wrong!("unsolicited reply: {message:?}")
            };
            check(&message, &waiting, &mix[waiting.part].1[waiting.index], framing_only)?;
            record(&mut tally.latency, now - waiting.sent);
            taken += 1;
        }
        tally.requests += taken;
        if goes_on {
            (0..taken).for_each(|_| self.queue(mix, now));
        }
        self.flush()
    }
}

fn check(
    message: &Message<'_>,
    waiting: &Waiting,
    request: &Request,
    framing_only: bool,
) -> Result<()> {
    let name = request.kind.name();
    if message.kind == WATCH_EVENT {
        wrong!("event without a watch: {message:?}");
    }
    if message.req_id != waiting.req_id || message.tx_id != 0 {
        wrong!("the reply to {name} {} is {message:?}", waiting.req_id);
    }
    if framing_only {
        return Ok(());
    }
    if message.kind == ERROR || message.kind != request.kind as u32 {
        wrong!("the reply to {name} is {message:?}");
    }
    if !request.expect.matches(message.payload) {
        let payload = String::from_utf8_lossy(message.payload);
        wrong!("the reply to {name} is {payload:?}, not {:?}", request.expect);
    }
    Ok(())
}
