//! Finding a daemon, and requests to it over its migration socket (docs/MIGRATION.md).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{Client, ClientError, Each};
use super::domids::Domids;
use super::error::ToolError;
use super::link::{Link, TIMEOUT};
use super::replies::{Asked, Replies};
use super::standing::Standing;
use super::tunnel::{Address, Tunnel, identity, is_url};
use crate::migration::stream::digest::ALGORITHM;
use crate::protocol::operations::{DESTINATION_BYTES_MAX, DOMAINS_MAX};
use crate::protocol::{Operation, decimal, request};
use crate::types::Domid;

/// The node that holds the path of the migration socket.
const MIGRATION_SOCKET: &[u8] = b"/tool/xenstored/operations/migration-socket\0";
/// The node that holds the number of shards.
const SHARDS: &[u8] = b"/tool/xenstored/operations/shards\0";
/// The node that holds the algorithm of the digests in the streams that the daemon writes and checks.
const STREAM_DIGEST: &[u8] = b"/tool/xenstored/operations/stream-digest\0";
/// The node of a daemon whose EXPORT_DOMAINS takes a destination, and whose UNQUIESCE takes force.
const DESTINATIONS: &[u8] = b"/tool/xenstored/operations/destinations\0";
/// The node of a daemon whose IMPORT_DOMAINS introduces the domains if asked to.
const IMPORT_INTRODUCES: &[u8] = b"/tool/xenstored/operations/import-introduces\0";
/// Timeout of a request for many domains while the daemon replies to other clients. A stream may be long and arrive
/// slowly; the daemon itself gives up on a stalled stream.
pub const LONGEST: Duration = Duration::from_secs(60 * 60);

/// The addresses of a daemon.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// The path of the client socket, or the URL of its host.
    pub socket: PathBuf,
    migration: Address,
    /// What distinguishes it from the daemons of all hosts.
    identity: String,
    /// Whether its EXPORT_DOMAINS takes a destination, and its UNQUIESCE force.
    knows_destinations: bool,
    /// Whether its IMPORT_DOMAINS can introduce the domains.
    pub introduces: bool,
    /// The time without a reply after which the daemon is probed for being alive.
    timeout: Duration,
}

impl Daemon {
    /// Finds the daemon at a client socket, which publishes its migration socket.
    ///
    /// # Errors
    /// There is no daemon, or it has no migration socket.
    pub fn find(socket: PathBuf) -> Result<Daemon, ToolError> {
        let mut client = Client::connect(&socket)?;
        match client.ask(Operation::Read, MIGRATION_SOCKET) {
            Ok(path) => {
                let path = PathBuf::from(OsString::from_vec(path));
                let (migration, identity) = match is_url(&socket) {
                    true => (Address::Migration(socket.clone()), tunnel_identity(&socket)?),
                    false => (Address::Socket(path.clone()), identity(&path)),
                };
                let knows_destinations = client.ask(Operation::Read, DESTINATIONS).is_ok();
                let introduces = client.ask(Operation::Read, IMPORT_INTRODUCES).is_ok();
                let timeout = TIMEOUT;
                Ok(Daemon { socket, migration, identity, knows_destinations, introduces, timeout })
            }
            Err(trouble) => {
                let why = if trouble.is("ENOENT") {
                    "it has no migration socket: it is another xenstored, or an older version of \
                     this one"
                        .to_owned()
                } else {
                    trouble.to_string()
                };
                Err(ToolError::Daemon { socket, why })
            }
        }
    }

    /// Returns the address of the migration socket.
    pub fn migration(&self) -> &Address {
        &self.migration
    }

    /// Returns what distinguishes the daemon from those of all hosts.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Returns the UNQUIESCE that serves any quiesced domain. An older daemon's needs no force.
    pub fn force(&self) -> Each {
        if self.knows_destinations { Each::Force } else { Each::Unquiesce }
    }

    /// Returns its name as the destination of an export: `ssh://...`, or the absolute path of its client socket; `-` if
    /// that is no valid name, and for a command, which no later tool should run unasked.
    pub fn name(&self) -> String {
        let is_ssh = self.socket.starts_with("ssh:");
        let path = match is_url(&self.socket) {
            true if is_ssh => self.socket.clone(),
            true => PathBuf::new(),
            false => std::path::absolute(&self.socket).unwrap_or_default(),
        };
        let is_plain = |path: &&str| !path.contains(char::is_control);
        let path =
            path.to_str().filter(is_plain).filter(|path| path.len() <= DESTINATION_BYTES_MAX);
        path.filter(|path| !path.is_empty()).unwrap_or("-").to_owned()
    }

