//! Live update: another program goes on with the state of this process, which ends once that one can serve.
//!
//! ```text
//!   serving process                          new program, its child
//!     check: pause, write, resume  --state-->  reads, restores the nodes, reports the numbers, ends
//!     pause, write                 --state-->  reads, restores all
//!                                  <---------  "restored"
//!     "go", report to the keeper   --------->  serves
//!     ends
//! ```
//!
//! Until "go" the new program has changed nothing, so this process can end it and resume at any time. Descriptors keep
//! their numbers: the new program inherits them.

mod candidate;
mod handed_over;
mod performer;

use std::time::Duration;

pub use handed_over::{HandedOver, Resumed};
pub use performer::{Orders, Process};

/// Names the descriptors of an update in the environment of the new program: the state, the pipe for its report, and,
/// unless the program is only checked, the pipe with "go".
const MARK: &str = "XENSTORED_UPDATE";

/// What a program contains that understands [`MARK`], and by which it is recognised before it is started: another
/// xenstored would start to serve, too.
pub const UNDERSTANDS: &str = "xenstored live update, state of version 1";

/// The time that the new program has to read a state. Reading 10,000 domains of 100 nodes takes some seconds.
const READ_TIME_MAX: Duration = Duration::from_secs(60);

/// The first words of the new program's report.
const CHECKED: &str = "checked ";
const RESTORED: &str = "restored";
const FAILED: &str = "failed ";

/// The numbers of a checked state in a report.
fn numbers(written: &crate::live_update::Written) -> String {
    let crate::live_update::Written { nodes, clients, domains, transactions } = written;
    format!("nodes={nodes} clients={clients} domains={domains} transactions={transactions}")
}
