//! Many concurrent libvchan set-ups in one domain.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use xenstored::host::sim::SimClient;
use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::goals::{Goal, of};
use super::{Case, Plan, Scenario, Session, host_of, start, with_cpu};
use crate::client::{Blocking, Client, Link, Stage, payload, words};
use crate::measure::{Measured, Sample};
use crate::target::{Running, Target};
use crate::trouble::Result;
use crate::wrong;

const SERVER: Domid = Domid(1);
const PEER: Domid = Domid(2);
/// Maximum number of conflicts after which a set-up has failed.
const TRIES: usize = 1000;
const SUCCEEDED: &str = "succeeded";
const TIMEOUT: Duration = Duration::from_secs(60);

/// The scenario of 256 concurrent set-ups.
pub struct Vchan;

impl Scenario for Vchan {
    fn name(&self) -> &'static str {
        "vchan"
    }

    fn about(&self) -> &'static str {
        "Up to 256 libvchan set-ups at once between two guests, with default quotas: for each a \
         transaction that writes ring reference and event channel and lets the peer see them, two \
         watches held until the peer has connected, then UNWATCH and RM. A set-up that a quota \
         refuses has failed; the successful ones are counted."
    }

    fn unit(&self) -> &'static str {
        "set-up"
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sizes: &[usize] = if plan.quick { &[10, 256] } else { &[10, 40, 60, 256] };
        sizes.iter().map(|&size| Case::sized(size, "set-ups at once")).collect()
    }

    fn leaves_out(&self, target: &Target, _case: &Case) -> Option<&'static str> {
        match target {
            Target::Ours | Target::C | Target::OCaml => None,
            Target::Echo => Some("it has no transactions and no watches"),
            Target::Socket(_) => Some("its simulated host is not known, so it has no guests"),
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        let running = start(target, &[])?;
        let mut host = host_of(&running, target)?;
        let stage = Stage::new()?;
        let [server, peer] = pair(&stage, &running.socket, &mut host)?;
        let is_ours = *target == Target::Ours;
        Ok(Box::new(SettingUp { running, stage, server, peer, is_ours, _host: host }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let ours =
            of(measured, "256 set-ups at once", "ours").and_then(|row| row.figure(SUCCEEDED));
        let what = "vchan: set-ups that succeed of 256 at once";
        ours.map(|ours| Goal::at_least(what, ours, 256.0)).into_iter().collect()
    }
}

/// Creates the two guests between which channels are set up.
pub(super) fn pair(stage: &Stage, socket: &Path, host: &mut SimClient) -> Result<[Client; 2]> {
    Ok([guest(stage, socket, host, [SERVER, PEER])?, guest(stage, socket, host, [PEER, SERVER])?])
}

/// Creates a guest with a directory that it owns and the other one may read.
fn guest(
    stage: &Stage,
    socket: &Path,
    host: &mut SimClient,
    [domid, other]: [Domid; 2],
) -> Result<Client> {
    let mut toolstack = Blocking::connect(socket)?;
    let guest = toolstack.build_domain(host, domid)?;
    let data = format!("/local/domain/{domid}/data");
    toolstack.write(&data, "")?;
    let permissions = [&*data, &format!("n{domid}"), &format!("r{other}")];
    toolstack.ask(Operation::SetPerms, &words(&permissions))?;
    toolstack.flush()?;
    stage.client(Link::Ring(Box::new(guest)))
}

struct SettingUp {
    running: Running,
    stage: Stage,
    server: Client,
    peer: Client,
    is_ours: bool,
    _host: SimClient,
}

impl Session for SettingUp {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let size = case.size.unwrap_or(0);
        let started = Instant::now();
        let succeeded: Rc<Cell<usize>> = Rc::default();
        for number in 0..size {
            let (server, peer) = (self.server.clone(), self.peer.clone());
            let succeeded = Rc::clone(&succeeded);
            self.stage.spawn(async move {
                if set_up(&server, &peer, number).await? {
                    succeeded.set(succeeded.get() + 1);
                }
                Ok(())
            });
        }
        let conflicts = self.stage.counts().conflicts.get();
        let stage = &self.stage;
        let ((), cpu) = with_cpu(&self.running, || stage.run(TIMEOUT))?;
        let succeeded = succeeded.get();
        if self.is_ours && succeeded != size {
            wrong!("{succeeded} of {size} set-ups succeeded");
        }
        let conflicts = self.stage.counts().conflicts.get() - conflicts;
        let elapsed = started.elapsed();
        let (units, whole) = (succeeded as u64, Some(size as u64));
        let sample = Sample { units, whole, elapsed, cpu, ..Sample::default() };
        Ok(sample.with(SUCCEEDED, succeeded as f64).with("EAGAIN", conflicts as f64))
    }
}

/// Performs one set-up, as libxenvchan's server and client do. Returns `false` if a quota prevents it.
pub(super) async fn set_up(server: &Client, peer: &Client, number: usize) -> Result<bool> {
    let base = format!("/local/domain/{SERVER}/data/vchan/{number}");
    if !announce(server, &base, number).await? {
        return Ok(false);
    }
    // Two watches are held while the server waits: on the node that the peer will write, and on the peer's root node.
    let connected = format!("/local/domain/{PEER}/data/vchan/{number}");
    let Some(answer) = server.try_watch(&connected, &format!("answer{number}")).await? else {
        return Ok(false);
    };
    let home = format!("/local/domain/{PEER}");
    let Some(life) = server.try_watch(&home, &format!("life{number}")).await? else {
        answer.remove().await?;
        return Ok(false);
    };
    let reference = peer.must(Operation::Read, 0, &words(&[&format!("{base}/ring-ref")])).await?;
    let port = peer.must(Operation::Read, 0, &words(&[&format!("{base}/event-channel")])).await?;
    if (reference, port) != (number.to_string().into_bytes(), b"7".to_vec()) {
        wrong!("the peer of set-up {number} reads another's");
    }
    peer.must(Operation::Write, 0, &payload(&connected, "1")).await?;
    let path = answer.next().await;
    if path != connected {
        wrong!("the event of {connected} names {path}");
    }
    answer.remove().await?;
    life.remove().await?;
    server.must(Operation::Rm, 0, &words(&[&base])).await?;
    peer.must(Operation::Rm, 0, &words(&[&connected])).await?;
    Ok(true)
}

/// Runs the transaction in which a server publishes its ring.
async fn announce(server: &Client, base: &str, number: usize) -> Result<bool> {
    let permissions = format!("r{PEER}");
    for _ in 0..TRIES {
        let Ok(id) = server.request(Operation::TransactionStart, 0, b"\0").await? else {
            return Ok(false);
        };
        let text = String::from_utf8_lossy(&id);
        let Ok(tx_id) = text.trim_end_matches('\0').parse() else { wrong!("transaction {text}") };
        let nodes = [("ring-ref", number.to_string()), ("event-channel", "7".into())];
        for (node, value) in nodes {
            let path = format!("{base}/{node}");
            if server.request(Operation::Write, tx_id, &payload(&path, value)).await?.is_err() {
                let _ = server.request(Operation::TransactionEnd, tx_id, b"F\0").await?;
                return Ok(false);
            }
            let owner = format!("n{SERVER}");
            let request = words(&[&path, &owner, &permissions]);
            server.must(Operation::SetPerms, tx_id, &request).await?;
        }
        match server.request(Operation::TransactionEnd, tx_id, b"T\0").await? {
            Ok(_) => return Ok(true),
            Err(errno) if errno == "EAGAIN" => {}
            Err(_) => return Ok(false),
        }
    }
    Ok(false)
}
