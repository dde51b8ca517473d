//! Requests to a daemon over its client socket.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;

use super::daemon::listed;
use super::domids::Domids;
use super::error::ToolError;
use super::link::{Link, TIMEOUT};
use super::tunnel::Address;
use crate::protocol::operations::DOMAINS_MAX;
use crate::protocol::{ERROR, Operation, request, strings};
use crate::types::Domid;

/// Number of requests sent before the first reply is read. The replies are a few bytes each and fit into the kernel's
/// buffers, so that neither side blocks the other.
const PIPELINED: usize = 64;

/// The error of a request.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ClientError {
    /// The daemon refused: the errno name, and the reason if it gave one.
    #[error("{0}{sep}{1}", sep = if .1.is_empty() { "" } else { ": " })]
    Refused(String, String),
    /// The daemon did not reply.
    #[error("no valid reply: {0}")]
    Lost(String),
}

impl ClientError {
    /// Returns whether this is the errno `error`.
    pub fn is(&self, error: &str) -> bool {
        matches!(self, ClientError::Refused(name, _) if name == error)
    }

    /// Returns whether the outcome of the request is unknown.
    pub fn is_lost(&self) -> bool {
        matches!(self, ClientError::Lost(_))
    }

    pub fn refused(name: &[u8], why: &[u8]) -> ClientError {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match name {
            b"ENOSYS" => {
                ClientError::Refused(text(name), "this daemon has no such operation".into())
            }
            _ => ClientError::Refused(text(name), text(why)),
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Lost(match error.kind() {
            io::ErrorKind::UnexpectedEof => "the daemon closed the connection".into(),
            io::ErrorKind::WouldBlock => "timed out".into(),
            _ => error.to_string(),
        })
    }
}

/// The arguments of an INTRODUCE.
pub struct Connecting {
    /// The domain.
    pub domid: Domid,
    /// The frame number of the domain's ring page.
    pub frame: u64,
    /// Its event channel.
    pub port: String,
}

impl Connecting {
    /// Makes the arguments for a domain whose frame number is unknown. A daemon that maps the page through its grant,
    /// as this one does, ignores the number.
    pub fn with_port(domid: Domid, port: &str) -> Connecting {
        Connecting { domid, frame: 1, port: port.to_owned() }
    }
}

/// A request for many domains that the client socket serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Each {
    /// QUIESCE.
    Quiesce,
    /// UNQUIESCE, which the daemon refuses for a domain that another host may have.
    Unquiesce,
    /// UNQUIESCE of any quiesced domain.
    Force,
}

impl Each {
    fn operation(self) -> Operation {
        match self {
            Each::Quiesce => Operation::Quiesce,
            Each::Unquiesce | Each::Force => Operation::Unquiesce,
        }
    }

    fn payload(self, domids: &[Domid]) -> Vec<u8> {
        let force: &[u8] = if self == Each::Force { b"force\0" } else { b"" };
        [force, &listed(domids)].concat()
    }
}

/// A connection as the control domain, like any toolstack's.
pub struct Client(pub(super) Link);

impl Client {
    /// Connects to a daemon's client socket with the default timeout.
    ///
    /// # Errors
    /// No daemon accepts the connection.
    pub fn connect(socket: &Path) -> Result<Client, ToolError> {
        Client::connect_with(socket, TIMEOUT)
    }

    /// Connects with another timeout, for requests that take long.
    ///
    /// # Errors
    /// As of `connect`.
    pub fn connect_with(socket: &Path, timeout: Duration) -> Result<Client, ToolError> {
        Link::connect(&Address::client(socket), timeout).map(Client).map_err(|error| {
            ToolError::Daemon {
                socket: socket.to_path_buf(),
                why: format!("cannot connect: {error}"),
            }
        })
    }

    /// Returns whether the connection is open, with no unsolicited data to read.
    pub fn is_open(&self) -> bool {
        self.0.is_silent()
    }

    /// Sends a request and returns the payload of its reply.
    pub fn ask(&mut self, operation: Operation, payload: &[u8]) -> Result<Vec<u8>, ClientError> {
        self.0.send(&request(operation, 0, payload))?;
        self.reply(0)
    }

    /// Sends the same request with several payloads, pipelined, and returns their replies.
    pub fn ask_all(
        &mut self,
        operation: Operation,
        payloads: &[Vec<u8>],
    ) -> Vec<Result<Vec<u8>, ClientError>> {
        let mut replies = Vec::with_capacity(payloads.len());
        for some in payloads.chunks(PIPELINED) {
            let numbered = (0..).zip(some);
            let bytes: Vec<u8> =
                numbered.flat_map(|(id, payload)| request(operation, id, payload)).collect();
            let sent = self.0.send(&bytes).map_err(ClientError::from);
            let ids = 0..u32::try_from(some.len()).unwrap_or(0);
            replies.extend(ids.map(|id| sent.clone().and_then(|()| self.reply(id))));
        }
        replies
    }

