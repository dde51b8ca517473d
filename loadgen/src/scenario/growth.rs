//! Cost of a request in the presence of unrelated load: idle connections, and watches that do not match.

use std::os::unix::net::UnixStream;

use xenstored::protocol::Operation;

use super::goals::{Goal, cpu};
use super::operations::connect;
use super::{Case, Plan, Scenario, Session, start, with_cpu};
use crate::client::{Blocking, Expect, Load, Request, words};
use crate::measure::{Measured, Sample};
use crate::target::{Running, Target};
use crate::trouble::{ClientError, Result};

/// Outstanding requests on the one busy connection.
const DEPTH: usize = 16;
/// Nodes that are read or written.
const NODES: usize = 100;
/// Watches set by one connection.
const WATCHES_EACH: usize = 1000;
/// Maximum for peers: with more watches they take too long; C xenstored needs 10 ms per request at 50,000.
const PEERS_WATCHES_MAX: usize = 10_000;

/// Returns the scenarios of this file.
pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![Box::new(Growth::Connections), Box::new(Growth::Watches)]
}

#[derive(Clone, Copy, PartialEq)]
enum Growth {
    Connections,
    Watches,
}

impl Growth {
    fn what(self) -> &'static str {
        match self {
            Growth::Connections => "idle connections",
            Growth::Watches => "unrelated watches",
        }
    }
}

impl Scenario for Growth {
    fn name(&self) -> &'static str {
        match self {
            Growth::Connections => "idle",
            Growth::Watches => "watches",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Growth::Connections => {
                "READ on one connection at depth 16, next to 0 to 4,096 idle connections."
            }
            Growth::Watches => {
                "WRITE on one connection at depth 16, next to 0 to 100,000 watches of other \
                 clients on unrelated nodes. No event may arrive."
            }
        }
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sizes: &[usize] = match (self, plan.quick) {
            (Growth::Connections, false) => &[0, 64, 512, 4096],
            (Growth::Connections, true) => &[0, 64],
            (Growth::Watches, false) => &[0, 1000, 10_000, 100_000],
            (Growth::Watches, true) => &[0, 1000],
        };
        sizes.iter().map(|&size| Case::sized(size, self.what())).collect()
    }

    fn leaves_out(&self, target: &Target, case: &Case) -> Option<&'static str> {
        let few = case.size.is_none_or(|size| size <= PEERS_WATCHES_MAX);
        match (self, target) {
            (Growth::Watches, Target::Echo) => Some("it has no watches"),
            (Growth::Watches, Target::C | Target::OCaml) if !few => {
                Some("C xenstored needs at least 10 ms per request with this number of watches")
            }
            _ => None,
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let is_echo = *target == Target::Echo;
        let path = |node| format!("/tool/busy/node{node}");
        if !is_echo {
            let mut client = Blocking::connect(&running.socket)?;
            for node in 0..NODES {
                client.write(&path(node), "abc")?;
            }
            client.flush()?;
        }
        let request = |node| match self {
            Growth::Connections => {
                let expect = Expect::Payload(b"abc".to_vec());
                Request::new(Operation::Read, &words(&[&path(node)]), expect)
            }
            Growth::Watches => Request::write_changing(&path(node), ""),
        };
        let mix = vec![(1, (0..NODES).map(request).collect())];
        let load = Load::new(vec![connect(&running.socket)?], is_echo)?;
        let (idle, watchers) = (Vec::new(), Vec::new());
        Ok(Box::new(Growing { growth: *self, running, mix, load, idle, watchers }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let sizes: Vec<usize> = measured.iter().filter_map(|row| row.case.size).collect();
        let largest = sizes.into_iter().max().unwrap_or(0);
        let of = |size| cpu(measured, &Case::sized(size, self.what()).name, "ours");
        let (Some(none), Some(many)) = (of(0), of(largest)) else { return Vec::new() };
        let what = format!("CPU us per request beside {largest} {}, 1.5 times none", self.what());
        vec![Goal::at_most(what, many, 1.5 * none)]
    }
}

struct Growing {
    growth: Growth,
    running: Running,
    mix: Vec<(usize, Vec<Request>)>,
    load: Load,
    idle: Vec<UnixStream>,
    watchers: Vec<Blocking>,
}

impl Growing {
    /// Adds connections or watches up to the case's size.
    fn grow(&mut self, size: usize) -> Result<()> {
        match self.growth {
            Growth::Connections => {
                while self.idle.len() < size {
                    let stream = UnixStream::connect(&self.running.socket);
                    let cannot = |error| ClientError::io("cannot connect an idle client", error);
                    self.idle.push(stream.map_err(cannot)?);
                }
            }
            Growth::Watches => {
                while self.watchers.len() * WATCHES_EACH < size {
                    let number = self.watchers.len();
                    let mut client = Blocking::connect(&self.running.socket)?;
                    for watch in 0..WATCHES_EACH {
                        let path = format!("/tool/others/{number}/node{watch}");
                        client.ask(Operation::Watch, &words(&[&path, &path]))?;
                    }
                    client.flush()?;
                    // Each watch fires once when it is set.
                    for _ in 0..WATCHES_EACH {
                        client.event()?;
                    }
                    self.watchers.push(client);
                }
            }
        }
        Ok(())
    }
}

impl Session for Growing {
    fn round(&mut self, plan: &Plan, case: &Case) -> Result<Sample> {
        self.grow(case.size.unwrap_or(0))?;
        self.load.run(&self.mix, 1, DEPTH, plan.time / 5)?;
        let (load, mix) = (&mut self.load, &self.mix);
        let (tally, cpu) = with_cpu(&self.running, || load.run(mix, 1, DEPTH, plan.time))?;
        for watcher in &mut self.watchers {
            watcher.must_be_quiet()?;
        }
        Ok(Sample::of(tally, cpu))
    }
}
