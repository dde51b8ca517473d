//! Single operations: read, write, directory, and a mix over a whole host; on sockets and rings.

use std::path::Path;

use xenstored::host::sim::SimClient;
use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::goals::{Goal, cpu};
use super::{Case, Plan, Scenario, Session, host_of, start, with_cpu};
use crate::client::{Blocking, Expect, Link, Load, Mix, Request, words};
use crate::measure::{Measured, Sample};
use crate::target::{Running, Target};
use crate::trouble::{ClientError, Result};

/// Domains of the mixed scenario.
const DOMAINS: usize = 1000;
/// Nodes of each domain.
const NODES: usize = 30;
/// Children of the listed directory.
const CHILDREN: usize = 100;
/// Number of rings, and of socket connections in the largest case.
const RINGS: usize = 16;
const SOCKETS: usize = 64;
/// Divisor of a round's duration that gives the warm-up time.
const WARM_UP: u32 = 5;
/// Requests with their weights: an owned [`Mix`].
pub(super) type Requests = Vec<(usize, Vec<Request>)>;

/// Returns the scenarios of this file.
pub fn all() -> Vec<Box<dyn Scenario>> {
    [Work::Read, Work::Write, Work::Directory, Work::Mixed]
        .map(|work| Box::new(Operations(work)) as Box<dyn Scenario>)
        .into()
}

#[derive(Clone, Copy, PartialEq)]
enum Work {
    Read,
    Write,
    Directory,
    Mixed,
}

struct Operations(Work);

fn case(connections: usize, depth: usize, rings: bool) -> Case {
    let what = match (rings, connections) {
        (true, 1) => "ring",
        (true, _) => "rings",
        (false, 1) => "connection",
        (false, _) => "connections",
    };
    let name = format!("{connections} {what}, depth {depth}");
    Case { name, connections, depth, rings, size: None }
}

