//! A line that says how far it has come, where somebody looks.

use std::io::{self, IsTerminal, Write};

use super::report::domains;

/// The line, on standard error if that is a terminal.
pub struct Progress {
    shown: bool,
    total: usize,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new(total: usize, quiet: bool) -> Progress {
        Progress { shown: !quiet && io::stderr().is_terminal(), total }
    }

    /// Writes the line anew.
    pub fn at(&self, verb: &str, done: usize, failed: usize) {
        if self.shown {
            show(&format!("{verb} {done} of {}, {failed} failed", domains(self.total)));
        }
    }

    /// Makes room for other lines.
    pub fn clear(&self) {
        if self.shown {
            show("");
        }
    }
}

fn show(text: &str) {
    let mut terminal = io::stderr().lock();
    // It is a convenience: whoever cannot see it misses nothing.
    let _ = write!(terminal, "\r\x1b[K{text}").and_then(|()| terminal.flush());
}
