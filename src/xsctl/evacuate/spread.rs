//! `xsctl evacuate --spread`: makes a plan from the domains that are here, and moves nothing.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;

use super::plan::{Host, Plan, fault};
use crate::protocol::Operation;
use crate::types::{Domid, Presence};
use crate::xsctl::client::ClientError;
use crate::xsctl::daemon::Daemon;
use crate::xsctl::domids::Domids;
use crate::xsctl::error::{Done, ToolError};
use crate::xsctl::move_batches::sentence;
use crate::xsctl::next::{Next, here_only};
use crate::xsctl::other_end::absolute;
use crate::xsctl::report::{counted, domains, say};

/// What the hosts get an equal part of, as the daemon accounts it for each domain.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum By {
    /// The nodes that the domains own
    Nodes,
    /// The bytes of the store's memory that are charged to the domains
    Memory,
}

impl By {
    /// Returns the name of the quota.
    fn quota(self) -> &'static str {
        match self {
            By::Nodes => "nodes",
            By::Memory => "memory",
        }
    }

    fn counted(self, count: u64) -> String {
        counted(count, if matches!(self, By::Nodes) { "node" } else { "byte" })
    }
}

/// The destinations and the file of a plan to be made.
pub struct Spread<'s> {
    pub to: &'s [String],
    pub by: By,
    /// Standard output without one.
    pub output: Option<&'s Path>,
    pub is_json: bool,
}

/// Domains of one host, and the sum of what they have.
type Share = (Vec<Domid>, u64);

/// Makes a plan of the domains that a move would move, and writes it. Cost: a request for each domain.
///
/// # Errors
/// The destinations are wrong; the daemon cannot be reached or has no domain; the plan cannot be written.
pub fn run(daemon: &Daemon, spread: &Spread<'_>) -> Result<Done, ToolError> {
    let to: Vec<String> = spread.to.iter().map(|to| absolute(to)).collect();
    if let Some(why) = fault(to.iter().map(String::as_str)) {
        return Err(super::super::usage(&format!("--spread: {why}")));
    }
    let (here, left_out) = domains_of(daemon)?;
    let weights = weights(daemon, &here, spread.by)?;
    if weights.is_empty() {
        return Err(ToolError::NoDomain(daemon.socket.clone()));
    }
    let shares = balance(&weights, to.len());
    write(&to, &shares, spread)?;
    for (to, _) in to.iter().zip(&shares).filter(|(_, (domids, _))| domids.is_empty()) {
        say(&format!("{to}: no domain is left for it"));
    }
    for (domid, Next { why, commands }) in &left_out {
        say(&format!("domain {domid} is left out: {}", sentence(&[why], commands)));
    }
    Ok(if left_out.is_empty() { Done::Well } else { Done::Partly })
}

/// Domains between two states, and what goes on with each.
type LeftOut = Vec<(Domid, Next)>;

/// Returns the domains of this host, and those that are between two states.
fn domains_of(daemon: &Daemon) -> Result<(Vec<Domid>, LeftOut), ToolError> {
    let (mut here, mut left_out) = (Vec::new(), LeftOut::new());
    for (domid, standing) in daemon.all_states(&Domids::all())? {
        match standing.presence {
            Presence::Running => here.push(domid),
            Presence::Quiesced if standing.elsewhere.is_empty() => here.push(domid),
            Presence::Absent | Presence::Left => {}
            _ => left_out.push((domid, here_only(domid, &standing, &daemon.socket))),
        }
    }
    Ok((here, left_out))
}

/// Returns what each domain uses of a quota, without those that have ended meanwhile.
fn weights(daemon: &Daemon, domids: &[Domid], by: By) -> Result<BTreeMap<Domid, u64>, ToolError> {
    let error = |why: String| ToolError::Daemon { socket: daemon.socket.clone(), why };
    let payload = |domid: &Domid| format!("quota\0{domid}\0").into_bytes();
    let payloads: Vec<_> = domids.iter().map(payload).collect();
    let replies = daemon.connect()?.ask_all(Operation::Control, &payloads);
    let mut weights = BTreeMap::new();
    for (&domid, reply) in domids.iter().zip(replies) {
        match reply {
            Ok(text) => {
                let used = used(&String::from_utf8_lossy(&text), by.quota());
                let used = used.ok_or_else(|| {
                    error(format!("its quota of domain {domid} has no {}", by.quota()))
                })?;
                weights.insert(domid, used);
            }
            Err(ClientError::Refused(name, _)) if name == "ENOENT" => {}
            Err(trouble) => return Err(error(format!("quota {domid}: {trouble}"))),
        }
    }
    Ok(weights)
}

