//! The requests of a boot storm without their sense: what an echo server is asked.

use std::rc::Rc;
use std::time::Duration;

use xenstored::words::Domid;

use super::Machine;
use crate::client::{Stage, Trace};
use crate::scenario::start;
use crate::target::{Running, Target};
use crate::trouble::Result;

/// Domains whose requests are recorded; a multiple of them is replayed.
pub(super) const RECORDED: usize = 10;
/// Far more than it takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// What each client asks when [`RECORDED`] domains start at once on our daemon.
pub(super) fn record() -> Result<Trace> {
    let running = start(&Target::Ours, &[])?;
    let machine = Machine::new(&running)?;
    machine.stage.record();
    for domid in (1..).take(RECORDED) {
        machine.stage.spawn(Rc::clone(&machine).boot(Domid(domid)));
    }
    machine.stage.run(PATIENCE)?;
    Ok(machine.stage.recorded())
}

/// Sends the requests of so many domains, each client's one after another as it did, over sockets.
/// Answers how many requests it was.
pub(super) fn replay(running: &Running, trace: &Rc<Trace>, domains: usize) -> Result<u64> {
    let stage = Stage::new()?;
    for _ in 0..domains.div_ceil(RECORDED) {
        for number in 0..trace.len() {
            let (client, trace) = (stage.connect(&running.socket)?, Rc::clone(trace));
            stage.spawn(async move {
                for (kind, tx_id, payload) in &trace[number] {
                    client.must(*kind, *tx_id, payload).await?;
                }
                Ok(())
            });
        }
    }
    stage.run(PATIENCE)?;
    Ok(stage.counts().requests.get())
}
