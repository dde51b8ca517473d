//! The locks and atomics of all state shared between threads.
//!
//! All code imports these types from here, so that the feature `shuttle` can replace them by shuttle's: then the
//! production code itself runs under a scheduler that explores thread interleavings.

#[cfg(feature = "holds")]
pub mod holds;
pub mod workers;

#[cfg(feature = "holds")]
pub use holds::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(any(feature = "shuttle", feature = "holds")))]
// 0.12, as 0.13 dropped eventual fairness: a toolstack that reads without pause must not starve a guest's write.
pub use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(feature = "shuttle"))]
pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(feature = "shuttle")]
pub use shuttle_parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Reference counts cannot cause races by themselves, so shuttle need not see them.
pub use std::sync::Arc;

/// Returns the number of domids for which tables have room, at most `all`. Under shuttle each interleaving starts with
/// new tables, so they are small there.
pub const fn room_for(all: u16) -> u16 {
    if cfg!(feature = "shuttle") { 16 } else { all }
}