    fn reply(&mut self, req_id: u32) -> Result<Vec<u8>, ClientError> {
        match self.0.receive()? {
            (_, other, _) if other != req_id => {
                Err(ClientError::Lost("it belongs to another request".into()))
            }
            (ERROR, _, name) => {
                Err(ClientError::refused(name.strip_suffix(b"\0").unwrap_or(&name), b""))
            }
            (_, _, payload) => Ok(payload),
        }
    }

    /// Sends QUIESCE or UNQUIESCE for several domains and returns the outcome of each.
    pub fn ask_each(
        &mut self,
        request: Each,
        domids: &[Domid],
    ) -> BTreeMap<Domid, Result<(), ClientError>> {
        let mut outcomes = BTreeMap::new();
        for some in domids.chunks(DOMAINS_MAX) {
            match self.ask(request.operation(), &request.payload(some)) {
                Ok(reply) => {
                    outcomes.extend(some.iter().map(|&domid| (domid, Ok(()))));
                    let words: Vec<_> = strings(&reply).skip(1).collect();
                    for pair in words.chunks_exact(2) {
                        if let Some(domid) = Domid::parse_canonical(pair[0]) {
                            outcomes.insert(domid, Err(ClientError::refused(pair[1], b"")));
                        }
                    }
                }
                // The request failed for all of them, with the error of the lowest domid: send it for each.
                Err(ClientError::Refused(..)) => {
                    let payloads: Vec<_> =
                        some.iter().map(|&domid| request.payload(&[domid])).collect();
                    let replies = self.ask_all(request.operation(), &payloads);
                    let replies = replies.into_iter().map(|reply| reply.map(drop));
                    outcomes.extend(some.iter().copied().zip(replies));
                }
                Err(lost) => outcomes.extend(some.iter().map(|&domid| (domid, Err(lost.clone())))),
            }
        }
        outcomes
    }

    /// Sends RELEASE for each domain with its mark.
    pub fn release(&mut self, marks: &[(Domid, &str)]) -> Vec<Result<(), ClientError>> {
        let payload = |(domid, mark): &(Domid, &str)| format!("{domid}\0{mark}\0").into_bytes();
        let payloads: Vec<_> = marks.iter().map(payload).collect();
        self.ask_all(Operation::Release, &payloads)
            .into_iter()
            .map(|reply| reply.map(drop))
            .collect()
    }

    /// Sends INTRODUCE for each domain.
    pub fn introduce(&mut self, domains: &[Connecting]) -> Vec<Result<(), ClientError>> {
        let payload = |Connecting { domid, frame, port }: &Connecting| {
            format!("{domid}\0{frame}\0{port}\0").into_bytes()
        };
        let payloads: Vec<_> = domains.iter().map(payload).collect();
        self.ask_all(Operation::Introduce, &payloads)
            .into_iter()
            .map(|reply| reply.map(drop))
            .collect()
    }

    /// Returns, for each domain, whether it is introduced.
    pub fn are_introduced(&mut self, domids: &[Domid]) -> Result<Vec<bool>, ClientError> {
        let payloads: Vec<_> = domids.iter().map(|&domid| listed(&[domid])).collect();
        let replies = self.ask_all(Operation::IsDomainIntroduced, &payloads);
        replies.into_iter().map(|reply| reply.map(|reply| reply == b"T\0")).collect()
    }

    /// Resolves a set of domains: individually named ones, and those in ranges that are introduced.
    ///
    /// # Errors
    /// The set resolves to no domain, or the daemon does not reply.
    pub fn meant(&mut self, domids: &Domids, socket: &Path) -> Result<Vec<Domid>, ToolError> {
        let numbers = domids.numbers();
        let unsure: Vec<_> =
            numbers.iter().filter(|(_, alone)| !**alone).map(|(domid, _)| *domid).collect();
        let introduced = self.are_introduced(&unsure).map_err(|trouble| ToolError::Daemon {
            socket: socket.to_path_buf(),
            why: trouble.to_string(),
        })?;
        let absent: std::collections::BTreeSet<_> =
            unsure.iter().zip(introduced).filter(|(_, is)| !is).map(|(domid, _)| *domid).collect();
        let meant: Vec<_> = numbers.into_keys().filter(|domid| !absent.contains(domid)).collect();
        if meant.is_empty() { Err(ToolError::NoDomain(socket.to_path_buf())) } else { Ok(meant) }
    }
}
