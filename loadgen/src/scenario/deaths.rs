//! Deaths of domains: a thousand at once, and one among many.

use std::time::{Duration, Instant};

use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::goals::{Goal, cpu};
use super::{Case, Plan, Scenario, Session, host_of, start, with_cpu};
use crate::client::{Blocking, words};
use crate::measure::{Measured, Sample};
use crate::target::{Cpu, Running, Target};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Connections that watch `@releaseDomain`, one per toolstack process.
const WATCHERS: usize = 20;
/// Nodes of each domain, besides its root node.
const NODES: usize = 30;
/// Deaths per round of "one among many".
const DEATHS: usize = 20;
/// Maximum for peers: with more domains they take minutes, or crash.
const PEERS_DOMAINS_MAX: usize = 200;
/// Timeout for the removal of all dead domains.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Returns the scenarios of this file.
pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![Box::new(Deaths::AtOnce), Box::new(Deaths::OneAmong)]
}

#[derive(Clone, Copy, PartialEq)]
enum Deaths {
    AtOnce,
    OneAmong,
}

impl Scenario for Deaths {
    fn name(&self) -> &'static str {
        match self {
            Deaths::AtOnce => "deaths",
            Deaths::OneAmong => "death",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Deaths::AtOnce => {
                "1,000 domains of 30 nodes die, as fast as the host destroys them, while 20 \
                 connections watch @releaseDomain. Each watcher must be notified, and no node may \
                 be left."
            }
            Deaths::OneAmong => {
                "One domain of 30 nodes dies among 100 to 10,000 others, and is created again, 20 \
                 times. Only the time from the death to its event is measured."
            }
        }
    }

    fn unit(&self) -> &'static str {
        "death"
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sizes: &[usize] = match (self, plan.quick) {
            (Deaths::AtOnce, false) => &[100, 1000],
            (Deaths::AtOnce, true) => &[20],
            (Deaths::OneAmong, false) => &[100, 1000, 10_000],
            (Deaths::OneAmong, true) => &[20],
        };
        sizes.iter().map(|&size| Case::sized(size, "domains")).collect()
    }

    fn leaves_out(&self, target: &Target, case: &Case) -> Option<&'static str> {
        let few = case.size.is_none_or(|size| size <= PEERS_DOMAINS_MAX);
        match target {
            Target::C | Target::OCaml if !few => {
                Some("it takes minutes with this number of domains")
            }
            Target::Ours | Target::C | Target::OCaml => None,
            Target::Echo => Some("it has no domains whose deaths it could report"),
            Target::Socket(_) => Some("its simulated host is not known, so no domain can die"),
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let toolstack = Blocking::connect(&running.socket)?;
        let host = host_of(&running, target)?;
        let watchers = match self {
            Deaths::AtOnce => WATCHERS,
            Deaths::OneAmong => 1,
        };
        let mut watching = Vec::new();
        for _ in 0..watchers {
            let mut client = Blocking::connect(&running.socket)?;
            client.must(Operation::Watch, &words(&["@releaseDomain", "death"]))?;
            client.event()?;
            watching.push(client);
        }
        let guests = Vec::new();
        Ok(Box::new(Dying { deaths: *self, running, toolstack, host, watching, guests }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let ours = cpu(measured, "10000 domains", "ours");
        match (self, ours) {
            (Deaths::OneAmong, Some(ours)) => {
                vec![Goal::at_most("a death among 10,000: CPU us", ours, 1000.0)]
            }
            _ => Vec::new(),
        }
    }
}

struct Dying {
    deaths: Deaths,
    running: Running,
    toolstack: Blocking,
    host: SimClient,
    watching: Vec<Blocking>,
    /// The domains, from domid 1 on.
    guests: Vec<SimGuest>,
}

impl Session for Dying {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let size = case.size.unwrap_or(0);
        for domid in self.guests.len() + 1..=size {
            let guest = self.build(domid)?;
            self.guests.push(guest);
        }
        self.toolstack.flush()?;
        match self.deaths {
            Deaths::AtOnce => self.all_die(),
            Deaths::OneAmong => self.one_after_another_dies(size),
        }
    }
}

