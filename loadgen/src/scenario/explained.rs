//! Check that every EAGAIN of our daemon has a reason: a reply that differs at the commit. The daemon counts the
//! conflicts with a recorded reason, and that count must equal the number of EAGAIN replies.

use xenstored::protocol::Operation;

use crate::client::{Blocking, words};
use crate::target::{Running, Target};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Our daemon's statistics of failed transactions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explained {
    /// EAGAIN replies with a known reason.
    pub conflicts: u64,
    /// Reservations that expired before their transaction ended.
    pub turns_overdue: u64,
}

impl Explained {
    /// Requests a target's report; returns `None` if it is not ours. Cost: a traversal of all nodes of the target.
    pub fn by(running: &Running, target: &Target) -> Result<Option<Explained>> {
        if *target != Target::Ours {
            return Ok(None);
        }
        let file = running.socket.with_file_name("memreport");
        let mut client = Blocking::connect(&running.socket)?;
        client.must(Operation::Control, &words(&["memreport", &file.to_string_lossy()]))?;
        let cannot = |error| ClientError::io("cannot read the daemon's report", error);
        let report = std::fs::read_to_string(&file).map_err(cannot)?;
        std::fs::remove_file(&file).map_err(cannot)?;
        let number = |label: &str| {
            let rest = report.split_once(label).map_or("", |(_, rest)| rest);
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
            digits.parse().map_err(|_| ClientError::Wrong(format!("no {label:?} in:\n{report}")))
        };
        Ok(Some(Explained {
            conflicts: number("transactions answered EAGAIN: ")?,
            turns_overdue: number(", overdue: ")?,
        }))
    }

    /// Returns the difference to `before`, whose conflicts must equal `seen`.
    pub fn since(self, before: Explained, seen: u64) -> Result<Explained> {
        let conflicts = self.conflicts - before.conflicts;
        if conflicts != seen {
            wrong!("{seen} EAGAIN were seen, and the daemon explains {conflicts}");
        }
        Ok(Explained { conflicts, turns_overdue: self.turns_overdue - before.turns_overdue })
    }
}

/// Checks that a target started in this round explains all `seen` conflicts, if it is ours.
pub fn check(running: &Running, target: &Target, seen: u64) -> Result<()> {
    if let Some(explained) = Explained::by(running, target)? {
        explained.since(Explained::default(), seen)?;
    }
    Ok(())
}
