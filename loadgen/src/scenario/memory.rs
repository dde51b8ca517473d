//! Memory cost of a node.

use std::time::Instant;

use super::goals::{Goal, of};
use super::{Case, Plan, Scenario, Session, start, with_cpu};
use crate::client::Blocking;
use crate::measure::{Measured, Sample};
use crate::target::Target;
use crate::trouble::{ClientError, Result};

/// The value of each node.
const VALUE: [u8; 64] = [b'v'; 64];
/// Nodes of a domain: 10 directories, 90 below them, 900 leaves.
const DOMAIN: usize = 1000;
/// Maximum for peers: C xenstored needs 50 CPU seconds for 100,000, and no peer created 1,000,000 in 230 s.
const PEERS_NODES_MAX: usize = 100_000;
const BYTES: &str = "bytes a node";

/// The scenario of 100,000 and 1,000,000 nodes.
pub struct Memory;

impl Scenario for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn about(&self) -> &'static str {
        "Growth of the daemon's resident memory by 100,000 and 1,000,000 nodes with values of 64 \
         bytes, 1,000 per domain at depths of 4 to 6, and the cost of creating them."
    }

    fn unit(&self) -> &'static str {
        "node"
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sizes: &[usize] = if plan.quick { &[10_000] } else { &[100_000, 1_000_000] };
        sizes.iter().map(|&size| Case::sized(size, "nodes")).collect()
    }

    fn leaves_out(&self, target: &Target, case: &Case) -> Option<&'static str> {
        let few = case.size.is_none_or(|size| size <= PEERS_NODES_MAX);
        match target {
            Target::C | Target::OCaml if !few => Some("it needs minutes to create these nodes"),
            Target::Ours | Target::C | Target::OCaml => None,
            Target::Echo => Some("it keeps no nodes"),
            Target::Socket(_) => Some("its process is unknown, and so is its memory"),
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        Ok(Box::new(Filling { target: target.clone() }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let bytes = of(measured, "1000000 nodes", "ours").and_then(|row| row.figure(BYTES));
        let what = "memory, 1,000,000 nodes: bytes a node";
        bytes.map(|bytes| Goal::at_most(what, bytes, 170.0)).into_iter().collect()
    }
}

/// A session with a fresh daemon for each round, since freed memory is not fully returned.
struct Filling {
    target: Target,
}

impl Session for Filling {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let size = case.size.unwrap_or(0);
        let running = start(&self.target, &[])?;
        let mut client = Blocking::connect(&running.socket)?;
        for domid in 1..=size / DOMAIN {
            client.write(&format!("/local/domain/{domid}"), "")?;
        }
        client.flush()?;
        let (empty, started) = (resident_bytes(running.pid)?, Instant::now());
        let ((), cpu) = with_cpu(&running, || {
            (1..=size / DOMAIN).try_for_each(|domid| fill(&mut client, domid))?;
            client.flush()
        })?;
        let elapsed = started.elapsed();
        let bytes = resident_bytes(running.pid)?.saturating_sub(empty) as f64 / size as f64;
        let sample = Sample { units: size as u64, elapsed, cpu, ..Sample::default() };
        Ok(sample.with(BYTES, bytes))
    }
}

/// Writes a domain's nodes. Names have 4 to 12 bytes and differ between domains.
fn fill(client: &mut Blocking, domid: usize) -> Result<()> {
    let mut number = 0;
    let mut name = |prefix: &str| {
        number += 1;
        let digits = format!("{:012}", (domid * DOMAIN + number) * 7919 % 999_999_999_989);
        format!("{prefix}{}", &digits[9 - number % 8..])
    };
    for top in 0..10 {
        let top = format!("/local/domain/{domid}/{}", name(["a", "b"][top % 2]));
        client.write(&top, VALUE)?;
        for middle in 0..9 {
            let middle = format!("{top}/{}", name(["c", "d"][middle % 2]));
            client.write(&middle, VALUE)?;
            for leaf in 0..10 {
                client.write(&format!("{middle}/{}", name(["e", "f"][leaf % 2])), VALUE)?;
            }
        }
    }
    Ok(())
}

/// Returns a process's resident memory in bytes.
pub(super) fn resident_bytes(pid: Option<u32>) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// Returns a process's peak resident memory in bytes.
pub(super) fn peak_bytes(pid: Option<u32>) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// Reads a line of `/proc/PID/status` (proc(5)).
fn status_bytes(pid: Option<u32>, label: &str) -> Result<u64> {
    let cannot = |error| ClientError::io("cannot read the daemon's memory usage", error);
    let pid = pid.ok_or_else(|| cannot(std::io::ErrorKind::Unsupported.into()))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(cannot)?;
    let line = status.lines().find_map(|line| line.strip_prefix(label));
    let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| cannot(std::io::ErrorKind::InvalidData.into()))
}
