//! Hostile guests: tasks on one thread.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use xenstored::host::sim::SimGuest;
use xenstored::host::{CONNECTION, ERROR, REQ_CONS, REQ_PROD};
use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::attacks::{Attack, Attacker, Step};
use crate::client::{Client, Link, Stage};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Requests per second of all guests together: enough to see their cost to other clients, and few enough that as many
/// harmless requests leave the machine mostly idle.
const RATE: u32 = 4000;
/// Interval at which the thread checks whether the victims are done.
const PIECE: Duration = Duration::from_millis(50);
/// Timeout of the preparation of an attack.
const PREPARED_BY: Duration = Duration::from_secs(120);
/// A distance between two ring indices that exceeds the ring's size, in bytes.
const TOO_FAR: u32 = 5000;
/// Time for which a guest waits until its broken ring is noticed.
const NOTICED_BY: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(1);

/// A phase of the guests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    /// Send as many harmless requests as the attack has.
    Harmless,
    /// Send the attack's preparation.
    Prepare,
    /// Send the attack.
    Attack,
}

/// The thread of the guests. The thread ends when this handle is dropped.
pub struct Attackers {
    orders: Option<Sender<Phase>>,
    /// Number of requests sent in each phase.
    results: Receiver<Result<u64>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Attackers {
    /// Starts the thread; each guest takes part in one of `attacks`.
    pub fn start(guests: Vec<SimGuest>, attacks: &'static [Attack]) -> Attackers {
        let (orders, received) = channel();
        let (done, results) = channel();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let crowd = Crowd::new(guests, attacks);
            for phase in received {
                let result = match &crowd {
                    Ok(crowd) => crowd.run(phase, &is_over),
                    Err(trouble) => Err(ClientError::Wrong(trouble.to_string())),
                };
                // The receiver is gone if the victims failed.
                let _ = done.send(result);
            }
        });
        Attackers { orders: Some(orders), results, over, thread: Some(thread) }
    }

    /// Runs the preparation of the attack; returns the number of requests.
    pub fn prepare(&self) -> Result<u64> {
        self.order(Phase::Prepare);
        self.result()
    }

    /// Measures victims while the guests send; also returns the number of the guests' requests.
    pub fn beside<T>(&self, phase: Phase, measure: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
        self.over.store(false, Ordering::Relaxed);
        self.order(phase);
        let measured = measure();
        self.over.store(true, Ordering::Relaxed);
        let sent = self.result();
        Ok((measured?, sent?))
    }

    fn order(&self, phase: Phase) {
        // A thread that ended has no result either.
        let _ = self.orders.as_ref().map(|orders| orders.send(phase));
    }

    fn result(&self) -> Result<u64> {
        let ended = |_| ClientError::Wrong("the thread of hostile guests has ended".into());
        self.results.recv().map_err(ended)?
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The guests, on their thread.
struct Crowd {
    stage: Stage,
    guests: Vec<(Client, Attacker)>,
}

impl Crowd {
    fn new(guests: Vec<SimGuest>, attacks: &'static [Attack]) -> Result<Crowd> {
        let stage = Stage::new()?;
        let domids: Vec<Domid> = guests.iter().map(|guest| guest.domid).collect();
        let groups: Vec<Rc<[Domid]>> = (0..attacks.len())
            .map(|nth| domids.iter().copied().skip(nth).step_by(attacks.len()).collect())
            .collect();
        let mut crowd = Vec::with_capacity(guests.len());
        for (number, guest) in guests.into_iter().enumerate() {
            let nth = number % attacks.len();
            let group = Rc::clone(&groups[nth]);
            let attacker = Attacker { attack: &attacks[nth], place: number / attacks.len(), group };
            crowd.push((stage.client(Link::Ring(Box::new(guest)))?, attacker));
        }
        Ok(Crowd { stage, guests: crowd })
    }

    fn run(&self, phase: Phase, over: &AtomicBool) -> Result<u64> {
        let sent = Rc::new(Cell::new(0));
        let busy = self.guests.iter().filter(|(_, attacker)| !attacker.repeat(0).is_empty());
        let busy = u32::try_from(busy.count()).unwrap_or(u32::MAX);
        for (number, (client, attacker)) in (0..).zip(&self.guests) {
            let guest = Guest { stage: self.stage.handle(), client: client.clone() };
            let (attacker, sent) = (attacker.clone(), Rc::clone(&sent));
            self.stage.spawn(async move {
                match phase {
                    Phase::Prepare => guest.perform(attacker.prepare()).await,
                    _ => guest.repeat(phase, &attacker, (number, busy), &sent).await,
                }
            });
        }
        if phase == Phase::Prepare {
            self.stage.run(PREPARED_BY)?;
        }
        while phase != Phase::Prepare && !over.load(Ordering::Relaxed) {
            if self.stage.run_for(PIECE)? == 0 {
                wrong!("no guest has anything to send");
            }
        }
        self.stage.abandon();
        Ok(sent.get())
    }
}

/// A guest in its task.
struct Guest {
    stage: Stage,
    client: Client,
}

impl Guest {
    /// Sends the rounds of an attack, or as many harmless requests, at the same times. A guest that is behind schedule
    /// does not pause.
    async fn repeat(
        &self,
        phase: Phase,
        attacker: &Attacker,
        (number, busy): (u32, u32),
        sent: &Cell<u64>,
    ) -> Result<()> {
        let mut due = Instant::now();
        for round in 0.. {
            let mut steps = attacker.repeat(round);
            let requests: usize = steps.iter().map(Step::len).sum();
            if requests == 0 {
                break;
            }
            let share = Duration::from_secs(1) * u32::try_from(requests).unwrap_or(1) / RATE;
            if round == 0 {
                due += share * (number % busy);
            }
            self.stage.until(due).await;
            due += share * busy;
            if phase == Phase::Harmless {
                steps = steps.iter().map(Step::harmless).collect();
            }
            self.perform(steps).await?;
            sent.set(sent.get() + requests as u64);
        }
        Ok(())
    }

    /// Sends the steps of a round. Errors are accepted: the daemon may refuse excessive requests.
    async fn perform(&self, steps: Vec<Step>) -> Result<()> {
        for step in steps {
            match step {
                Step::Requests(requests) => drop(self.client.several(0, &requests).await?),
                Step::Transaction { requests, held, commits } => {
                    let Ok(id) = self.client.request(Operation::TransactionStart, 0, b"\0").await?
                    else {
                        continue;
                    };
                    let digits = String::from_utf8_lossy(&id[..id.len().saturating_sub(1)]);
                    let tx = digits.parse().unwrap_or(0);
                    self.client.several(tx, &requests).await?;
                    self.stage.until(Instant::now() + held).await;
                    let end: &[u8] = if commits { b"T\0" } else { b"F\0" };
                    let _ = self.client.request(Operation::TransactionEnd, tx, end).await?;
                }
                Step::BreakRing => self.break_ring().await,
                Step::StopReading => self.client.stop_reading(),
            }
        }
        Ok(())
    }

    async fn break_ring(&self) {
        self.on_ring(|guest| {
            let beyond = guest.page.load(REQ_CONS).wrapping_add(TOO_FAR);
            guest.page.store(REQ_PROD, beyond);
        });
        self.wait_until(|guest| guest.page.load(ERROR) != 0).await;
        self.on_ring(|guest| guest.page.store(CONNECTION, 1));
        self.wait_until(|guest| guest.page.load(CONNECTION) == 0).await;
    }

    /// Changes the page and notifies. A full channel carries a notification already.
    fn on_ring(&self, change: impl FnOnce(&SimGuest)) {
        self.client.with_guest(|guest| {
            change(guest);
            let _ = guest.notify();
        });
    }

    async fn wait_until(&self, noticed: impl Fn(&SimGuest) -> bool) {
        let limit = Instant::now() + NOTICED_BY;
        while self.client.with_guest(&noticed) == Some(false) && Instant::now() < limit {
            self.stage.until(Instant::now() + POLL).await;
        }
    }
}
