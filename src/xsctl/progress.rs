//! A progress line on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::domains;

/// The progress line, on standard error if that is a terminal. Drawn at most 20 times a second.
pub struct Progress {
    line: ProgressBar,
    total: usize,
}

impl Progress {
    /// Makes a line that shows nothing yet, and never anything if `quiet`.
    pub fn new(total: usize, quiet: bool) -> Progress {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        // Truncated to the terminal's width, because a wrapped line could not be redrawn in place.
        let style = ProgressStyle::with_template("{wide_msg}");
        let style = style.unwrap_or_else(|_| unreachable!("the template is valid"));
        Progress { line: ProgressBar::with_draw_target(None, target).with_style(style), total }
    }

    /// Updates the line. Costs nothing if the line is hidden.
    pub fn at(&self, verb: &str, done: usize, failed: usize) {
        if !self.line.is_hidden() {
            let text = format!("{verb} {done} of {}, {failed} failed", domains(self.total));
            self.line.set_message(text);
        }
    }

    /// Hides the line while `write` writes something else.
    pub fn aside(&self, write: impl FnOnce()) {
        self.line.suspend(write);
    }

    /// Removes the line.
    pub fn end(&self) {
        self.line.finish_and_clear();
    }
}
