//! The activity of each thread, for the line that is logged if it panics.

use std::cell::Cell;
use std::fmt;
use std::panic::{self, PanicHookInfo};
use std::thread;

use crate::types::Domid;

use super::SINK;

/// The current activity of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The worker that runs on the thread.
    pub worker: Option<u16>,
    /// The running operation, such as `WRITE`; empty between operations.
    pub operation: &'static str,
    /// The domain for which the operation runs.
    pub domid: Option<Domid>,
}

thread_local! {
    static CONTEXT: Cell<Context> = const {
        Cell::new(Context { worker: None, operation: "", domid: None })
    };
}

/// Sets this thread's activity. Cost: one store to thread-local memory.
pub fn set_context(context: Context) {
    CONTEXT.set(context);
}

/// Marks this thread as between operations. Keeps its worker.
pub fn clear_context() {
    CONTEXT.set(Context { worker: CONTEXT.get().worker, ..Context::default() });
}

/// Makes a panic of any thread end the process: logs the thread and its activity, then aborts (SIGABRT). A daemon with
/// a worker missing would return wrong replies; a daemon that is gone is noticed and restarted.
pub fn abort_on_panic() {
    // Locks of parking_lot are not poisoned: after an unwound panic other threads would find half-done changes.
    panic::set_hook(Box::new(|info| {
        let line = last_line(thread::current().name(), CONTEXT.get(), info);
        SINK.write_last(&line);
        std::process::abort();
    }));
}

fn last_line(thread: Option<&str>, context: Context, info: &PanicHookInfo<'_>) -> String {
    let what = info.payload_as_str().unwrap_or("(no text)");
    let place = info.location().map(|at| format!(" at {at}")).unwrap_or_default();
    let thread = thread.unwrap_or("unnamed");
    format!("error panic of thread {thread} ({context}){place}: {what}; this is a bug, aborting")
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.worker {
            Some(worker) => write!(f, "worker {worker}")?,
            None => f.write_str("no worker")?,
        }
        match self.operation {
            "" => f.write_str(", between operations")?,
            operation => write!(f, ", operation {operation}")?,
        }
        match self.domid {
            Some(domid) => write!(f, ", domid {domid}"),
            None => f.write_str(", no domain"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_context_is_printed_in_words() {
        set_context(Context { worker: Some(3), operation: "WRITE", domid: Some(Domid(7)) });
        assert_eq!(CONTEXT.get().to_string(), "worker 3, operation WRITE, domid 7");
        clear_context();
        assert_eq!(CONTEXT.get().to_string(), "worker 3, between operations, no domain");
        assert_eq!(Context::default().to_string(), "no worker, between operations, no domain");
    }
}
