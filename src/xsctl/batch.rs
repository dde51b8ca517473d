//! One batch of a move, from EXPORT to UNQUIESCE (docs/MIGRATION.md draws it). Before RELEASE
//! whatever goes wrong with a domain is undone; after it the domain goes on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::client::{Client, Connecting, Trouble};
use super::daemon::{Answers, Daemon, listed};
use super::export_files::behind;
use super::failure::Failure;
use super::link::Link;
use super::places::{Destination, Source};
use crate::protocol::Operation;
use crate::words::Domid;

/// From where to where, and how often a domain is carried that others change meanwhile.
pub struct Route {
    pub source: Daemon,
    pub destination: Daemon,
    pub tries: u32,
}

/// A domain of the batch.
pub struct Moving {
    pub source: Source,
    pub destination: Destination,
    /// Why it is not moved, or not served.
    pub error: Option<String>,
    /// What its daemon left out of its stream.
    pub left_out: Vec<String>,
    /// Nodes in its stream.
    pub nodes: u64,
    /// How often it was carried.
    pub tries: u32,
    /// From the batch's first EXPORT to its own UNQUIESCE.
    pub pause: Option<Duration>,
    mark: String,
    port: String,
}

impl Moving {
    /// One that is at these places, and with which nothing was done yet.
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
        }
    }

    /// It did not work out; the first reason counts.
    pub fn fail(&mut self, what: &str, trouble: &Trouble) {
        self.error.get_or_insert_with(|| format!("{what}: {trouble}"));
    }

    /// It is at the destination too, and nothing went wrong.
    fn has_arrived(&self) -> bool {
        self.is_under_way() && self.destination == Destination::Quiesced && !self.mark.is_empty()
    }

    /// Nothing went wrong, and it is not released.
    fn is_under_way(&self) -> bool {
        self.error.is_none() && self.source != Source::Released
    }
}

/// Connections to both daemons, which one batch after another has: for clients, and for migration. Of
/// the latter a daemon has few to give: whatever is asked for a batch takes no others.
pub struct Ends {
    here: Client,
    there: Client,
    exports: Option<Link>,
    imports: Option<Link>,
}

impl Ends {
    fn new(route: &Route) -> Result<Ends, Failure> {
        let (here, there) = (route.source.connect()?, route.destination.connect()?);
        Ok(Ends { here, there, exports: None, imports: None })
    }
}

/// The batch.
struct Batch<'r> {
    route: &'r Route,
    domains: BTreeMap<Domid, Moving>,
    begun: Instant,
    ends: Ends,
}

