//! Locks that measure how long they are held, for `cargo bench --bench holds --features holds`.
//!
//! Of each hold two times are taken: by the clock, which contains what else the machine did
//! meanwhile, and by the thread's own processor time, which is what the code is to blame for. Each
//! contains the two looks at the clocks, about half a microsecond.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

static HOLDS: AtomicU64 = AtomicU64::new(0);
static LONGEST_NANOS: AtomicU64 = AtomicU64::new(0);
static LONGEST_CPU_NANOS: AtomicU64 = AtomicU64::new(0);

/// The holds that ended since they were last asked for, of all locks together.
pub struct Holds {
    /// How many.
    pub count: u64,
    /// The longest by the clock.
    pub longest: Duration,
    /// The longest by the thread's processor time; maybe another.
    pub longest_cpu: Duration,
}

/// Answers them, and begins anew.
pub fn take() -> Holds {
    let take = |what: &AtomicU64| what.swap(0, Ordering::Relaxed);
    Holds {
        count: take(&HOLDS),
        longest: Duration::from_nanos(take(&LONGEST_NANOS)),
        longest_cpu: Duration::from_nanos(take(&LONGEST_CPU_NANOS)),
    }
}

/// A guard, and since when it is held.
pub struct Held<G> {
    // Dropped, and so looked at, before the lock is released.
    _since: Since,
    guard: G,
}

impl<G> Held<G> {
    fn new(guard: G) -> Held<G> {
        Held { _since: Since { clock: Instant::now(), cpu: cpu() }, guard }
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
    clock: Instant,
    cpu: Duration,
}

impl Drop for Since {
    fn drop(&mut self) {
        let (cpu, clock) = (cpu().saturating_sub(self.cpu), self.clock.elapsed());
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        HOLDS.fetch_add(1, Ordering::Relaxed);
        LONGEST_NANOS.fetch_max(nanos(clock), Ordering::Relaxed);
        LONGEST_CPU_NANOS.fetch_max(nanos(cpu), Ordering::Relaxed);
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

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        Held::new(self.0.read())
    }

    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        self.0.try_read().map(Held::new)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        Held::new(self.0.write())
    }
}

/// As parking_lot's.
#[derive(Default)]
pub struct Mutex<T>(parking_lot::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(parking_lot::Mutex::new(value))
    }

    pub fn lock(&self) -> Held<parking_lot::MutexGuard<'_, T>> {
        Held::new(self.0.lock())
    }
}
