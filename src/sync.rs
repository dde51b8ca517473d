//! The locks and atomics of everything that more than one thread touches.
//!
//! One place names them so that the feature `shuttle` can put shuttle's in their stead: then the
//! production code itself runs under a scheduler that explores the orders of its threads.

#[cfg(feature = "holds")]
pub mod holds;
pub mod workers;

#[cfg(feature = "holds")]
pub use holds::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(any(feature = "shuttle", feature = "holds")))]
pub use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(feature = "shuttle"))]
pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(feature = "shuttle")]
pub use shuttle_parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Reference counts are never a source of races by themselves, so shuttle need not see them.
pub use std::sync::Arc;

/// How many of `all` domain numbers there is room for. Each order of threads that is explored
/// begins with a new table of them, so few must do there.
pub const fn room_for(all: u16) -> u16 {
    if cfg!(feature = "shuttle") { 16 } else { all }
}
