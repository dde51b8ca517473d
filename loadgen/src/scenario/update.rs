//! The pause of a live update: the longest wait of a client that reads all the time.

use std::time::Duration;

use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::goals::{Goal, of};
use super::operations::connect;
use super::{Case, Plan, Scenario, Session, host_of};
use crate::client::{Blocking, Expect, Paced, Request, words};
use crate::measure::{Measured, Sample, Unit};
use crate::target::{Options, Running, Target};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Interval of the reader's requests.
const INTERVAL: Duration = Duration::from_micros(500);
/// Duration of the reads in a round, with the update in the middle: reading 10,000 domains takes some seconds.
const READS_FOR: Duration = Duration::from_secs(2);
/// The reads of an update of many domains.
const LONG_READS_FOR: Duration = Duration::from_secs(20);
/// From this many domains on.
const MANY: usize = 2000;
/// Nodes of a domain, and its watches.
const NODES: usize = 100;
const WATCHES: usize = 10;
const READ_PATH: &str = "/tool/update/node";

/// The scenario of a live update beside a reader.
pub struct Update;

impl Scenario for Update {
    fn name(&self) -> &'static str {
        "update"
    }

    fn about(&self) -> &'static str {
        "A live update to the same program with 10 to 1,000 domains of 100 nodes and 10 watches \
         (10,000 if XENSTORED_UPDATE_DOMAINS=10000 is set), while a client reads every 500 us. Its longest \
         wait is the pause."
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let more = std::env::var("XENSTORED_UPDATE_DOMAINS").ok().and_then(|it| it.parse().ok());
        let sizes: &[usize] = if plan.quick { &[10] } else { &[10, 100, 1000] };
        let sizes = sizes.iter().copied().chain(more.filter(|_| !plan.quick));
        sizes.map(|size| Case::sized(size, "domains")).collect()
    }

    fn leaves_out(&self, target: &Target, _case: &Case) -> Option<&'static str> {
        match target {
            Target::Ours => None,
            Target::Echo => Some("it has no live update"),
            Target::Socket(_) => Some("its program is not known"),
            Target::C | Target::OCaml => Some("its live update is measured in docs/BENCHMARKS.md"),
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let options = Options { keeper: true, ..Options::default() };
        let cannot = |error| ClientError::io(format!("cannot start {target}"), error);
        let running = target.start(&options).map_err(cannot)?;
        let host = host_of(&running, target)?;
        let mut toolstack = Blocking::connect(&running.socket)?;
        toolstack.write(READ_PATH, "abc")?;
        toolstack.flush()?;
        let reader = Paced::new(connect(&running.socket)?, false)?;
        Ok(Box::new(Updating { _running: running, host, guests: Vec::new(), toolstack, reader }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let pause = |case| of(measured, case, "ours")?.percentile(100.0);
        let goal = |case: &'static str, most_us| {
            Some(Goal::at_most(
                format!("longest wait in us, update of {case}"),
                pause(case)?,
                most_us,
            ))
        };
        [goal("1000 domains", 50_000.0), goal("10000 domains", 300_000.0)]
            .into_iter()
            .flatten()
            .collect()
    }
}

struct Updating {
    _running: Running,
    host: SimClient,
    guests: Vec<SimGuest>,
    toolstack: Blocking,
    reader: Paced,
}

impl Updating {
    /// Adds domains up to the case's number.
    fn grow(&mut self, size: usize) -> Result<()> {
        while self.guests.len() < size {
            let domid = Domid(u16::try_from(self.guests.len() + 1).unwrap_or(u16::MAX));
            self.guests.push(self.toolstack.build_domain(&mut self.host, domid)?);
            for node in 0..NODES {
                let path = format!("/local/domain/{domid}/device/{}/{node}", node / 10);
                self.toolstack.write(&path, "some ordinary value")?;
            }
            let watches = (0..WATCHES).flat_map(|it| [format!("device/{it}"), "token".into()]);
            let payload: Vec<String> = [domid.to_string()].into_iter().chain(watches).collect();
            let payload: Vec<&str> = payload.iter().map(String::as_str).collect();
            self.toolstack.ask(Operation::AddDomainWatches, &words(&payload))?;
        }
        self.toolstack.flush()
    }
}

impl Session for Updating {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let size = case.size.unwrap_or(0);
        self.grow(size)?;
        let reads_for = if size < MANY { READS_FOR } else { LONG_READS_FOR };
        let (reader, toolstack) = (&mut self.reader, &mut self.toolstack);
        let read =
            Request::new(Operation::Read, &words(&[READ_PATH]), Expect::Payload(b"abc".to_vec()));
        let (tally, result) = std::thread::scope(|scope| {
            let update = scope.spawn(|| update(toolstack, reads_for / 8));
            let tally = reader.run(&read, INTERVAL, reads_for);
            (tally, update.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let pause = result?;
        Ok(Sample::of(tally?, None).with_unit("pause ms, by the daemon", pause, Unit::Millis))
    }
}

/// Updates the daemon after the reader has run for a while; returns the pause in milliseconds by its own clock.
fn update(toolstack: &mut Blocking, after: Duration) -> Result<f64> {
    std::thread::sleep(after);
    let program =
        std::env::var_os("XENSTORED").map_or_else(std::env::current_exe, |it| Ok(it.into()));
    let program = program.map_err(|error| ClientError::io("cannot find this program", error))?;
    let mut ask = |words_of_it: &[&str]| -> Result<String> {
        let words_of_it: Vec<&str> = ["live-update"].iter().chain(words_of_it).copied().collect();
        let reply = toolstack.must(Operation::Control, &words(&words_of_it))?;
        Ok(String::from_utf8_lossy(&reply).trim_end_matches('\0').to_owned())
    };
    for words in [&["-f", &program.to_string_lossy()][..], &["-s"]] {
        let reply = ask(words)?;
        if reply != "OK" {
            wrong!("the update failed: {reply}");
        }
    }
    let numbers = ask(&["-r"])?;
    let pause = numbers.strip_prefix("pause_us=").and_then(|rest| rest.split(' ').next());
    match pause.and_then(|pause| pause.parse::<u32>().ok()) {
        Some(pause) => Ok(f64::from(pause) / 1e3),
        None => wrong!("no pause in {numbers:?}"),
    }
}
