//! A traversal of the whole store, as by Xen's own `xenstore-ls -fp`: three requests per node, one after another.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::goals::{Goal, of};
use super::{Case, Plan, Scenario, Session, start, with_cpu};
use crate::client::Blocking;
use crate::measure::{Measured, Sample, Unit};
use crate::target::{Options, Running, Target};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Domains, each a node with this many children.
const DOMAINS: usize = 1000;
const NODES: usize = 119;
/// Maximum for peers: C xenstored needs half a minute to write as many.
const PEERS_NODES_MAX: usize = 24_000;
const MILLISECONDS: &str = "walk ms";

/// The scenario of a traversal.
pub struct Walk;

impl Scenario for Walk {
    fn name(&self) -> &'static str {
        "walk"
    }

    fn about(&self) -> &'static str {
        "Debian's xenstore-ls -fp visits up to 120,000 nodes: DIRECTORY, READ and GET_PERMS of \
         each, one request after another. The echo server sends the replies of our daemon to the \
         same client, whose output must be the same with both."
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sizes: &[usize] = if plan.quick { &[1200] } else { &[24_000, 120_000] };
        sizes.iter().map(|&size| Case::sized(size, "nodes")).collect()
    }

    fn leaves_out(&self, target: &Target, case: &Case) -> Option<&'static str> {
        let few = case.size.is_none_or(|size| size <= PEERS_NODES_MAX);
        match target {
            Target::C | Target::OCaml if !few => {
                Some("C xenstored needs half a minute to create these nodes")
            }
            _ => None,
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        Ok(match target {
            Target::Echo => Box::new(Replaying { replies: None }),
            _ => Box::new(Walking { running: start(target, &[])?, domains: 0 }),
        })
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let case = format!("{} nodes", DOMAINS * (NODES + 1));
        let time = |target| of(measured, &case, target)?.figure(MILLISECONDS);
        let (Some(ours), Some(echo)) = (time("ours"), time("echo")) else { return Vec::new() };
        let what = "walk of 120,000 nodes: ms, 1.2 times the same client's against echo";
        vec![Goal::at_most(what, ours, 1.2 * echo)]
    }
}

/// A session with a daemon and its tree.
struct Walking {
    running: Running,
    /// Number of domains created so far.
    domains: usize,
}

impl Session for Walking {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let domains = case.size.unwrap_or(0) / (NODES + 1);
        plant(&self.running, self.domains..domains)?;
        self.domains = domains;
        walk(&self.running, domains)
    }
}

/// A session with an echo server that has the replies to a traversal.
struct Replaying {
    /// The server and its number of domains.
    replies: Option<(usize, Running)>,
}

impl Session for Replaying {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let domains = case.size.unwrap_or(0) / (NODES + 1);
        let running = match self.replies.take() {
            Some((of, running)) if of == domains => running,
            _ => echo_of(domains)?,
        };
        let sample = walk(&running, domains)?;
        self.replies = Some((domains, running));
        Ok(sample)
    }
}

/// Creates the nodes of these domains.
fn plant(running: &Running, domains: std::ops::Range<usize>) -> Result<()> {
    let mut client = Blocking::connect(&running.socket)?;
    for domain in domains {
        for node in 0..NODES {
            client.write(&format!("/local/domain/{}/{node}", domain + 1), "abc")?;
        }
    }
    client.flush()
}

/// Runs one traversal; measures the client's time and the daemon's CPU time.
fn walk(running: &Running, domains: usize) -> Result<Sample> {
    let started = Instant::now();
    let (printed, cpu) = with_cpu(running, || list(&running.socket))?;
    let elapsed = started.elapsed();
    let (nodes, lines) = (domains * (NODES + 1), printed.lines().count());
    let is_node = |line: &&str| line.contains(" = \"abc\"") || line.contains(" = \"\"");
    let right = printed.lines().filter(is_node).filter(|line| line.ends_with("(n0)")).count();
    if (lines, right) != (nodes, nodes) {
        wrong!("xenstore-ls printed {lines} lines, {right} of them right, of {nodes} nodes");
    }
    // The directory itself is listed, too.
    let units = 3 * nodes as u64 + 1;
    let sample = Sample { units, elapsed, cpu, ..Sample::default() };
    Ok(sample.with_unit(MILLISECONDS, elapsed.as_secs_f64() * 1e3, Unit::Millis))
}

/// Returns the output of `xenstore-ls`.
fn list(socket: &Path) -> Result<String> {
    let cannot =
        |error| ClientError::io("cannot run xenstore-ls (loadgen/install-peers.sh)", error);
    let mut command = Command::new("xenstore-ls");
    command.args(["-fp", "/local/domain"]).env("XENSTORED_PATH", socket).stdin(Stdio::null());
    let output = command.output().map_err(cannot)?;
    if !output.status.success() {
        wrong!("xenstore-ls: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts an echo server that sends our daemon's replies to a traversal of this many domains.
fn echo_of(domains: usize) -> Result<Running> {
    let cannot = |error| ClientError::io("cannot record a walk", error);
    let daemon = start(&Target::Ours, &[])?;
    plant(&daemon, 0..domains)?;
    let dir = Running::directory().map_err(cannot)?;
    let (socket, replies) = (dir.path().join("socket"), dir.path().join("replies"));
    let listener = UnixListener::bind(&socket).map_err(cannot)?;
    std::thread::scope(|scope| {
        let recorder = scope.spawn(|| record(&listener, &daemon.socket, &replies));
        if let Err(trouble) = list(&socket) {
            // If the client never connected, the recorder still waits in accept.
            drop(UnixStream::connect(&socket));
            return Err(trouble);
        }
        recorder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(cannot)
    })?;
    let arguments = vec!["--replies".to_owned(), replies.display().to_string()];
    // The server reads the file before it accepts clients.
    Target::Echo.start(&Options { arguments, ..Options::default() }).map_err(cannot)
}

/// Acts as a proxy between a client and the daemon, and records the daemon's output.
fn record(listener: &UnixListener, daemon: &Path, replies: &Path) -> io::Result<()> {
    let (mut client, _) = listener.accept()?;
    let mut daemon = UnixStream::connect(daemon)?;
    daemon.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (mut requests, mut ears) = (client.try_clone()?, daemon.try_clone()?);
    let asking = std::thread::spawn(move || {
        let asked = io::copy(&mut requests, &mut ears);
        let _ = ears.shutdown(Shutdown::Both);
        asked
    });
    let (mut file, mut bytes) = (File::create(replies)?, [0; 8192]);
    loop {
        match daemon.read(&mut bytes)? {
            0 => break,
            len => {
                file.write_all(&bytes[..len])?;
                // The client may disconnect with its last reply.
                let _ = client.write_all(&bytes[..len]);
            }
        }
    }
    asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(drop)
}
