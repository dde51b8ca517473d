//! A storm's domains, booted by this process or distributed over several: with many domains, a single generator would
//! be the bottleneck instead of the daemon.
//!
//! ```text
//!   loadgen boot    the kernel and the console daemon        loadgen share   every n-th domain:
//!        |          of domain 0                                              toolstacks, guests
//!        +--- stdin: begin, then end ------------------------------------------->
//!        <--- stdout: a Report as JSON -----------------------------------------+
//! ```

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use std::{cell::RefCell, future::pending};

use clap::Parser;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{Machine, SHARED, TOOLSTACKS_MAX, storm::domid};
use crate::client::{Stage, histogram, record};
use crate::target::Running;
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Polling interval for the end of the other processes.
const SLICE: Duration = Duration::from_millis(5);
/// Time that the other processes may take beyond that of their domains.
const GRACE: Duration = Duration::from_secs(20);

/// The domains that one process starts, and the daemon's sockets.
#[derive(Debug, Parser)]
#[command(name = "loadgen share")]
pub struct Share {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    sim: PathBuf,
    #[arg(long)]
    first: usize,
    #[arg(long)]
    step: usize,
    #[arg(long)]
    last: usize,
    /// Seconds.
    #[arg(long)]
    patience: u64,
}

/// The result of a storm, or of a process's share of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Numbers of domains that booted, and of those that did not.
    pub done: usize,
    pub left: usize,
    /// Totals over the clients.
    pub requests: u64,
    pub events: u64,
    pub commits: u64,
    pub conflicts: u64,
    /// Histogram of boot times: nanoseconds, and number of boots.
    pub starts: Vec<(u64, u64)>,
}

impl Report {
    /// Adds the totals of a stage, and resets them.
    pub fn count(&mut self, stage: &Stage) {
        let counts = stage.counts();
        self.requests += counts.requests.take();
        self.events += counts.events.take();
        self.commits += counts.commits.take();
        self.conflicts += counts.conflicts.take();
    }

    fn add(&mut self, other: Report) {
        self.done += other.done;
        self.left += other.left;
        self.requests += other.requests;
        self.events += other.events;
        self.commits += other.commits;
        self.conflicts += other.conflicts;
        self.starts.extend(other.starts);
    }

    /// Returns the histogram of boot times.
    pub fn latency(&self) -> Histogram<u64> {
        let mut all = histogram();
        for &(nanoseconds, times) in &self.starts {
            all.saturating_record_n(nanoseconds, times);
        }
        all
    }
}

/// Boots these domains at once, in this process.
pub fn storm(
    machine: &Rc<Machine>,
    domains: impl Iterator<Item = usize>,
    patience: Duration,
) -> Result<Report> {
    let starts = Rc::new(RefCell::new(histogram()));
    for number in domains {
        let (machine, domid, starts) = (Rc::clone(machine), domid(number)?, Rc::clone(&starts));
        machine.stage.handle().spawn(async move {
            let begun = Instant::now();
            machine.boot(domid).await?;
            record(&mut starts.borrow_mut(), begun.elapsed());
            Ok(())
        });
    }
    let left = machine.stage.run_for(patience)?;
    let starts = starts.borrow();
    let recorded = starts.iter_recorded();
    let mut report = Report {
        done: usize::try_from(starts.len()).unwrap_or(usize::MAX),
        left,
        starts: recorded.map(|it| (it.value_iterated_to(), it.count_at_value())).collect(),
        ..Report::default()
    };
    report.count(&machine.stage);
    Ok(report)
}

/// Runs as one of the other processes: reads from stdin when to begin and when to end, and prints the report.
///
/// # Errors
/// The first error of a domain.
pub fn serve(share: &Share) -> Result<()> {
    let cannot = |error| ClientError::io("cannot read the commands of the storm", error);
    let machine = Machine::share(&share.socket, &share.sim)?;
    if share.last > TOOLSTACKS_MAX {
        machine.share_toolstacks(SHARED / share.step)?;
    }
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(cannot)?;
    let domains = (share.first..=share.last).step_by(share.step);
    let report = storm(&machine, domains, Duration::from_secs(share.patience))?;
    let text = serde_json::to_string(&report).map_err(|error| cannot(error.into()))?;
    println!("{text}");
    // The domains live until they have been checked.
    io::stdin().read_line(&mut line).map_err(cannot)?;
    machine.stage.abandon();
    Ok(())
}

/// The other processes. The processes end when this is dropped.
pub struct Shares {
    children: Vec<Child>,
    patience: Duration,
}

impl Shares {
    /// Starts this many processes, for `size` domains in total.
    pub fn start(
        running: &Running,
        processes: usize,
        size: usize,
        patience: Duration,
    ) -> Result<Shares> {
        let Some(sim) = &running.sim else { wrong!("a target without a simulated host") };
        let cannot = |error| ClientError::io("cannot start a further process", error);
        let mut children = Vec::new();
        for first in 1..=processes {
            let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
            command.arg("share").arg("--socket").arg(&running.socket).arg("--sim").arg(sim);
            for (name, value) in [("--first", first), ("--step", processes), ("--last", size)] {
                command.arg(name).arg(value.to_string());
            }
            command.arg("--patience").arg(patience.as_secs().to_string());
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            children.push(child.map_err(cannot)?);
        }
        Ok(Shares { children, patience })
    }

    /// Makes all processes begin, serves as domain 0, and adds up their reports.
    pub fn run(&mut self, machine: &Machine) -> Result<Report> {
        let cannot = |error| ClientError::io("a further process", error);
        let (sender, reports) = channel();
        for child in &mut self.children {
            let (Some(stdin), Some(stdout)) = (&mut child.stdin, child.stdout.take()) else {
                wrong!("a process without pipes");
            };
            writeln!(stdin).map_err(cannot)?;
            let sender: Sender<io::Result<String>> = sender.clone();
            std::thread::spawn(move || {
                let mut line = String::new();
                let read = BufReader::new(stdout).read_line(&mut line);
                let _ = sender.send(read.map(|_| line));
            });
        }
        // A task that never ends keeps the stage running until its time limit.
        machine.stage.spawn(pending());
        let deadline = Instant::now() + self.patience + GRACE;
        let mut all = Report::default();
        let mut missing = self.children.len();
        while missing > 0 {
            machine.stage.run_for(SLICE)?;
            for line in reports.try_iter() {
                let report: Report = match serde_json::from_str(&line.map_err(cannot)?) {
                    Ok(report) => report,
                    Err(error) => wrong!("a further process failed: {error}"),
                };
                all.add(report);
                missing -= 1;
            }
            if Instant::now() > deadline {
                wrong!("timed out: {missing} further processes did not report");
            }
        }
        all.count(&machine.stage);
        Ok(all)
    }
}

impl Drop for Shares {
    /// Ends the processes and their domains. After a failed storm the processes would otherwise continue.
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
