//! IMPORT_DOMAINS: reads streams, checks them, and inserts their domains.

use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::run_parallel::run_parallel;
use super::timed_file::TimedFile;
use super::{Outcome, divided, try_often};
use crate::migration::store::place_domain::{
    ImportedDomain, PlaceError, check_domain, place_domain, split_by_domain,
};
use crate::migration::store::write_domains::FEW_NODES;
use crate::migration::stream::fields::StreamError;
use crate::migration::stream::state::{Client, State};
use crate::migration::stream::{ReadError, Reader, Transport};
use crate::protocol::operations::{Import, ImportMode};
use crate::server::{Author, Expected, ImportEnd, OwnerThreads, Standing};
use crate::store::{DomainSnapshot, Generations, ImportError};
use crate::sync::workers::Workers;
use crate::types::Presence;
use crate::types::{Domid, Errno, Logged};

/// Maximum length of a stream, in bytes. A stream is held in memory as a whole, because it is validated before anything
/// changes. The limit is about a thousand times the size of a usual batch.
const STREAM_BYTES_MAX: u64 = 1 << 30;
/// The word of a successful INTRODUCE in the reply.
const OK: &str = "OK";
/// Number of bytes per read from a pipe or file.
const READ_BYTES: usize = 1 << 16;
/// The size above which a stream is large, in bytes. One large stream is in memory at a time, over all clients.
const LARGE_BYTES: u64 = 1 << 24;

/// Held while a large stream is in memory.
static LARGE: Mutex<()> = Mutex::new(());

/// Imports the domains of these streams, several streams in parallel, and calls `answer` for each stream in order.
/// Cost: linear in the length of the streams, plus that of [`import_subtrees`].
///
/// [`import_subtrees`]: crate::store::import_subtrees()
pub fn import_domains(
    owners: &OwnerThreads,
    descriptors: Vec<OwnedFd>,
    import: Import,
    reply: impl FnMut(Vec<Outcome>),
) {
    // Takes descriptors in their order, so a peer may write its pipes one after another.
    run_parallel(descriptors, |stream| import_stream(owners, stream, import), reply);
}

/// A reader that truncates a stream at [`STREAM_BYTES_MAX`] and takes [`LARGE`] when the stream becomes large.
struct Bounded {
    input: TimedFile,
    read: u64,
    large: Option<MutexGuard<'static, ()>>,
}

impl Read for Bounded {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // May block while another large stream is in memory. A peer that writes this one then times out, at worst.
        if self.read > LARGE_BYTES && self.large.is_none() {
            self.large = Some(LARGE.lock());
        }
        // At the limit the stream seems to end, so the reader reports the record that is cut off.
        let left = usize::try_from(STREAM_BYTES_MAX - self.read).unwrap_or(usize::MAX);
        let len = bytes.len().min(left);
        let read = self.input.read(&mut bytes[..len])?;
        self.read += read as u64;
        Ok(read)
    }
}

fn import_stream(
    owners: &OwnerThreads,
    descriptor: OwnedFd,
    Import { mode, needs_digest }: Import,
) -> Vec<Outcome> {
    let began = Instant::now();
    // The stream is declared first, so that `LARGE` is held until the state is dropped.
    let mut input = None;
    let state = TimedFile::new(descriptor).map_err(ReadError::from).and_then(|stream| {
        let input = input.insert(Bounded { input: stream, read: 0, large: None });
        let mut reader = Reader::new(BufReader::with_capacity(READ_BYTES, input))?;
        let state = State::read(&mut reader)?;
        // Known only now, as the digest is the last record but one.
        match needs_digest && !reader.has_digest() {
            true => Err(reader.error(StreamError::NoDigest)),
            false => Ok(state),
        }
    });
    let state = match state {
        Ok(state) => state,
        Err(error) => {
            let errno = match error {
                ReadError::Io(_) => Errno::EIO,
                ReadError::Stream { .. } => Errno::EINVAL,
            };
            return vec![Outcome { domid: None, result: Err((errno, error.to_string())) }];
        }
    };
    // Reading includes the wait for the peer, so the log shows both times.
    let read = began.elapsed();
    let (arrivals, left) = split_by_domain(state);
    if left > 0 {
        tracing::warn!(nodes = left, "nodes left out of an import: they belong to no domain");
    }
    let outcomes = match mode {
        ImportMode::Place => place_all(owners, arrivals, false),
        ImportMode::Introduce => place_all(owners, arrivals, true),
        ImportMode::Check => check_all(owners, &arrivals),
    };
    log(&outcomes, owners.by(), [read, began.elapsed() - read], mode);
    outcomes
}

