//! Guests that stay, and ask at fixed times whatever happens to the others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use xenstored::host::sim::SimClient;
use xenstored::protocol::Kind;
use xenstored::words::Domid;

use crate::client::{Blocking, Expect, Link, Paced, Request, histogram, words};
use crate::trouble::{Result, Trouble};

/// From one request of theirs to the next.
const INTERVAL: Duration = Duration::from_millis(1);
/// So long they do not look whether they are to end.
const SLICE: Duration = Duration::from_millis(10);

/// Domains with nothing but a name, which they read.
pub struct Stayers {
    /// Their domains end with it.
    _host: SimClient,
    guests: Vec<(Paced, Request)>,
}

impl Stayers {
    /// Makes and introduces them.
    pub fn new(
        mut host: SimClient,
        toolstack: &mut Blocking,
        domids: Vec<Domid>,
    ) -> Result<Stayers> {
        let mut guests = Vec::new();
        for domid in domids {
            let guest = toolstack.build_domain(&mut host, domid)?;
            let name = format!("stayer{domid}");
            toolstack.write(&format!("/local/domain/{domid}/name"), &name)?;
            toolstack.flush()?;
            let expected = Expect::Payload(name.into_bytes());
            let request = Request::new(Kind::Read, &words(&["name"]), expected);
            guests.push((Paced::new(Link::Ring(Box::new(guest)), false)?, request));
        }
        Ok(Stayers { _host: host, guests })
    }

    /// Has them ask, each on a thread of its own, while `work` is done; answers how long they
    /// waited, from when they were to ask.
    ///
    /// # Errors
    /// What is wrong with a reply, or comes of `work`.
    pub fn ask_while<T>(
        &mut self,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Histogram<u64>)> {
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.guests.iter_mut().map(|guest| scope.spawn(|| ask(guest, &ends))).collect();
            let done = work();
            ends.store(true, Ordering::Relaxed);
            let mut latency = histogram();
            for thread in threads {
                let of_one = thread.join();
                let of_one = of_one.map_err(|_| Trouble::Wrong("a stayer panicked".into()))?;
                add(&mut latency, &of_one?)?;
            }
            Ok((done?, latency))
        })
    }
}

/// Asks until it is to end.
fn ask((paced, request): &mut (Paced, Request), ends: &AtomicBool) -> Result<Histogram<u64>> {
    let mut latency = histogram();
    while !ends.load(Ordering::Relaxed) {
        add(&mut latency, &paced.run(request, INTERVAL, SLICE)?.latency)?;
    }
    Ok(latency)
}

fn add(all: &mut Histogram<u64>, more: &Histogram<u64>) -> Result<()> {
    all.add(more).map_err(|error| Trouble::Wrong(error.to_string()))
}
