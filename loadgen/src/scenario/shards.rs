//! Cost and benefit of a second shard.

use super::goals::{Goal, cpu};
use super::operations::{connect, fill_mixed, mixed};
use super::{Case, Plan, Scenario, Session, with_cpu};
use crate::client::{Load, Request};
use crate::measure::{Measured, Sample};
use crate::target::{Options, Running, Target};
use crate::trouble::{ClientError, Result};

const CONNECTIONS: usize = 64;
const DEPTH: usize = 16;
const DOMAINS: usize = 1000;

/// The scenario that compares one shard with two.
pub struct Shards;

impl Scenario for Shards {
    fn name(&self) -> &'static str {
        "shards"
    }

    fn about(&self) -> &'static str {
        "The mixed load, 64 connections at depth 16, on our daemon and the echo server with one \
         thread and with two. The CPU time per request should be similar; instructions are counted \
         by `cargo bench --bench requests`."
    }

    fn cases(&self, _plan: &Plan) -> Vec<Case> {
        vec![Case::sized(1, "shard"), Case::sized(2, "shards")]
    }

    fn leaves_out(&self, target: &Target, _case: &Case) -> Option<&'static str> {
        match target {
            Target::Ours | Target::Echo => None,
            Target::C | Target::OCaml => Some("it has one thread"),
            Target::Socket(_) => Some("its number of threads is fixed"),
        }
    }

    fn prepare(&self, plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let domains = if plan.quick { DOMAINS / 10 } else { DOMAINS };
        let halves = [1, 2].map(|shards| Half::start(target, shards, domains));
        let [one, two] = halves;
        Ok(Box::new(Comparing { mix: mixed(domains), halves: [one?, two?] }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let (one, two) = (cpu(measured, "1 shard", "ours"), cpu(measured, "2 shards", "ours"));
        let (Some(one), Some(two)) = (one, two) else { return Vec::new() };
        let what = "two shards: CPU us per request, 1.5 times one shard's";
        vec![Goal::at_most(what, two, 1.5 * one)]
    }
}

/// A target with one of the two thread counts.
struct Half {
    running: Running,
    load: Load,
}

impl Half {
    fn start(target: &Target, shards: u16, domains: usize) -> Result<Half> {
        let options = Options { shards: Some(shards), ..Options::default() };
        let cannot = |error| ClientError::io(format!("cannot start {target}"), error);
        let running = target.start(&options).map_err(cannot)?;
        let is_echo = *target == Target::Echo;
        if !is_echo {
            fill_mixed(&running.socket, domains)?;
        }
        let links = (0..CONNECTIONS).map(|_| connect(&running.socket)).collect::<Result<_>>()?;
        Ok(Half { running, load: Load::new(links, is_echo)? })
    }
}

struct Comparing {
    mix: Vec<(usize, Vec<Request>)>,
    halves: [Half; 2],
}

impl Session for Comparing {
    fn round(&mut self, plan: &Plan, case: &Case) -> Result<Sample> {
        let half = &mut self.halves[case.size.unwrap_or(1) - 1];
        half.load.run(&self.mix, CONNECTIONS, DEPTH, plan.time / 5)?;
        let (load, mix) = (&mut half.load, &self.mix);
        let (tally, cpu) =
            with_cpu(&half.running, || load.run(mix, CONNECTIONS, DEPTH, plan.time))?;
        Ok(Sample::of(tally, cpu))
    }
}