impl Dying {
    fn build(&mut self, domid: usize) -> Result<SimGuest> {
        let number =
            u16::try_from(domid).map_err(|_| ClientError::Wrong(format!("domid {domid}")))?;
        let guest = self.toolstack.build_domain(&mut self.host, Domid(number))?;
        for node in 0..NODES {
            self.toolstack.write(&format!("/local/domain/{domid}/device/{node}"), "abc")?;
        }
        Ok(guest)
    }

    fn all_die(&mut self) -> Result<Sample> {
        let started = Instant::now();
        let deaths = self.guests.len();
        let guests = std::mem::take(&mut self.guests);
        let running = &self.running;
        let (host, toolstack) = (&mut self.host, &mut self.toolstack);
        let ((), cpu) = with_cpu(running, || {
            for guest in &guests {
                destroy(host, guest.domid)?;
            }
            // Deaths may be noticed in any order, so each is checked.
            for guest in &guests {
                wait_until_gone(toolstack, guest.domid)?;
            }
            Ok(())
        })?;
        let elapsed = started.elapsed();
        let left = self.toolstack.must(Operation::Directory, &words(&["/local/domain"]))?;
        if !left.is_empty() {
            wrong!("after all deaths {:?} is left", String::from_utf8_lossy(&left));
        }
        let mut fewest = usize::MAX;
        for watcher in &mut self.watching {
            // Equal events of one watch may be merged, but at least one must arrive.
            let told = watcher.take_events()?;
            if told.is_empty() || told.iter().any(|(path, _)| path != "@releaseDomain") {
                wrong!("a watcher of @releaseDomain got {told:?}");
            }
            fewest = fewest.min(told.len());
        }
        let sample = Sample { units: deaths as u64, elapsed, cpu, ..Sample::default() };
        Ok(sample.with("events a watcher", fewest as f64))
    }

    fn one_after_another_dies(&mut self, size: usize) -> Result<Sample> {
        let (mut cpu, mut elapsed) = (Some(Cpu::default()), Duration::ZERO);
        for turn in 0..DEATHS {
            // Spread over the host's domains, as neighbours may share data structures.
            let place = turn * 7919 % size;
            let domid = self.guests[place].domid;
            let started = Instant::now();
            let (host, watcher) = (&mut self.host, &mut self.watching[0]);
            let (event, used) = with_cpu(&self.running, || {
                destroy(host, domid)?;
                watcher.event()
            })?;
            elapsed += started.elapsed();
            if event.0 != "@releaseDomain" {
                wrong!("the event of a death names {}", event.0);
            }
            cpu = cpu.and_then(|cpu| Some(cpu + used?));
            wait_until_gone(&mut self.toolstack, domid)?;
            self.guests[place] = self.build(usize::from(domid.0))?;
            self.toolstack.flush()?;
        }
        Ok(Sample { units: DEATHS as u64, elapsed, cpu, ..Sample::default() })
    }
}

/// Destroys a domain on the host.
pub(super) fn destroy(host: &mut SimClient, domid: Domid) -> Result<()> {
    host.destroy(domid).map_err(|error| ClientError::io(format!("cannot destroy {domid}"), error))
}

/// Waits until neither connection nor nodes of a domain are left.
pub(super) fn wait_until_gone(toolstack: &mut Blocking, domid: Domid) -> Result<()> {
    let started = Instant::now();
    let name = domid.to_string();
    let home = words(&[&format!("/local/domain/{domid}")]);
    loop {
        let introduced = toolstack.must(Operation::IsDomainIntroduced, &words(&[&name]))?;
        let home = toolstack.request(Operation::Read, 0, &home)?;
        if introduced == b"F\0" && home.is_err() {
            return Ok(());
        }
        if started.elapsed() > TIMEOUT {
            wrong!("timed out: domain {domid} still exists after {TIMEOUT:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
