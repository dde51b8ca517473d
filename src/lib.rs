//! A multi-threaded xenstored: the configuration and event daemon of a Xen host.
//!
//! All data about one guest lies in one shard of the store, and the thread that reads a request serves it to
//! completion: bytes in, bytes out. docs/ARCHITECTURE.md describes the flow of requests and events; the module
//! documentation of [`store`] and [`server`] has the diagrams.
//!
//! The crate is a library only so that its tests, benches and tools can use its parts. The API is not stable.
//!
//! # Layout
//!
//! From the bottom up; tests/layers.rs checks that imports only go down. [`migration`] is three layers: its `stream` is
//! below [`server`], its `store` beside that, and its `server` between [`server`] and [`daemon`].
//!
//! * `sync`: the locks and atomics that threads share. Tests can replace these types with those of a model-checking
//!   scheduler.
//! * [`types`]: shared types: paths and the partitions that hold them, permissions, domain ids, error names.
//! * [`log`]: destinations, levels and trace switches, and the last line of a thread that panics.
//! * [`domain`]: incarnations of domains, their resource usage and their quotas.
//! * [`watch`]: watch registration and event matching, at the cost of a path's depth and the number of matches.
//! * [`store`]: shards behind locks, node operations, transactions by replay, and the effects of a change. The store
//!   does no I/O and reads no clock.
//! * [`protocol`]: the messages of xs_wire.h: bytes in, bytes out.
//! * [`host`]: the hypervisor interface, real (Xen) or simulated; all unsafe code is here.
//! * [`transport`]: a client's byte stream, over a socket or a ring.
//! * [`control`]: the commands of `xsctl control`, which are those of Xen's `xenstore-control`.
//! * [`server`]: the threads that serve clients, and the messages between them.
//! * [`listener`]: accepts clients of the daemon's socket.
//! * [`daemon`]: the process: options, configuration, start, signals, stop.
//! * [`live_update`]: the whole state of the daemon, for the process that goes on with it.
//! * [`guest`]: `xenstored sim guest`, an interactive guest of the simulated host.
//! * [`migration`]: moves domains to another host: the stream, the import into the store, the server.
//! * [`xsctl`]: the operator's tool: migrates domains, sends CONTROL commands, and shows and compares migration
//!   streams.

pub mod control;
pub mod daemon;
pub mod domain;
pub mod guest;
pub mod host;
pub mod listener;
pub mod live_update;
pub mod log;
pub mod migration;
pub mod protocol;
pub mod server;
pub mod store;
// Public for tests/schedules, which runs on the same locks and atomics.
#[doc(hidden)]
pub mod sync;
pub mod transport;
pub mod types;
pub mod watch;
pub mod xsctl;

/// Runs the daemon with the given command line (`argv[0]` included) and returns the process exit code. Errors go to
/// standard error.
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    let done = daemon::parse(arguments).and_then(|task| match task {
        daemon::Task::Serve(settings) => daemon::run(&settings),
        daemon::Task::Guest(settings) => guest::run(&settings),
        daemon::Task::Host(settings) => daemon::run_sim_host(&settings),
        daemon::Task::Fleet(settings) => guest::fleet::run(&settings),
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

/// Runs `xsctl` with the given command line (`argv[0]` included) and returns the process exit code. Errors go to
/// standard error.
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
