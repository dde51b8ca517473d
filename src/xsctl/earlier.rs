//! Detection and completion of an interrupted earlier `xsctl move`.
//!
//! ```text
//!   DOMAIN_STATES of both --> Step of each --+--> released at the source: INTRODUCE, UNQUIESCE there
//!                                            +--> not released: UNQUIESCE here, DISCARD there --+
//!                                            +--> not begun ----------------------------------->+--> batches
//! ```

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use super::batch::Moving;
use super::client::{Client, ClientError, Connecting, Each};
use super::daemon::Daemon;
use super::domids::Domids;
use super::error::ToolError;
use super::lock::Lock;
use super::other_end::{OtherEnds, by_force, refusal};
use super::places::{Destination, Source, command};
use super::route::Route;
use super::standing::Standing;
use super::step::{Sockets, Step, is_meant, step};
use crate::types::Domid;
use crate::types::Presence;

/// Maximum wait for a transient state to end: an import in progress, a batch of another xsctl, a killed xsctl whose
/// locks the kernel has not released yet.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The domains of a move with the step for each.
pub struct Earlier {
    /// Whether the lock is held exclusively, which means that no other move is in progress.
    is_alone: bool,
    domains: BTreeMap<Domid, Found>,
}

/// The states of a domain at both daemons, and the step for it.
pub struct Found {
    here: Standing,
    there: Standing,
    pub step: Step,
}

/// A domain for the batches, and its state at the source.
pub type Todo = (Domid, Source);

/// The outcome of a domain that needs no batch.
pub struct Settled {
    pub domid: Domid,
    /// The states, with the same meaning as after a batch.
    pub moving: Moving,
    /// The reason and the commands to proceed, if the states alone do not determine them.
    pub left: Option<(String, Vec<String>)>,
    /// Names of the states, if none of a batch's states applies.
    pub names: Option<[&'static str; 2]>,
}

impl Earlier {
    /// Queries both daemons for the states of the domains. Takes the lock of their moves, for [`Earlier::end`].
    ///
    /// # Errors
    /// A daemon does not reply; none of these domains exists.
    pub fn find(route: &Route, domids: &Domids, lock: &Lock) -> Result<Earlier, ToolError> {
        let Route { source, destination, .. } = route;
        let mut is_alone = lock.take();
        let began = Instant::now();
        loop {
            let domains = look(route, domids)?;
            let settles_itself = |found: &Found| {
                let is_arriving = [&found.here, &found.there]
                    .iter()
                    .any(|standing| standing.presence == Presence::Arriving);
                let is_left = matches!(found.step, Step::TakeBack | Step::Finish);
                is_arriving || is_left && !is_alone
            };
            if began.elapsed() > SETTLES_WITHIN || !domains.values().any(settles_itself) {
                return match domains.is_empty() {
                    true => Err(ToolError::NothingToMove(
                        source.socket.clone(),
                        destination.socket.clone(),
                    )),
                    false => Ok(Earlier { is_alone, domains }),
                };
            }
            thread::sleep(LOOK_EVERY);
            is_alone = is_alone || lock.take();
        }
    }

    /// Returns the number of domains in the move.
    pub fn len(&self) -> usize {
        self.domains.len()
    }

    /// Iterates over the domains and the step for each.
    pub fn steps(&self) -> impl Iterator<Item = (Domid, &Step)> {
        self.domains.iter().map(|(domid, found)| (*domid, &found.step))
    }

    /// Leaves out the domains that no earlier move left in between, unless they are named individually and are not at
    /// the source, and moves none.
    pub fn only_left(mut self, route: &Route, domids: &Domids) -> Earlier {
        let numbers = domids.numbers();
        self.domains.retain(|&domid, Found { here, there, step }| {
            match (&*step, here.is_unsettled()) {
                (Step::Carry, false) => return false,
                (Step::Carry, true) if here.elsewhere.is_empty() => {
                    let why =
                        format!("it is {}{}, not by a move", here.presence.name(), here.history());
                    let unquiesce = command("unquiesce", &route.source.socket, &domid.to_string());
                    *step = Step::Leave(why, vec![unquiesce]);
                }
                (Step::Carry, true) => *step = Step::TakeBack,
                _ => {}
            }
            let is_left = here.is_unsettled() || there.is_unsettled();
            is_left || numbers.get(&domid) == Some(&true)
        });
        self
    }

