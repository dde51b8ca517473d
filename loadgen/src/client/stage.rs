//! An async executor of clients, all on one thread.
//!
//! ```text
//!   run:  polls the runnable tasks  ->  sends their output, one write per connection
//!            ^                                   |
//!            +---- wakes tasks at replies and <--+-- waits for the daemon
//!                  events
//! ```
//!
//! A boot is a long dialogue between a toolstack, two kernels and their events; an async function describes it in the
//! order of events, and ten thousand of them cost one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll as Step, Wake, Waker};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use slab::Slab;

use super::dialogue::{Client, State};
use super::link::Link;
use super::recording::Recording;
use super::timer::{Timers, Until};
use crate::trouble::{ClientError, Result};
use crate::wrong;

type Task = Pin<Box<dyn Future<Output = Result<()>>>>;

/// Totals over all clients of a stage.
#[derive(Default)]
pub struct Counts {
    /// Number of replies.
    pub requests: Cell<u64>,
    /// Number of events.
    pub events: Cell<u64>,
    /// Number of `EAGAIN` replies to TRANSACTION_END.
    pub conflicts: Cell<u64>,
    /// Number of commits.
    pub commits: Cell<u64>,
}

/// A single-threaded executor with its tasks and connections.
pub struct Stage {
    inner: Rc<Inner>,
    /// Whether this is the first handle; dropping it ends the tasks.
    owns: bool,
}

/// The shared state of a stage's handles and clients.
pub(super) struct Inner {
    pub(super) poll: RefCell<Poll>,
    pub(super) clients: RefCell<Slab<Weak<State>>>,
    /// Clients with unsent output.
    pub(super) unsent: RefCell<Vec<Weak<State>>>,
    /// Tasks to be started, each with whether [`Stage::run`] waits for it.
    spawned: RefCell<Vec<(Task, bool)>>,
    tasks: RefCell<Slab<Running>>,
    ready: Arc<Ready>,
    timers: Rc<Timers>,
    /// Number of unfinished tasks that [`Stage::run`] waits for.
    awaited: Cell<usize>,
    /// Number of connections made so far.
    connected: Cell<u64>,
    pub(super) recording: RefCell<Option<Recording>>,
    pub(super) counts: Counts,
}

struct Running {
    /// `None` while the task is polled.
    task: Option<Task>,
    waker: Waker,
    /// Whether the stage runs until the task ends.
    awaited: bool,
}

/// The runnable tasks, locked because wakers may be used from any thread.
#[derive(Default)]
struct Ready(Mutex<VecDeque<usize>>);

impl Ready {
    fn push(&self, task: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
    }

    fn pop(&self) -> Option<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

struct TaskWaker {
    task: usize,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.task);
    }
}

impl Stage {
    /// Creates a stage without tasks.
    pub fn new() -> Result<Stage> {
        let poll = Poll::new().map_err(|error| ClientError::io("cannot poll", error))?;
        Ok(Stage {
            inner: Rc::new(Inner {
                poll: RefCell::new(poll),
                clients: RefCell::default(),
                unsent: RefCell::default(),
                spawned: RefCell::default(),
                tasks: RefCell::default(),
                ready: Arc::default(),
                timers: Rc::default(),
                awaited: Cell::new(0),
                connected: Cell::new(0),
                recording: RefCell::default(),
                counts: Counts::default(),
            }),
            owns: true,
        })
    }

    /// Returns another handle, for a task that makes connections itself.
    pub fn handle(&self) -> Stage {
        Stage { inner: Rc::clone(&self.inner), owns: false }
    }

    /// Connects to a daemon's socket. The connection ends with its last handle.
    pub fn connect(&self, socket: &Path) -> Result<Client> {
        let link = Link::connect(socket);
        self.client(link.map_err(|error| ClientError::io("cannot connect", error))?)
    }

    /// Creates a connection over this link.
    pub fn client(&self, mut link: Link) -> Result<Client> {
        let mut clients = self.inner.clients.borrow_mut();
        let entry = clients.vacant_entry();
        let poll = self.inner.poll.borrow();
        link.register(poll.registry(), Token(entry.key()))
            .map_err(|error| ClientError::io("cannot poll a connection", error))?;
        let number = self.inner.connected.get() + 1;
        self.inner.connected.set(number);
        let state = Rc::new(State::new(entry.key(), number, Rc::clone(&self.inner), link));
        entry.insert(Rc::downgrade(&state));
        Ok(Client(state))
    }

