//! The directory of a fleet, its hosts, and the processes of its daemons.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::TICK;
use crate::daemon::{DaemonError, Fleet as Settings, SOCKET_PATH_MAX};
use crate::guest::client::Toolstack;
use crate::host::sim::{Lifetime, SimServer, Stop};

/// The hosts, each in a directory of this name.
pub const HOSTS: [&str; 2] = ["a", "b"];

/// The file that says what runs here.
const DESCRIPTION: &str = "fleet";
/// Maximum size of that file, for a reader.
const DESCRIPTION_MAX: u64 = 8192;
const LOG: &str = "log";
/// The file that a daemon holds locked; it begins with the daemon's process id.
const LOCK: &str = "socket.lock";
/// The files of a daemon in a host's directory, besides the log.
const FILES: [&str; 3] = ["socket", "socket.migration", LOCK];
/// The environment of this process by which the daemons would find another place, or notify another process.
const ENVIRONMENT: [&str; 5] =
    ["XENSTORED_PATH", "XENSTORED_RUNDIR", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"];
/// Timeout of a daemon's start and of its stop, which take milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The claim to be the only fleet of a directory. Dropping it removes what the fleet made there.
pub struct Place {
    directory: PathBuf,
    /// Whether the logs are not removed.
    keeps_logs: Cell<bool>,
    /// Locked; the kernel releases the lock of a killed fleet.
    _lock: File,
}

impl Place {
    /// Makes and locks the directory.
    ///
    /// # Errors
    /// Another fleet has it, which the text describes; it is not this user's alone; its path is too long for sockets.
    pub fn claim(settings: &Settings) -> Result<Place, DaemonError> {
        let directory = settings.directory.clone();
        let longest = directory.join(HOSTS[0]).join(FILES[1]);
        if longest.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(DaemonError::PathTooLong { path: longest });
        }
        make(&directory)?;
        let failed = |error| of_directory(&directory, error);
        let lock = File::open(&directory).map_err(failed)?;
        // Its sockets control the domains, and /tmp is everyone's.
        let about = lock.metadata().map_err(failed)?;
        if !is_private(&about) {
            let text = format!(
                "{} is not a directory that only this user can use; choose another with --directory",
                directory.display()
            );
            return Err(DaemonError::Host(text));
        }
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(runs_already(&directory)),
            Err(error) => return Err(failed(error.into())),
        }
        for name in HOSTS {
            make(&directory.join(name))?;
        }
        Ok(Place { directory, keeps_logs: Cell::new(false), _lock: lock })
    }

    /// Returns the client socket of a host's daemon.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.join(name).join(FILES[0])
    }

    /// Returns the socket of a simulated host.
    pub fn sim_socket(&self, name: &str) -> PathBuf {
        self.directory.join(name).join("sim")
    }

    /// Leaves the daemons' logs for an operator.
    pub fn keep_logs(&self) {
        self.keeps_logs.set(true);
    }

    /// Returns the commands that move the guests and show them.
    pub fn commands(&self, guests: u16) -> String {
        // The program's full path, because after `cargo build` it is not on the search path.
        let beside = std::env::current_exe().ok().map(|program| program.with_file_name("xsctl"));
        let xsctl = beside.filter(|program| program.exists()).unwrap_or_else(|| "xsctl".into());
        let quoted = |path: &Path| match shlex::try_quote(&path.to_string_lossy()) {
            Ok(text) => text.into_owned(),
            Err(_) => path.display().to_string(),
        };
        let xsctl = quoted(&xsctl);
        let [a, b] = HOSTS.map(|name| quoted(&self.socket(name)));
        let moved = format!("{xsctl} move --domains 1-{guests}");
        format!(
            "move them:       {moved} --socket {a} --to {b}\n\
             show them:       {xsctl} status --socket {a} --to {b}\n\
             move them back:  {moved} --socket {b} --to {a}\n"
        )
    }

    /// Writes what runs here, for a second fleet.
    pub fn describe(&self, commands: &str) -> Result<(), DaemonError> {
        let path = self.directory.join(DESCRIPTION);
        let text = format!("process {} runs a fleet there:\n{commands}", std::process::id());
        fs::write(&path, text).map_err(|error| of_directory(&path, error))
    }

    /// Starts hosts and daemons, and waits until these serve or `stop` is set.
    ///
    /// # Errors
    /// A daemon ends, with the last line of its log; another host or daemon has a socket.
    pub fn start(&self, stop: &AtomicBool) -> Result<Serving<'_>, DaemonError> {
        let mut serving = Serving { place: self, hosts: Vec::new(), daemons: Vec::new() };
        for name in HOSTS {
            serving.hosts.push(self.host(name)?);
            serving.daemons.push((name, self.spawn(name)?));
        }
        let begun = Instant::now();
        while !serving.daemons.iter().all(|(name, daemon)| self.is_served(name, daemon.id())) {
            serving.check()?;
            if begun.elapsed() > TIMEOUT || stop.load(Ordering::Relaxed) {
                return Err(DaemonError::Host("the daemons do not serve yet; given up".into()));
            }
            thread::sleep(TICK / 10);
        }
        Ok(serving)
    }

    /// Returns whether this process serves a host; the one at its socket may be another.
    fn is_served(&self, name: &str, pid: u32) -> bool {
        let lock = fs::read_to_string(self.directory.join(name).join(LOCK)).unwrap_or_default();
        lock.lines().next() == Some(&pid.to_string())
            && Toolstack::connect(&self.socket(name)).is_ok()
    }

    /// Starts a host as a thread: its daemon ends with it, also if this process is killed.
    fn host(&self, name: &str) -> Result<(Stop, JoinHandle<()>), DaemonError> {
        let path = self.sim_socket(name);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => DaemonError::HostExists(format!(
                "another simulated host serves {}; stop it, or choose another --directory",
                path.display()
            )),
            _ => of_directory(&path, error),
        };
        let (server, stop) = SimServer::new(&path, Lifetime::UntilStopped).map_err(failed)?;
        let thread = thread::Builder::new().name(format!("host {name}"));
        Ok((stop, thread.spawn(move || server.run()).map_err(failed)?))
    }

    fn spawn(&self, name: &str) -> Result<Child, DaemonError> {
        let path = self.directory.join(name).join(LOG);
        let log = File::create(&path).map_err(|error| of_directory(&path, error))?;
        let failed =
            |error| DaemonError::Other { what: format!("cannot start daemon {name}"), error };
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(["--host", "sim", "--no-fork", "--config", "/dev/null", "--socket"]);
        command.arg(self.socket(name)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        for variable in ENVIRONMENT {
            command.env_remove(variable);
        }
        // A terminal's Ctrl-C reaches this process alone, which ends the daemons in order.
        command.process_group(0).spawn().map_err(failed)
    }

    /// Returns the last line of a daemon's log.
    fn last_line(&self, name: &str) -> String {
        let text = fs::read_to_string(self.directory.join(name).join(LOG)).unwrap_or_default();
        text.lines().last().unwrap_or("its log is empty").to_owned()
    }
}

