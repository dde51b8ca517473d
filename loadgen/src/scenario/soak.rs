//! All of it for hours.

use std::rc::Rc;
use std::time::{Duration, Instant};

use xenstored::protocol::Kind;
use xenstored::words::Domid;

use super::boot::Machine;
use super::deaths::{destroy, wait_until_gone};
use super::goals::{Goal, of};
use super::memory::resident_bytes;
use super::operations::{connect, fill_mixed, mixed};
use super::{Case, Plan, Scenario, Session, start, with_cpu};
use crate::client::{Blocking, Load, Request, words};
use crate::measure::{Measured, Sample};
use crate::target::{Running, Target};
use crate::trouble::Result;
use crate::wrong;

/// Domains that are born and die in a cycle.
const BORN: usize = 30;
/// Their numbers begin above those of the mixed load's nodes.
const FIRST: u16 = 2001;
/// The mixed load's domains, and how long a cycle reads and writes them.
const DOMAINS: usize = 1000;
const LOAD: Duration = Duration::from_millis(500);
const CONNECTIONS: usize = 16;
const DEPTH: usize = 16;
const PATIENCE: Duration = Duration::from_secs(120);
/// Removals that are still being accounted are waited for so often.
const CHECKS_MAX: usize = 1000;
const GROWTH: &str = "memory growth %";

/// Births, deaths and load in turn.
pub struct Soak;

impl Scenario for Soak {
    fn name(&self) -> &'static str {
        "soak"
    }

    fn about(&self) -> &'static str {
        "Cycles of 30 domains that boot, a mixed load of 16 connections over 1,000 others, and the \
         30 domains' deaths; after each the daemon checks its own consistency, and its memory is \
         looked at: from the third cycle to the last it may not grow. With --seconds 3600 it runs \
         for an hour."
    }

    fn unit(&self) -> &'static str {
        "cycle"
    }

    fn cases(&self, _plan: &Plan) -> Vec<Case> {
        vec![Case::named("births, load, deaths")]
    }

    fn suits(&self, target: &Target, _case: &Case) -> bool {
        *target == Target::Ours
    }

    fn prepare(&self, plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let domains = if plan.quick { DOMAINS / 10 } else { DOMAINS };
        fill_mixed(&running.socket, domains)?;
        let machine = Machine::new(&running)?;
        let links = (0..CONNECTIONS).map(|_| connect(&running.socket)).collect::<Result<_>>()?;
        let load = Load::new(links, false)?;
        let toolstack = Blocking::connect(&running.socket)?;
        Ok(Box::new(Soaking { running, machine, load, mix: mixed(domains), toolstack }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let row = of(measured, "births, load, deaths", "ours");
        let growth = row.and_then(|row| row.figure(GROWTH));
        let what = "soak: growth of memory in %, from the third cycle on";
        growth.map(|growth| Goal::at_most(what, growth, 5.0)).into_iter().collect()
    }
}

struct Soaking {
    running: Running,
    machine: Rc<Machine>,
    load: Load,
    mix: Vec<(usize, Vec<Request>)>,
    toolstack: Blocking,
}

impl Session for Soaking {
    fn round(&mut self, plan: &Plan, _case: &Case) -> Result<Sample> {
        let (started, mut cycles) = (Instant::now(), 0);
        let mut resident = Vec::new();
        let before = self.running.cpu().ok();
        while cycles == 0 || started.elapsed() < plan.time {
            self.cycle(if plan.quick { LOAD / 5 } else { LOAD })?;
            resident.push(resident_bytes(self.running.pid)? as f64);
            cycles += 1;
        }
        let elapsed = started.elapsed();
        let cpu = before.and_then(|before| Some(self.running.cpu().ok()? - before));
        // The first cycles fill pools that later ones use.
        let early = resident[resident.len().min(3) - 1];
        let last = resident[resident.len() - 1];
        let sample = Sample { units: cycles, elapsed, cpu, ..Sample::default() };
        Ok(sample
            .with("memory MB", last / 1e6)
            .with(GROWTH, 100.0 * (last - early).max(0.0) / early))
    }
}

impl Soaking {
    fn cycle(&mut self, load: Duration) -> Result<()> {
        let domains: Vec<Domid> = (FIRST..).take(BORN).map(Domid).collect();
        for &domid in &domains {
            self.machine.stage.spawn(Rc::clone(&self.machine).boot(domid));
        }
        self.machine.stage.run(PATIENCE)?;
        let (driver, mix) = (&mut self.load, &self.mix);
        with_cpu(&self.running, || driver.run(mix, CONNECTIONS, DEPTH, load))?;
        for &domid in &domains {
            destroy(&mut self.machine.host.borrow_mut(), domid)?;
            for path in [
                format!("/local/domain/{domid}"),
                format!("/libxl/{domid}"),
                super::boot::vm(domid),
                format!("/local/domain/0/backend/vbd/{domid}/51712"),
                format!("/local/domain/0/backend/vif/{domid}/0"),
                format!("/local/domain/0/backend/console/{domid}/0"),
                format!("/local/domain/0/backend/console/{domid}"),
                format!("/local/domain/0/backend/vbd/{domid}"),
                format!("/local/domain/0/backend/vif/{domid}"),
            ] {
                self.toolstack.must(Kind::Rm, &words(&[&path]))?;
            }
        }
        for &domid in &domains {
            wait_until_gone(&mut self.toolstack, domid)?;
        }
        self.machine.forget();
        // The kernel hears of the backends' removal.
        self.machine.stage.run_for(Duration::from_millis(50))?;
        self.check()
    }

    /// The daemon compares everything that it keeps twice.
    fn check(&mut self) -> Result<()> {
        for _ in 0..CHECKS_MAX {
            let answer = self.toolstack.must(Kind::Control, b"check\0")?;
            match answer.as_slice() {
                b"OK\0" | b"OK" => return Ok(()),
                other if other.starts_with(b"not checked") => {}
                other => wrong!("the daemon's check says {}", String::from_utf8_lossy(other)),
            }
        }
        wrong!("removals are never accounted");
    }
}

impl Drop for Soaking {
    fn drop(&mut self) {
        self.machine.stage.abandon();
    }
}
