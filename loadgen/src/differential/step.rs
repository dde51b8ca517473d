//! A step executed on all daemons: a request, or a change of their environment.

use std::fmt;

use xenstored::protocol::Operation;

/// Number of the control domain's socket connections.
pub const SOCKETS: usize = 3;
/// Number of domains with rings; the first has domid 1.
pub const DOMAINS: usize = 3;

/// A client: a socket of the control domain (below [`SOCKETS`]) or a domain's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Who(pub usize);

impl Who {
    /// Returns all clients.
    pub fn all() -> impl Iterator<Item = Who> {
        (0..SOCKETS + DOMAINS).map(Who)
    }

    /// Returns the client's domid.
    pub fn domid(self) -> u16 {
        u16::try_from((self.0 + 1).saturating_sub(SOCKETS)).unwrap_or_default()
    }

    /// Returns whether the client is an unprivileged domain with a ring.
    pub fn is_guest(self) -> bool {
        self.0 >= SOCKETS
    }

    /// Returns the client of a domain, `None` if there is none.
    pub fn domain(domid: u16) -> Option<Who> {
        let index = usize::from(domid).checked_sub(1)?;
        (index < DOMAINS).then_some(Who(SOCKETS + index))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_guest() {
            true => write!(f, "dom{}", self.domid()),
            false => write!(f, "socket{}", self.0),
        }
    }
}

/// The transaction of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tx {
    /// Outside of transactions.
    None,
    /// The transaction started by the connection in this step.
    Of(usize),
    /// An id that is not in use.
    Unknown,
}

/// A step. Steps can be removed from a sequence: steps that become meaningless are skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A request of a client.
    Request {
        /// The client that sends the request.
        who: Who,
        /// The operation's number (xs_wire.h).
        kind: u32,
        /// The transaction of the request.
        tx: Tx,
        /// The payload, well-formed or not.
        payload: Vec<u8>,
    },
    /// Closes a socket and connects a new one in its place.
    Reconnect(Who),
    /// Creates a domain on the host.
    Create(Who),
    /// Shuts a domain down.
    Shutdown(Who),
    /// Destroys a domain.
    Destroy(Who),
}

/// The numbers of the operations used by name.
#[allow(missing_docs)] // The names of the operations.
pub mod op {
    use xenstored::protocol::Operation;

    pub const DIRECTORY: u32 = Operation::Directory as u32;
    pub const READ: u32 = Operation::Read as u32;
    pub const GET_PERMS: u32 = Operation::GetPerms as u32;
    pub const WATCH: u32 = Operation::Watch as u32;
    pub const UNWATCH: u32 = Operation::Unwatch as u32;
    pub const START: u32 = Operation::TransactionStart as u32;
    pub const END: u32 = Operation::TransactionEnd as u32;
    pub const INTRODUCE: u32 = Operation::Introduce as u32;
    pub const RELEASE: u32 = Operation::Release as u32;
    pub const GET_DOMAIN_PATH: u32 = Operation::GetDomainPath as u32;
    pub const WRITE: u32 = Operation::Write as u32;
    pub const MKDIR: u32 = Operation::Mkdir as u32;
    pub const RM: u32 = Operation::Rm as u32;
    pub const SET_PERMS: u32 = Operation::SetPerms as u32;
    pub const IS_DOMAIN_INTRODUCED: u32 = Operation::IsDomainIntroduced as u32;
    pub const RESUME: u32 = Operation::Resume as u32;
    pub const SET_TARGET: u32 = Operation::SetTarget as u32;
    pub const RESET_WATCHES: u32 = Operation::ResetWatches as u32;
    pub const DIRECTORY_PART: u32 = Operation::DirectoryPart as u32;
}

/// Returns the domids in a SET_PERMS, the owner's first.
pub fn domids(payload: &[u8]) -> impl Iterator<Item = u16> {
    let entries = payload.split(|&byte| byte == 0).skip(1);
    entries.filter_map(|entry| str::from_utf8(entry.get(1..)?).ok()?.parse().ok())
}

/// Returns the domid in a payload that consists of it; 0 if it does not.
pub fn domid(payload: &[u8]) -> u16 {
    let digits = payload.strip_suffix(b"\0").and_then(|text| str::from_utf8(text).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

/// Formats bytes in xenstore.txt's notation, `|` for a NUL; long ones are truncated.
pub fn show(bytes: &[u8]) -> String {
    let mut text: String = bytes
        .iter()
        .take(200)
        .map(|&byte| match byte {
            0 => "|".to_owned(),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect();
    if bytes.len() > 200 {
        text += &format!("... ({} bytes)", bytes.len());
    }
    text
}

/// Returns an operation's name.
pub fn name(kind: u32) -> String {
    Operation::from_wire(kind)
        .map_or_else(|| format!("operation {kind}"), |kind| kind.name().to_owned())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Request { who, kind, tx, payload } => {
                write!(f, "{who}: {} \"{}\"", name(*kind), show(payload))?;
                match tx {
                    Tx::None => Ok(()),
                    Tx::Of(step) => write!(f, " in the transaction of step {step}"),
                    Tx::Unknown => write!(f, " in an unknown transaction"),
                }
            }
            Step::Reconnect(who) => write!(f, "{who} closes and connects again"),
            Step::Create(who) => write!(f, "{who} is created"),
            Step::Shutdown(who) => write!(f, "{who} shuts down"),
            Step::Destroy(who) => write!(f, "{who} is destroyed"),
        }
    }
}