impl Place {
    /// Removes what a daemon left, unless another daemon, which is not this fleet's, has the place.
    fn clear(&self, name: &str) {
        let host = self.directory.join(name);
        let is_free = File::open(host.join(LOCK))
            .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok());
        if is_free {
            FILES.iter().for_each(|file| drop(fs::remove_file(host.join(file))));
        }
        if !self.keeps_logs.get() {
            let _ = fs::remove_file(host.join(LOG));
        }
        // The directory may have other files.
        let _ = fs::remove_dir(host);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        HOSTS.iter().for_each(|name| self.clear(name));
        let _ = fs::remove_file(self.directory.join(DESCRIPTION));
        let _ = fs::remove_dir(&self.directory);
    }
}

/// A fleet's hosts and daemons, which end with this value.
pub struct Serving<'p> {
    place: &'p Place,
    hosts: Vec<(Stop, JoinHandle<()>)>,
    daemons: Vec<(&'static str, Child)>,
}

impl Serving<'_> {
    /// Fails if a daemon has ended.
    pub fn check(&mut self) -> Result<(), DaemonError> {
        for (name, daemon) in &mut self.daemons {
            if let Ok(Some(status)) = daemon.try_wait() {
                return Err(ended(name, status, self.place));
            }
        }
        Ok(())
    }

    /// Stops the daemons, waits for their end, and ends the hosts and with them the domains.
    pub fn stop(&mut self) {
        for (_, daemon) in &self.daemons {
            // Not reaped yet, so the number is no other process's.
            let _ = kill_process(Pid::from_child(daemon), Signal::TERM);
        }
        let begun = Instant::now();
        for (_, mut daemon) in std::mem::take(&mut self.daemons) {
            while matches!(daemon.try_wait(), Ok(None)) {
                if begun.elapsed() > TIMEOUT {
                    let _ = daemon.kill();
                }
                thread::sleep(TICK / 10);
            }
        }
        for (stop, thread) in self.hosts.drain(..) {
            stop.stop();
            let _ = thread.join();
        }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn ended(name: &str, status: ExitStatus, place: &Place) -> DaemonError {
    let line = place.last_line(name);
    DaemonError::Host(format!("the daemon of host {name} has ended ({status}): {line}"))
}

/// Returns the error of a directory whose fleet runs.
fn runs_already(directory: &Path) -> DaemonError {
    let mut text = String::new();
    let path = directory.join(DESCRIPTION);
    let read =
        File::open(path).and_then(|file| file.take(DESCRIPTION_MAX).read_to_string(&mut text));
    let text = match read {
        Ok(1..) => text,
        _ => "another process starts or ends a fleet there".into(),
    };
    DaemonError::HostExists(format!(
        "{} is in use (another --directory has another fleet): {}",
        directory.display(),
        text.trim_end()
    ))
}

/// Makes a directory for this user alone, without its parents; one that is there is left as it is.
fn make(directory: &Path) -> Result<(), DaemonError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(of_directory(directory, error))
        }
        _ => Ok(()),
    }
}

fn is_private(about: &Metadata) -> bool {
    about.is_dir() && about.uid() == geteuid().as_raw() && about.mode() & 0o077 == 0
}

fn of_directory(path: &Path, error: io::Error) -> DaemonError {
    match error.kind() {
        io::ErrorKind::NotFound => {
            DaemonError::NoDirectory { path: path.parent().unwrap_or(path).to_path_buf() }
        }
        _ => DaemonError::Host(format!(
            "{}: {error}; choose another with --directory",
            path.display()
        )),
    }
}
