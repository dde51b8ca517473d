//! Guests that stay, and ask at fixed times whatever happens to the others.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use xenstored::host::sim::SimClient;
use xenstored::protocol::Operation;
use xenstored::words::Domid;

use crate::client::{Blocking, Expect, Link, Paced, Request, histogram, record, words};
use crate::trouble::Result;
use crate::wrong;

/// From one request of theirs to the next.
const INTERVAL: Duration = Duration::from_millis(1);
/// So long each asks before it counts.
const WARM_UP: Duration = Duration::from_millis(10);
/// Longer than any of them waits for a reply.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long they waited: of each request when it was to be sent, and the time from then to its reply.
pub struct Waits(Vec<(Instant, Duration)>);

impl Waits {
    /// Of requests that were to be sent in this period.
    pub fn within(&self, period: &Range<Instant>) -> Histogram<u64> {
        let mut latency = histogram();
        for (_, waited) in self.0.iter().filter(|(due, _)| period.contains(due)) {
            record(&mut latency, *waited);
        }
        latency
    }
}

/// Domains with nothing but a name, which they read, each on a thread of its own.
pub struct Stayers {
    /// Their domains end with it.
    _host: SimClient,
    /// Has each begin.
    begins: Vec<SyncSender<()>>,
    ends: Arc<AtomicBool>,
    asked: Receiver<Result<Waits>>,
}

impl Stayers {
    /// Makes and introduces them.
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

    /// Has them ask while `work` is done; answers how long they waited.
    ///
    /// # Errors
    /// What is wrong with a reply, or comes of `work`.
    pub fn ask_while<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<(T, Waits)> {
        self.ends.store(false, Ordering::Relaxed);
        if self.begins.iter().any(|begin| begin.send(()).is_err()) {
            wrong!("a stayer panicked");
        }
        let done = work();
        self.ends.store(true, Ordering::Relaxed);
        let asked = self.begins.iter().map(|_| self.asked.recv_timeout(PATIENCE));
        let asked: Vec<_> = asked.collect();
        // What went wrong with the work may be why they were not answered.
        let done = done?;
        let mut waits = Vec::new();
        for of_one in asked {
            let Ok(of_one) = of_one else { wrong!("a stayer does not end") };
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

/// Asks whenever it is to begin, and once before: that its thread is new is nothing that a domain has to
/// wait for.
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

/// Asks until it is to end.
fn ask((paced, request): &mut (Paced, Request), ends: &AtomicBool) -> Result<Waits> {
    let mut waits = Vec::new();
    let is_over = |_| ends.load(Ordering::Relaxed);
    let times = (Instant::now(), INTERVAL);
    paced.run_until(request, times, is_over, |due, waited| waits.push((due, waited)))?;
    Ok(Waits(waits))
}
