//! The cost of a search for events, in looks, and its bound.

use std::cell::Cell;

use crate::types::Path;

/// The looks, of some fifty instructions each, that the look-up of a name of a path counts as.
pub const NAME_LOOKS: usize = 2;
/// Those of the look-up of a name that a removed node and watched paths share.
pub const WAY_LOOKS: usize = 8;
/// Those of a watch.
pub const WATCH_LOOKS: usize = 3;
/// Those of the check of a domain's rights.
pub const RIGHTS_LOOKS: usize = 3;
/// Those of an entry of a table.
pub const TABLE_LOOKS: usize = 4;

/// The number of a path's bytes whose descent counts as a look: a short name with its slash.
const STEP_BYTES: usize = 4;

/// Returns the looks as which a descent to `path` counts.
pub fn looks_of(path: Path<'_>) -> usize {
    TABLE_LOOKS + path.bytes().len() / STEP_BYTES
}

/// A budget of looks at levels of paths, watches and removed nodes. It bounds the time under the locks, which
/// otherwise depends on what guests watch.
pub struct Budget(Cell<u64>);

impl Budget {
    /// Creates a budget.
    pub fn new(looks: u64) -> Budget {
        Budget(Cell::new(looks))
    }

    /// Deducts `looks`; returns `false`, and leaves nothing, if fewer are left.
    pub fn take(&self, looks: usize) -> bool {
        let left = self.0.get().checked_sub(looks as u64);
        // A failed `take` leaves zero, so that `is_spent` reveals an incomplete search even to callers that ignore the
        // result.
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }

    /// Returns the smallest number of names, of `looks` each, that the budget does not suffice for.
    pub fn exceeded_by(&self, looks: usize) -> usize {
        usize::try_from(self.0.get()).unwrap_or(usize::MAX) / looks + 1
    }

    /// Returns whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.0.get() == 0
    }
}
