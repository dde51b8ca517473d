//! The domains of a host under attack, and the memory charged to them.

use std::path::Path;

use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::protocol::Operation;
use xenstored::types::Domid;

use crate::client::{Blocking, words};
use crate::scenario::memory::peak_bytes;
use crate::target::{Running, Target};
use crate::trouble::Result;
use crate::wrong;

/// Workers of our daemon. The owner thread of a domain has the number domid modulo this.
pub const SHARDS: u16 = 2;
/// Well-behaved guests, one on each thread.
pub const ELSEWHERE: Domid = Domid(10);
pub const BESIDE: Domid = Domid(11);
/// Domains that are introduced and released repeatedly, one on each thread.
const SMALL: [Domid; 2] = [Domid(20), Domid(21)];
/// The first hostile guest; all are on the thread of [`BESIDE`].
const FIRST_HOSTILE: u16 = 101;

/// A node that each guest can read, the value of that node, and a node that the guest can write.
pub const NAME: &str = "name";
pub const VALUE: &str = "a well-behaved guest";
pub const DATA: &str = "data";
/// A node of a guest's device, watched by domain 0's kernel.
const DEVICE_STATE: &str = "device/vif/0/state";

/// Memory that the daemon may use in addition to 1.25 times the charged amount.
const SLACK_BYTES: u64 = 64 << 20;

/// Returns one of the domains that are introduced and released.
pub fn small_domain(number: usize) -> Domid {
    SMALL[number % SMALL.len()]
}

/// Domains whose rings clients use.
pub struct Domains {
    pub elsewhere: SimGuest,
    pub beside: SimGuest,
    /// Kept for their ports, which are arguments of INTRODUCE.
    pub small: [SimGuest; 2],
    pub hostile: Vec<SimGuest>,
}

impl Domains {
    /// Builds the domains as a toolstack does.
    pub fn build(
        host: &mut SimClient,
        toolstack: &mut Blocking,
        attackers: usize,
    ) -> Result<Domains> {
        let mut private = |domid| build(host, toolstack, domid, 'n');
        let (elsewhere, beside) = (private(ELSEWHERE)?, private(BESIDE)?);
        let small = [private(SMALL[0])?, private(SMALL[1])?];
        // Hostile guests allow each other to read their nodes.
        let hostile = (FIRST_HOSTILE..).step_by(usize::from(SHARDS)).take(attackers);
        let hostile = hostile.map(|number| build(host, toolstack, Domid(number), 'r'));
        let hostile = hostile.collect::<Result<_>>()?;
        toolstack.flush()?;
        Ok(Domains { elsewhere, beside, small, hostile })
    }

    /// Returns the domids that the daemon charges.
    pub fn charged(&self) -> Vec<Domid> {
        let hostile = self.hostile.iter().map(|guest| guest.domid);
        [Domid::CONTROL, ELSEWHERE, BESIDE].into_iter().chain(SMALL).chain(hostile).collect()
    }
}

/// Returns the node of a device shared by a domain's frontend and domain 0's kernel.
pub fn device_state(domid: Domid) -> String {
    format!("/local/domain/{domid}/{DEVICE_STATE}")
}

/// Builds a domain with a root node, on which other guests have the permission `others`.
fn build(
    host: &mut SimClient,
    toolstack: &mut Blocking,
    domid: Domid,
    others: char,
) -> Result<SimGuest> {
    let guest = toolstack.build_domain(host, domid)?;
    let home = format!("/local/domain/{domid}");
    // Nodes created later inherit these permissions.
    let permissions = |path: &str| words(&[path, &format!("{others}{domid}")]);
    toolstack.ask(Operation::SetPerms, &permissions(&home))?;
    for (node, value) in [(NAME, VALUE), (DATA, ""), (DEVICE_STATE, "4")] {
        let path = format!("{home}/{node}");
        toolstack.write(&path, value)?;
        toolstack.ask(Operation::SetPerms, &permissions(&path))?;
    }
    Ok(guest)
}

/// A daemon's memory, and the memory charged to its domains, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Peak resident memory.
    pub peak: u64,
    /// Memory charged to the daemon's domains now; `None` for peers.
    pub charged: Option<u64>,
    /// Sum of the domains' peak charges; `None` for peers.
    pub charged_at_most: Option<u64>,
}

impl Memory {
    /// Reads the figures. Cost: one request per domain.
    pub fn of(running: &Running, target: &Target, domids: &[Domid]) -> Result<Memory> {
        let charges = match target {
            Target::Ours => Some(charges(&running.socket, domids)?),
            _ => None,
        };
        Ok(Memory {
            peak: peak_bytes(running.pid)?,
            charged: charges.map(|(now, _)| now),
            charged_at_most: charges.map(|(_, at_most)| at_most),
        })
    }

    /// Returns the upper bound of resident memory, derived from the charges.
    pub fn bound(&self) -> Option<u64> {
        self.charged_at_most.map(|charged| charged / 4 * 5 + SLACK_BYTES)
    }
}

/// Returns the sums of the present and the peak charges of these domains.
fn charges(socket: &Path, domids: &[Domid]) -> Result<(u64, u64)> {
    let mut client = Blocking::connect(socket)?;
    let (mut now, mut at_most) = (0, 0);
    for domid in domids {
        let report = client.must(Operation::Control, &words(&["quota", &domid.to_string()]))?;
        let report = String::from_utf8_lossy(&report);
        let line = report.lines().find_map(|line| line.strip_prefix("memory"));
        let mut numbers = line.into_iter().flat_map(|line| {
            line.split(|c: char| !c.is_ascii_digit())
                .filter_map(|digits| digits.parse::<u64>().ok())
        });
        let (Some(used), Some(most)) = (numbers.next(), numbers.next()) else {
            wrong!("no use of memory in:\n{report}");
        };
        now += used;
        at_most += most;
    }
    Ok((now, at_most))
}