    /// Completes or rolls back what an earlier move began. Returns the outcomes of the domains that are finished by
    /// this, and the domains that still have to be moved. The caller then shares the lock: while it is held, others may
    /// move domains, but none rolls back what another began.
    ///
    /// # Errors
    /// One of the daemons cannot be reached.
    pub fn end(self, route: &Route) -> Result<(Vec<Settled>, Vec<Todo>), ToolError> {
        let Earlier { is_alone, domains } = self;
        let (mut settled, mut todo) = (Vec::new(), Vec::new());
        let (mut finish, mut take_back) = (Vec::new(), BTreeMap::new());
        for (domid, Found { here, there, step }) in domains {
            match step {
                Step::Carry => todo.push((domid, at_source(&here))),
                Step::Finish | Step::TakeBack if !is_alone => {
                    let why = "another xsctl move between these daemons is in progress and may be \
                               moving it; repeat this command when that has ended";
                    settled.push(left(domid, [&here, &there], why.into(), Vec::new()));
                }
                Step::Finish => finish.push((domid, there)),
                Step::TakeBack => drop(take_back.insert(domid, (here, there))),
                Step::Done => {
                    let moving = Moving::found(Source::Released, Destination::Served);
                    settled.push(Settled { domid, moving, left: None, names: None });
                }
                Step::Leave(why, commands) => {
                    settled.push(left(domid, [&here, &there], why, commands));
                }
            }
        }
        if !finish.is_empty() {
            settled.extend(finished(&mut route.destination.connect()?, &finish));
        }
        if !take_back.is_empty() {
            taken_back(route, &take_back, &mut settled, &mut todo)?;
        }
        todo.sort_by_key(|(domid, _)| *domid);
        Ok((settled, todo))
    }
}

/// Queries both daemons for the states of domains, once, and decides the step for each.
///
/// # Errors
/// A daemon does not reply.
pub fn look(route: &Route, domids: &Domids) -> Result<BTreeMap<Domid, Found>, ToolError> {
    let of = |daemon: &Daemon| daemon.all_states(domids);
    let (mut here, mut there) = (of(&route.source)?, of(&route.destination)?);
    let mut ends = OtherEnds::new(domids);
    let sockets = Sockets { source: &route.source.socket, destination: &route.destination.socket };
    let numbers = domids.numbers().into_iter();
    let found = numbers.filter_map(|(domid, is_alone)| {
        let of =
            |states: &mut BTreeMap<_, _>| states.remove(&domid).unwrap_or_else(Standing::absent);
        let (here, there) = (of(&mut here), of(&mut there));
        let step = match elsewhere(domid, &here, route, &mut ends) {
            Some(leave) => leave,
            None => step(domid, &here, &there, sockets),
        };
        (is_alone || is_meant(&here, &there)).then_some((domid, Found { here, there, step }))
    });
    Ok(found.collect())
}

/// Returns the step for a domain that was exported to another destination than that of this move, and that this other
/// one may have.
fn elsewhere(
    domid: Domid,
    here: &Standing,
    Route { source, destination, .. }: &Route,
    ends: &mut OtherEnds<'_>,
) -> Option<Step> {
    let may_be = here.presence == Presence::Left || !here.elsewhere.is_empty();
    if !may_be || here.to.is_empty() || here.to == destination.name() {
        return None;
    }
    let to = &here.to;
    match ends.of_noted(to) {
        Ok(end) if end.daemon.is_same(destination) => None,
        Ok(end) => {
            let there = end.standing(domid);
            let (here, there) = ((here, &*source.socket), (&there, &*end.daemon.socket));
            refusal(domid, here, there).map(|(why, commands)| Step::Leave(why, commands))
        }
        Err(why) => Some(Step::Leave(
            format!(
                "it was exported to {to}, which may have it and cannot be asked: {why}; only if \
                 that does not serve it and never will: {}",
                by_force(domid, &source.socket)
            ),
            Vec::new(),
        )),
    }
}

/// Returns the initial state of a domain that is introduced at the source.
fn at_source(here: &Standing) -> Source {
    if here.presence == Presence::Running { Source::Served } else { Source::Quiesced }
}

/// Returns the outcome of a domain that is left alone.
fn left(domid: Domid, at: [&Standing; 2], why: String, commands: Vec<String>) -> Settled {
    let moving = Moving::found(Source::Gone, Destination::Absent);
    let name = |standing: &Standing| match standing.presence {
        Presence::Running => "served",
        Presence::Exported => "quiesced",
        Presence::Left => "released",
        other => other.name(),
    };
    Settled { domid, moving, left: Some((why, commands)), names: Some(at.map(name)) }
}

/// Completes the move of domains that the source has released: INTRODUCE where still needed, then UNQUIESCE.
fn finished(client: &mut Client, domains: &[(Domid, Standing)]) -> Vec<Settled> {
    let waits = |(_, there): &&(Domid, Standing)| there.presence == Presence::Arrived;
    let connecting: Vec<_> = (domains.iter().filter(waits))
        .map(|(domid, there)| Connecting::with_port(*domid, &there.port))
        .collect();
    let introduced = client.introduce(&connecting);
    let refused: BTreeMap<Domid, ClientError> = (connecting.iter().zip(introduced))
        .filter_map(|(connecting, outcome)| Some((connecting.domid, outcome.err()?)))
        .collect();
    let domids: Vec<Domid> = (domains.iter().map(|(domid, _)| *domid))
        .filter(|domid| !refused.contains_key(domid))
        .collect();
    let mut outcomes = client.ask_each(Each::Unquiesce, &domids);
    let settled = |(domid, _): &(Domid, Standing)| {
        let mut moving = Moving::found(Source::Released, Destination::Quiesced);
        match (refused.get(domid), outcomes.remove(domid)) {
            (Some(trouble), _) => moving.fail("INTRODUCE at the destination", trouble),
            (None, Some(Err(trouble))) => moving.fail("UNQUIESCE at the destination", &trouble),
            (None, _) => moving.destination = Destination::Served,
        }
        Settled { domid: *domid, moving, left: None, names: None }
    };
    domains.iter().map(settled).collect()
}

/// Rolls back a move: UNQUIESCE at the source, forced, then DISCARD_DOMAINS at the destination. UNQUIESCE also
/// invalidates the marks of earlier exports, so that no RELEASE in flight can commit a domain that is about to be
/// discarded.
///
/// # Errors
/// The source cannot be reached.
fn taken_back(
    route: &Route,
    domains: &BTreeMap<Domid, (Standing, Standing)>,
    settled: &mut Vec<Settled>,
    todo: &mut Vec<Todo>,
) -> Result<(), ToolError> {
    let domids: Vec<Domid> = domains.keys().copied().collect();
    let served = route.source.connect()?.ask_each(route.source.force(), &domids);
    let has_copy = |domid: &&Domid| {
        matches!(served.get(domid), Some(Ok(()))) && domains[*domid].1.presence != Presence::Absent
    };
    let copies: Vec<Domid> = domids.iter().filter(has_copy).copied().collect();
    let mut discarded = route.destination.discard(&mut None, &copies);
    for (domid, (here, there)) in domains {
        let mut moving = Moving::found(at_source(here), Destination::Quiesced);
        let discarded = match there.presence {
            Presence::Absent => Some(Ok(())),
            _ => discarded.remove(domid),
        };
        match (served.get(domid), discarded) {
            (Some(Ok(())), Some(Ok(()))) => {
                todo.push((*domid, Source::Served));
                continue;
            }
            (Some(Err(trouble)), _) => {
                let is_gone = trouble.is("ENOENT") || trouble.is("EEXIST");
                moving.source = if is_gone { Source::Gone } else { Source::Unsure };
                moving.fail("UNQUIESCE at the source, after an earlier move", trouble);
            }
            (_, Some(Err(trouble))) => {
                moving.source = Source::Served;
                moving.fail("DISCARD_DOMAINS, after an earlier move", &trouble);
            }
            _ => moving.fail(
                "DISCARD_DOMAINS, after an earlier move",
                &ClientError::Lost("it does not mention the domain".into()),
            ),
        }
        settled.push(Settled { domid: *domid, moving, left: None, names: None });
    }
    Ok(())
}
