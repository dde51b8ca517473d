//! The line protocol of the simulated host's socket (docs/SIM.md): requests and refusals.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::host::Port;
use crate::types::Domid;

/// Longest request line, without its newline. The longest valid line has 26 bytes; the rest is room for future
/// requests.
pub const LINE_MAX: usize = 64;

/// Longest reply line: [`LIST_MAX`] domains of 14 bytes.
pub const REPLY_MAX: usize = 4096;

/// Domains in one reply to `list`.
pub const LIST_MAX: usize = 256;

/// The port of every domain's end of its xenstore channel. The port does not identify the domain, as on a real host,
/// where the domain builder allocates this port first in every domain.
pub const XENSTORE_PORT: Port = 1;

/// The reply to `help`.
pub const HELP: &str = "ok create [<domid>] [keep] | attach 0 | \
    shutdown <domid> [poweroff|reboot|suspend|crash] | resume <domid> | destroy <domid> | \
    list [<from>] | page <domid> | channel <domid> | adopt <domid> [keep] | serve | leave | \
    status | stop | help";

/// Why a domain is not running (xen's sched.h, `SHUTDOWN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are self-explanatory.
pub enum Reason {
    Poweroff,
    Reboot,
    Suspend,
    Crash,
}

impl Reason {
    /// Returns the reason's name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Poweroff => "poweroff",
            Reason::Reboot => "reboot",
            Reason::Suspend => "suspend",
            Reason::Crash => "crash",
        }
    }

    fn parse(word: &str) -> Option<Reason> {
        let all = [Reason::Poweroff, Reason::Reboot, Reason::Suspend, Reason::Crash];
        all.into_iter().find(|reason| reason.name() == word)
    }
}

/// A domain in the form in which `list` shows it: `7:running`, `8:suspend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The domain's number.
    pub domid: Domid,
    /// Why the domain is not running; `None` if it is.
    pub shutdown: Option<Reason>,
}

impl Listed {
    /// Parses the output of [`fmt::Display`].
    pub fn parse(word: &str) -> Option<Listed> {
        let (domid, state) = word.split_once(':')?;
        let shutdown = match state {
            "running" => None,
            reason => Some(Reason::parse(reason)?),
        };
        Some(Listed { domid: domid_of(domid)?, shutdown })
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.domid, self.shutdown.map_or("running", Reason::name))
    }
}

/// A host's state in the form in which `status` shows it: `123 2 served until-unused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The host's process id.
    pub pid: u32,
    /// The number of domains besides the control domain.
    pub guests: usize,
    /// Whether a daemon serves the host.
    pub is_served: bool,
    /// Whether the host ends without being stopped.
    pub until_unused: bool,
}

impl Status {
    /// Parses the output of [`fmt::Display`].
    pub fn parse(text: &str) -> Option<Status> {
        let words: Vec<&str> = text.split(' ').collect();
        let &[pid, guests, served, until] = &words[..] else { return None };
        let (pid, guests) = (pid.parse().ok()?, guests.parse().ok()?);
        let is_served = served == "served";
        Some(Status { pid, guests, is_served, until_unused: until == "until-unused" })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let served = if self.is_served { "served" } else { "unserved" };
        let until = if self.until_unused { "until-unused" } else { "until-stopped" };
        write!(f, "{} {} {served} {until}", self.pid, self.guests)
    }
}

/// A client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // One for each line of docs/SIM.md's table.
pub enum Request {
    Create { domid: Option<Domid>, keep: bool },
    Attach { domid: Domid },
    Shutdown { domid: Domid, reason: Reason },
    Resume { domid: Domid },
    Destroy { domid: Domid },
    List { from: Domid },
    Page { domid: Domid },
    Channel { domid: Domid },
    Adopt { domid: Domid, keep: bool },
    Serve,
    Leave,
    Status,
    Stop,
    Help,
}