    /// Returns the arguments of an EXPORT_DOMAINS of these domains to another daemon.
    pub fn export_to(&self, domids: &[Domid], destination: &Daemon) -> Vec<u8> {
        let to = self.knows_destinations.then(|| format!("to={}\0", destination.name()));
        [listed(domids), to.unwrap_or_default().into_bytes()].concat()
    }

    /// Whether both are the same daemon.
    pub fn is_same(&self, other: &Daemon) -> bool {
        self.identity == other.identity
    }

    /// Returns the number of shards, which is the modulus that assigns a domid to a shard; 1 if the daemon does not
    /// publish it.
    pub fn shards(&self) -> u16 {
        let reply =
            self.connect().ok().and_then(|mut client| client.ask(Operation::Read, SHARDS).ok());
        reply.and_then(|shards| decimal(&shards).ok()).unwrap_or(1).max(1)
    }

    /// Whether its streams have digests that this tool's version knows, and IMPORT_DOMAINS can require them.
    pub fn has_digests(&self) -> bool {
        let reply = self
            .connect()
            .ok()
            .and_then(|mut client| client.ask(Operation::Read, STREAM_DIGEST).ok());
        reply.is_some_and(|name| name == ALGORITHM.as_bytes())
    }

    /// Connects to its client socket.
    ///
    /// # Errors
    /// No daemon accepts the connection.
    pub fn connect(&self) -> Result<Client, ToolError> {
        Client::connect(&self.socket)
    }

