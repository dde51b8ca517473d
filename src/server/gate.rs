//! Keeps requests of threads that may block, such as those of the migration socket, out of a pause: a pause waits for
//! those in progress, and later ones wait until it is over.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A gate. Shuttle does not explore it: no thread of the store waits at it.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    inside: usize,
    is_closed: bool,
}

/// A request in progress, until it is dropped.
pub struct Entered<'g>(&'g Gate);

impl Gate {
    /// Waits until the gate is open, and enters.
    pub fn enter(&self) -> Entered<'_> {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.is_closed);
        state.inside += 1;
        Entered(self)
    }

    /// Closes the gate and waits until nothing is inside. Returns `false`, with the gate open, if something still is
    /// after `within`.
    pub fn close(&self, within: Duration) -> bool {
        let mut state = self.state.lock();
        state.is_closed = true;
        self.changed.wait_while_for(&mut state, |state| state.inside > 0, within);
        if state.inside > 0 {
            state.is_closed = false;
            self.changed.notify_all();
        }
        state.is_closed
    }

    /// Opens the gate.
    pub fn open(&self) {
        self.state.lock().is_closed = false;
        self.changed.notify_all();
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.state.lock().inside -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn gate_closes_only_without_anything_inside() {
        let gate = Gate::default();
        let entered = gate.enter();
        assert!(!gate.close(Duration::ZERO));
        drop(gate.enter());
        drop(entered);
        assert!(gate.close(Duration::ZERO));
        thread::scope(|scope| {
            let (sender, entered) = channel();
            let gate = &gate;
            scope.spawn(move || {
                let inside = gate.enter();
                sender.send(()).unwrap();
                drop(inside);
            });
            assert!(entered.try_recv().is_err(), "it waits at the closed gate");
            gate.open();
            entered.recv().unwrap();
        });
    }
}
