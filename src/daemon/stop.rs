//! Stop requests and signal handling.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level;
use signal_hook::low_level::siginfo::Origin;
use tracing::{info, warn};

use crate::control::{self, Served};
use crate::log;

/// Timeout of the log flush when a second signal ends the process.
const LAST_LINES: Duration = Duration::from_millis(100);

/// A request to stop the daemon. Clones share it.
#[derive(Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Default)]
struct Inner {
    requested: Mutex<bool>,
    changed: Condvar,
    abandoned: AtomicBool,
}

impl Stop {
    /// Requests the stop. Returns whether this was the first request.
    pub fn request(&self) -> bool {
        let before = std::mem::replace(&mut *self.0.requested.lock(), true);
        self.0.changed.notify_all();
        !before
    }

    /// Requests the stop because the keeper has ended, which counts as a crash: the next daemon finds the simulated host
    /// with its guests.
    pub(super) fn abandon(&self) {
        self.0.abandoned.store(true, Ordering::Release);
        self.request();
    }

    /// Returns whether the daemon stops because its keeper has ended.
    pub(super) fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Ordering::Acquire)
    }

    /// Returns whether a stop is requested.
    pub(super) fn is_requested(&self) -> bool {
        *self.0.requested.lock()
    }

    /// Blocks until a stop is requested.
    pub fn wait(&self) {
        let mut requested = self.0.requested.lock();
        self.0.changed.wait_while(&mut requested, |requested| !*requested);
    }
}

/// Handles signals in a new thread. SIGTERM and SIGINT request the stop; the second one ends the process at once.
/// SIGHUP reopens the log. SIGUSR1 logs a report about the server in `served` (oxenstored writes its tree to a file
/// instead). The Rust runtime ignores SIGPIPE before `main`. `served` is empty until the server is ready, since signals
/// are handled before it exists. `keeper` is the process id of the keeper, if there is one.
///
/// # Errors
/// The system refuses the handlers or the thread.
pub(super) fn take_signals(
    stop: Stop,
    served: Arc<OnceLock<Arc<dyn Served>>>,
    keeper: Option<u32>,
) -> io::Result<()> {
    let handled = [SIGHUP, SIGTERM, SIGINT, SIGUSR1];
    let mut signals = SignalsInfo::<WithOrigin>::new(handled)?;
    // The handlers themselves only wake this thread, which may then lock and allocate; a handler must not.
    let take = move || {
        let mut seen = Seen::default();
        for Origin { signal, process, .. } in &mut signals {
            let sender = process.map(|process| process.pid.unsigned_abs());
            match signal {
                SIGHUP => log::reopen(),
                SIGUSR1 => match served.get().map(control::log_report) {
                    Some(Ok(())) => {}
                    Some(Err(errno)) => warn!(%errno, "report not written, another command runs"),
                    None => warn!("report not written, the daemon is not ready"),
                },
                _ if seen.is_echo(sender.is_some() && sender == keeper, stop.is_abandoned()) => {}
                _ if stop.request() => info!("stopping on signal {signal}"),
                _ => {
                    warn!("second stop signal, exiting immediately");
                    log::flush(LAST_LINES);
                    // _exit(2): no destructor runs, as it could wait for what is stuck. The next start removes the
                    // stale sockets.
                    low_level::exit(1);
                }
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(take).map(|_| ())
}

/// The origins of the stop signals so far.
#[derive(Default)]
struct Seen {
    from_keeper: bool,
    direct: bool,
}

impl Seen {
    /// Notes a stop signal. Returns whether it is the same one a second time: a signal to all processes, such as ^C of
    /// a terminal or systemd's to the control group, comes directly and through the keeper; and the first one after the
    /// keeper's end, for which the process stops already, may be of the same cause.
    fn is_echo(&mut self, from_keeper: bool, is_abandoned: bool) -> bool {
        let (this, other) = match from_keeper {
            true => (&mut self.from_keeper, self.direct),
            false => (&mut self.direct, self.from_keeper),
        };
        !std::mem::replace(this, true) && (other || is_abandoned)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    /// Run by the next test in its own process: a server whose stop hangs.
    #[test]
    #[ignore = "child process of the next test"]
    fn child_process_hangs_during_its_stop() {
        let stop = Stop::default();
        take_signals(stop.clone(), Arc::default(), None).unwrap();
        eprintln!("serving");
        stop.wait();
        eprintln!("stopping");
        loop {
            thread::park();
        }
    }

    #[test]
    fn second_signal_ends_a_hanging_stop() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "daemon::stop::tests::child_process_hangs_during_its_stop",
                "--ignored",
                "--nocapture",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        for (line, signal) in [("serving", Signal::INT), ("stopping", Signal::TERM)] {
            assert!(lines.any(|said| said == line), "{line}");
            kill_process(pid, signal).unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }

    #[test]
    fn signal_to_keeper_and_serving_process_counts_once() {
        for first in [false, true] {
            let mut seen = Seen::default();
            assert!(!seen.is_echo(first, false));
            assert!(seen.is_echo(!first, false), "the same signal");
            assert!(!seen.is_echo(first, false), "the second signal");
            assert!(!seen.is_echo(!first, false));
        }
        let mut seen = Seen::default();
        assert!(!seen.is_echo(true, false) && !seen.is_echo(true, false), "two by the keeper");
        let mut seen = Seen::default();
        assert!(seen.is_echo(false, true) && !seen.is_echo(false, true), "after the keeper's end");
    }

    #[test]
    fn stop_request_wakes_waiters_and_only_the_first_counts() {
        let stop = Stop::default();
        let waiter = thread::spawn({
            let stop = stop.clone();
            move || stop.wait()
        });
        assert!(stop.request());
        assert!(!stop.request());
        waiter.join().unwrap();
        stop.wait();
    }
}
