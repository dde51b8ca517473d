//! A guest that works during its migration, and detects lost or duplicated requests and events.
//!
//! In each step the guest reads a counter, increments it and reads it again, pipelined: the three requests and their
//! replies are in the ring at the same time, and some are longer than the ring. Then the guest waits for the events of
//! its writes. Every second step creates and removes a node, every third increments another number in a transaction.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use xenstored::protocol::Operation;
use xenstored::types::Domid;

use crate::client::{Client, Stage, Watch, histogram, payload, record, words};
use crate::trouble::Result;
use crate::wrong;

/// Timeout after which an event counts as lost.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Interval, in steps, at which the counter's value is longer than a ring.
const LONG_EVERY: u64 = 8;
const LONG_BYTES: usize = 1500;

const COUNTER: &str = "data/counter";
const SUM: &str = "data/sum";
const PULSE: &str = "data/pulse";

/// A phase of all guests. Each guest checks the phase once per step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Phase {
    /// The guests work.
    Work,
    /// Each guest starts a transaction and leaves it open.
    Open,
    /// Each guest reads again in its open transaction, and ends it.
    Close,
    /// Each guest ends after its current step.
    End,
}

/// The shared state and results of all guests.
pub struct Show {
    pub stage: Stage,
    /// Time from one step of a guest to its next.
    pub period: Duration,
    pub phase: Cell<Phase>,
    /// Number of guests that have completed the current `phase`.
    pub ready: Cell<usize>,
    /// Each guest's longest wait for replies since its transaction began, in nanoseconds.
    pub waited: RefCell<hdrhistogram::Histogram<u64>>,
    /// Number of steps done.
    pub steps: Cell<u64>,
    /// Number of events on the guests' watches that no write explains.
    pub unexplained: RefCell<Vec<String>>,
    /// Number of transactions that had to be repeated.
    pub repeated: Cell<u64>,
    pub beliefs: RefCell<Vec<Belief>>,
}

impl Show {
    /// Creates the shared state of guests that work at this pace.
    pub fn new(stage: Stage, period: Duration) -> Rc<Show> {
        Rc::new(Show {
            stage,
            period,
            phase: Cell::new(Phase::Work),
            ready: Cell::new(0),
            waited: RefCell::new(histogram()),
            steps: Cell::new(0),
            unexplained: RefCell::default(),
            repeated: Cell::new(0),
            beliefs: RefCell::default(),
        })
    }

    /// Starts a phase for all guests.
    pub fn ask(&self, phase: Phase) {
        self.ready.set(0);
        self.phase.set(phase);
    }
}