impl Scenario for Operations {
    fn name(&self) -> &'static str {
        match self.0 {
            Work::Read => "read",
            Work::Write => "write",
            Work::Directory => "directory",
            Work::Mixed => "mixed",
        }
    }

    fn about(&self) -> &'static str {
        match self.0 {
            Work::Read => {
                "READ of a value of 3 bytes from one of 1,000 nodes at random; over a ring, from \
                 the guest's node `name`. Each reply is compared with what was written."
            }
            Work::Write => {
                "WRITE of a changing value to one of 1,000 nodes at random; over a ring, to the \
                 guest's node `name`."
            }
            Work::Directory => {
                "DIRECTORY of a node with 100 children; over a ring, each guest lists a node of \
                 its own."
            }
            Work::Mixed => {
                "Four READs for each WRITE, at random over 1,000 domains of 30 nodes each; over a \
                 ring, over the guest's own 30. Each value contains the name of its node, which is \
                 checked in each value read."
            }
        }
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let mut cases = Vec::new();
        for depth in [1, 16] {
            for connections in [1, 8, SOCKETS] {
                if !plan.quick || connections != 8 && (connections == 1) == (depth == 1) {
                    cases.push(case(connections, depth, false));
                }
            }
        }
        cases.extend([case(1, 1, true), case(RINGS, 16, true)]);
        cases
    }

    fn leaves_out(&self, target: &Target, case: &Case) -> Option<&'static str> {
        match target {
            Target::Socket(_) if case.rings => Some("only its socket is known, no rings"),
            _ => None,
        }
    }

    fn prepare(&self, plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let is_echo = *target == Target::Echo;
        let domains = if plan.quick { DOMAINS / 10 } else { DOMAINS };
        let mix = match self.0 {
            Work::Read => vec![(1, names(domains).map(|path| read(&path, b"abc")).collect())],
            Work::Write => {
                vec![(1, names(domains).map(|p| Request::write_changing(&p, "")).collect())]
            }
            Work::Directory => vec![(1, vec![directory("/tool/directory")])],
            Work::Mixed => mixed(domains),
        };
        if !is_echo {
            self.fill(&running.socket, domains)?;
        }
        let links = (0..SOCKETS).map(|_| connect(&running.socket)).collect::<Result<_>>()?;
        let load = Load::new(links, is_echo)?;
        let rings = match &running.sim {
            Some(_) => Some(Rings::new(&running, target, self.0)?),
            None => None,
        };
        Ok(Box::new(Operating { running, mix, load, rings }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let many = case(SOCKETS, 16, false).name;
        let mut goals = Vec::new();
        let cpu = |case: &str, target| cpu(measured, case, target);
        if let (Work::Read | Work::Mixed, Some(ours)) = (self.0, cpu(&many, "ours")) {
            let what = |other| format!("{}, {many}: CPU us per request, {other}", self.name());
            if let Some(echo) = cpu(&many, "echo") {
                goals.push(Goal::at_most(what("echo's + 0.8"), ours, echo + 0.8));
            }
            if let Some(c) = cpu(&many, "c") {
                goals.push(Goal::at_most(what("1/8 of C's"), ours, c / 8.0));
            }
        }
        if self.0 == Work::Read {
            let one = case(1, 1, false).name;
            if let (Some(ours), Some(echo)) = (cpu(&one, "ours"), cpu(&one, "echo")) {
                let what = format!("read, {one}: CPU us per request, 1.3 times echo's");
                goals.push(Goal::at_most(what, ours, 1.3 * echo));
            }
            let rings = case(RINGS, 16, true).name;
            if let (Some(ours), Some(c)) = (cpu(&rings, "ours"), cpu(&rings, "c")) {
                let what = format!("read, {rings}: CPU us per request, a third of C's");
                goals.push(Goal::at_most(what, ours, c / 3.0));
            }
        }
        goals
    }
}

impl Operations {
    /// Writes the nodes to be read.
    fn fill(&self, socket: &Path, domains: usize) -> Result<()> {
        let mut client = Blocking::connect(socket)?;
        match self.0 {
            Work::Read | Work::Write => {
                for path in names(domains) {
                    client.write(&path, "abc")?;
                }
            }
            Work::Directory => {
                for child in children("/tool/directory") {
                    client.write(&child, "")?;
                }
            }
            Work::Mixed => return fill_mixed(socket, domains),
        }
        client.flush()
    }
}

pub(super) fn connect(socket: &Path) -> Result<Link> {
    Link::connect(socket).map_err(|error| ClientError::io("cannot connect", error))
}

/// Returns one node of each domain.
fn names(domains: usize) -> impl Iterator<Item = String> {
    (1..=domains).map(|domid| format!("/local/domain/{domid}/name"))
}

/// Returns the nodes of all domains with the prefixes of their values.
fn nodes(domains: usize) -> impl Iterator<Item = (String, String)> {
    (1..=domains).flat_map(|domid| {
        own_nodes().map(move |(path, prefix)| {
            (format!("/local/domain/{domid}/{path}"), format!("{domid}/{prefix}"))
        })
    })
}

/// Returns the nodes of one domain, as relative paths, with the prefixes of their values.
fn own_nodes() -> impl Iterator<Item = (String, String)> {
    (0..NODES).map(|node| {
        let directory = ["device", "control", "data"][node % 3];
        (format!("{directory}/node{node}"), format!("{node} "))
    })
}

/// Returns the children of `directory`, to be listed.
fn children(directory: &str) -> impl Iterator<Item = String> {
    (0..CHILDREN).map(move |child| format!("{directory}/child{child:03}"))
}

fn read(path: &str, value: &[u8]) -> Request {
    Request::new(Operation::Read, &words(&[path]), Expect::Payload(value.into()))
}

fn directory(path: &str) -> Request {
    Request::new(Operation::Directory, &words(&[path]), Expect::Strings(CHILDREN))
}

/// Returns a mix of four READs per WRITE, over all nodes of this many domains.
pub(super) fn mixed(domains: usize) -> Requests {
    four_to_one(&nodes(domains).collect::<Vec<_>>())
}

/// Returns a mix of four READs per WRITE of these nodes, given with the prefixes of their values.
fn four_to_one(nodes: &[(String, String)]) -> Requests {
    let expect = |prefix: String| Expect::Prefix(prefix.into_bytes());
    let read = |(path, prefix): &(String, String)| {
        Request::new(Operation::Read, &words(&[path]), expect(prefix.clone()))
    };
    let write = |(path, prefix): &(String, String)| Request::write_changing(path, prefix);
    vec![(4, nodes.iter().map(read).collect()), (1, nodes.iter().map(write).collect())]
}

/// Creates the nodes for [`mixed`].
pub(super) fn fill_mixed(socket: &Path, domains: usize) -> Result<()> {
    let mut client = Blocking::connect(socket)?;
    for (path, prefix) in nodes(domains) {
        client.write(&path, format!("{prefix}00000000"))?;
    }
    client.flush()
}

/// Guests with the same load on their own nodes.
struct Rings {
    load: Load,
    mix: Requests,
    /// The domains end with this connection.
    _host: SimClient,
}

impl Rings {
    fn new(running: &Running, target: &Target, work: Work) -> Result<Rings> {
        let (nodes, mix) = Rings::work(work);
        let mut client = Blocking::connect(&running.socket)?;
        let mut host = host_of(running, target)?;
        let mut links = Vec::new();
        // Above the domids that have only nodes.
        for domid in (2001..).take(RINGS) {
            let guest = client.build_domain(&mut host, Domid(domid))?;
            for (path, value) in &nodes {
                client.write(&format!("/local/domain/{domid}/{path}"), value)?;
            }
            links.push(Link::Ring(Box::new(guest)));
        }
        client.flush()?;
        let load = Load::new(links, *target == Target::Echo)?;
        Ok(Rings { load, mix, _host: host })
    }

    /// Returns a guest's nodes with their values, and its requests.
    fn work(work: Work) -> (Vec<(String, String)>, Requests) {
        let name = || vec![("name".to_owned(), "abc".to_owned())];
        match work {
            Work::Read => (name(), vec![(1, vec![read("name", b"abc")])]),
            Work::Write => (name(), vec![(1, vec![Request::write_changing("name", "")])]),
            Work::Directory => {
                let nodes = children("directory").map(|child| (child, String::new())).collect();
                (nodes, vec![(1, vec![directory("directory")])])
            }
            Work::Mixed => {
                let nodes = own_nodes().map(|(path, prefix)| (path, format!("{prefix}00000000")));
                (nodes.collect(), four_to_one(&own_nodes().collect::<Vec<_>>()))
            }
        }
    }
}

struct Operating {
    running: Running,
    mix: Requests,
    load: Load,
    rings: Option<Rings>,
}

impl Session for Operating {
    fn round(&mut self, plan: &Plan, case: &Case) -> Result<Sample> {
        let (load, mix): (&mut Load, &Mix) = match &mut self.rings {
            Some(rings) if case.rings => (&mut rings.load, &rings.mix),
            _ => (&mut self.load, &self.mix),
        };
        load.run(mix, case.connections, case.depth, plan.time / WARM_UP)?;
        let (tally, cpu) =
            with_cpu(&self.running, || load.run(mix, case.connections, case.depth, plan.time))?;
        Ok(Sample::of(tally, cpu))
    }
}
