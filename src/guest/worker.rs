//! A guest that works and checks itself: each request of a step would show if it were lost or executed twice, also
//! while the domain moves to another host.

use std::io;
use std::time::{Duration, Instant};

use super::client::{Client, Refused};
use crate::protocol::Operation;

/// The guest's nodes, below its partition root.
const COUNTER: &str = "data/counter";
const PULSE: &str = "data/pulse";

/// A node of each host of a fleet with that host's name, which guests can read.
pub const NAME_OF_HOST: &str = "/tool/fleet/host";

/// Time from one step to the next, of few guests.
pub const PERIOD: Duration = Duration::from_millis(50);

/// What a guest saw in a step.
#[derive(Debug, Default)]
pub struct Step {
    /// The name of the host that served the end of the step; `None` if it has none.
    pub host: Option<String>,
    /// The longest wait for a reply.
    pub waited: Duration,
    /// What the guest can only explain by a loss or a repetition, one sentence each.
    pub faults: Vec<String>,
}

/// A domain that works, and the number that its counter must have.
pub struct Worker {
    client: Client,
    count: u64,
}

impl Worker {
    /// Creates the guest's nodes and its watch.
    ///
    /// # Errors
    /// The connection's, and refusals of the daemon.
    pub fn start(mut client: Client) -> io::Result<Worker> {
        let mut must = |kind: Operation, payload: &str| {
            let reply = client.request(kind, payload.as_bytes())?;
            reply.map_err(|Refused(why)| io::Error::other(format!("{}: {why}", kind.name())))
        };
        must(Operation::Write, &format!("{COUNTER}\x000"))?;
        must(Operation::Watch, &format!("{COUNTER}\0{COUNTER}\0"))?;
        // A watch fires when it is set, before the reply to a later request.
        must(Operation::Read, &format!("{COUNTER}\0"))?;
        client.take_events();
        Ok(Worker { client, count: 0 })
    }

    /// Returns the number of steps so far.
    pub fn steps(&self) -> u64 {
        self.count
    }

    /// Increments the counter in a transaction, creates and removes a node, and compares each reply and the events with
    /// what they must be. Blocks while no daemon serves the domain.
    ///
    /// # Errors
    /// The connection's: the domain has ended.
    pub fn step(&mut self) -> io::Result<Step> {
        let mut step = Step::default();
        self.count_up(&mut step)?;
        self.pulse(&mut step)?;
        let name = self.ask(Operation::Read, format!("{NAME_OF_HOST}\0"), &mut step)?;
        step.host = name.ok().map(|name| String::from_utf8_lossy(&name).into_owned());
        // The counter's event came before the reply to a later request.
        match self.client.take_events().len() {
            1 => {}
            0 => step.faults.push(format!("no event of change {}: it was lost", self.count)),
            n => step.faults.push(format!("{n} events of change {}: repeated", self.count)),
        }
        Ok(step)
    }

    /// Reads the counter and writes the next number in a transaction, until that is committed.
    fn count_up(&mut self, step: &mut Step) -> io::Result<()> {
        loop {
            let id = match self.ask(Operation::TransactionStart, "\0".into(), step)? {
                Ok(id) => id,
                Err(refused) => {
                    refusal(step, "a transaction", &refused);
                    return Ok(());
                }
            };
            let id = String::from_utf8_lossy(&id);
            self.client.set_transaction(id.trim_end_matches('\0').parse().unwrap_or(0));
            let found = self.ask(Operation::Read, format!("{COUNTER}\0"), step)?;
            let next = self.count + 1;
            let written = self.ask(Operation::Write, format!("{COUNTER}\0{next}"), step)?;
            let ended = self.ask(Operation::TransactionEnd, "T\0".into(), step)?;
            self.client.set_transaction(0);
            match ended {
                Ok(_) => {}
                // The only writer of its nodes, so only a move makes this one's transactions fail.
                Err(Refused(why)) if why == "EAGAIN" => continue,
                Err(refused) => {
                    refusal(step, "the end of a transaction", &refused);
                    return Ok(());
                }
            }
            self.compare(found, step);
            if let Err(refused) = written {
                refusal(step, "a write", &refused);
            }
            self.count = next;
            return Ok(());
        }
    }

    /// Compares the counter with what this guest wrote last.
    fn compare(&self, found: Result<Vec<u8>, Refused>, step: &mut Step) {
        let expected = self.count;
        let found = match found {
            Ok(found) => String::from_utf8_lossy(&found).into_owned(),
            Err(refused) => return refusal(step, "the counter", &refused),
        };
        match found.parse::<u64>() {
            Ok(number) if number == expected => {}
            Ok(number) if number > expected => {
                step.faults.push(format!("the counter is {number}, not {expected}: repeated"));
            }
            _ => step.faults.push(format!("the counter is {found:?}, not {expected}: lost")),
        }
    }

    /// Creates and removes a node: executed twice, the removal fails; without the creation, too.
    fn pulse(&mut self, step: &mut Step) -> io::Result<()> {
        let count = self.count;
        for (kind, payload) in
            [(Operation::Write, format!("{PULSE}\0{count}")), (Operation::Rm, format!("{PULSE}\0"))]
        {
            if let Err(Refused(why)) = self.ask(kind, payload, step)? {
                let name = kind.name();
                step.faults.push(format!("{name} of a new node: {why}: lost or repeated"));
            }
        }
        match self.ask(Operation::Read, format!("{PULSE}\0"), step)? {
            Err(Refused(why)) if why == "ENOENT" => {}
            _ => step.faults.push("a removed node exists: its removal was lost".into()),
        }
        Ok(())
    }

    fn ask(
        &mut self,
        kind: Operation,
        payload: String,
        step: &mut Step,
    ) -> io::Result<Result<Vec<u8>, Refused>> {
        let begun = Instant::now();
        let reply = self.client.request(kind, payload.as_bytes())?;
        step.waited = step.waited.max(begun.elapsed());
        Ok(reply)
    }
}

fn refusal(step: &mut Step, what: &str, Refused(why): &Refused) {
    step.faults.push(format!("{what} is refused: {why}"));
}
