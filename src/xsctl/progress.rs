//! A line that says how far a command has come, on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::domains;

/// The line, on standard error if that is a terminal. It is written 20 times a second at most.
pub struct Progress {
    line: ProgressBar,
    total: usize,
}

impl Progress {
    /// Shows nothing yet, and never anything if it is `quiet`, the command line's option.
    pub fn new(total: usize, quiet: bool) -> Progress {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        // Cut off where the terminal ends: a line that wraps could not be written over.
        let style = ProgressStyle::with_template("{wide_msg}");
        let style = style.unwrap_or_else(|_| unreachable!("the template is right"));
        Progress { line: ProgressBar::with_draw_target(None, target).with_style(style), total }
    }

    /// Writes the line anew. Costs nothing where it is not shown.
    pub fn at(&self, verb: &str, done: usize, failed: usize) {
        if !self.line.is_hidden() {
            let text = format!("{verb} {done} of {}, {failed} failed", domains(self.total));
            self.line.set_message(text);
        }
    }

    /// Takes the line away while something else is written.
    pub fn aside(&self, write: impl FnOnce()) {
        self.line.suspend(write);
    }

    /// Takes the line away for good.
    pub fn end(&self) {
        self.line.finish_and_clear();
    }
}
