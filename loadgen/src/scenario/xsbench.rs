//! xsbench (mirage/ocaml-xenstore-server, `bench/`): domains started and stopped, all in parallel over one socket.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use xenstored::host::sim::SimGuest;
use xenstored::protocol::Operation;

use super::goals::{Goal, of};
use super::{Case, Plan, Scenario, Session, explained, host_of, start, with_cpu};
use crate::client::{Blocking, Client, Stage, words};
use crate::measure::{Measured, Sample};
use crate::target::Target;
use crate::trouble::{ClientError, Result};
use crate::wrong;

const DISKS: usize = 3;
/// Timeout, far more than 300 domains take without repeated conflicts. A peer that times out is reported with the work
/// done by then.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The common ancestor of all nodes.
const PREFIX: &str = "/bench";
const SECONDS: &str = "seconds";

/// The scenario of xsbench.
pub struct Xsbench;

impl Scenario for Xsbench {
    fn name(&self) -> &'static str {
        "xsbench"
    }

    fn about(&self) -> &'static str {
        "The published benchmark of oxenstored: 300 domains with three disks each are started and \
         stopped, all in parallel over one socket, six transactions each. In the end no node of \
         these domains may be left. Each daemon has a minute. Nearly all transactions of C \
         xenstored fail here, and each failed try repeats all requests of its transaction."
    }

    fn unit(&self) -> &'static str {
        "domain"
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let sizes: &[usize] = if plan.quick { &[20] } else { &[100, 300] };
        sizes.iter().map(|&size| Case::sized(size, "domains")).collect()
    }

    fn leaves_out(&self, target: &Target, _case: &Case) -> Option<&'static str> {
        match target {
            Target::Ours | Target::C | Target::OCaml => None,
            Target::Echo => Some("it keeps no nodes, so no domain could be stopped"),
            Target::Socket(_) => Some("each round begins with a new daemon"),
        }
    }

    fn prepare(&self, _plan: &Plan, target: &Target) -> Result<Box<dyn Session>> {
        Ok(Box::new(Benching { target: target.clone() }))
    }

    fn goals(&self, measured: &[Measured]) -> Vec<Goal> {
        let row = |target| of(measured, "300 domains", target);
        let (Some(ours), Some(ocaml)) = (row("ours"), row("ocaml")) else { return Vec::new() };
        // An unfinished target would take longer than its timeout, so this is a lower bound.
        let seconds = |row: &Measured| row.figure(SECONDS);
        let (Some(ours), Some(eighth)) = (seconds(ours), seconds(ocaml).map(|all| all / 8.0))
        else {
            return Vec::new();
        };
        let given_up = if ocaml.unfinished().is_some() { ", which did not finish" } else { "" };
        let what = format!("xsbench, 300 domains: seconds, an eighth of oxenstored's{given_up}");
        vec![Goal::at_most(what, ours, eighth)]
    }
}

struct Benching {
    target: Target,
}

