//! The clients that bring domains into their migration states, as DOMAIN_STATES reports them.

use std::fs;
use std::sync::OnceLock;

use crate::sync::Arc;
use crate::types::Domid;

/// The client on whose behalf a domain changes its state.
#[derive(Debug, PartialEq, Eq)]
pub struct Author {
    /// The client's domain.
    pub domid: Domid,
    /// The client's process; 0 for a ring, and if the system does not tell.
    pub pid: u32,
    /// The name of that process; empty if there is none.
    pub command: String,
}

impl Author {
    /// Returns the author of requests that a process sent over a socket, or a domain over its ring. Cost: for a process
    /// a read of `/proc`.
    pub fn of(domid: Domid, pid: Option<u32>) -> Author {
        let command = pid.map(command_of).unwrap_or_default();
        Author { domid, pid: pid.unwrap_or(0), command }
    }

    /// Returns the daemon itself.
    pub fn daemon() -> Arc<Author> {
        static DAEMON: OnceLock<Arc<Author>> = OnceLock::new();
        Arc::clone(
            DAEMON.get_or_init(|| Arc::new(Author::of(Domid::CONTROL, Some(std::process::id())))),
        )
    }
}

/// Returns the name of a process, at most 15 bytes. Not its command line: that is in the memory of the process, on
/// which a reader may wait for as long as the process chooses.
fn command_of(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    // A process may name itself, and the name is printed on the terminals of operators.
    let is_plain = |c: char| c == ' ' || c.is_alphanumeric() || c.is_ascii_punctuation();
    let name = String::from_utf8_lossy(&name);
    name.trim_end_matches('\n').chars().map(|c| if is_plain(c) { c } else { '?' }).collect()
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn author_of_a_process_has_its_name() {
        let own = Author::of(Domid(0), Some(std::process::id()));
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!((own.pid, own.command), (std::process::id(), name.trim_end().to_owned()));
        let ring = Author::of(Domid(5), None);
        assert_eq!((ring.domid, ring.pid, &*ring.command), (Domid(5), 0, ""));
        assert_eq!(Author::of(Domid(0), Some(u32::MAX)).command, "");
    }
}
