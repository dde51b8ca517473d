//! A mix of all loads for hours.

mod hostile;

use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use xenstored::host::sim::SimClient;
use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::boot::{self, Machine};
use super::deaths::{destroy, wait_until_gone};
use super::goals::{Goal, of};
use super::memory::resident_bytes;
use super::operations::{connect, fill_mixed, mixed};
use super::{Case, Plan, Scenario, Session, host_of, start, vchan, with_cpu};
use crate::client::{Blocking, Client, Link, Load, Request, Watch, payload, words};
use crate::measure::{Measured, Sample};
use crate::target::{Running, Target};
use crate::trouble::Result;
use crate::wrong;

/// Domains created and destroyed in a cycle; their domids start above those of the mixed load.
const BORN: usize = 30;
const FIRST: u16 = 2001;
/// The guest that acquires watches and transactions until it is refused.
const GREEDY: Domid = Domid(2999);
/// The mixed load's domains, and the duration of the load in a cycle.
const DOMAINS: usize = 1000;
const LOAD: Duration = Duration::from_millis(500);
const CONNECTIONS: usize = 16;
const DEPTH: usize = 16;
/// Committers on one counter, and the number of increments of each in a cycle.
const COMMITTERS: usize = 8;
const RAISES: u64 = 10;
const COUNTER: &str = "/soak/counter";
/// Connections that watch the node `DOOR`, and the number of writes of that node in a cycle.
const WATCHERS: usize = 50;
const WRITES: usize = 20;
const DOOR: &str = "/soak/door";
/// Concurrent libvchan set-ups.
const SET_UPS: usize = 60;
/// Nodes created, and removed with one request.
const TREE: &str = "/soak/tree";
const TREE_NODES: usize = 2000;
/// Connections that stay idle for a cycle.
const IDLE: usize = 200;
/// Minimum time from the start of one cycle to the next. Cycles need not be faster: a failure that takes hours comes
/// from accumulated state, not from speed.
const CYCLE: Duration = Duration::from_secs(4);
/// Interval of status output.
const NEWS: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(120);
/// Number of retries while removals are still being accounted.
const CHECKS_MAX: usize = 1000;
/// Minimum number of cycles in a round for a judgement of growth: with as many, the difference between single cycles is
/// small compared with a leak over ten of them.
const CYCLES_MIN: u64 = 20;
const GROWTH: &str = "memory growth %";
const CASE: &str = "births, load, deaths";

/// The scenario of concurrent births, deaths and load.
pub struct Soak;

