//! Latency of other requests during the removal of a large subtree.

use std::time::{Duration, Instant};

use xenstored::protocol::Operation;

use super::goals::{Goal, of};
use super::operations::connect;
use super::{Case, Plan, Scenario, Session, start};
use crate::client::{Blocking, Expect, Paced, Request, words};
use crate::measure::{Measured, Sample, Unit};
use crate::target::{Running, Target};
use crate::trouble::Result;
use crate::wrong;

/// Interval of the reader's requests.
const INTERVAL: Duration = Duration::from_micros(500);
/// Minimum duration of the reads, with the removal in the middle.
const READS_FOR: Duration = Duration::from_millis(800);
/// Maximum for peers: C xenstored needs 50 CPU seconds to create 100,000 nodes.
const PEERS_NODES_MAX: usize = 10_000;
/// Children of each directory below the removed node.
const DIRECTORY: usize = 1000;
const READ_PATH: &str = "/local/domain/1/name";
const ROOT: &str = "/local/domain/2/large";

/// The scenario of an RM with a concurrent reader.
pub struct Removal;

impl Scenario for Removal {
    fn name(&self) -> &'static str {
        "removal"
    }

    fn about(&self) -> &'static str {
        "RM of up to 100,000 nodes in one request, while a client reads another domain's node \
         every 500 us. The reader's latencies count from the scheduled time of each request; those \
         without a removal show the noise of the machine."
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sizes: &[usize] = if plan.quick { &[0, 1000] } else { &[0, 10_000, 100_000] };
        sizes.iter().map(|&size| Case::sized(size, "nodes removed")).collect()
    }

    fn leaves_out(&self, target: &Target, case: &Case) -> Option<&'static str> {
        let size = case.size.unwrap_or(0);
        match target {
            Target::Echo if size > 0 => Some("it keeps no nodes that could be removed"),
            Target::C | Target::OCaml if size > PEERS_NODES_MAX => {
                Some("C xenstored needs 50 s of CPU to create these nodes")
            }
            _ => None,
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let is_echo = *target == Target::Echo;
        let mut toolstack = Blocking::connect(&running.socket)?;
        if !is_echo {
            toolstack.write(READ_PATH, "abc")?;
            toolstack.flush()?;
        }
        let reader = Paced::new(connect(&running.socket)?, is_echo)?;
        Ok(Box::new(Removing { _running: running, toolstack, reader }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let longest = |case| of(measured, case, "ours")?.percentile(100.0);
        let Some(beside) = longest("100000 nodes removed") else { return Vec::new() };
        let alone = longest("0 nodes removed").unwrap_or(0.0);
        let what = format!(
            "removal of 100,000 nodes: longest wait of a reader in us (without it {alone:.0})"
        );
        vec![Goal::at_most(what, beside, 2000.0)]
    }
}

struct Removing {
    _running: Running,
    toolstack: Blocking,
    reader: Paced,
}

impl Session for Removing {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let size = case.size.unwrap_or(0);
        for node in 0..size {
            let path = format!("{ROOT}/{}/{}", node / DIRECTORY, node % DIRECTORY);
            self.toolstack.write(&path, "abc")?;
        }
        self.toolstack.flush()?;
        let (reader, toolstack) = (&mut self.reader, &mut self.toolstack);
        let read =
            Request::new(Operation::Read, &words(&[READ_PATH]), Expect::Payload(b"abc".to_vec()));
        let (tally, took) = std::thread::scope(|scope| {
            let removal = scope.spawn(|| remove(toolstack, size));
            let tally = reader.run(&read, INTERVAL, READS_FOR);
            (tally, removal.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        // CPU time is not reported, as it would include both the reads and the removal.
        let (mut sample, took) = (Sample::of(tally?, None), took?);
        if size > 0 {
            if toolstack.request(Operation::Read, 0, &words(&[ROOT]))? != Err("ENOENT".into()) {
                wrong!("{ROOT} exists after its removal");
            }
            sample = sample.with_unit("RM ms", took.as_secs_f64() * 1e3, Unit::Millis);
        }
        Ok(sample)
    }
}

/// Removes the tree after the reader has run for a while; returns the duration.
fn remove(toolstack: &mut Blocking, size: usize) -> Result<Duration> {
    std::thread::sleep(READS_FOR / 4);
    let started = Instant::now();
    if size > 0 {
        toolstack.must(Operation::Rm, &words(&[ROOT]))?;
    }
    Ok(started.elapsed())
}
