//! Drops of nested values without recursion.

use std::cell::RefCell;

/// Drops values of one type one after the other on a thread, also where one is inside another. A client
/// chooses how deep trees are, and a drop that recurses needs a stack as deep.
pub struct FlatDrop<T>(RefCell<Waiting<T>>);

struct Waiting<T> {
    is_under_way: bool,
    values: Vec<T>,
}

impl<T> FlatDrop<T> {
    /// For a thread-local: no value is being dropped.
    pub const fn new() -> FlatDrop<T> {
        FlatDrop(RefCell::new(Waiting { is_under_way: false, values: Vec::new() }))
    }

    /// Drops `value`, or leaves it to the call that drops what it was in. Cost: what only `value` holds; a
    /// collection is dropped as a whole, as another version may share most of a wide one.
    pub fn drop(&self, value: T) {
        let mut waiting = self.0.borrow_mut();
        waiting.values.push(value);
        if std::mem::replace(&mut waiting.is_under_way, true) {
            return;
        }
        while let Some(value) = waiting.values.pop() {
            drop(waiting);
            drop(value); // What was only in it comes back here, and waits.
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
