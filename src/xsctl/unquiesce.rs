//! `xsctl unquiesce`: serves domains, unless another daemon may serve them too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::client::{Client, ClientError, Each};
use super::daemon::Daemon;
use super::domids::Domids;
use super::error::{Done, ToolError};
use super::other_end::{OtherEnds, Refusal, absolute, by_force, refusal};
use super::places::command;
use super::report::{Form, Line, Report};
use super::requests;
use super::standing::Standing;
use crate::types::{Domid, Presence};

/// The options of an unquiesce.
pub struct Mode {
    /// The other end of the domains' move, if it is given: the path of a socket.
    pub to: Option<String>,
    /// Whether to serve the domains whatever the other end does.
    pub force: bool,
    /// The form of the output.
    pub form: Form,
}

/// Serves domains. A range includes those that the daemon knows in any state but absent.
///
/// # Errors
/// There is no daemon; none of the domains exists; the output cannot be written.
pub fn run(socket: PathBuf, domids: &Domids, mode: &Mode) -> Result<Done, ToolError> {
    let Ok(daemon) = Daemon::find(socket.clone()) else {
        // A daemon without a migration socket knows no states.
        return requests::each(&socket, Each::Unquiesce, domids, mode.form);
    };
    let states = daemon.all_states(domids)?;
    let numbers = domids.numbers();
    let meant = |(domid, here): &(Domid, Standing)| {
        numbers.get(domid) == Some(&true) || here.presence != Presence::Absent
    };
    let meant: BTreeMap<Domid, Standing> = states.into_iter().filter(meant).collect();
    if meant.is_empty() {
        return Err(ToolError::NoDomain(socket));
    }
    let to = mode.to.as_deref().map(absolute);
    let mode = &Mode { to, ..*mode };
    let mut ends = OtherEnds::new(domids);
    let mut verdicts = BTreeMap::new();
    for (&domid, here) in &meant {
        verdicts.insert(domid, verdict(domid, (here, &daemon), mode, &mut ends));
    }
    let mut outcomes = serve(&mut daemon.connect()?, &verdicts);
    let mut report = Report::new(mode.form, "unquiesce", "unquiesced", meant.len());
    for (domid, verdict) in verdicts {
        report.domain(&match verdict {
            Err((why, commands)) => {
                let error = match commands.is_empty() {
                    true => why,
                    false => format!("{why}: {}", commands.join("; ")),
                };
                Line { commands, ..Line::new(domid, Some(error)) }
            }
            Ok(_) => {
                let error = outcomes.remove(&domid).and_then(Result::err);
                Line::new(domid, error.map(|error| explain(domid, &daemon.socket, &error)))
            }
        });
    }
    report.end()
}

/// Sends the requests of the domains that may be served.
fn serve(
    client: &mut Client,
    verdicts: &BTreeMap<Domid, Result<Each, Refusal>>,
) -> BTreeMap<Domid, Result<(), ClientError>> {
    let mut outcomes = BTreeMap::new();
    for request in [Each::Unquiesce, Each::Force] {
        let is_it = |(_, verdict): &(&Domid, &Result<Each, Refusal>)| **verdict == Ok(request);
        let domids: Vec<Domid> = verdicts.iter().filter(is_it).map(|(domid, _)| *domid).collect();
        outcomes.extend(client.ask_each(request, &domids));
    }
    outcomes
}

/// Returns the request that serves a domain.
///
/// # Errors
/// It must not or cannot be served; each cause has a sentence of its own.
fn verdict(
    domid: Domid,
    (here, daemon): (&Standing, &Daemon),
    mode: &Mode,
    ends: &mut OtherEnds<'_>,
) -> Result<Each, Refusal> {
    let socket = &daemon.socket;
    let of = |name| command(name, socket, &domid.to_string());
    match here.presence {
        Presence::Absent => {
            return Err((
                "there is no such domain: it is not introduced, and never was".into(),
                Vec::new(),
            ));
        }
        Presence::Arriving => {
            let why = "an import of it is in progress; repeat this command when it has ended";
            return Err((why.into(), Vec::new()));
        }
        Presence::Arrived => {
            let why = "it was imported and is not introduced; if its source has released it";
            return Err((why.into(), vec![of("introduce"), of("unquiesce")]));
        }
        Presence::Running => return Ok(Each::Unquiesce),
        Presence::Left if mode.force => {
            let why =
                "it has left and is not introduced; only if no other daemon serves it or ever will";
            return Err((why.into(), vec![of("introduce"), by_force(domid, socket)]));
        }
        _ if mode.force => return Ok(daemon.force()),
        _ => {}
    }
    let noted = Some(&here.to).filter(|to| !to.is_empty());
    let is_elsewhere = here.presence == Presence::Left || !here.elsewhere.is_empty();
    let Some(to) = mode.to.as_ref().or(noted.filter(|_| is_elsewhere)) else {
        return match is_elsewhere {
            false => Ok(Each::Unquiesce),
            true => Err(unknown_end(domid, here, socket)),
        };
    };
    let end = if mode.to.is_some() { ends.of(to) } else { ends.of_noted(to) };
    let end = end.map_err(|why| {
        let why = format!(
            "{to} may have it, and cannot be asked: {why}; only if it does not serve it and never will"
        );
        (why, restoring(domid, here, socket))
    })?;
    match refusal(domid, (here, socket), (&end.standing(domid), &end.daemon.socket)) {
        Some(refusal) => Err(refusal),
        None if here.presence == Presence::Left => {
            let why = format!(
                "it has left and is not introduced; {to} does not have it; to serve it here"
            );
            Err((why, vec![of("introduce"), of("unquiesce")]))
        }
        None if is_elsewhere => Ok(daemon.force()),
        None => Ok(Each::Unquiesce),
    }
}

/// The domain has left, and nothing says where it went.
fn unknown_end(domid: Domid, here: &Standing, socket: &Path) -> Refusal {
    let why = format!(
        "it left{}, and no destination was noted: name it with --to; only if no other daemon \
         serves it or ever will",
        here.history()
    );
    (why, restoring(domid, here, socket))
}

/// Returns the commands that serve a domain whose other end is lost.
fn restoring(domid: Domid, here: &Standing, socket: &Path) -> Vec<String> {
    let introduce = command("introduce", socket, &domid.to_string());
    let introduces = (here.presence == Presence::Left).then_some(introduce);
    introduces.into_iter().chain([by_force(domid, socket)]).collect()
}

/// Explains the daemon's refusal: the domain has changed its state since it was asked.
fn explain(domid: Domid, socket: &Path, error: &ClientError) -> String {
    let why = [
        ("ENOENT", "it is not introduced any more"),
        ("EAGAIN", "it was imported meanwhile"),
        ("EBUSY", "it was exported to another daemon meanwhile"),
        ("EEXIST", "it left meanwhile"),
    ];
    match why.into_iter().find(|(name, _)| error.is(name)) {
        Some((_, why)) => {
            let status = command("status", socket, &domid.to_string());
            format!("{error}: {why}; to see where it is: {status}")
        }
        None => error.to_string(),
    }
}
