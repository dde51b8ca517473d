//! A store for tests of its parts.

use super::{Store, matcher, reaper};
use crate::domain::{Limits, Registry};
use crate::sync::Arc;
use crate::types::Layout;
use crate::watch::{Batch, Outlet};

struct Nowhere;

impl Outlet for Nowhere {
    fn push(&self, _thread: u16, _batch: Batch) {}
    fn wake(&self, _thread: u16) {}
}

/// Creates a store whose events are discarded.
pub fn alone(layout: Layout) -> Store {
    let registry = Arc::new(Registry::new(Limits::defaults(), None));
    Store::new(layout, registry, Arc::new(Nowhere), reaper().0, matcher().0)
}
