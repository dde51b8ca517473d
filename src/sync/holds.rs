//! Locks that measure how long they are held, for `cargo bench --bench holds --features holds`.
//!
//! Of each hold two times are taken: by the clock, which contains what else the machine did
//! meanwhile, and by the thread's own processor time, which is what the code is to blame for, and
//! on a virtual machine also the host. Each contains the two looks at the clocks, about half a
//! microsecond. [`control`] measures work without a lock in the same way: what it shows at most is
//! the machine's doing.

use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

static LOCKS: Record = Record::new();
static CONTROL: Record = Record::new();
static WATCHER: OnceLock<fn(Edge)> = OnceLock::new();

/// A hold begins, or the one that began last on this thread ends.
#[derive(Clone, Copy)]
pub enum Edge {
    /// The lock was taken there.
    Begins(&'static Location<'static>),
    /// It is about to be released.
    Ends,
}

/// From now on `watcher` is told of each hold, as its first and last act, and no clock is looked at:
/// valgrind has none that rustix could find. Once a process, before the first lock.
pub fn watch(watcher: fn(Edge)) {
    let _ = WATCHER.set(watcher);
}

fn tell(edge: Edge) {
    if let Some(watcher) = WATCHER.get() {
        watcher(edge);
    }
}

/// The holds that ended since they were last asked for, of all locks together.
#[derive(Clone, Copy)]
pub struct Holds {
    /// How many.
    pub count: u64,
    /// The sum by the threads' processor time.
    pub total_cpu: Duration,
    /// The longest by the clock.
    pub longest: Duration,
    /// The longest by the thread's processor time; maybe another.
    pub longest_cpu: Duration,
    /// Where that one's lock was taken.
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

/// Answers them, and begins anew.
pub fn take() -> Holds {
    LOCKS.take()
}

/// The same of what [`control`] measured.
pub fn take_control() -> Holds {
    CONTROL.take()
}

/// Measures `work` as if it were done under a lock.
#[track_caller]
pub fn control(work: impl FnOnce()) {
    let _since = Since::now(&CONTROL);
    work();
}

/// The worst of many holds.
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

/// A guard, and since when it is held.
pub struct Held<G> {
    // Dropped, and so looked at, before the lock is released.
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
    /// By the clock, and in the thread's processor time; nothing if there is a watcher instead.
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

/// As parking_lot's.
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
        // Not `map`, which would be the caller.
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

/// As parking_lot's.
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
