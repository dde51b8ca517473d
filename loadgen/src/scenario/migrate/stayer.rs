//! Guests that stay, and send requests at fixed times during the migration.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use xenstored::host::sim::SimClient;
use xenstored::protocol::Operation;
use xenstored::types::Domid;

use crate::client::{Blocking, Expect, Link, Paced, Request, histogram, record, words};
use crate::trouble::Result;
use crate::wrong;

/// Interval of each guest's requests.
const INTERVAL: Duration = Duration::from_millis(1);
/// Warm-up time of each guest before the measurement.
const WARM_UP: Duration = Duration::from_millis(10);
/// Upper bound of any guest's wait for a reply.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Latencies: the intended time of each request, and the time from then to its reply.
pub struct Waits(Vec<(Instant, Duration)>);

impl Waits {
    /// Returns the latencies of requests due in this period.
    pub fn within(&self, period: &Range<Instant>) -> Histogram<u64> {
        let mut latency = histogram();
        for (_, waited) in self.0.iter().filter(|(due, _)| period.contains(due)) {
            record(&mut latency, *waited);
        }
        latency
    }
}

/// Domains with only a name, which they read, each on its own thread.
pub struct Stayers {
    /// The domains end with this connection.
    _host: SimClient,
    /// Starts each thread.
    begins: Vec<SyncSender<()>>,
    ends: Arc<AtomicBool>,
    asked: Receiver<Result<Waits>>,
}

impl Stayers {
    /// Creates and introduces the domains.
    pub fn new(
        mut host: SimClient,
        toolstack: &mut Blocking,
        domids: Vec<Domid>,
    ) -> Result<Stayers> {
        let (ends, mut begins) = (Arc::new(AtomicBool::new(false)), Vec::new());
        let (answer, asked) = sync_channel(domids.len());
        for domid in domids {
            let guest = toolstack.build_domain(&mut host, domid)?;
            let name = format!("stayer{domid}");
            toolstack.write(&format!("/local/domain/{domid}/name"), &name)?;
            toolstack.flush()?;
            let expected = Expect::Payload(name.into_bytes());
            let request = Request::new(Operation::Read, &words(&["name"]), expected);
            let guest = (Paced::new(Link::Ring(Box::new(guest)), false)?, request);
            let (begin, begun) = sync_channel(1);
            let (ends, answer) = (Arc::clone(&ends), answer.clone());
            std::thread::spawn(move || stay(guest, &begun, &ends, &answer));
            begins.push(begin);
        }
        Ok(Stayers { _host: host, begins, ends, asked })
    }

    /// Sends requests during `work`; returns its result and the latencies.
    ///
    /// # Errors
    /// A wrong reply, or an error of `work`.
    pub fn ask_while<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<(T, Waits)> {
        self.ends.store(false, Ordering::Relaxed);
        if self.begins.iter().any(|begin| begin.send(()).is_err()) {
            wrong!("a stayer panicked");
        }
        let done = work();
        self.ends.store(true, Ordering::Relaxed);
        let asked = self.begins.iter().map(|_| self.asked.recv_timeout(TIMEOUT));
        let asked: Vec<_> = asked.collect();
        // A failure of the work may be the reason for missing replies.
        let done = done?;
        let mut waits = Vec::new();
        for of_one in asked {
            let Ok(of_one) = of_one else { wrong!("timed out: a stayer does not end") };
            waits.extend(of_one?.0);
        }
        Ok((done, Waits(waits)))
    }
}

impl Drop for Stayers {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// Sends requests whenever the measurement is started, and once before, so that the start of the thread does not count
/// as latency.
fn stay(
    mut guest: (Paced, Request),
    begun: &Receiver<()>,
    ends: &AtomicBool,
    answer: &SyncSender<Result<Waits>>,
) {
    let mut warm = guest.0.run(&guest.1, INTERVAL, WARM_UP).map(drop);
    while begun.recv().is_ok() {
        let asked = std::mem::replace(&mut warm, Ok(())).and_then(|()| ask(&mut guest, ends));
        if answer.send(asked).is_err() {
            return;
        }
    }
}

/// Sends requests until `ends` is set.
fn ask((paced, request): &mut (Paced, Request), ends: &AtomicBool) -> Result<Waits> {
    let mut waits = Vec::new();
    let is_over = |_| ends.load(Ordering::Relaxed);
    let times = (Instant::now(), INTERVAL);
    paced.run_until(request, times, is_over, |due, waited| waits.push((due, waited)))?;
    Ok(Waits(waits))
}