impl Session for Benching {
    fn round(&mut self, _plan: &Plan, case: &Case) -> Result<Sample> {
        let size = case.size.unwrap_or(0);
        let running = start(&self.target, &[])?;
        let cannot = |error| ClientError::io("cannot create domains", error);
        let mut host = host_of(&running, &self.target)?;
        // Permissions need existing domains. It does not matter that the named domains are guests.
        let _guests: Vec<SimGuest> =
            (0..size).map(|_| host.create(None)).collect::<std::io::Result<_>>().map_err(cannot)?;
        let mut toolstack = Blocking::connect(&running.socket)?;
        for directory in ["vm", "vss", "local/domain/0/backend/vbd", "xapi"] {
            toolstack.write(&format!("{PREFIX}/{directory}"), "")?;
        }
        toolstack.flush()?;
        let stage = Stage::new()?;
        let client = stage.connect(&running.socket)?;
        let done: Rc<Cell<usize>> = Rc::default();
        for domid in 1..=size {
            let (client, done) = (client.clone(), Rc::clone(&done));
            stage.spawn(async move {
                start_domain(&client, domid).await?;
                stop_domain(&client, domid).await?;
                done.set(done.get() + 1);
                Ok(())
            });
        }
        let started = Instant::now();
        let (left, cpu) = with_cpu(&running, || stage.run_for(TIMEOUT))?;
        let elapsed = started.elapsed();
        if left > 0 && self.target == Target::Ours {
            wrong!("timed out: {left} of {size} domains are not finished after {TIMEOUT:?}");
        }
        if left == 0 {
            nothing_is_left(&mut toolstack)?;
        }
        let counts = stage.counts();
        if left == 0 {
            explained::check(&running, &self.target, counts.conflicts.get())?;
        }
        let conflicts = counts.conflicts.get() as f64;
        let ends = conflicts + counts.commits.get() as f64;
        let (units, whole) = (done.get() as u64, Some(size as u64));
        let sample = Sample { units, whole, elapsed, cpu, ..Sample::default() };
        Ok(sample
            .with("done", done.get() as f64)
            .with(SECONDS, elapsed.as_secs_f64())
            .with("EAGAIN", conflicts)
            .with("EAGAIN %", 100.0 * conflicts / ends.max(1.0)))
    }
}

/// Checks that no domain's nodes are left; domain 0 exists only for its backends.
fn nothing_is_left(toolstack: &mut Blocking) -> Result<()> {
    for (directory, expected) in
        [("vm", ""), ("vss", ""), ("local/domain", "0\0"), ("local/domain/0/backend/vbd", "")]
    {
        let path = format!("{PREFIX}/{directory}");
        let left = toolstack.directory(&words(&[&path]))?;
        if left != expected.as_bytes() {
            wrong!("{path} still has {:?}", String::from_utf8_lossy(&left));
        }
    }
    Ok(())
}

/// The paths of a domain.
struct Paths {
    domain: String,
    vm: String,
    vss: String,
}

fn paths(domid: usize) -> Paths {
    Paths {
        domain: format!("{PREFIX}/local/domain/{domid}"),
        vm: format!("{PREFIX}/vm/{}", uuid(domid)),
        vss: format!("{PREFIX}/vss/{}", uuid(domid)),
    }
}

fn uuid(domid: usize) -> String {
    format!("00000000-0000-0000-0000-{domid:012}")
}

/// Removes a node that may not exist.
async fn remove(client: &Client, tx_id: u32, path: &str) -> Result<()> {
    client.request(Operation::Rm, tx_id, &words(&[path])).await.map(drop)
}

/// Creates a directory with these permissions.
async fn make(client: &Client, tx_id: u32, path: &str, permissions: &[&str]) -> Result<()> {
    client.must(Operation::Mkdir, tx_id, &words(&[path])).await?;
    let request = words(&[&[path], permissions].concat());
    client.must(Operation::SetPerms, tx_id, &request).await.map(drop)
}

