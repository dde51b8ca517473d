//! What a thread is doing, for the one line that is written when it panics.

use std::cell::Cell;
use std::fmt;
use std::panic::{self, PanicHookInfo};
use std::thread;

use crate::words::{Domid, ShardId};

use super::SINK;

/// What a thread is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The shard whose thread it is.
    pub shard: Option<ShardId>,
    /// The operation that it runs, such as `WRITE`; empty between operations.
    pub operation: &'static str,
    /// The domain for which it runs it.
    pub domid: Option<Domid>,
}

thread_local! {
    static CONTEXT: Cell<Context> = const {
        Cell::new(Context { shard: None, operation: "", domid: None })
    };
}

/// Notes what this thread does from now on. Cost: one store of thread-local memory.
pub fn set_context(context: Context) {
    CONTEXT.set(context);
}

/// Notes that this thread is between operations. Its shard is kept.
pub fn clear_context() {
    CONTEXT.set(Context { shard: CONTEXT.get().shard, ..Context::default() });
}

/// Makes a panic of any thread end the process: a line in the log says which thread it was and
/// what it was doing, then the process aborts (SIGABRT). A store with a shard missing would answer
/// wrongly; none at all is noticed and restarted.
pub fn abort_on_panic() {
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
    format!("error panic of thread {thread} ({context}){place}: {what}; this is a defect, aborting")
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shard {
            Some(shard) => write!(f, "shard {}", shard.0)?,
            None => f.write_str("no shard")?,
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
    fn a_context_reads_as_a_sentence() {
        set_context(Context { shard: Some(ShardId(3)), operation: "WRITE", domid: Some(Domid(7)) });
        assert_eq!(CONTEXT.get().to_string(), "shard 3, operation WRITE, domid 7");
        clear_context();
        assert_eq!(CONTEXT.get().to_string(), "shard 3, between operations, no domain");
        assert_eq!(Context::default().to_string(), "no shard, between operations, no domain");
    }
}
