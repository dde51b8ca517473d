//! Crashes of peers. Older packages have bugs by which a request ends them (4.17.5: RESET_WATCHES in a transaction,
//! XSA-484), which says nothing about our daemon.

use std::fmt;
use std::process::ExitStatus;

use super::step::Step;

/// Bytes of the log's last line that are shown.
const LAST_WORDS: usize = 300;

/// The number of a peer's crashes, and the first of them.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Number of crashes.
    pub times: u64,
    /// Description of the first crash in prose.
    pub first: Option<String>,
}

impl Ends {
    /// Records that a peer's process ended in the sequence of this seed, with the last line of its log, which shows a
    /// failed assertion.
    pub fn count(&mut self, seed: u64, during: impl fmt::Display, status: ExitStatus, log: &str) {
        self.times += 1;
        self.first.get_or_insert_with(|| {
            let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no output");
            let end = last.floor_char_boundary(LAST_WORDS);
            format!("sequence {seed}, {during}\n  {status}: {}", &last[..end])
        });
    }
}

/// A step of a sequence, as shown in reports.
pub struct At<'a>(pub usize, pub &'a Step);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}", self.0, self.1)
    }
}