/// Logs which domains were imported, and which were refused with the first one's reason.
fn log(outcomes: &[Outcome], by: &Author, [read, placed]: [Duration; 2], mode: ImportMode) {
    let only_check = mode == ImportMode::Check;
    let (done, failed) = divided(outcomes);
    if !done.is_empty() {
        tracing::info!(
            domains = done.len(),
            domids = %Logged(&done),
            read_us = read.as_micros(),
            placed_us = placed.as_micros(),
            only_check,
            pid = by.pid,
            command = by.command,
            "imported"
        );
    }
    if let Some(why) = outcomes.iter().find_map(|outcome| outcome.result.as_ref().err()) {
        let (domains, domids) = (failed.len(), Logged(&failed));
        tracing::info!(domains, %domids, error = %why.0, why = why.1, only_check, "import refused");
    }
}

fn check_all(owners: &OwnerThreads, arrivals: &[ImportedDomain]) -> Vec<Outcome> {
    let domids: Vec<Domid> = arrivals.iter().map(|arrival| arrival.domid).collect();
    let standings = owners.standings(&domids);
    let check_one = |(arrival, standing): (&ImportedDomain, Result<Standing, Errno>)| {
        // As a real import does: `check_domain` finds only domains that are registered.
        owners.known_domain(arrival.domid);
        let checked = match standing.map_or(Presence::Absent, |standing| standing.presence) {
            Presence::Absent => check_domain(owners.store(), arrival),
            taken => Err(PlaceError::Taken(arrival.domid, taken)),
        };
        outcome(arrival.domid, numbers(arrival), checked)
    };
    let arrivals: Vec<_> = arrivals.iter().zip(standings).collect();
    Workers::find().map(arrivals, check_one)
}

/// Returns the numbers of a domain's outcome: its port and how many nodes it has.
fn numbers(arrival: &ImportedDomain) -> Vec<u64> {
    let transport = arrival.client.as_ref().map(|client| client.connection.transport);
    let port = match transport {
        Some(Transport::Ring(_, _, port)) => port,
        _ => 0,
    };
    vec![port.into(), arrival.nodes.len() as u64]
}

fn outcome(domid: Domid, numbers: Vec<u64>, result: Result<(), PlaceError>) -> Outcome {
    let Err(refusal) = result else { return Outcome::done(domid, &numbers) };
    let errno = match &refusal {
        PlaceError::Unknown(_) | PlaceError::NoTarget(..) => Errno::ENOENT,
        PlaceError::Taken(..) | PlaceError::Occupied(..) => Errno::EEXIST,
        PlaceError::Nodes(_, ImportError::StaleEpoch) => Errno::EAGAIN,
        PlaceError::Nodes(..) => Errno::EINVAL,
    };
    Outcome::failed(domid, errno, refusal)
}

/// Inserts each domain or refuses it, in parallel unless they have few nodes. Unless `introduces`, INTRODUCE connects
/// the domains later: the toolstack may know another event channel on this host, and backends may connect in between.
fn place_all(
    owners: &OwnerThreads,
    arrivals: Vec<ImportedDomain>,
    introduces: bool,
) -> Vec<Outcome> {
    let domids: Vec<Domid> = arrivals.iter().map(|arrival| arrival.domid).collect();
    let nodes: usize = arrivals.iter().map(|arrival| arrival.nodes.len()).sum();
    // From here until `hand_over` the domids are reserved: INTRODUCE is EBUSY, another import EEXIST.
    let expected = owners.expect(&domids);
    let place = |(arrival, expected)| place_one(owners, arrival, expected);
    let expected = arrivals.into_iter().zip(expected);
    let placed: Vec<(Outcome, Option<ImportEnd>)> = match nodes {
        // Rayon's threads would have to be woken, and would take cores from the guests that run here.
        ..=FEW_NODES => expected.map(place).collect(),
        _ => Workers::find().map(expected.collect::<Vec<_>>(), place),
    };
    let (mut outcomes, over): (Vec<_>, Vec<_>) = placed.into_iter().unzip();
    // The refused domains, too: their domids become free again.
    hand_over(owners, over.into_iter().flatten().collect(), introduces, &mut outcomes);
    outcomes.sort_by_key(|outcome| outcome.domid);
    outcomes
}