async fn start_domain(client: &Client, domid: usize) -> Result<()> {
    let Paths { domain, vm, vss } = &paths(domid);
    let (reader, owner) = (&*format!("r{domid}"), &*format!("n{domid}"));
    client
        .transact(async |tx| {
            for path in [domain, vm, vss] {
                remove(client, tx, path).await?;
                make(client, tx, path, &["n0", reader]).await?;
            }
            client.write(tx, &format!("{domain}/vm"), vm).await?;
            client.write(tx, &format!("{domain}/vss"), vss).await?;
            client.write(tx, &format!("{vm}/uuid"), uuid(domid)).await?;
            client.write(tx, &format!("{vm}/name"), format!("domain{domid}")).await?;
            client.write(tx, &format!("{domain}/name"), format!("domain{domid}")).await?;
            for directory in ["cpu", "memory"] {
                make(client, tx, &format!("{domain}/{directory}"), &["n0", reader]).await?;
            }
            for directory in ["device", "error", "drivers", "control", "attr", "data", "messages"] {
                make(client, tx, &format!("{domain}/{directory}"), &[owner]).await?;
            }
            Ok(())
        })
        .await?;
    client
        .transact(async |tx| {
            for (key, value) in [("vm-data", ""), ("mmio-hole-size-in-bytes", "268435456")] {
                client.write(tx, &format!("{domain}/{key}"), value).await?;
            }
            for key in ["apic", "acpi", "pae", "viridian"] {
                client.write(tx, &format!("{domain}/platform/{key}"), "1").await?;
            }
            for key in ["bios-vendor", "bios-version", "system-manufacturer", "system-version"] {
                client.write(tx, &format!("{domain}/bios-strings/{key}"), "Xen").await?;
            }
            Ok(())
        })
        .await?;
    for disk in 0..DISKS {
        attach(client, domid, disk).await?;
    }
    Ok(())
}

/// Returns the paths of a disk: frontend, backend, hotplug.
fn disk_paths(domid: usize, disk: usize) -> [String; 3] {
    let device = 51712 + disk * 16;
    [
        format!("{PREFIX}/local/domain/{domid}/device/vbd/{device}"),
        format!("{PREFIX}/local/domain/0/backend/vbd/{domid}/{device}"),
        format!("{PREFIX}/xapi/{domid}/hotplug/vbd/{device}"),
    ]
}

async fn attach(client: &Client, domid: usize, disk: usize) -> Result<()> {
    let [frontend, backend, hotplug] = &disk_paths(domid, disk);
    let (reader, owner) = (&*format!("r{domid}"), &*format!("n{domid}"));
    client
        .transact(async |tx| {
            for path in [frontend, backend] {
                let there = client.request(Operation::Read, tx, &words(&[path])).await?;
                if there.is_ok() {
                    wrong!("{path} already exists");
                }
                remove(client, tx, path).await?;
            }
            make(client, tx, frontend, &[owner, "r0"]).await?;
            make(client, tx, backend, &["n0", reader]).await?;
            make(client, tx, hotplug, &["n0"]).await?;
            for (path, key, value) in [
                (hotplug, "frontend", &**frontend),
                (hotplug, "backend", backend),
                (frontend, "backend", backend),
                (backend, "frontend", frontend),
                (frontend, "backend-id", "0"),
                (frontend, "state", "1"),
                (frontend, "virtual-device", "51712"),
                (frontend, "device-type", "disk"),
                (backend, "frontend-id", &domid.to_string()),
                (backend, "online", "1"),
                (backend, "removable", "0"),
                (backend, "state", "1"),
                (backend, "dev", "hda"),
                (backend, "type", "phy"),
                (backend, "mode", "w"),
                (backend, "params", "/dev/null"),
            ] {
                client.write(tx, &format!("{path}/{key}"), value).await?;
            }
            Ok(())
        })
        .await
        .map(drop)
}

async fn stop_domain(client: &Client, domid: usize) -> Result<()> {
    let Paths { domain, vm, vss } = &paths(domid);
    client
        .transact(async |tx| {
            client.must(Operation::Read, tx, &words(&[&format!("{domain}/name")])).await?;
            client.write(tx, &format!("{domain}/control/shutdown"), "halt").await
        })
        .await?;
    for disk in 0..DISKS {
        let [frontend, backend, hotplug] = &disk_paths(domid, disk);
        client.write(0, &format!("{backend}/online"), "0").await?;
        for path in [frontend, backend, hotplug] {
            client.must(Operation::Rm, 0, &words(&[path])).await?;
        }
    }
    let backends = format!("{PREFIX}/local/domain/0/backend/vbd/{domid}");
    for path in [vm, vss, domain, &backends] {
        client.must(Operation::Rm, 0, &words(&[path])).await?;
    }
    Ok(())
}