/// A guest's final state as observed by itself.
pub struct Belief {
    pub domid: Domid,
    /// The guest's own nodes with their values.
    pub nodes: [(&'static str, String); 2],
    /// The tokens of the guest's watches.
    pub tokens: Vec<String>,
}

/// Adds to a counter.
fn add(count: &Cell<u64>, more: u64) {
    count.set(count.get() + more);
}

/// A watch and its expected events.
struct Ears {
    watch: Watch,
    /// Written paths, each with the number of writes since the last expected event.
    due: VecDeque<(&'static str, usize)>,
    /// Further possible events: equal pending events may be merged.
    spare: Vec<&'static str>,
}

impl Ears {
    async fn on(client: &Client, path: &str) -> Result<Ears> {
        let watch = client.watch(path, &format!("own {path}")).await?;
        Ok(Ears { watch, due: VecDeque::new(), spare: Vec::new() })
    }

    /// Waits until every written path had at least one event.
    async fn hear(&mut self, show: &Show, domid: Domid) -> Result<()> {
        while let Some((path, times)) = self.due.pop_front() {
            let until = Instant::now() + TIMEOUT;
            loop {
                let Some(heard) = in_time(show, until, self.watch.next()).await else {
                    wrong!("domain {domid} gets no event of {path}");
                };
                if heard == path {
                    break;
                }
                self.besides(show, domid, &heard)?;
            }
            self.spare.extend((1..times).map(|_| path));
        }
        Ok(())
    }

    /// Reads the remaining events. No further events of the writes can arrive after this.
    fn take_rest(&mut self, show: &Show, domid: Domid) -> Result<()> {
        while let Some(heard) = self.watch.take() {
            self.besides(show, domid, &heard)?;
        }
        self.spare.clear();
        Ok(())
    }

    /// Counts an event without a matching write; fails for a path that the guest never writes.
    fn besides(&mut self, show: &Show, domid: Domid, heard: &str) -> Result<()> {
        if let Some(at) = self.spare.iter().position(|path| *path == heard) {
            self.spare.swap_remove(at);
            return Ok(());
        }
        if ![COUNTER, SUM, PULSE, "data"].contains(&heard) {
            wrong!("domain {domid} gets an event of {heard:?}, which it did not write");
        }
        show.unexplained
            .borrow_mut()
            .push(format!("domain {domid} gets a second event of {heard}"));
        Ok(())
    }
}

/// Returns the result of `future`, if it completes in time.
async fn in_time<T>(show: &Show, until: Instant, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut until) = (pin!(future), pin!(show.stage.until(until)));
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => until.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// A guest with its expected state.
struct Guest {
    show: Rc<Show>,
    client: Client,
    domid: Domid,
    counter: u64,
    sum: u64,
    counted: Ears,
    pulsed: Ears,
    all: Ears,
}

/// Works until the phase `Phase::End`. `late` spreads the guests over the period.
pub async fn run(show: Rc<Show>, client: Client, domid: Domid, late: Duration) -> Result<()> {
    client.write(0, COUNTER, value(0)).await?;
    client.write(0, SUM, "0").await?;
    let counted = Ears::on(&client, COUNTER).await?;
    let pulsed = Ears::on(&client, PULSE).await?;
    let all = Ears::on(&client, "data").await?;
    let before: HashMap<String, usize> = client.watches().into_iter().collect();
    let mut guest = Guest { show, client, domid, counter: 0, sum: 0, counted, pulsed, all };
    let mut due = Instant::now() + late;
    let (mut open, mut done, mut waited) = (None, Phase::Work, Duration::ZERO);
    loop {
        guest.show.stage.until(due).await;
        due = (due + guest.show.period).max(Instant::now());
        let begun = Instant::now();
        guest.step().await?;
        if open.is_some() {
            waited = waited.max(begun.elapsed());
        }
        let phase = guest.show.phase.get();
        if phase == std::mem::replace(&mut done, phase) {
            continue;
        }
        match phase {
            Phase::Work => {}
            Phase::Open => open = Some(guest.open().await?),
            Phase::Close => {
                if let Some(open) = open.take() {
                    guest.close(open).await?;
                    record(&mut guest.show.waited.borrow_mut(), waited);
                }
            }
            Phase::End => break,
        }
        guest.show.ready.set(guest.show.ready.get() + 1);
    }
    guest.take_rest()?;
    // The events of older watches are not expected again, as their nodes have not changed.
    for (token, unheard) in guest.client.watches() {
        if unheard > before.get(&token).copied().unwrap_or(0) {
            let text = format!("domain {domid} gets an unexpected event of {token:?}");
            guest.show.unexplained.borrow_mut().push(text);
        }
    }
    let belief = Belief {
        domid,
        nodes: [(COUNTER, value(guest.counter)), (SUM, guest.sum.to_string())],
        tokens: guest.client.watches().into_iter().map(|(token, _)| token).collect(),
    };
    guest.show.beliefs.borrow_mut().push(belief);
    Ok(())
}

impl Guest {
    async fn step(&mut self) -> Result<()> {
        self.take_rest()?;
        self.raise().await?;
        if self.counter.is_multiple_of(2) {
            self.pulse().await?;
        }
        if self.counter.is_multiple_of(3) {
            self.add_up().await?;
        }
        let (show, domid) = (&self.show, self.domid);
        for ears in [&mut self.counted, &mut self.pulsed, &mut self.all] {
            ears.hear(show, domid).await?;
        }
        add(&self.show.steps, 1);
        Ok(())
    }

    fn take_rest(&mut self) -> Result<()> {
        for ears in [&mut self.counted, &mut self.pulsed, &mut self.all] {
            ears.take_rest(&self.show, self.domid)?;
        }
        Ok(())
    }

    /// Reads the counter, increments it, and reads it again.
    async fn raise(&mut self) -> Result<()> {
        let (old, new) = (value(self.counter), value(self.counter + 1));
        let read = (Operation::Read, words(&[COUNTER]));
        let write = (Operation::Write, payload(COUNTER, &new));
        let replies = self.client.several(0, &[read.clone(), write, read]).await?;
        let found: Vec<_> = replies.into_iter().map(|reply| reply.map(text)).collect();
        if found != [Ok(old.clone()), Ok("OK\0".into()), Ok(new.clone())] {
            let domid = self.domid;
            wrong!("domain {domid} incremented {:?} to {:?} and read {found:?}", old, new);
        }
        self.counter += 1;
        self.counted.due.push_back((COUNTER, 1));
        self.all.due.push_back((COUNTER, 1));
        Ok(())
    }

    /// Creates and removes a node: each request would fail or have an effect if it were executed twice.
    async fn pulse(&mut self) -> Result<()> {
        let write = (Operation::Write, payload(PULSE, self.counter.to_string()));
        let remove = (Operation::Rm, words(&[PULSE]));
        let read = (Operation::Read, words(&[PULSE]));
        let replies = self.client.several(0, &[write, remove, read]).await?;
        let found: Vec<_> = replies.into_iter().map(|reply| reply.map(text)).collect();
        if found != [Ok("OK\0".into()), Ok("OK\0".into()), Err("ENOENT".into())] {
            wrong!("{}: a node that was created and removed: {found:?}", self.domid);
        }
        for ears in [&mut self.pulsed, &mut self.all] {
            ears.due.push_back((PULSE, 2));
        }
        Ok(())
    }

    /// Increments the other number in a transaction, and retries until it is committed.
    async fn add_up(&mut self) -> Result<()> {
        let (old, new) = (self.sum, self.sum + 1);
        loop {
            let tx = self.client.begin().await?;
            let found = self.client.read(tx, SUM).await?;
            if found != old.to_string() {
                wrong!("{}: a sum of {old} is {found} in a transaction", self.domid);
            }
            self.client.write(tx, SUM, new.to_string()).await?;
            // The transaction's changes are not transferred to the other host: it has to be repeated anyway.
            let seen = self.client.read(tx, SUM).await?;
            let is_carried = seen == old.to_string();
            if seen != new.to_string() && !is_carried {
                wrong!("{}: a sum of {new} is {seen} in a transaction", self.domid);
            }
            if self.client.commit(tx).await? {
                if is_carried {
                    wrong!("{}: a transaction is committed that has lost a write", self.domid);
                }
                break;
            }
            add(&self.show.repeated, 1);
        }
        self.sum = new;
        self.all.due.push_back((SUM, 1));
        Ok(())
    }

    /// Starts a transaction without conflicts.
    async fn open(&self) -> Result<(u32, String)> {
        let tx = self.client.begin().await?;
        Ok((tx, self.client.read(tx, "name").await?))
    }

    /// Reads again in the open transaction, and ends it.
    async fn close(&self, (tx, name): (u32, String)) -> Result<()> {
        if self.client.read(tx, "name").await? != name {
            wrong!("{}: another name in an open transaction", self.domid);
        }
        // The transaction's snapshot may be of any moment, but must contain a value of the counter.
        let counter = self.client.read(tx, COUNTER).await?;
        let number = counter.trim_end_matches('.').parse::<u64>();
        if !number.is_ok_and(|number| number <= self.counter && value(number) == counter) {
            wrong!("{}: the counter is {counter:?} in an open transaction", self.domid);
        }
        if self.client.commit(tx).await? {
            wrong!("{}: a transaction across the move is committed", self.domid);
        }
        Ok(())
    }
}

/// Returns the counter's value: a number, with a long suffix at intervals.
fn value(number: u64) -> String {
    let width = if number % LONG_EVERY == LONG_EVERY - 1 { LONG_BYTES } else { 0 };
    format!("{number:.<width$}")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| format!("{error}"))
}
