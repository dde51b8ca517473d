//! Dropping nested values without recursion.

use std::cell::RefCell;

/// A per-thread queue that drops nested values of one type iteratively. Clients choose the depth of trees, and a
/// recursive drop could overflow the stack.
pub struct FlatDrop<T>(RefCell<Waiting<T>>);

struct Waiting<T> {
    is_under_way: bool,
    values: Vec<T>,
}

impl<T> FlatDrop<T> {
    /// Makes an idle queue, for a thread-local.
    pub const fn new() -> FlatDrop<T> {
        FlatDrop(RefCell::new(Waiting { is_under_way: false, values: Vec::new() }))
    }

    /// Drops `value`, or queues it if this thread is already dropping the value that contained it. Cost: linear in the
    /// values that only `value` owns. A collection is dropped as a whole, because another version may share most of a
    /// wide one.
    pub fn drop(&self, value: T) {
        let mut waiting = self.0.borrow_mut();
        waiting.values.push(value);
        if std::mem::replace(&mut waiting.is_under_way, true) {
            return;
        }
        while let Some(value) = waiting.values.pop() {
            drop(waiting);
            // Dropping it drops the values that only it owns, which come back to this function and are queued.
            drop(value);
            waiting = self.0.borrow_mut();
        }
        waiting.is_under_way = false;
    }
}

impl<T> Default for FlatDrop<T> {
    fn default() -> FlatDrop<T> {
        FlatDrop::new()
    }
}