    /// Sends a request for many domains, with file descriptors, over a new connection.
    ///
    /// # Errors
    /// [`ClientError::Lost`]: the daemon has not received it.
    pub fn ask(
        &self,
        operation: Operation,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Asked, ClientError> {
        self.ask_by(&mut None, operation, payload, descriptors)
    }

    /// Like [`Daemon::ask`], but takes and reuses the connection `kept` of an earlier request if it is open.
    ///
    /// # Errors
    /// As [`Daemon::ask`].
    pub fn ask_by(
        &self,
        kept: &mut Option<Link>,
        operation: Operation,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Asked, ClientError> {
        let mut link = match kept.take().filter(Link::is_silent) {
            Some(link) => link,
            None => Link::connect(&self.migration, self.timeout)?,
        };
        link.send_with(&request(operation, 0, payload), descriptors)?;
        Ok(Asked { link, daemon: self.clone() })
    }

    /// Whether the daemon replies to clients, even with an error.
    pub(super) fn is_there(&self) -> bool {
        let link = Link::connect(&Address::client(&self.socket), self.timeout);
        let reply = link
            .map_err(ClientError::from)
            .and_then(|link| Client(link).ask(Operation::Read, MIGRATION_SOCKET));
        !reply.is_err_and(|trouble| trouble.is_lost())
    }

    /// Sends DISCARD_DOMAINS and returns the outcome for each domain. Reuses `kept` as [`Daemon::ask_by`] does, and
    /// leaves the connection there for the next request.
    pub fn discard(
        &self,
        kept: &mut Option<Link>,
        domids: &[Domid],
    ) -> BTreeMap<Domid, Result<(), ClientError>> {
        let of_some = |some: &[Domid]| {
            let asked = self.ask_by(kept, Operation::DiscardDomains, &listed(some), &[]);
            let mut replies = Replies::of_all(asked);
            *kept = replies.take_link();
            some.iter().map(|&domid| (domid, replies.of(domid).map(drop))).collect::<Vec<_>>()
        };
        domids.chunks(DOMAINS_MAX).flat_map(of_some).collect()
    }

    /// As [`Daemon::states`], with an error that names the daemon.
    ///
    /// # Errors
    /// As of `states`.
    pub fn all_states(&self, domids: &Domids) -> Result<BTreeMap<Domid, Standing>, ToolError> {
        self.states(domids).map_err(|trouble| ToolError::Daemon {
            socket: self.socket.clone(),
            why: format!("DOMAIN_STATES: {trouble}"),
        })
    }

    /// Sends DOMAIN_STATES and returns the states of domains; of a range, those of the domains known to the daemon.
    ///
    /// # Errors
    /// The request fails, or the daemon reports no state for one of them.
    pub fn states(&self, domids: &Domids) -> Result<BTreeMap<Domid, Standing>, ClientError> {
        let (mut kept, mut states) = (None, BTreeMap::new());
        for some in domids.parts().chunks(DOMAINS_MAX) {
            let payload: Vec<u8> = some.concat().into_bytes();
            let mut replies =
                Replies::of_all(self.ask_by(&mut kept, Operation::DomainStates, &payload, &[]));
            if let Some(trouble) = replies.failed() {
                return Err(trouble.clone());
            }
            for (domid, outcome) in replies.all() {
                states.insert(domid, standing(outcome.as_ref().map_err(ClientError::clone)?)?);
            }
            kept = replies.take_link();
        }
        Ok(states)
    }
}

fn tunnel_identity(url: &Path) -> Result<String, ToolError> {
    let tunnel = Tunnel::to(url).map_err(|error| ToolError::Daemon {
        socket: url.to_path_buf(),
        why: format!("cannot connect: {error}"),
    })?;
    Ok(tunnel.daemon().to_owned())
}

/// Parses a domain's result of DOMAIN_STATES.
fn standing(strings: &[String]) -> Result<Standing, ClientError> {
    let standing = Standing::parse(strings);
    standing.ok_or_else(|| ClientError::Lost(format!("{strings:?} is not the state of a domain")))
}

/// Encodes domains as arguments.
pub fn listed(domids: &[Domid]) -> Vec<u8> {
    domids.iter().flat_map(|domid| format!("{domid}\0").into_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    /// Starts a daemon that replies to a request for many domains after a delay, and to other clients at once or never.
    fn daemon(directory: &Path, is_there: bool) -> Daemon {
        let daemon = Daemon {
            socket: directory.join("socket"),
            migration: Address::Socket(directory.join("migration")),
            identity: String::new(),
            knows_destinations: false,
            introduces: false,
            timeout: SHORT,
        };
        let bulk = UnixListener::bind(directory.join("migration")).unwrap();
        let others = UnixListener::bind(&daemon.socket).unwrap();
        thread::spawn(move || {
            let (mut client, _) = bulk.accept().unwrap();
            thread::sleep(5 * SHORT);
            let replies = [
                request(Operation::ImportDomains, 0, b"5\0OK\x007\x003\0"),
                request(Operation::ImportDomains, 0, b"OK\0"),
            ];
            // The client may have disconnected.
            let _ = io::Write::write_all(&mut client, &replies.concat());
        });
        thread::spawn(move || {
            let clients = others.incoming().map(Result::unwrap);
            let mut held = Vec::new();
            for mut client in clients {
                if is_there {
                    let _ = io::Write::write_all(&mut client, &request(Operation::Read, 0, b"x"));
                }
                held.push(client);
            }
        });
        daemon
    }

    /// Starts a daemon that serves this many connections and closes each after this many requests.
    fn replies(socket: UnixListener, connections: usize, requests: usize) {
        thread::spawn(move || {
            for _ in 0..connections {
                let (mut client, _) = socket.accept().unwrap();
                for _ in 0..requests {
                    io::Read::read_exact(&mut client, &mut [0; 16]).unwrap();
                    io::Write::write_all(
                        &mut client,
                        &request(Operation::ImportDomains, 0, b"OK\0"),
                    )
                    .unwrap();
                }
            }
        });
    }

    #[test]
    fn open_connection_is_reused() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, migration) = (PathBuf::new(), directory.path().join("migration"));
        replies(UnixListener::bind(&migration).unwrap(), 2, 2);
        let daemon = Daemon {
            socket,
            migration: Address::Socket(migration),
            identity: String::new(),
            knows_destinations: false,
            introduces: false,
            timeout: TIMEOUT,
        };
        let mut kept = None;
        for asked in 1..=4 {
            let mut replies =
                Replies::of_all(daemon.ask_by(&mut kept, Operation::ImportDomains, b"", &[]));
            assert_eq!(replies.failed(), None);
            kept = replies.take_link();
            assert!(kept.is_some());
            while asked == 2 && kept.as_ref().is_some_and(Link::is_silent) {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn busy_daemon_is_waited_for_and_a_hung_one_is_not() {
        for is_there in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let daemon = daemon(directory.path(), is_there);
            let replies = Replies::of_all(daemon.ask(Operation::ImportDomains, b"", &[]));
            let outcome = replies.of(Domid(5));
            match is_there {
                true => assert_eq!(outcome, Ok(vec!["7".into(), "3".into()])),
                false => assert_eq!(outcome, Err(ClientError::Lost("timed out".into()))),
            }
        }
    }
}
