//! Transactions on disjoint data, and on shared data.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::explained::Explained;
use super::goals::{Goal, of};
use super::{Case, Plan, Scenario, Session, start, with_cpu};
use crate::client::{Blocking, Client, Stage};
use crate::measure::{Measured, Sample};
use crate::target::{Running, Target};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Nodes of a subtree. The first is a counter.
const NODES: usize = 8;
/// Nodes read and written in a transaction besides the counter.
const READS: usize = 4;
const WRITES: usize = 2;
const CONNECTIONS_MAX: usize = 64;
/// Timeout; a client that has not committed by then is starved.
const TIMEOUT: Duration = Duration::from_secs(60);
const EAGAIN: &str = "EAGAIN %";
const TRIES: &str = "most tries";
/// Our daemon's guarantee (docs/DESIGN.md): at most two conflicts in a row, then a reservation. Of the nodes read
/// here only the counter changes. A reservation that expires before its client uses it adds one try.
const TRIES_MAX: u64 = 3;

/// Returns the scenarios of this file.
pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![Box::new(Transactions { shared: false }), Box::new(Transactions { shared: true })]
}

struct Transactions {
    shared: bool,
}

impl Scenario for Transactions {
    fn name(&self) -> &'static str {
        if self.shared { "shared" } else { "own" }
    }

    fn about(&self) -> &'static str {
        if self.shared {
            "Transactions of START, 5 READs, 3 WRITEs of values that change, END, all on one \
             subtree. One of the nodes is a counter that each of them increments: in the end it \
             must equal the number of commits. A client retries after a conflict until it commits; \
             with our daemon that takes at most three tries."
        } else {
            "The same transactions, each connection on a subtree of its own: none may fail."
        }
    }

    fn unit(&self) -> &'static str {
        "commit"
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sizes: &[usize] = if plan.quick { &[2, 8] } else { &[2, 8, CONNECTIONS_MAX] };
        sizes
            .iter()
            .map(|&connections| Case {
                name: format!("{connections} connections"),
                connections,
                ..Case::default()
            })
            .collect()
    }

    fn leaves_out(&self, target: &Target, _case: &Case) -> Option<&'static str> {
        (*target == Target::Echo).then_some("it has no transactions")
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let toolstack = Blocking::connect(&running.socket)?;
        let stage = Stage::new()?;
        let connect = |_| stage.connect(&running.socket);
        let clients = (0..CONNECTIONS_MAX).map(connect).collect::<Result<_>>()?;
        let target = target.clone();
        Ok(Box::new(Transacting {
            shared: self.shared,
            target,
            running,
            toolstack,
            stage,
            clients,
        }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let many = format!("{CONNECTIONS_MAX} connections");
        let (ours, c) = (of(measured, &many, "ours"), of(measured, &many, "c"));
        let mut goals = Vec::new();
        if !self.shared {
            let failed = ours.and_then(|ours| ours.figure(EAGAIN));
            goals.extend(failed.map(|failed| Goal::at_most("own: EAGAIN in %", failed, 0.0)));
        } else if let (Some(ours), Some(c)) =
            (ours.and_then(Measured::rate), c.and_then(Measured::rate))
        {
            let what = "shared, 64 connections: commits per second, 3 times C's";
            goals.push(Goal::at_least(what, ours, 3.0 * c));
        }
        goals
    }
}

struct Transacting {
    shared: bool,
    target: Target,
    running: Running,
    toolstack: Blocking,
    stage: Stage,
    clients: Vec<Client>,
}

/// The committers' results of a round.
#[derive(Default)]
struct Tally {
    commits: Cell<u64>,
    /// Number of tries of each commit.
    tries: RefCell<Vec<u64>>,
    fewest_commits: Cell<u64>,
}

impl Session for Transacting {
    fn round(&mut self, plan: &Plan, case: &Case) -> Result<Sample> {
        let subtrees = if self.shared { 1 } else { case.connections };
        for subtree in 0..subtrees {
            for node in 0..NODES {
                self.toolstack.write(&path(subtree, node), "0")?;
            }
        }
        self.toolstack.flush()?;
        let tally = Rc::new(Tally { fewest_commits: Cell::new(u64::MAX), ..Tally::default() });
        let (started, time) = (Instant::now(), plan.time);
        for (number, client) in self.clients.iter().take(case.connections).enumerate() {
            let (client, tally) = (client.clone(), Rc::clone(&tally));
            let subtree = if self.shared { 0 } else { number };
            self.stage.spawn(async move {
                let mut commits = 0;
                while started.elapsed() < time {
                    let tries =
                        client.transact(async |tx| raise(&client, tx, subtree).await).await?;
                    tally.tries.borrow_mut().push(tries);
                    commits += 1;
                }
                tally.commits.set(tally.commits.get() + commits);
                tally.fewest_commits.set(tally.fewest_commits.get().min(commits));
                Ok(())
            });
        }
        let explained = Explained::by(&self.running, &self.target)?.unwrap_or_default();
        let before = self.stage.counts().conflicts.get();
        let stage = &self.stage;
        let ((), cpu) = with_cpu(&self.running, || stage.run(time + TIMEOUT))?;
        let elapsed = started.elapsed();
        let conflicts = self.stage.counts().conflicts.get() - before;
        self.check(subtrees, tally.commits.get(), conflicts)?;
        let mut tries = tally.tries.take();
        tries.sort_unstable();
        let most = tries.last().copied().unwrap_or(0);
        if let Some(now) = Explained::by(&self.running, &self.target)? {
            let overdue = now.since(explained, conflicts)?.turns_overdue;
            if most > TRIES_MAX + overdue {
                wrong!("a commit took {most} tries, and {overdue} reservations were overdue");
            }
        }
        let p99 = tries.get(tries.len() * 99 / 100).copied().unwrap_or(0);
        let units = tally.commits.get();
        let sample = Sample { units, elapsed, cpu, ..Sample::default() };
        Ok(sample
            .with(EAGAIN, 100.0 * conflicts as f64 / (units + conflicts) as f64)
            .with("p99 tries", p99 as f64)
            .with(TRIES, most as f64)
            .with("fewest commits", tally.fewest_commits.get() as f64))
    }
}

impl Transacting {
    /// Checks that the counters were incremented once per commit.
    fn check(&mut self, subtrees: usize, commits: u64, conflicts: u64) -> Result<()> {
        let mut sum = 0;
        for subtree in 0..subtrees {
            sum += self.toolstack.number(&path(subtree, 0))?;
        }
        if sum != commits {
            wrong!("the counters say {sum} after {commits} commits");
        }
        if !self.shared && conflicts > 0 {
            wrong!("{conflicts} EAGAIN though nothing was shared");
        }
        Ok(())
    }
}

fn path(subtree: usize, node: usize) -> String {
    format!("/local/domain/{}/data/node{node}", subtree + 1)
}

/// The transaction's requests: reads and increments the counter, reads and writes others.
async fn raise(client: &Client, tx_id: u32, subtree: usize) -> Result<()> {
    let counter = path(subtree, 0);
    let text = client.read(tx_id, &counter).await?;
    let Ok(count) = text.parse::<u64>() else {
        return Err(ClientError::Wrong(format!("the counter is {text:?}")));
    };
    for node in 1..=READS {
        client.read(tx_id, &path(subtree, node)).await?;
    }
    let next = (count + 1).to_string();
    client.write(tx_id, &counter, &next).await?;
    for node in NODES - WRITES..NODES {
        client.write(tx_id, &path(subtree, node), &next).await?;
    }
    Ok(())
}