impl Request {
    /// Parses a line without its newline. Words are separated by single spaces.
    pub fn parse(line: &[u8]) -> Option<Request> {
        let words: Vec<&str> = str::from_utf8(line).ok()?.split(' ').collect();
        Some(match words[..] {
            ["create"] => Request::Create { domid: None, keep: false },
            ["create", "keep"] => Request::Create { domid: None, keep: true },
            ["create", n] => Request::Create { domid: Some(domid_of(n)?), keep: false },
            ["create", n, "keep"] => Request::Create { domid: Some(domid_of(n)?), keep: true },
            ["attach", n] => Request::Attach { domid: domid_of(n)? },
            ["shutdown", n] => Request::Shutdown { domid: domid_of(n)?, reason: Reason::Poweroff },
            ["shutdown", n, reason] => {
                Request::Shutdown { domid: domid_of(n)?, reason: Reason::parse(reason)? }
            }
            ["resume", n] => Request::Resume { domid: domid_of(n)? },
            ["destroy", n] => Request::Destroy { domid: domid_of(n)? },
            ["list"] => Request::List { from: Domid::CONTROL },
            ["list", n] => Request::List { from: domid_of(n)? },
            ["page", n] => Request::Page { domid: domid_of(n)? },
            ["channel", n] => Request::Channel { domid: domid_of(n)? },
            ["adopt", n] => Request::Adopt { domid: domid_of(n)?, keep: false },
            ["adopt", n, "keep"] => Request::Adopt { domid: domid_of(n)?, keep: true },
            ["serve"] => Request::Serve,
            ["leave"] => Request::Leave,
            ["status"] => Request::Status,
            ["stop"] => Request::Stop,
            ["help"] => Request::Help,
            _ => return None,
        })
    }
}

fn domid_of(word: &str) -> Option<Domid> {
    Domid::parse(word.as_bytes()).filter(|domid| domid.is_real())
}

/// A refusal: an error name for programs, then a text for people.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The error texts explain them.
pub enum SimError {
    #[error("EINVAL not a request; try help")]
    Syntax,
    #[error("E2BIG the line is too long")]
    TooLong,
    #[error("ENOENT no such domain")]
    NoDomain,
    #[error("EEXIST the domain exists already")]
    Exists,
    #[error("ENOSPC all domids are in use")]
    Full,
    #[error("ENOSPC no file descriptor is left for the domain")]
    Descriptors,
    #[error("EINVAL a page and a channel must be sent along")]
    NoEnds,
    #[error("EINVAL the page is not a memory file of 4096 bytes, sealed against shrinking")]
    NoPage,
    #[error("EINVAL the channel is not a connected Unix seqpacket socket")]
    NoChannel,
    #[error("EBUSY the control domain already has a kernel")]
    Attached,
    #[error("EBUSY another daemon serves this host")]
    Served,
    #[error("EPERM not allowed for this domain")]
    NotThisDomain,
    #[error("EPERM only for the daemon that serves this host")]
    NotTheDaemon,
    #[error("EIO {0}")]
    Host(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_request_lines_are_rejected() {
        let domid = Domid(7);
        let good: [(&str, Request); 10] = [
            ("create", Request::Create { domid: None, keep: false }),
            ("create 7 keep", Request::Create { domid: Some(domid), keep: true }),
            ("create keep", Request::Create { domid: None, keep: true }),
            ("attach 0", Request::Attach { domid: Domid(0) }),
            ("shutdown 7", Request::Shutdown { domid, reason: Reason::Poweroff }),
            ("shutdown 7 crash", Request::Shutdown { domid, reason: Reason::Crash }),
            ("list", Request::List { from: Domid(0) }),
            ("channel 7", Request::Channel { domid }),
            ("adopt 7", Request::Adopt { domid, keep: false }),
            ("adopt 7 keep", Request::Adopt { domid, keep: true }),
        ];
        for (line, request) in good {
            assert_eq!(Request::parse(line.as_bytes()), Some(request), "{line}");
        }
        let bad = ["", " ", "create ", " create", "create  7", "create 7 kept", "create -1"];
        for line in
            bad.into_iter().chain(["create 32752", "destroy", "destroy 7 8", "LIST", "adopt"])
        {
            assert_eq!(Request::parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(Request::parse(b"create\0"), None);
        assert_eq!(Request::parse(b"create \xff"), None);
    }

    #[test]
    fn status_round_trips() {
        for (is_served, until_unused) in [(true, false), (false, true)] {
            let status = Status { pid: 7, guests: 3, is_served, until_unused };
            assert_eq!(Status::parse(&status.to_string()), Some(status));
        }
        assert_eq!(Status::parse("7 3 served"), None);
    }

    #[test]
    fn list_lines_round_trip() {
        for shutdown in [None, Some(Reason::Suspend), Some(Reason::Poweroff)] {
            let listed = Listed { domid: Domid(32751), shutdown };
            assert_eq!(Listed::parse(&listed.to_string()), Some(listed));
            let longest = (listed.to_string().len() + 1) * LIST_MAX;
            assert!("ok\n".len() + longest <= REPLY_MAX);
        }
    }
}