/// Moves some domains, at most 253; what became of each. Takes the connections of the batch before,
/// and leaves them to the next if nothing went wrong.
///
/// # Errors
/// One of the daemons cannot be reached: nothing was done.
pub fn carry(
    route: &Route,
    domains: &[(Domid, Source)],
    kept: &mut Option<Ends>,
) -> Result<BTreeMap<Domid, Moving>, Failure> {
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
    /// The domains of which something is so.
    fn of(&self, is: impl Fn(&Moving) -> bool) -> Vec<Domid> {
        self.domains.iter().filter(|(_, moving)| is(moving)).map(|(domid, _)| *domid).collect()
    }

    /// Does something with some domains and what came of it.
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

    /// EXPORT_DOMAINS there into a pipe, IMPORT_DOMAINS from it.
    fn transfer(&mut self, todo: &[Domid]) {
        let (reader, writer) = match io::pipe() {
            Ok(ends) => ends,
            Err(error) => {
                let trouble = Trouble::from(error);
                return self.with(todo.iter().map(|&domid| (domid, ())), |moving, ()| {
                    moving.fail("a pipe", &trouble);
                });
            }
        };
        let Route { source, destination, .. } = self.route;
        let Ends { exports, imports, .. } = &mut self.ends;
        let export =
            source.ask_by(exports, Operation::ExportDomains, &listed(todo), &[writer.as_fd()]);
        // Each end is one daemon's alone: so the other one notices if it dies.
        drop(writer);
        let import = destination.ask_by(imports, Operation::ImportDomains, b"", &[reader.as_fd()]);
        drop(reader);
        let mut exported = Answers::of_all(export);
        let mut imported = Answers::of_all(import);
        *exports = exported.take_link();
        *imports = imported.take_link();
        for (&domid, moving) in self.domains.iter_mut().filter(|(_, moving)| moving.is_under_way())
        {
            moving.tries += 1;
            moving.mark.clear();
            let (export, import) = (exported.of(domid), imported.of(domid));
            moving.source = match &export {
                Ok(_) => Source::Quiesced,
                Err(trouble) if trouble.is_lost() => Source::Unsure,
                Err(trouble) if trouble.is("ENOENT") && exported.failed().is_none() => Source::Gone,
                // It is as it was: whom a request that fails has quiesced, it serves again.
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
                }
                (Ok(_), Err(trouble)) => moving.fail("IMPORT_DOMAINS", &trouble),
                // It was changed while it was written, and is carried again.
                (Err(trouble), _) if trouble.is("EAGAIN") => {}
                // If it could not be written, the one who read may know why.
                (Err(trouble), Err(reader)) if trouble.is("EIO") => {
                    moving.fail(&format!("EXPORT_DOMAINS: {trouble}; IMPORT_DOMAINS"), &reader);
                }
                (Err(trouble), _) => moving.fail("EXPORT_DOMAINS", &trouble),
            }
        }
    }

    /// INTRODUCE at the destination.
    fn introduce(&mut self) {
        let arrived =
            |moving: &Moving| moving.is_under_way() && moving.destination == Destination::Quiesced;
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

    /// RELEASE at the source: who is released is moved. One that was changed stays under way.
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

    /// Whether those were released that the source did not say it of: it may say it of those that it
    /// still has.
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

    /// UNQUIESCE at the destination, of what the source has released and nothing else.
    fn unquiesce(&mut self) {
        let domids = self.of(|moving| {
            moving.source == Source::Released && moving.destination == Destination::Quiesced
        });
        let mut outcomes = self.ends.there.ask_each(Operation::Unquiesce, &domids);
        // It is committed: a connection that is lost is no reason to stop here.
        if outcomes.values().any(|outcome| outcome.as_ref().is_err_and(Trouble::is_lost))
            && let Ok(client) = self.route.destination.connect()
        {
            self.ends.there = client;
            outcomes = self.ends.there.ask_each(Operation::Unquiesce, &domids);
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

    /// DISCARD_DOMAINS at the destination, of whatever is there and not released at the source:
    /// what failed, and what was changed and is carried again.
    fn take_back(&mut self) {
        let domids = self.of(|moving| {
            let has_copy =
                matches!(moving.destination, Destination::Unsure | Destination::Quiesced);
            has_copy && !matches!(moving.source, Source::Released | Source::InDoubt)
        });
        let outcomes = self.route.destination.discard(&mut self.ends.imports, &domids);
        self.with(outcomes, |moving, outcome| match outcome {
            Ok(()) => moving.destination = Destination::Absent,
            // It was not sure that it was there, and it is not.
            Err(Trouble::Refused(..)) if moving.destination == Destination::Unsure => {
                moving.destination = Destination::Absent;
            }
            Err(trouble) => moving.fail("DISCARD_DOMAINS", &trouble),
        });
    }

    /// UNQUIESCE at the source, of what did not work out.
    fn give_up(&mut self) {
        let tries = self.route.tries;
        for moving in self.domains.values_mut().filter(|moving| moving.is_under_way()) {
            moving.error = Some(match tries {
                1 => "it was changed at the source".into(),
                _ => format!("it was changed at the source each of {tries} times"),
            });
        }
        let domids = self.of(|moving| matches!(moving.source, Source::Unsure | Source::Quiesced));
        if domids.is_empty() {
            return;
        }
        // The old connection may be why.
        let Ok(mut client) = self.route.source.connect() else { return };
        let outcomes = client.ask_each(Operation::Unquiesce, &domids);
        self.with(outcomes, |moving, outcome| match outcome {
            Ok(()) => moving.source = Source::Served,
            Err(trouble) if trouble.is("ENOENT") => moving.source = Source::Gone,
            Err(_) => {}
        });
    }
}
