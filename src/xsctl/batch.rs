//! One batch of a move, from EXPORT to UNQUIESCE (docs/MIGRATION.md has the diagram). A failure before RELEASE rolls
//! the domain back; after RELEASE the domain's move is completed.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::client::{Client, ClientError, Connecting, Each};
use super::domids::Domids;
use super::error::ToolError;
use super::export_files::behind;
use super::link::Link;
use super::places::{Destination, Source};
use super::replies::Replies;
use super::route::Route;
use crate::protocol::Operation;
use crate::types::Domid;

/// The progress of one domain of a batch.
pub struct Moving {
    pub source: Source,
    pub destination: Destination,
    /// Why the domain is not moved, or not served.
    pub error: Option<String>,
    /// Paths that the source daemon left out of the domain's stream.
    pub left_out: Vec<String>,
    /// Number of nodes in the domain's stream.
    pub nodes: u64,
    /// Number of transfers.
    pub tries: u32,
    /// Time from the batch's first EXPORT to the domain's UNQUIESCE.
    pub pause: Option<Duration>,
    mark: String,
    port: String,
    /// Whether the import has introduced the domain at the destination.
    is_introduced: bool,
}

impl Moving {
    /// Makes the progress of a domain that is in these states and has not been transferred.
    pub fn found(source: Source, destination: Destination) -> Moving {
        Moving {
            source,
            destination,
            error: None,
            left_out: Vec::new(),
            nodes: 0,
            tries: 0,
            pause: None,
            mark: String::new(),
            port: String::new(),
            is_introduced: false,
        }
    }

    /// Marks the domain as failed. The first reason is kept.
    pub fn fail(&mut self, what: &str, trouble: &ClientError) {
        self.error.get_or_insert_with(|| format!("{what}: {trouble}"));
    }

    /// Takes the outcome of INTRODUCE from the reply to the import, if the daemon has executed it.
    fn introduced(&mut self, outcome: Option<&String>) {
        match outcome.map(String::as_str) {
            None => {}
            Some("OK") => self.is_introduced = true,
            Some(errno) => {
                let trouble = ClientError::refused(errno.as_bytes(), b"");
                self.fail("INTRODUCE at the destination", &trouble);
            }
        }
    }

    /// Returns whether the domain is also at the destination and nothing has failed.
    fn has_arrived(&self) -> bool {
        self.is_under_way() && self.destination == Destination::Quiesced && !self.mark.is_empty()
    }

    /// Returns whether nothing has failed and the source has not released the domain.
    fn is_under_way(&self) -> bool {
        self.error.is_none() && self.source != Source::Released
    }
}

/// Connections to both daemons, for clients and for migration, which consecutive batches reuse. A daemon accepts few
/// migration connections, so a batch opens no others.
pub struct Ends {
    here: Client,
    there: Client,
    exports: Option<Link>,
    imports: Option<Link>,
}

impl Ends {
    fn new(route: &Route) -> Result<Ends, ToolError> {
        let (here, there) = (route.source.connect()?, route.destination.connect()?);
        Ok(Ends { here, there, exports: None, imports: None })
    }
}

struct Batch<'r> {
    route: &'r Route,
    domains: BTreeMap<Domid, Moving>,
    begun: Instant,
    ends: Ends,
}

/// Moves up to 253 domains and returns the outcome of each. Takes over the connections of the previous batch, and
/// leaves them to the next one if nothing failed.
///
/// # Errors
/// One of the daemons cannot be reached; then nothing was done.
pub fn carry(
    route: &Route,
    domains: &[(Domid, Source)],
    kept: &mut Option<Ends>,
) -> Result<BTreeMap<Domid, Moving>, ToolError> {
    let ends = match kept.take().filter(|ends| ends.here.is_open() && ends.there.is_open()) {
        Some(ends) => ends,
        None => Ends::new(route)?,
    };
    let mut batch = Batch {
        route,
        domains: domains
            .iter()
            .map(|&(domid, source)| (domid, Moving::found(source, Destination::Absent)))
            .collect(),
        ends,
        begun: Instant::now(),
    };
    for _ in 0..route.tries {
        let todo = batch.of(Moving::is_under_way);
        if todo.is_empty() {
            break;
        }
        batch.transfer(&todo);
        batch.introduce();
        batch.release();
        batch.unquiesce();
        batch.take_back();
    }
    batch.give_up();
    if batch.domains.values().all(|moving| moving.error.is_none()) {
        *kept = Some(batch.ends);
    }
    Ok(batch.domains)
}

