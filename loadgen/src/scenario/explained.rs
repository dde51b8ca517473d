//! Every EAGAIN of our daemon has a reason: a reply that differed. It counts them where it keeps the
//! reasons, and its count must be that of the replies.

use xenstored::protocol::Operation;

use crate::client::{Blocking, words};
use crate::target::{Running, Target};
use crate::trouble::{Result, Trouble};
use crate::wrong;

/// What our daemon says of transactions that failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explained {
    /// Transactions answered EAGAIN, each for a reason that was known.
    pub conflicts: u64,
    /// Turns of transactions that were over before their transaction was.
    pub turns_overdue: u64,
}

impl Explained {
    /// Asks a target for its report; `None` if it is not ours. Cost: a walk over its nodes.
    pub fn by(running: &Running, target: &Target) -> Result<Option<Explained>> {
        if *target != Target::Ours {
            return Ok(None);
        }
        let file = running.socket.with_file_name("memreport");
        let mut client = Blocking::connect(&running.socket)?;
        client.must(Operation::Control, &words(&["memreport", &file.to_string_lossy()]))?;
        let cannot = |error| Trouble::io("cannot read the daemon's report", error);
        let report = std::fs::read_to_string(&file).map_err(cannot)?;
        std::fs::remove_file(&file).map_err(cannot)?;
        let number = |label: &str| {
            let rest = report.split_once(label).map_or("", |(_, rest)| rest);
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
            digits.parse().map_err(|_| Trouble::Wrong(format!("no {label:?} in:\n{report}")))
        };
        Ok(Some(Explained {
            conflicts: number("transactions answered EAGAIN: ")?,
            turns_overdue: number(", overdue: ")?,
        }))
    }

    /// What is new since `before`; it must explain what was `seen`.
    pub fn since(self, before: Explained, seen: u64) -> Result<Explained> {
        let conflicts = self.conflicts - before.conflicts;
        if conflicts != seen {
            wrong!("{seen} EAGAIN were seen, and the daemon explains {conflicts}");
        }
        Ok(Explained { conflicts, turns_overdue: self.turns_overdue - before.turns_overdue })
    }
}

/// Checks that a target that began with this round explains what was `seen`, if it is ours.
pub fn check(running: &Running, target: &Target, seen: u64) -> Result<()> {
    if let Some(explained) = Explained::by(running, target)? {
        explained.since(Explained::default(), seen)?;
    }
    Ok(())
}