/// Returns the use of a quota in a reply such as `nodes : 5 (max 7)`.
fn used(text: &str, quota: &str) -> Option<u64> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = values.into_iter().find(|(name, _)| name.trim() == quota)?;
    value.split_whitespace().next()?.parse().ok()
}

/// Assigns each domain, the largest first, to the host that has least: no host has more than 4/3 of the least possible
/// maximum. Cost: domains times hosts.
fn balance(weights: &BTreeMap<Domid, u64>, hosts: usize) -> Vec<Share> {
    let mut shares = vec![(Vec::new(), 0); hosts];
    let mut all: Vec<_> = weights.iter().collect();
    all.sort_by_key(|(domid, weight)| (Reverse(**weight), **domid));
    for (&domid, weight) in all {
        let least = shares.iter_mut().min_by_key(|(domids, sum)| (*sum, domids.len()));
        if let Some((domids, sum)) = least {
            domids.push(domid);
            *sum += weight;
        }
    }
    shares.iter_mut().for_each(|(domids, _)| domids.sort());
    shares
}

/// Writes the plan: each domid by itself, so that a run reports one that is gone.
fn write(to: &[String], shares: &[Share], spread: &Spread<'_>) -> Result<(), ToolError> {
    let is_json = match spread.output {
        Some(path) => path.extension().is_some_and(|extension| extension == "json"),
        None => spread.is_json,
    };
    let shares = to.iter().zip(shares).filter(|(_, (domids, _))| !domids.is_empty());
    let hosts = shares.map(|(to, (domids, sum))| {
        (Host { to: to.clone(), domains: Domids::of(domids) }, domids.len(), *sum)
    });
    let text = match is_json {
        true => {
            let plan = Plan { hosts: hosts.map(|(host, ..)| host).collect() };
            serde_json::to_string_pretty(&plan).map_err(io::Error::other)? + "\n"
        }
        false => {
            let mut text = String::new();
            for (host, count, sum) in hosts {
                let host =
                    toml::to_string(&Plan { hosts: vec![host] }).map_err(io::Error::other)?;
                text += &format!("# {}, {}\n{host}\n", domains(count), spread.by.counted(sum));
            }
            text
        }
    };
    match spread.output {
        Some(path) => create(path, &text).map_err(ToolError::file(path)),
        None => Ok(io::stdout().write_all(text.as_bytes())?),
    }
}

/// Creates the file. An existing one may be the plan of an evacuation that has begun, which only this plan completes.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            io::Error::other("it exists, and may be the plan of an evacuation that has begun")
        }
        _ => error,
    })?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(weights: &[u64], hosts: usize) -> Vec<Share> {
        balance(&(1..).map(Domid).zip(weights.iter().copied()).collect(), hosts)
    }

    #[test]
    fn shares_are_balanced() {
        let shares = spread(&[10, 1, 1, 7, 3], 2);
        assert_eq!(
            shares,
            [(vec![Domid(1), Domid(2)], 11), (vec![Domid(3), Domid(4), Domid(5)], 11)]
        );
        let sizes = spread(&[0; 7], 3).into_iter().map(|(domids, _)| domids.len());
        assert_eq!(sizes.collect::<Vec<_>>(), [3, 2, 2], "domains without nodes are counted");
        assert_eq!(spread(&[4], 2)[1], (Vec::new(), 0));
    }

    #[test]
    fn usage_is_read_from_the_text_of_quota() {
        let text = "Domain 5:\nnodes            :        5 (max        7)\n\
                    memory           :     1234 (max     2000) refused 1\n";
        assert_eq!(used(text, "nodes"), Some(5));
        assert_eq!(used(text, "memory"), Some(1234));
        assert_eq!(used(text, "watches"), None);
    }
}
