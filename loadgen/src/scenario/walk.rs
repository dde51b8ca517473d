//! A look at the whole store, as `xenstore-ls -fp` takes it: three requests a node, one after
//! another.

use std::time::Instant;

use xenstored::protocol::Kind;

use super::goals::{Goal, of};
use super::{Case, Plan, Scenario, Session, start, with_cpu};
use crate::client::{Blocking, words};
use crate::measure::{Measured, Sample};
use crate::target::{Running, Target};
use crate::trouble::Result;
use crate::wrong;

/// Domains, each a node with this many below it.
const DOMAINS: usize = 1000;
const NODES: usize = 119;
/// C needs half a minute to write as many.
const PEERS_NODES_MAX: usize = 24_000;
const MILLISECONDS: &str = "walk ms";

/// The walk.
pub struct Walk;

impl Scenario for Walk {
    fn name(&self) -> &'static str {
        "walk"
    }

    fn about(&self) -> &'static str {
        "DIRECTORY, READ and GET_PERMS of each of up to 120,000 nodes, one request after another, \
         as xenstore-ls -fp asks. The echo server is asked the same."
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sizes: &[usize] = if plan.quick { &[1200] } else { &[24_000, 120_000] };
        sizes.iter().map(|&size| Case::sized(size, "nodes")).collect()
    }

    fn suits(&self, target: &Target, case: &Case) -> bool {
        let few = case.size.is_none_or(|size| size <= PEERS_NODES_MAX);
        few || !matches!(target, Target::C | Target::OCaml)
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let client = Blocking::connect(&running.socket)?;
        let is_echo = *target == Target::Echo;
        Ok(Box::new(Walking { running, client, is_echo, domains: 0 }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let case = format!("{} nodes", DOMAINS * (NODES + 1));
        let time = |target| of(measured, &case, target)?.figure(MILLISECONDS);
        let (Some(ours), Some(echo)) = (time("ours"), time("echo")) else { return Vec::new() };
        let what = "walk of 120,000 nodes: ms, 1.2 times the same client's against echo";
        vec![Goal::at_most(what, ours, 1.2 * echo)]
    }
}

struct Walking {
    running: Running,
    client: Blocking,
    is_echo: bool,
    /// So many are there.
    domains: usize,
}

impl Session for Walking {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let domains = case.size.unwrap_or(0) / (NODES + 1);
        while self.domains < domains && !self.is_echo {
            let domid = self.domains + 1;
            for node in 0..NODES {
                self.client.write(&format!("/local/domain/{domid}/{node}"), "abc")?;
            }
            self.domains += 1;
        }
        self.client.flush()?;
        let started = Instant::now();
        let (client, is_echo) = (&mut self.client, self.is_echo);
        let (requests, cpu) = with_cpu(&self.running, || match is_echo {
            true => walk_echo(client, domains),
            false => walk(client, domains),
        })?;
        let elapsed = started.elapsed();
        let sample = Sample { units: requests, elapsed, cpu, ..Sample::default() };
        Ok(sample.with(MILLISECONDS, elapsed.as_secs_f64() * 1e3))
    }
}

/// Asks an echo server what a daemon would be asked.
fn walk_echo(client: &mut Blocking, domains: usize) -> Result<u64> {
    let mut requests = 0;
    for domid in 1..=domains {
        visit(client, &format!("/local/domain/{domid}"), &mut requests)?;
        for node in 0..NODES {
            visit(client, &format!("/local/domain/{domid}/{node}"), &mut requests)?;
        }
    }
    Ok(requests)
}

/// Walks through `/local/domain`, and finds exactly what was written.
fn walk(client: &mut Blocking, domains: usize) -> Result<u64> {
    let (mut requests, mut nodes) = (0, 0);
    let mut todo = vec!["/local/domain".to_owned()];
    while let Some(path) = todo.pop() {
        let (children, value, permissions) = visit(client, &path, &mut requests)?;
        if permissions != b"n0\0" {
            wrong!("{path} has permissions {:?}", String::from_utf8_lossy(&permissions));
        }
        let leaf = path.split('/').count() == 5;
        if (leaf && value != b"abc") || leaf != children.is_empty() {
            wrong!("{path} has value {:?}", String::from_utf8_lossy(&value));
        }
        nodes += 1;
        let names = children.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        todo.extend(names.map(|name| format!("{path}/{}", String::from_utf8_lossy(name))));
    }
    let expected = domains * (NODES + 1) + 1;
    if nodes != expected {
        wrong!("the walk found {nodes} nodes of {expected}");
    }
    Ok(requests)
}

/// What a node is asked: its children, its value, its permissions.
fn visit(
    client: &mut Blocking,
    path: &str,
    requests: &mut u64,
) -> Result<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let path = words(&[path]);
    *requests += 3;
    Ok((
        client.directory(&path)?,
        client.must(Kind::Read, &path)?,
        client.must(Kind::GetPerms, &path)?,
    ))
}
