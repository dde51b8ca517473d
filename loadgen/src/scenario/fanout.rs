//! One write that causes a thousand events.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use xenstored::protocol::Operation;

use super::goals::{Goal, cpu};
use super::{Case, Plan, Scenario, Session, start, with_cpu};
use crate::client::{Client, Stage, Watch, histogram, payload, record};
use crate::measure::{Measured, Sample};
use crate::target::{Running, Target};
use crate::trouble::Result;
use crate::wrong;

const CONNECTIONS: usize = 100;
const WATCHES_EACH: usize = 10;
const PATH: &str = "/tool/door";
/// Timeout of a round, far above the actual duration.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The scenario of one writer and 1,000 watches.
pub struct FanOut;

impl Scenario for FanOut {
    fn name(&self) -> &'static str {
        "fan-out"
    }

    fn about(&self) -> &'static str {
        "One writer, and 1,000 watches of its node on 100 connections: each must get exactly one \
         event of each write before the next. The latency is the time from a write to its last \
         event."
    }

    fn unit(&self) -> &'static str {
        "event"
    }

    fn cases(&self, _plan: &Plan) -> Vec<Case> {
        vec![Case::named("1,000 watches")]
    }

    fn leaves_out(&self, target: &Target, _case: &Case) -> Option<&'static str> {
        (*target == Target::Echo).then_some("it has no watches, so it sends no events")
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let stage = Stage::new()?;
        let writer = stage.connect(&running.socket)?;
        let watches: Rc<RefCell<Vec<Watch>>> = Rc::default();
        for _ in 0..CONNECTIONS {
            let (client, watches) = (stage.connect(&running.socket)?, Rc::clone(&watches));
            stage.spawn(async move {
                for number in 0..WATCHES_EACH {
                    let watch = client.watch(PATH, &format!("token{number}")).await?;
                    watches.borrow_mut().push(watch);
                }
                Ok(())
            });
        }
        stage.run(TIMEOUT)?;
        let watches = watches.take().into();
        Ok(Box::new(FanningOut { running, stage, writer, watches }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let ours = cpu(measured, "1,000 watches", "ours");
        ours.map(|ours| Goal::at_most("fan-out: CPU us per event", ours, 1.0)).into_iter().collect()
    }
}

struct FanningOut {
    running: Running,
    stage: Stage,
    writer: Client,
    watches: Rc<[Watch]>,
}

impl Session for FanningOut {
    fn round(&mut self, plan: &Plan, _case: &Case) -> Result<Sample> {
        let started = Instant::now();
        let (time, writer, watches) = (plan.time, self.writer.clone(), Rc::clone(&self.watches));
        let latency = Rc::new(RefCell::new(histogram()));
        let latencies = Rc::clone(&latency);
        self.stage.spawn(async move {
            let mut number = 0;
            while started.elapsed() < time {
                let written = Instant::now();
                number += 1;
                writer.must(Operation::Write, 0, &payload(PATH, number.to_string())).await?;
                for watch in &*watches {
                    let path = watch.next().await;
                    if path != PATH {
                        wrong!("an event names {path}");
                    }
                }
                record(&mut latencies.borrow_mut(), written.elapsed());
            }
            Ok(())
        });
        let stage = &self.stage;
        let ((), cpu) = with_cpu(&self.running, || stage.run(plan.time + TIMEOUT))?;
        if self.watches.iter().any(Watch::has_more) {
            wrong!("a watch has more events than there were writes");
        }
        let latency = latency.borrow().clone();
        let units = latency.len() * (CONNECTIONS * WATCHES_EACH) as u64;
        let elapsed = started.elapsed();
        Ok(Sample { units, elapsed, cpu, latency: Some(latency), ..Sample::default() })
    }
}
