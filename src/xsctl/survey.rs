//! What a move of domains would carry, and how long it would pause them: measured by trial exports and checked imports,
//! which change nothing at either daemon.

use std::collections::BTreeMap;
use std::io::Seek;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::client::ClientError;
use super::daemon::{Daemon, listed};
use super::error::ToolError;
use super::export_files::behind;
use super::libxl_file;
use super::link::Link;
use super::replies::Replies;
use super::route::Route;
use crate::protocol::Operation;
use crate::transport::descriptors::DESCRIPTORS_MAX;
use crate::types::Domid;

/// Domains that are tried alone, for the part of a pause that does not depend on the bytes. The median of a few suffices
/// for an estimate.
const TRIALS: usize = 5;
/// Requests for the median round trip.
const PINGS: usize = 5;

/// What a move of a domain would carry.
#[derive(Default)]
pub struct Surveyed {
    pub nodes: u64,
    pub watches: u64,
    pub transactions: u64,
    /// Bytes of its stream, without watches, transactions and bytes in transit.
    pub bytes: u64,
    /// Paths that stay behind.
    pub left_out: Vec<String>,
    /// Why it cannot be moved now.
    pub problem: Option<String>,
}

/// The domains of a move, and the estimate of their pauses.
pub struct Survey {
    pub domains: BTreeMap<Domid, Surveyed>,
    pub estimate: Estimate,
}

/// The time that a batch takes, as a function of its bytes.
pub struct Estimate {
    /// From a request to the destination to its reply.
    pub round_trip: Duration,
    /// The part that does not depend on the bytes: the requests to both daemons.
    fixed: Duration,
    /// Seconds for a byte, in both daemons and on the line.
    per_byte: f64,
}

impl Estimate {
    /// Returns the estimated pause of a batch with this many bytes: a trial's time, once more its part for the bytes, as
    /// inserting nodes takes as long as reading them (docs/BENCHMARKS.md, Import), and the round trip of UNQUIESCE; that
    /// of INTRODUCE too, if the import does not include it.
    pub fn pause(&self, bytes: u64, route: &Route) -> Duration {
        let carried = Duration::from_secs_f64(2.0 * self.per_byte * bytes as f64);
        let paced = route.pace.as_ref().map_or(Duration::ZERO, |pace| pace.time(bytes));
        let requests = if route.destination.introduces { 1 } else { 2 };
        self.fixed + requests * self.round_trip + carried + paced
    }
}

impl Survey {
    /// Surveys domains. Cost: all nodes of the domains, read at the source and checked at the destination without a
    /// pause; some round trips.
    ///
    /// # Errors
    /// A daemon cannot be reached, or the source is too old for it.
    pub fn of(route: &Route, domids: &[Domid]) -> Result<Survey, ToolError> {
        let round_trip = round_trip(&route.destination)?;
        let (mut links, mut domains) = (Links::default(), BTreeMap::new());
        let (mut time, mut bytes) = (Duration::ZERO, 0);
        for some in domids.chunks(DESCRIPTORS_MAX) {
            let (took, found) = trial(route, some, &mut links)?;
            time += took;
            bytes += found.values().map(|found| found.bytes).sum::<u64>();
            domains.extend(found);
        }
        let per_byte = if bytes == 0 { 0.0 } else { time.as_secs_f64() / bytes as f64 };
        let mut alone = Vec::new();
        for some in domids.chunks(domids.len().div_ceil(TRIALS).max(1)) {
            let (took, found) = trial(route, &some[..1], &mut links)?;
            let bytes: u64 = found.values().map(|found| found.bytes).sum();
            alone.push(took.saturating_sub(Duration::from_secs_f64(per_byte * bytes as f64)));
        }
        let fixed = median(alone).max(round_trip);
        Ok(Survey { domains, estimate: Estimate { round_trip, fixed, per_byte } })
    }

    /// Returns the largest batch, of at most `max` domains, whose estimated pause is at most `pause`, whichever domains
    /// are in it; at least 1.
    pub fn batch(&self, pause: Duration, max: usize, route: &Route) -> usize {
        let is_within = |count: &usize| self.longest_pause(*count, route) <= pause;
        let most = max.min(self.domains.len().max(1));
        (1..=most).rev().find(is_within).unwrap_or(1)
    }

