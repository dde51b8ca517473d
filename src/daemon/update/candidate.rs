//! A new program: whether it may be one, its process, and its report.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, kill_process};

use super::{MARK, READ_TIME_MAX, UNDERSTANDS};
use crate::host::inherited::set_inheritable;

/// The longest report in bytes.
const REPORT_MAX: usize = 4096;
/// Bytes of the program that are searched at a time.
const BLOCK: usize = 1 << 20;

/// A program that may be started. It is opened once: what was checked is what is started, also if the file is replaced
/// meanwhile.
pub struct Candidate {
    path: PathBuf,
    file: File,
    options: Option<Vec<String>>,
}

/// The process of a candidate, which ends with this value.
pub struct Started {
    child: Child,
    report: OwnedFd,
}

impl Candidate {
    /// Opens a program, and checks that it is a xenstored that can go on with this one's state.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(path: &Path, options: Option<Vec<String>>) -> Result<Candidate, String> {
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let mut file = File::open(path).map_err(failed)?;
        if !contains(&mut file, UNDERSTANDS.as_bytes()).map_err(failed)? {
            return Err(format!(
                "{} is no xenstored that can go on with the state of this one",
                path.display()
            ));
        }
        Ok(Candidate { path: path.to_path_buf(), file, options })
    }

    /// Returns the program's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the program with the descriptors in `inherited`, of which it gets the state and `more` named.
    ///
    /// # Errors
    /// A sentence.
    pub fn start(
        &self,
        state: &OwnedFd,
        more: Option<&OwnedFd>,
        inherited: &[RawFd],
    ) -> Result<Started, String> {
        let failed = |error: io::Error| format!("cannot start {}: {error}", self.path.display());
        let (report, end) = io::pipe().map_err(failed)?;
        let named: Vec<RawFd> =
            [Some(state.as_raw_fd()), Some(end.as_raw_fd()), more.map(AsRawFd::as_raw_fd)]
                .into_iter()
                .flatten()
                .collect();
        let mark: Vec<String> = named.iter().map(RawFd::to_string).collect();
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_else(|| "xenstored".into());
        // By descriptor: the path may name another file by now.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(name).env(MARK, mark.join(" "));
        // The sockets of a service manager were for the first process.
        command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
        match &self.options {
            Some(options) => command.args(options),
            None => command.args(arguments),
        };
        let all = || named.iter().chain(inherited).copied().collect::<Vec<RawFd>>();
        set_inheritable(&all(), true).map_err(failed)?;
        let child = command.spawn();
        // No other program that this process starts gets them.
        let restored = set_inheritable(&all(), false);
        let child = child.and_then(|child| restored.map(|()| child)).map_err(failed)?;
        Ok(Started { child, report: report.into() })
    }
}

impl Started {
    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the program's report: a line.
    ///
    /// # Errors
    /// A sentence: the program has ended, or is too late.
    pub fn report(&mut self) -> Result<String, String> {
        let deadline = Instant::now() + READ_TIME_MAX;
        let mut report = Vec::new();
        let mut pipe = File::from(self.report.try_clone().map_err(|error| error.to_string())?);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let mut polled = [PollFd::new(&self.report, PollFlags::IN)];
            let ready = retry_on_intr(|| poll(&mut polled, timeout.as_ref()));
            if ready != Ok(1) {
                return Err(format!("it reports nothing within {} s", READ_TIME_MAX.as_secs()));
            }
            let mut bytes = [0; REPORT_MAX];
            match pipe.read(&mut bytes) {
                Ok(0) => {
                    let end = self.child.wait().map_err(|error| error.to_string())?;
                    return Err(format!("it has ended without a report ({end})"));
                }
                Ok(len) => report.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
            if report.last() == Some(&b'\n') || report.len() > REPORT_MAX {
                return Ok(String::from_utf8_lossy(&report).trim_end().to_owned());
            }
        }
    }

    /// Requests the stop of the process.
    pub fn terminate(&self) {
        // It may have ended already.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    /// Lets the process live on.
    pub fn release(self) {
        std::mem::forget(self);
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns whether a file contains `wanted`. Cost: reads the file.
fn contains(file: &mut File, wanted: &[u8]) -> io::Result<bool> {
    let mut block = Vec::with_capacity(BLOCK + wanted.len());
    loop {
        if file.take(BLOCK as u64).read_to_end(&mut block)? == 0 {
            return Ok(false);
        }
        if block.windows(wanted.len()).any(|window| window == wanted) {
            return Ok(true);
        }
        // The text may lie across two blocks.
        let kept = block.len().saturating_sub(wanted.len());
        block.drain(..kept);
    }
}
