//! Locks that measure their hold times, for `cargo bench --bench holds --features holds`.
//!
//! Two times are taken of each hold: by the clock, which includes the time of other processes, and by the thread's CPU
//! time, which depends only on the code and, on a virtual machine, on the host. Each measured time includes the two
//! clock reads, about half a microsecond. [`control`] measures work without a lock in the same way: the maximum shows
//! the noise of the machine.

use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

static LOCKS: Record = Record::new();
static CONTROL: Record = Record::new();
static WATCHER: OnceLock<fn(Edge)> = OnceLock::new();

/// The start of a hold, or the end of this thread's latest hold.
#[derive(Clone, Copy)]
pub enum Edge {
    /// The lock was taken at this location.
    Begins(&'static Location<'static>),
    /// The lock will be released next.
    Ends,
}

/// Makes every hold call `watcher` at its start and end, without reading any clock: under valgrind rustix finds none.
/// To be called once per process, before the first lock.
pub fn watch(watcher: fn(Edge)) {
    let _ = WATCHER.set(watcher);
}

fn tell(edge: Edge) {
    if let Some(watcher) = WATCHER.get() {
        watcher(edge);
    }
}

/// The holds of all locks that ended since the last call of [`take`].
#[derive(Clone, Copy)]
pub struct Holds {
    /// Number of holds.
    pub count: u64,
    /// Sum of the holds, in the threads' CPU time.
    pub total_cpu: Duration,
    /// Longest hold by the clock.
    pub longest: Duration,
    /// Longest hold by the thread's CPU time, which may be a different hold.
    pub longest_cpu: Duration,
    /// Location at which the lock of `longest_cpu` was taken.
    pub longest_cpu_at: Option<&'static Location<'static>>,
}

impl Holds {
    const NONE: Holds = Holds {
        count: 0,
        total_cpu: Duration::ZERO,
        longest: Duration::ZERO,
        longest_cpu: Duration::ZERO,
        longest_cpu_at: None,
    };
}

/// Returns the record of the locks and resets it.
pub fn take() -> Holds {
    LOCKS.take()
}

/// Returns the record of [`control`] and resets it.
pub fn take_control() -> Holds {
    CONTROL.take()
}

/// Measures `work` like a hold of a lock.
#[track_caller]
pub fn control(work: impl FnOnce()) {
    let _since = Since::now(&CONTROL);
    work();
}

/// The accumulated record of holds.
/// Not in the `Mutex` of this module, which would measure itself.
struct Record(parking_lot::Mutex<Holds>);

impl Record {
    const fn new() -> Record {
        Record(parking_lot::Mutex::new(Holds::NONE))
    }

    fn take(&self) -> Holds {
        std::mem::replace(&mut *self.0.lock(), Holds::NONE)
    }

    fn add(&self, since: &Since, cpu: Duration, clock: Duration) {
        let mut holds = self.0.lock();
        holds.count += 1;
        holds.total_cpu += cpu;
        holds.longest = holds.longest.max(clock);
        if cpu > holds.longest_cpu {
            (holds.longest_cpu, holds.longest_cpu_at) = (cpu, Some(since.at));
        }
    }
}

/// A lock guard with the start of its hold.
pub struct Held<G> {
    // Field order: dropped, and so measured, before the lock is released.
    _since: Since,
    guard: G,
}

impl<G> Held<G> {
    #[track_caller]
    fn new(guard: G) -> Held<G> {
        let since = Since::now(&LOCKS);
        tell(Edge::Begins(since.at));
        Held { _since: since, guard }
    }
}

impl<G: Deref> Deref for Held<G> {
    type Target = G::Target;
    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Held<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

struct Since {
    record: &'static Record,
    at: &'static Location<'static>,
    /// The times by the clock and of the thread's CPU; `None` if a watcher is called instead.
    start: Option<(Instant, Duration)>,
}

impl Since {
    #[track_caller]
    fn now(record: &'static Record) -> Since {
        let start = WATCHER.get().is_none().then(|| (Instant::now(), cpu()));
        Since { record, at: Location::caller(), start }
    }
}

impl Drop for Since {
    fn drop(&mut self) {
        match self.start {
            Some((clock, before)) => {
                self.record.add(self, cpu().saturating_sub(before), clock.elapsed());
            }
            None => tell(Edge::Ends),
        }
    }
}

fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

pub type RwLockReadGuard<'a, T> = Held<parking_lot::RwLockReadGuard<'a, T>>;
pub type RwLockWriteGuard<'a, T> = Held<parking_lot::RwLockWriteGuard<'a, T>>;

/// `parking_lot::RwLock` with measured holds.
#[derive(Default)]
pub struct RwLock<T>(parking_lot::RwLock<T>);

impl<T> RwLock<T> {
    pub fn new(value: T) -> RwLock<T> {
        RwLock(parking_lot::RwLock::new(value))
    }

    #[track_caller]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        Held::new(self.0.read())
    }

    #[track_caller]
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        // `map` is not used, because the recorded caller would be inside it.
        let guard = self.0.try_read()?;
        Some(Held::new(guard))
    }

    #[track_caller]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        Held::new(self.0.write())
    }

    #[track_caller]
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        let guard = self.0.try_write()?;
        Some(Held::new(guard))
    }
}

/// `parking_lot::Mutex` with measured holds.
#[derive(Default)]
pub struct Mutex<T>(parking_lot::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(parking_lot::Mutex::new(value))
    }

    #[track_caller]
    pub fn lock(&self) -> Held<parking_lot::MutexGuard<'_, T>> {
        Held::new(self.0.lock())
    }
}