    /// Adds a task. The task starts with the next [`Stage::run`], or soon if one is in progress.
    pub fn spawn(&self, task: impl Future<Output = Result<()>> + 'static) {
        self.inner.spawned.borrow_mut().push((Box::pin(task), true));
    }

    /// Adds a background task, for which [`Stage::run`] does not wait.
    pub fn serve(&self, task: impl Future<Output = Result<()>> + 'static) {
        self.inner.spawned.borrow_mut().push((Box::pin(task), false));
    }

    /// Returns a future that completes at this time, with up to a millisecond of delay.
    pub fn until(&self, when: Instant) -> Until {
        Until::new(&self.inner.timers, when)
    }

    /// Returns the totals of all clients so far.
    pub fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    /// Runs until all awaited tasks have ended.
    ///
    /// # Errors
    /// The first error of a task; `Wrong`, with the number of unfinished tasks, if `limit` expires before.
    pub fn run(&self, limit: Duration) -> Result<()> {
        match self.run_for(limit)? {
            0 => Ok(()),
            left => wrong!("timed out: {left} clients are not finished after {limit:?}"),
        }
    }

    /// Runs until all awaited tasks have ended or the time limit expires; returns the number of unfinished tasks.
    ///
    /// # Errors
    /// The first error of a task.
    pub fn run_for(&self, limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        let mut events = Events::with_capacity(1024);
        loop {
            while self.begin_spawned() | self.go_on()? {}
            self.send()?;
            let awaited = self.inner.awaited.get();
            let now = Instant::now();
            if awaited == 0 || now >= deadline {
                return Ok(awaited);
            }
            let next = self.inner.timers.first().unwrap_or(deadline).min(deadline);
            self.receive(&mut events, next.saturating_duration_since(now))?;
            self.inner.timers.fire(Instant::now());
        }
    }

    /// Drops all tasks.
    pub fn abandon(&self) {
        drop(self.inner.tasks.take());
        drop(self.inner.spawned.take());
        self.inner.awaited.set(0);
    }

    /// Starts the recording of all clients' requests and replies.
    pub fn record(&self) {
        *self.inner.recording.borrow_mut() = Some(Recording::default());
    }

    /// Ends the recording and returns it.
    pub fn recorded(&self) -> Recording {
        self.inner.recording.take().unwrap_or_default()
    }

    /// Starts new tasks; returns whether there were any.
    fn begin_spawned(&self) -> bool {
        let spawned = self.inner.spawned.take();
        let any = !spawned.is_empty();
        for (task, awaited) in spawned {
            self.inner.awaited.set(self.inner.awaited.get() + usize::from(awaited));
            let mut tasks = self.inner.tasks.borrow_mut();
            let entry = tasks.vacant_entry();
            let waker = TaskWaker { task: entry.key(), ready: Arc::clone(&self.inner.ready) };
            self.inner.ready.push(entry.key());
            let waker = Waker::from(Arc::new(waker));
            entry.insert(Running { task: Some(task), waker, awaited });
        }
        any
    }

    /// Polls each runnable task; returns whether there was any.
    fn go_on(&self) -> Result<bool> {
        let mut any = false;
        while let Some(place) = self.inner.ready.pop() {
            let mut tasks = self.inner.tasks.borrow_mut();
            let Some(running) = tasks.get_mut(place) else { continue };
            let Some(mut task) = running.task.take() else { continue };
            let waker = running.waker.clone();
            drop(tasks);
            any = true;
            let step = task.as_mut().poll(&mut Context::from_waker(&waker));
            let mut tasks = self.inner.tasks.borrow_mut();
            match step {
                Step::Pending => tasks[place].task = Some(task),
                Step::Ready(done) => {
                    let was_awaited = usize::from(tasks.remove(place).awaited);
                    self.inner.awaited.set(self.inner.awaited.get() - was_awaited);
                    done?;
                }
            }
        }
        Ok(any)
    }

    /// Sends the queued output of all clients.
    fn send(&self) -> Result<()> {
        for state in self.inner.unsent.take() {
            let Some(state) = state.upgrade() else { continue };
            state.send()?;
        }
        Ok(())
    }

    fn receive(&self, events: &mut Events, timeout: Duration) -> Result<()> {
        match self.inner.poll.borrow_mut().poll(events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &*events {
            let state = self.inner.clients.borrow().get(event.token().0).and_then(Weak::upgrade);
            if let Some(state) = state {
                state.receive()?;
                state.send()?;
            }
        }
        Ok(())
    }
}

impl Drop for Stage {
    /// Breaks the reference cycle: tasks hold clients, and clients hold their stage.
    fn drop(&mut self) {
        if self.owns {
            self.abandon();
        }
    }
}