impl Scenario for Soak {
    fn name(&self) -> &'static str {
        "soak"
    }

    fn about(&self) -> &'static str {
        "Cycles, one in four seconds: at once 30 domains boot, 16 connections put a mixed load on \
         1,000 others, 8 committers increment one counter, 50 watchers are notified of a write, 60 \
         vchans are set up, trees of 2,000 nodes are created and removed, and broken or hostile \
         clients come and go; then the domains die. After each cycle the daemon checks its own \
         consistency, and its memory is measured: in the second half of the run it may not grow by \
         more than 5 %. Growth is judged only after at least 20 cycles. With --seconds 14400 the \
         test runs for four hours; the maximum is a day."
    }

    fn unit(&self) -> &'static str {
        "cycle"
    }

    fn cases(&self, _plan: &Plan) -> Vec<Case> {
        vec![Case::named(CASE)]
    }

    fn leaves_out(&self, target: &Target, _case: &Case) -> Option<&'static str> {
        (*target != Target::Ours).then_some("it is a test of our daemon")
    }

    fn prepare(&self, plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let domains = if plan.quick { DOMAINS / 10 } else { DOMAINS };
        fill_mixed(&running.socket, domains)?;
        let machine = Machine::new(&running, target)?;
        let stage = &machine.stage;
        let links = (0..CONNECTIONS).map(|_| connect(&running.socket)).collect::<Result<_>>()?;
        let load = Load::new(links, false)?;
        let mut toolstack = Blocking::connect(&running.socket)?;
        for node in [COUNTER, DOOR] {
            toolstack.write(node, "0")?;
        }
        toolstack.flush()?;
        let mut host = host_of(&running, target)?;
        let vchan = vchan::pair(stage, &running.socket, &mut host)?;
        let watches = watch(&machine, &running)?;
        let committers = (0..COMMITTERS).map(|_| stage.connect(&running.socket));
        let committers = committers.collect::<Result<_>>()?;
        Ok(Box::new(Soaking {
            machine,
            load,
            mix: mixed(domains),
            host,
            toolstack,
            vchan,
            watches,
            committers,
            raised: 0,
            idle: Vec::new(),
            running,
        }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let what = "soak: growth of memory in % in the second half of the run";
        let Some(row) = of(measured, CASE, "ours") else { return Vec::new() };
        let cycles = row.samples.iter().map(|sample| sample.units).min().unwrap_or(0);
        // With only one cycle, both halves of the round are that cycle.
        vec![match row.figure(GROWTH) {
            Some(growth) if cycles >= CYCLES_MIN => Goal::at_most(what, growth, 5.0),
            _ => Goal::undecided(
                what,
                format_args!("a round has {cycles} cycles, and {CYCLES_MIN} are needed"),
            ),
        }]
    }
}

/// Sets watches on `DOOR`, each on its own connection.
fn watch(machine: &Machine, running: &Running) -> Result<Rc<[Watch]>> {
    let watches: Rc<std::cell::RefCell<Vec<Watch>>> = Rc::default();
    for _ in 0..WATCHERS {
        let (client, watches) = (machine.stage.connect(&running.socket)?, Rc::clone(&watches));
        machine.stage.spawn(async move {
            let watch = client.watch(DOOR, "door").await?;
            watches.borrow_mut().push(watch);
            Ok(())
        });
    }
    machine.stage.run(TIMEOUT)?;
    Ok(watches.take().into())
}

struct Soaking {
    machine: Rc<Machine>,
    load: Load,
    mix: Vec<(usize, Vec<Request>)>,
    host: SimClient,
    toolstack: Blocking,
    vchan: [Client; 2],
    watches: Rc<[Watch]>,
    committers: Vec<Client>,
    /// The expected value of the counter.
    raised: u64,
    idle: Vec<UnixStream>,
    running: Running,
}

impl Session for Soaking {
    fn round(&mut self, plan: &Plan, _case: &Case) -> Result<Sample> {
        let (started, mut told) = (Instant::now(), Instant::now());
        let mut resident = Vec::new();
        let before = self.running.cpu().ok();
        while resident.is_empty() || started.elapsed() < plan.time {
            let begun = Instant::now();
            self.cycle(if plan.quick { LOAD / 5 } else { LOAD })?;
            resident.push(resident_bytes(self.running.pid)? as f64);
            if told.elapsed() > NEWS {
                told = Instant::now();
                let (minutes, cycles) = (started.elapsed().as_secs() / 60, resident.len());
                let mega = resident[cycles - 1] / 1e6;
                eprintln!("soak: {minutes} min, {cycles} cycles, {mega:.1} MB, consistent");
            }
            if !plan.quick {
                std::thread::sleep(CYCLE.saturating_sub(begun.elapsed()));
            }
        }
        let elapsed = started.elapsed();
        let cpu = before.and_then(|before| Some(self.running.cpu().ok()? - before));
        // The first half fills pools that the second half reuses.
        let halfway = resident[resident.len() / 2];
        let (last, most) =
            (resident[resident.len() - 1], resident.iter().copied().fold(0.0, f64::max));
        let sample = Sample { units: resident.len() as u64, elapsed, cpu, ..Sample::default() };
        Ok(sample
            .with("MB halfway", halfway / 1e6)
            .with("MB at most", most / 1e6)
            .with("MB last", last / 1e6)
            .with(GROWTH, 100.0 * (last - halfway) / halfway))
    }
}

impl Soaking {
    /// Runs all loads, then the deaths, then checks that nothing is left.
    fn cycle(&mut self, load: Duration) -> Result<()> {
        let domains: Vec<Domid> = (FIRST..).take(BORN).map(Domid).collect();
        self.idle.clear();
        for _ in 0..IDLE {
            self.idle.push(UnixStream::connect(&self.running.socket)?);
        }
        let greedy = self.toolstack.build_domain(&mut self.host, GREEDY)?;
        self.toolstack.flush()?;
        self.enter(&domains, self.machine.stage.client(Link::Ring(Box::new(greedy)))?);

        let (driver, mix, stage) = (&mut self.load, &self.mix, &self.machine.stage);
        let (socket, host, toolstack) = (&self.running.socket, &mut self.host, &mut self.toolstack);
        with_cpu(&self.running, || {
            std::thread::scope(|scope| {
                let load = scope.spawn(|| driver.run(mix, CONNECTIONS, DEPTH, load).map(drop));
                let others = scope.spawn(|| {
                    plant_and_fell(toolstack)?;
                    hostile::all(socket, host, toolstack)
                });
                stage.run(TIMEOUT)?;
                let resume = |panic| std::panic::resume_unwind(panic);
                load.join().unwrap_or_else(resume)?;
                others.join().unwrap_or_else(resume)
            })
        })?;
        self.raised += RAISES * COMMITTERS as u64;
        let counter = self.toolstack.number(COUNTER)?;
        if counter != self.raised {
            wrong!("{COUNTER} says {counter} after {} commits", self.raised);
        }
        if self.watches.iter().any(Watch::has_more) {
            wrong!("a watch has more events than there were writes");
        }
        self.bury(&domains)?;
        self.check()
    }

    /// Spawns all clients that are tasks.
    fn enter(&self, domains: &[Domid], greedy: Client) {
        let stage = &self.machine.stage;
        for &domid in domains {
            stage.spawn(Rc::clone(&self.machine).boot(domid));
        }
        stage.spawn(hostile::greedy(greedy));
        for committer in &self.committers {
            stage.spawn(raise(committer.clone()));
        }
        stage.spawn(open_and_shut(self.committers[0].clone(), Rc::clone(&self.watches)));
        for number in 0..SET_UPS {
            let [server, peer] = self.vchan.clone();
            stage.spawn(async move {
                match vchan::set_up(&server, &peer, number).await? {
                    true => Ok(()),
                    false => wrong!("set-up {number} of {SET_UPS} is refused"),
                }
            });
        }
    }

    /// Destroys the domains, and removes the nodes that a toolstack removes.
    fn bury(&mut self, domains: &[Domid]) -> Result<()> {
        destroy(&mut self.host, GREEDY)?;
        wait_until_gone(&mut self.toolstack, GREEDY)?;
        for &domid in domains {
            destroy(&mut self.machine.host.borrow_mut(), domid)?;
            for path in boot::remains(domid) {
                self.toolstack.must(Operation::Rm, &words(&[&path]))?;
            }
        }
        for &domid in domains {
            wait_until_gone(&mut self.toolstack, domid)?;
        }
        self.machine.stage.spawn(Rc::clone(&self.machine).forget());
        self.machine.stage.run(TIMEOUT)
    }

    /// Makes the daemon compare its redundant data, as `xsctl control check` does.
    fn check(&mut self) -> Result<()> {
        for _ in 0..CHECKS_MAX {
            let answer = self.toolstack.must(Operation::Control, b"check\0")?;
            match answer.as_slice() {
                b"OK\0" | b"OK" => return Ok(()),
                other if other.starts_with(b"not checked") => {}
                other => wrong!("the daemon's check reports {}", String::from_utf8_lossy(other)),
            }
        }
        wrong!("timed out: removals are not accounted");
    }
}

impl Drop for Soaking {
    fn drop(&mut self) {
        self.machine.stage.abandon();
    }
}

/// Increments the counter shared by all committers.
async fn raise(client: Client) -> Result<()> {
    for _ in 0..RAISES {
        client
            .transact(async |tx| {
                let text = client.read(tx, COUNTER).await?;
                let Ok(count) = text.parse::<u64>() else { wrong!("{COUNTER} is {text:?}") };
                client.write(tx, COUNTER, (count + 1).to_string()).await
            })
            .await?;
    }
    Ok(())
}

/// Writes `DOOR`; each watcher must get the event of a write before the next one.
async fn open_and_shut(client: Client, watches: Rc<[Watch]>) -> Result<()> {
    for number in 0..WRITES {
        client.must(Operation::Write, 0, &payload(DOOR, number.to_string())).await?;
        for watch in &*watches {
            watch.next().await;
        }
    }
    Ok(())
}

/// Creates a tree and removes it with one request.
fn plant_and_fell(toolstack: &mut Blocking) -> Result<()> {
    for node in 0..TREE_NODES {
        toolstack.write(&format!("{TREE}/{}/{}", node / 100, node % 100), "leaf")?;
    }
    toolstack.flush()?;
    toolstack.must(Operation::Rm, &words(&[TREE]))?;
    match toolstack.request(Operation::Read, 0, &words(&[TREE]))? {
        Err(errno) if errno == "ENOENT" => Ok(()),
        other => wrong!("{TREE} exists after its removal: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_judged_only_with_enough_cycles_in_a_round() {
        let goal = |cycles, growth| {
            let sample = Sample { units: cycles, ..Sample::default() }.with(GROWTH, growth);
            let (case, target) = (Case::named(CASE), "ours".into());
            Soak.goals(&[Measured { case, target, samples: vec![sample] }]).remove(0)
        };
        assert_eq!(goal(1, 0.0).reached, None, "{}", goal(1, 0.0).text);
        assert_eq!(goal(20, -1.0).reached, Some(true));
        assert_eq!(goal(20, 5.1).reached, Some(false));
    }
}
