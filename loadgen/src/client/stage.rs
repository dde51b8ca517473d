//! Clients with a story each, as async functions, all on one thread.
//!
//! ```text
//!   run:  polls the tasks that can go on  ->  sends what they queued, one write a connection
//!            ^                                            |
//!            +---- wakes those whose reply or event came <-+-- waits for the daemon
//! ```
//!
//! A boot is a long dialogue between a toolstack, two kernels and their events; as an async
//! function it reads as it happens, and ten thousand of them cost one thread.

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
use crate::trouble::{Result, Trouble};
use crate::wrong;

type Task = Pin<Box<dyn Future<Output = Result<()>>>>;

/// What all clients of a stage did.
#[derive(Default)]
pub struct Counts {
    /// Replies.
    pub requests: Cell<u64>,
    /// Events.
    pub events: Cell<u64>,
    /// Replies `EAGAIN` to TRANSACTION_END.
    pub conflicts: Cell<u64>,
    /// Other replies to TRANSACTION_END that committed.
    pub commits: Cell<u64>,
}

/// The tasks, their connections, and what connects them.
pub struct Stage {
    inner: Rc<Inner>,
    /// The first handle: the tasks end with it.
    owns: bool,
}

/// What the handles of a stage and its clients share.
pub(super) struct Inner {
    pub(super) poll: RefCell<Poll>,
    pub(super) clients: RefCell<Slab<Weak<State>>>,
    /// Clients with something to send.
    pub(super) unsent: RefCell<Vec<Weak<State>>>,
    /// Tasks that have not begun, and whether they are waited for.
    spawned: RefCell<Vec<(Task, bool)>>,
    tasks: RefCell<Slab<Running>>,
    ready: Arc<Ready>,
    timers: Rc<Timers>,
    /// Tasks that are waited for.
    awaited: Cell<usize>,
    /// Connections that were made.
    connected: Cell<u64>,
    pub(super) recording: RefCell<Option<Recording>>,
    pub(super) counts: Counts,
}

struct Running {
    /// `None` while it is polled.
    task: Option<Task>,
    waker: Waker,
    /// The stage runs until it is done.
    awaited: bool,
}

/// The tasks that can go on. Wakers may be used from any thread, hence the lock.
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
    /// An empty stage.
    pub fn new() -> Result<Stage> {
        let poll = Poll::new().map_err(|error| Trouble::io("cannot poll", error))?;
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

    /// Another handle, for a task that makes connections of its own.
    pub fn handle(&self) -> Stage {
        Stage { inner: Rc::clone(&self.inner), owns: false }
    }

    /// A connection to a daemon's socket. It ends with its last handle.
    pub fn connect(&self, socket: &Path) -> Result<Client> {
        let link = Link::connect(socket);
        self.client(link.map_err(|error| Trouble::io("cannot connect", error))?)
    }

    /// A connection over this link.
    pub fn client(&self, mut link: Link) -> Result<Client> {
        let mut clients = self.inner.clients.borrow_mut();
        let entry = clients.vacant_entry();
        let poll = self.inner.poll.borrow();
        link.register(poll.registry(), Token(entry.key()))
            .map_err(|error| Trouble::io("cannot poll a connection", error))?;
        let number = self.inner.connected.get() + 1;
        self.inner.connected.set(number);
        let state = Rc::new(State::new(entry.key(), number, Rc::clone(&self.inner), link));
        entry.insert(Rc::downgrade(&state));
        Ok(Client(state))
    }

    /// Adds a task. It begins with the next [`Stage::run`], or soon if one is under way.
    pub fn spawn(&self, task: impl Future<Output = Result<()>> + 'static) {
        self.inner.spawned.borrow_mut().push((Box::pin(task), true));
    }

    /// Adds a task that nobody waits for: one that serves others.
    pub fn serve(&self, task: impl Future<Output = Result<()>> + 'static) {
        self.inner.spawned.borrow_mut().push((Box::pin(task), false));
    }

    /// For a task that is to go on at this time; up to a millisecond later it does.
    pub fn until(&self, when: Instant) -> Until {
        Until::new(&self.inner.timers, when)
    }

    /// What all clients did up to now.
    pub fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    /// Runs until all tasks are done that are waited for.
    ///
    /// # Errors
    /// The first task's that fails; `Wrong` if `limit` is over before, with how many are not done.
    pub fn run(&self, limit: Duration) -> Result<()> {
        match self.run_for(limit)? {
            0 => Ok(()),
            left => wrong!("{left} clients are not done after {limit:?}"),
        }
    }

    /// Runs until all tasks are done that are waited for, or the time is over; answers how many
    /// are left.
    ///
    /// # Errors
    /// The first task's that fails.
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

    /// Ends all tasks where they are.
    pub fn abandon(&self) {
        drop(self.inner.tasks.take());
        drop(self.inner.spawned.take());
        self.inner.awaited.set(0);
    }

    /// Writes down from now on what each client asks, and what it is sent.
    pub fn record(&self) {
        *self.inner.recording.borrow_mut() = Some(Recording::default());
    }

    /// What was written down.
    pub fn recorded(&self) -> Recording {
        self.inner.recording.take().unwrap_or_default()
    }

    /// Takes in new tasks; whether there were any.
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

    /// Polls each task that can go on; whether there was any.
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

    /// Sends what is queued.
    fn send(&self) -> Result<()> {
        for state in self.inner.unsent.take() {
            let Some(state) = state.upgrade() else { continue };
            state.send()?;
        }
        Ok(())
    }

    fn receive(&self, events: &mut Events, patience: Duration) -> Result<()> {
        match self.inner.poll.borrow_mut().poll(events, Some(patience)) {
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
    /// Tasks hold clients, and clients their stage: the circle is cut here.
    fn drop(&mut self) {
        if self.owns {
            self.abandon();
        }
    }
}
