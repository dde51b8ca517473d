//! A guest that sends requests as fast as it can, and its effect on another guest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use xenstored::host::sim::SimClient;
use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::goals::{Goal, of};
use super::{Case, Plan, Scenario, Session, host_of, start};
use crate::client::{Blocking, Expect, Link, Load, Paced, Request, words};
use crate::measure::{Measured, Sample, Unit};
use crate::target::{Running, Target};
use crate::trouble::Result;

/// The victim and the flooding guest. With at least two owner threads, domids that differ in the last bit have
/// different ones; in the second case the guests have the same.
const VICTIM: Domid = Domid(10);
const FLOODER_ELSEWHERE: Domid = Domid(11);
const FLOODER_BESIDE: Domid = Domid(12);
/// Outstanding requests of a flooding guest: as many as fit in its ring.
const FLOOD_DEPTH: usize = 16;
/// Length of the flood's rounds, which continue until the victim is done.
const FLOOD_PIECE: Duration = Duration::from_millis(50);
const RATIO: &str = "p99 beside / alone";

/// The scenario of a victim while another guest floods the daemon.
pub struct Flood;

impl Scenario for Flood {
    fn name(&self) -> &'static str {
        "flood"
    }

    fn about(&self) -> &'static str {
        "A guest writes as fast as its ring accepts requests; a victim on another ring reads at \
         half the rate that it reaches without the flood, one request after another. The latencies \
         are those of the victim during the flood, from the scheduled time of each request; the \
         p99 without the flood is from the same round."
    }

    fn cases(&self, _plan: &Plan) -> Vec<Case> {
        vec![Case::named("another thread's guest floods"), Case::named("the same thread's")]
    }

    fn leaves_out(&self, target: &Target, _case: &Case) -> Option<&'static str> {
        match target {
            Target::Ours | Target::C | Target::OCaml => None,
            Target::Echo => Some("it keeps no nodes, so there is nothing to flood"),
            Target::Socket(_) => Some("its simulated host is not known, so it has no guests"),
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let mut host = host_of(&running, target)?;
        let mut toolstack = Blocking::connect(&running.socket)?;
        let mut link = |domid| -> Result<Link> {
            let guest = toolstack.build_domain(&mut host, domid)?;
            for node in ["name", "data"] {
                let path = format!("/local/domain/{domid}/{node}");
                toolstack.write(&path, "abc")?;
                toolstack.ask(Operation::SetPerms, &words(&[&path, &format!("n{domid}")]))?;
            }
            toolstack.flush()?;
            Ok(Link::Ring(Box::new(guest)))
        };
        let victim = link(VICTIM)?;
        let elsewhere = Load::new(vec![link(FLOODER_ELSEWHERE)?], false)?;
        let beside = Load::new(vec![link(FLOODER_BESIDE)?], false)?;
        let victim = Paced::new(victim, false)?;
        Ok(Box::new(Flooding { victim, elsewhere, beside, _host: host, _running: running }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let rows = measured.iter().filter(|row| row.target == "ours");
        rows.filter_map(|row| {
            let what = format!("flood, {}: {RATIO}", row.case.name);
            let ratio = of(measured, &row.case.name, "ours")?.figure(RATIO)?;
            Some(Goal::at_most(what, ratio, 2.0))
        })
        .collect()
    }
}

struct Flooding {
    victim: Paced,
    elsewhere: Load,
    beside: Load,
    _host: SimClient,
    _running: Running,
}

impl Session for Flooding {
    fn round(&mut self, plan: &Plan, case: &Case) -> Result<Sample> {
        let read =
            Request::new(Operation::Read, &words(&["name"]), Expect::Payload(b"abc".to_vec()));
        let flooder = match case.name.as_str() {
            "the same thread's" => &mut self.beside,
            _ => &mut self.elsewhere,
        };
        let interval = self.victim.fastest(&read, plan.time / 5)? * 2;
        let alone = self.victim.run(&read, interval, plan.time)?;
        let (victim, over) = (&mut self.victim, &AtomicBool::new(false));
        let (beside, flooded) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| flood(flooder, over));
            let beside = victim.run(&read, interval, plan.time);
            over.store(true, Ordering::Relaxed);
            (beside, flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (beside, flooded) = (beside?, flooded?);
        let p99 =
            |latency: &hdrhistogram::Histogram<u64>| latency.value_at_quantile(0.99) as f64 / 1e3;
        let (p99_alone, p99_beside) = (p99(&alone.latency), p99(&beside.latency));
        let per_second = flooded as f64 / beside.elapsed.as_secs_f64();
        Ok(Sample::of(beside, None)
            .with_unit("p99 alone us", p99_alone, Unit::Micros)
            .with(RATIO, p99_beside / p99_alone.max(1e-3))
            .with("flood/s", per_second))
    }
}

/// Writes until `over` is set; returns the number of requests.
fn flood(load: &mut Load, over: &AtomicBool) -> Result<u64> {
    let mix = [(1, vec![Request::write_changing("data", "")])];
    let mut requests = 0;
    while !over.load(Ordering::Relaxed) {
        requests += load.run(&mix, 1, FLOOD_DEPTH, FLOOD_PIECE)?.requests;
    }
    Ok(requests)
}