    /// Returns the estimated pause of the `count` domains that have the most bytes.
    pub fn longest_pause(&self, count: usize, route: &Route) -> Duration {
        let mut sizes: Vec<u64> = self.domains.values().map(|domain| domain.bytes).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        self.estimate.pause(sizes.iter().take(count).sum(), route)
    }
}

/// The migration connections of consecutive trials.
#[derive(Default)]
struct Links {
    exports: Option<Link>,
    imports: Option<Link>,
}

/// Exports domains without a pause, and has the destination check their import. Returns how long that took.
fn trial(
    Route { source, destination, .. }: &Route,
    domids: &[Domid],
    links: &mut Links,
) -> Result<(Duration, BTreeMap<Domid, Surveyed>), ToolError> {
    let unable =
        |daemon: &Daemon, why: String| ToolError::Daemon { socket: daemon.socket.clone(), why };
    let files: Result<Vec<_>, _> = domids.iter().map(|_| libxl_file::memory()).collect();
    let mut files = files.map_err(ToolError::file("memory".as_ref()))?;
    let began = Instant::now();
    let payload = [&*listed(domids), b"check\0"].concat();
    let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let asked = source.ask_by(&mut links.exports, Operation::ExportDomains, &payload, &descriptors);
    let mut exported = Replies::of_all(asked);
    links.exports = exported.take_link();
    match exported.failed() {
        Some(trouble) if trouble.is("EINVAL") => {
            let why = "it is an older version, which exports nothing without a pause; update it";
            return Err(unable(source, why.into()));
        }
        Some(trouble) => return Err(unable(source, format!("EXPORT_DOMAINS: {trouble}"))),
        None => {}
    }
    let outcomes: Vec<_> = domids.iter().map(|&domid| exported.of(domid)).collect();
    for file in &mut files {
        file.rewind().map_err(ToolError::file("memory".as_ref()))?;
    }
    let good = files.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
    let descriptors: Vec<_> = good.map(|(file, _)| file.as_fd()).collect();
    let mut checked = Replies::default();
    if !descriptors.is_empty() {
        let asked = destination.ask_by(
            &mut links.imports,
            Operation::ImportDomains,
            b"check\0",
            &descriptors,
        );
        checked = Replies::of_all(asked);
        links.imports = checked.take_link();
    }
    let took = began.elapsed();
    if let Some(trouble) = checked.failed() {
        return Err(unable(destination, format!("IMPORT_DOMAINS: {trouble}")));
    }
    let mut found = BTreeMap::new();
    for ((&domid, file), outcome) in domids.iter().zip(&files).zip(outcomes) {
        let surveyed = match outcome {
            Ok(strings) => {
                let checked = checked.of(domid).err();
                let bytes = file.metadata().map_or(0, |metadata| metadata.len());
                surveyed(&strings, bytes, checked.as_ref())
            }
            Err(trouble) => Surveyed {
                problem: Some(format!("EXPORT_DOMAINS: {trouble}")),
                ..Surveyed::default()
            },
        };
        found.insert(domid, surveyed);
    }
    Ok((took, found))
}

/// Reads the reply for a domain: nodes, watches, transactions, and the path that stays behind.
fn surveyed(strings: &[String], bytes: u64, refusal: Option<&ClientError>) -> Surveyed {
    let number = |at: usize| strings.get(at).and_then(|text| text.parse().ok()).unwrap_or(0);
    Surveyed {
        nodes: number(0),
        watches: number(1),
        transactions: number(2),
        bytes,
        left_out: strings.iter().skip(3).map(|path| behind(path)).collect(),
        problem: refusal.map(|trouble| format!("IMPORT_DOMAINS: {trouble}")),
    }
}

/// Measures the median time of a request that costs the daemon nothing.
pub fn round_trip(daemon: &Daemon) -> Result<Duration, ToolError> {
    let mut client = daemon.connect()?;
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let began = Instant::now();
        // A reply of any kind will do.
        if let Err(lost @ ClientError::Lost(_)) = client.ask(Operation::IsDomainIntroduced, b"1\0")
        {
            return Err(ToolError::Daemon { socket: daemon.socket.clone(), why: lost.to_string() });
        }
        times.push(began.elapsed());
    }
    Ok(median(times))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
