//! A multi-threaded xenstored: the configuration and event daemon of a Xen host.
//!
//! Everything about one guest lies in one shard of the store, and a request runs from bytes in to
//! bytes out on the thread that read it. docs/ARCHITECTURE.md tells what happens when; the modules
//! [`store`] and [`shard`] draw it.
//!
//! The crate is a library only so that its tests, benches and tools can use its parts; it promises
//! no interface to others.
//!
//! # Layout
//!
//! From the bottom up; imports go down only, which tests/layers.rs reads from the sources.
//!
//! * `sync`: the locks and atomics of whatever more than one thread touches, so that a test can put
//!   a scheduler's in their stead.
//! * [`words`]: paths and the homes that they lie in, permissions, domain ids, error names.
//! * [`log`]: where lines go, which are written, and the last one of a thread that panics.
//! * [`domain`]: the lives of domains, what they use, and what they may use.
//! * [`watch`]: who is told of which change, found at the cost of a path's depth and the matches.
//! * [`store`]: shards behind locks, operations on them, transactions by replay, and what follows a
//!   change. It does no I/O and knows no clock.
//! * [`protocol`]: the messages of xs_wire.h: bytes in, bytes out.
//! * [`host`]: what is needed of a hypervisor, a real Xen or a simulated one; all the unsafe code.
//! * [`transport`]: a client's bytes, from a socket or a ring.
//! * [`control`]: the commands of `xsctl control`, which are those of Xen's `xenstore-control`.
//! * [`shard`]: the threads that serve clients, and what they tell each other.
//! * [`listener`]: accepting clients of the daemon's socket.
//! * [`daemon`]: the process: options, configuration, start, signals, stop.
//! * [`guest`]: `xenstored sim guest`, a guest to be tried by hand.
//! * [`migration`]: domains move to another host: the stream, the store's part, the server's.
//! * [`xsctl`]: the tool beside the daemon, which moves domains, sends commands, and shows and compares what
//!   is carried.

pub mod control;
pub mod daemon;
pub mod domain;
pub mod guest;
pub mod host;
pub mod listener;
pub mod log;
pub mod migration;
pub mod protocol;
pub mod shard;
pub mod store;
// For tests/schedules, which runs on the same locks and atomics.
#[doc(hidden)]
pub mod sync;
pub mod transport;
pub mod watch;
pub mod words;
pub mod xsctl;

/// Is the program: does what its arguments ask, the first of which is its name, and answers its exit
/// code. Errors go to standard error.
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    let done = daemon::parse(arguments).and_then(|task| match task {
        daemon::Task::Serve(settings) => daemon::run(&settings),
        daemon::Task::Guest(settings) => guest::run(&settings),
        daemon::Task::Print(text) => {
            print!("{text}");
            Ok(0)
        }
    });
    match done {
        Ok(code) => code.into(),
        Err(failure) => {
            eprintln!("xenstored: {failure}");
            failure.code().into()
        }
    }
}

/// Is the program `xsctl`: does what its arguments ask, the first of which is its name, and answers
/// its exit code.
pub fn run_xsctl(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> std::process::ExitCode {
    match xsctl::run(arguments) {
        Ok(done) => done.code().into(),
        Err(failure) => {
            if let Some(message) = failure.message() {
                eprintln!("xsctl: {message}");
            }
            failure.code().into()
        }
    }
}
