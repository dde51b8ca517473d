//! A process that prints lines, for one test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// The timeout of a line, long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The process, killed if a test fails, and what it prints.
pub struct Lines {
    pub child: Child,
    output: Receiver<String>,
}

impl Lines {
    pub fn of(command: &mut Command) -> Lines {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (lines, output) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).all(|line| lines.send(line).is_ok())
        });
        Lines { child, output }
    }

    /// Waits for a line that contains `text`.
    pub fn until(&self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            match self.output.recv_timeout(TIMEOUT) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen = seen + &line + "\n",
                Err(error) => panic!("{error}: no line with {text:?}: {seen}"),
            }
        }
    }

    /// Waits for the process's end; returns its exit code and its standard error.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }

    /// Interrupts the process, as a terminal does; returns as [`Lines::end`].
    pub fn interrupt(self) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.end()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
