//! The results of a request for many domains, as the daemon sends them.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use super::client::ClientError;
use super::daemon::{Daemon, LONGEST};
use super::link::Link;
use crate::protocol::{ERROR, strings};
use crate::types::Domid;

/// A request for many domains, sent but not yet completed.
pub struct Asked {
    pub(super) link: Link,
    pub(super) daemon: Daemon,
}

/// The daemon's results for each domain.
#[derive(Default)]
pub struct Replies {
    domains: BTreeMap<Domid, Result<Vec<String>, ClientError>>,
    /// The errors of streams from which no domid could be read, in the order of the streams.
    streams: Vec<ClientError>,
    /// The error that ended the request early, before the other results.
    failed: Option<ClientError>,
    /// The connection, if the request completed.
    link: Option<Link>,
}

impl Asked {
    /// Waits for all results. A daemon that is silent but replies to other clients is still at work.
    fn replies(mut self) -> Replies {
        let mut replies = Replies::default();
        let began = Instant::now();
        loop {
            let (kind, payload) = match self.link.receive() {
                Ok((kind, _, payload)) => (kind, payload),
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && began.elapsed() < LONGEST
                        && self.daemon.is_there() =>
                {
                    continue;
                }
                Err(error) => {
                    replies.failed = Some(error.into());
                    return replies;
                }
            };
            let mut words = strings(&payload);
            let first = words.next().unwrap_or_default();
            if kind == ERROR {
                replies.failed = Some(ClientError::refused(first, b""));
                return replies;
            }
            let rest: Vec<_> = words.collect();
            if first == b"OK" && rest.is_empty() {
                replies.link = Some(self.link);
                return replies;
            }
            let outcome = match rest[..] {
                [b"OK", ref rest @ ..] => {
                    Ok(rest.iter().map(|word| String::from_utf8_lossy(word).into()).collect())
                }
                [error, why, ..] => Err(ClientError::refused(error, why)),
                _ => Err(ClientError::Lost("it is malformed".into())),
            };
            match (Domid::parse_canonical(first), outcome) {
                (Some(domid), outcome) => drop(replies.domains.insert(domid, outcome)),
                (None, Err(trouble)) => replies.streams.push(trouble),
                (None, Ok(_)) => {}
            }
        }
    }
}

impl Replies {
    /// Waits for all results of a request, or returns the error of sending it.
    pub fn of_all(asked: Result<Asked, ClientError>) -> Replies {
        match asked {
            Ok(asked) => asked.replies(),
            Err(trouble) => Replies { failed: Some(trouble), ..Replies::default() },
        }
    }

    /// Returns the result for one domain: the strings after `OK`, or its error.
    pub fn of(&self, domid: Domid) -> Result<Vec<String>, ClientError> {
        match (self.domains.get(&domid), self.failed.as_ref().or(self.streams.first())) {
            (Some(outcome), _) => outcome.clone(),
            (None, Some(trouble)) => Err(trouble.clone()),
            (None, None) => Err(ClientError::refused(b"ENOENT", b"the reply does not mention it")),
        }
    }

    /// Iterates over the results by domain.
    pub fn all(&self) -> impl Iterator<Item = (Domid, &Result<Vec<String>, ClientError>)> {
        self.domains.iter().map(|(domid, outcome)| (*domid, outcome))
    }

    /// Returns the errors of streams from which no domid could be read.
    pub fn streams(&self) -> &[ClientError] {
        &self.streams
    }

    /// Takes the connection, to reuse it for another request.
    pub fn take_link(&mut self) -> Option<Link> {
        self.link.take()
    }

    /// Returns the error of the request as a whole.
    pub fn failed(&self) -> Option<&ClientError> {
        self.failed.as_ref()
    }
}