impl Batch<'_> {
    /// Returns the domains that satisfy a condition.
    fn of(&self, is: impl Fn(&Moving) -> bool) -> Vec<Domid> {
        self.domains.iter().filter(|(_, moving)| is(moving)).map(|(domid, _)| *domid).collect()
    }

    /// Applies `work` to each domain and its outcome.
    fn with<T>(
        &mut self,
        outcomes: impl IntoIterator<Item = (Domid, T)>,
        mut work: impl FnMut(&mut Moving, T),
    ) {
        for (domid, outcome) in outcomes {
            if let Some(moving) = self.domains.get_mut(&domid) {
                work(moving, outcome);
            }
        }
    }

    /// Pipes EXPORT_DOMAINS of the source into IMPORT_DOMAINS of the destination.
    fn transfer(&mut self, todo: &[Domid]) {
        let (reader, writer) = match self.route.pipe() {
            Ok(ends) => ends,
            Err(error) => {
                let trouble = ClientError::from(error);
                return self.with(todo.iter().map(|&domid| (domid, ())), |moving, ()| {
                    moving.fail("a pipe", &trouble);
                });
            }
        };
        let Route { source, destination, has_digests, .. } = self.route;
        // Introduced by the import itself, a domain pauses for a round trip less.
        let introduce: &[u8] = if destination.introduces { b"introduce\0" } else { b"" };
        let required: &[u8] = if *has_digests { b"digest\0" } else { b"" };
        let how = [introduce, required].concat();
        let Ends { exports, imports, .. } = &mut self.ends;
        let payload = source.export_to(todo, destination);
        let export = source.ask_by(exports, Operation::ExportDomains, &payload, &[writer.as_fd()]);
        // Each daemon must hold the only descriptor of its end, so that the other one notices when it dies.
        drop(writer);
        let import = destination.ask_by(imports, Operation::ImportDomains, &how, &[reader.as_fd()]);
        drop(reader);
        let mut exported = Replies::of_all(export);
        let mut imported = Replies::of_all(import);
        *exports = exported.take_link();
        *imports = imported.take_link();
        for (&domid, moving) in self.domains.iter_mut().filter(|(_, moving)| moving.is_under_way())
        {
            moving.tries += 1;
            moving.mark.clear();
            moving.is_introduced = false;
            let (export, import) = (exported.of(domid), imported.of(domid));
            moving.source = match &export {
                Ok(_) => Source::Quiesced,
                Err(trouble) if trouble.is_lost() => Source::Unsure,
                Err(trouble) if trouble.is("ENOENT") && exported.failed().is_none() => Source::Gone,
                // The states are unchanged: a request that fails unquiesces the domains that it quiesced.
                Err(_) => moving.source,
            };
            moving.destination = match &import {
                Ok(_) => Destination::Quiesced,
                Err(trouble) if trouble.is_lost() => Destination::Unsure,
                Err(_) => Destination::Absent,
            };
            match (export, import) {
                (Ok(exported), Ok(imported)) => {
                    let string = |strings: &[String], at: usize| {
                        strings.get(at).cloned().unwrap_or_default()
                    };
                    moving.mark = string(&exported, 0);
                    moving.left_out = exported.iter().skip(2).map(|path| behind(path)).collect();
                    moving.port = string(&imported, 0);
                    moving.nodes = string(&imported, 1).parse().unwrap_or(0);
                    moving.introduced(imported.get(2));
                }
                (Ok(_), Err(trouble)) => moving.fail("IMPORT_DOMAINS", &trouble),
                // The domain changed during the export: transfer it again.
                (Err(trouble), _) if trouble.is("EAGAIN") => {}
                // If the stream could not be written, the reader may know the cause.
                (Err(trouble), Err(reader)) if trouble.is("EIO") => {
                    moving.fail(&format!("EXPORT_DOMAINS: {trouble}; IMPORT_DOMAINS"), &reader);
                }
                (Err(trouble), _) => moving.fail("EXPORT_DOMAINS", &trouble),
            }
        }
    }

    /// Sends INTRODUCE to the destination for the domains that an older daemon has imported.
    fn introduce(&mut self) {
        let arrived = |moving: &Moving| moving.has_arrived() && !moving.is_introduced;
        let domids = self.of(arrived);
        let by_port = |&domid: &Domid| Connecting::with_port(domid, &self.domains[&domid].port);
        let connecting: Vec<_> = domids.iter().map(by_port).collect();
        let outcomes = self.ends.there.introduce(&connecting);
        self.with(domids.into_iter().zip(outcomes), |moving, outcome| {
            if let Err(trouble) = outcome {
                moving.fail("INTRODUCE at the destination", &trouble);
            }
        });
    }

    /// Sends RELEASE to the source: a released domain is moved. A domain that changed since its export stays part of
    /// the batch.
    fn release(&mut self) {
        let domids = self.of(Moving::has_arrived);
        let marks: Vec<_> =
            domids.iter().map(|&domid| (domid, self.domains[&domid].mark.as_str())).collect();
        let outcomes = self.ends.here.release(&marks);
        self.with(domids.into_iter().zip(outcomes), |moving, outcome| match outcome {
            Ok(()) => moving.source = Source::Released,
            Err(trouble) if trouble.is("EAGAIN") => {}
            Err(trouble) => {
                moving.fail("RELEASE at the source", &trouble);
                if trouble.is("ENOENT") {
                    moving.source = Source::Gone;
                } else if trouble.is_lost() {
                    moving.source = Source::InDoubt;
                }
            }
        });
        self.resolve();
    }

    /// Asks the source whether domains whose RELEASE got no reply are still introduced there. Those that are not were
    /// released.
    fn resolve(&mut self) {
        let domids = self.of(|moving| moving.source == Source::InDoubt);
        if domids.is_empty() {
            return;
        }
        let asked = self.route.source.connect().ok().and_then(|mut client| {
            let introduced = client.are_introduced(&domids);
            self.ends.here = client;
            introduced.ok()
        });
        self.with(domids.into_iter().zip(asked.into_iter().flatten()), |moving, introduced| {
            if introduced {
                moving.source = Source::Quiesced;
            } else {
                moving.source = Source::Released;
                moving.error = None;
            }
        });
    }

    /// Sends UNQUIESCE to the destination, only for domains that the source has released.
    fn unquiesce(&mut self) {
        let domids = self.of(|moving| {
            moving.source == Source::Released && moving.destination == Destination::Quiesced
        });
        let mut outcomes = self.ends.there.ask_each(Each::Unquiesce, &domids);
        // The move is committed, so a lost connection is no reason to stop: retry on a new one.
        if outcomes.values().any(|outcome| outcome.as_ref().is_err_and(ClientError::is_lost))
            && let Ok(client) = self.route.destination.connect()
        {
            self.ends.there = client;
            outcomes = self.ends.there.ask_each(Each::Unquiesce, &domids);
        }
        let begun = self.begun;
        self.with(outcomes, |moving, outcome| match outcome {
            Ok(()) => {
                moving.destination = Destination::Served;
                moving.pause = Some(begun.elapsed());
            }
            Err(trouble) => moving.fail("UNQUIESCE at the destination", &trouble),
        });
    }

    /// Sends DISCARD_DOMAINS to the destination for every domain there that the source has not released: those that
    /// failed, and those that changed and are transferred again.
    fn take_back(&mut self) {
        let domids = self.of(|moving| {
            let has_copy =
                matches!(moving.destination, Destination::Unsure | Destination::Quiesced);
            has_copy && !matches!(moving.source, Source::Released | Source::InDoubt)
        });
        let outcomes = self.route.destination.discard(&mut self.ends.imports, &domids);
        self.with(outcomes, |moving, outcome| match outcome {
            Ok(()) => moving.destination = Destination::Absent,
            // The error shows that the domain, whose presence was uncertain, is not there.
            Err(ClientError::Refused(..)) if moving.destination == Destination::Unsure => {
                moving.destination = Destination::Absent;
            }
            Err(trouble) => moving.fail("DISCARD_DOMAINS", &trouble),
        });
    }

    /// Finds the domains that the destination serves although the source has not released them: another client's
    /// UNQUIESCE came before the DISCARD_DOMAINS. The source must not serve them too.
    fn find_served(&mut self) {
        let domids = self.of(|moving| {
            moving.destination == Destination::Quiesced
                && !matches!(moving.source, Source::Released | Source::InDoubt)
        });
        if domids.is_empty() {
            return;
        }
        let states = self.route.destination.states(&Domids::of(&domids)).unwrap_or_default();
        self.with(states, |moving, there| {
            if there.presence.is_introduced() && !there.presence.has_arrived() {
                moving.destination = Destination::Served;
            }
        });
    }

    /// Sends UNQUIESCE to the source for all domains that failed, forced: none of them was released, and what the
    /// destination has of them was discarded or never will be served.
    fn give_up(&mut self) {
        let tries = self.route.tries;
        for moving in self.domains.values_mut().filter(|moving| moving.is_under_way()) {
            moving.error = Some(match tries {
                1 => "it was changed at the source".into(),
                _ => format!("it was changed at the source each of {tries} times"),
            });
        }
        self.find_served();
        let domids = self.of(|moving| {
            matches!(moving.source, Source::Unsure | Source::Quiesced)
                && moving.destination != Destination::Served
        });
        if domids.is_empty() {
            return;
        }
        // The old connection may be the cause of the failure.
        let Ok(mut client) = self.route.source.connect() else { return };
        let outcomes = client.ask_each(self.route.source.force(), &domids);
        self.with(outcomes, |moving, outcome| match outcome {
            Ok(()) => moving.source = Source::Served,
            // Another tool has released it.
            Err(trouble) if trouble.is("ENOENT") || trouble.is("EEXIST") => {
                moving.source = Source::Gone;
            }
            Err(_) => {}
        });
    }
}