/// Inserts one domain. Returns the domain's outcome and, if its owner thread expects the domain, the message that ends
/// the expectation.
fn place_one(
    owners: &OwnerThreads,
    arrival: ImportedDomain,
    expected: Result<Expected, Errno>,
) -> (Outcome, Option<ImportEnd>) {
    let (domid, numbers) = (arrival.domid, numbers(&arrival));
    let domain = match expected {
        Ok(Ok(domain)) => domain,
        Ok(Err(Presence::Absent)) => {
            return (outcome(domid, numbers, Err(PlaceError::Unknown(domid))), None);
        }
        Ok(Err(taken)) => {
            return (outcome(domid, numbers, Err(PlaceError::Taken(domid, taken))), None);
        }
        Err(errno) => return (Outcome::failed(domid, errno, "the daemon is stopping"), None),
    };
    match place(owners, arrival) {
        Ok(arrived) => (outcome(domid, numbers, Ok(())), Some((domain, Some(arrived)))),
        Err(refusal) => (outcome(domid, numbers, Err(refusal)), Some((domain, None))),
    }
}

/// Notifies owner threads that imports have ended.
fn hand_over(
    owners: &OwnerThreads,
    over: Vec<ImportEnd>,
    introduces: bool,
    outcomes: &mut [Outcome],
) {
    let domids: Vec<Domid> = over.iter().map(|(domain, _)| domain.domid).collect();
    for (domid, result) in domids.into_iter().zip(owners.arrive(over, introduces)) {
        let Some(outcome) = outcomes.iter_mut().find(|it| it.domid == Some(domid)) else {
            continue;
        };
        match (result, &mut outcome.result) {
            // It died: the sweep removes the nodes that it owned; those of the control domain stay for the toolstack.
            (Err(_), _) => {
                *outcome = Outcome::failed(domid, Errno::ENOENT, "it died during its import");
            }
            (Ok(Some(introduced)), Ok(words)) => {
                words.push(introduced.map_or_else(|errno| errno.to_string(), |()| OK.to_owned()));
            }
            _ => {}
        }
    }
}

/// Inserts a domain's nodes; returns its client and a snapshot of its partitions.
fn place(
    owners: &OwnerThreads,
    arrival: ImportedDomain,
) -> Result<(Client, DomainSnapshot), PlaceError> {
    let (store, mut generations) = (owners.store(), Generations::default());
    let (executed, seen) = try_often(
        // A new caller for each try, since it has the epoch that was stale.
        || place_domain(store, &arrival, &owners.caller(), &mut generations),
        |refusal| matches!(refusal, PlaceError::Nodes(_, ImportError::StaleEpoch)),
    )?;
    // Also wakes the workers to which events were pushed; this thread has no pass.
    owners.settle(executed);
    // A domain that was not introduced at its source is quiesced here and can be discarded like others.
    let domid = arrival.domid;
    Ok((arrival.client.unwrap_or_else(|| Client::new(domid)), seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(read: u64) -> Bounded {
        let input = TimedFile::new(std::fs::File::open("/dev/zero").unwrap().into()).unwrap();
        Bounded { input, read, large: None }
    }

    #[test]
    fn stream_ends_at_1_gib() {
        let (mut stream, mut bytes) = (zeros((1 << 30) - 3), [0; 8]);
        assert_eq!(stream.read(&mut bytes).unwrap(), 3);
        assert_eq!(stream.read(&mut bytes).unwrap(), 0);
    }

    #[test]
    fn stream_above_16_mib_makes_others_wait() {
        let (mut stream, mut bytes) = (zeros((1 << 24) - 8), [0; 8]);
        // The last read below the limit, the read that exceeds the limit, and the first read afterwards.
        for is_large in [false, false, false] {
            assert_eq!(stream.read(&mut bytes[..4]).unwrap(), 4);
            assert_eq!(stream.large.is_some(), is_large);
        }
        assert_eq!(stream.read(&mut bytes).unwrap(), 8);
        assert!(stream.large.is_some() && LARGE.is_locked());
    }
}
