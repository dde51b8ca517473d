//! `xsctl status`: the domains that are not simply running, here and at another daemon, and the commands that go on.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::daemon::Daemon;
use super::domids::Domids;
use super::error::{Done, ToolError};
use super::next::{Next, at_both, here_only};
use super::report::{Form, domains};
use super::standing::Standing;
use crate::types::{Domid, Presence};

/// A domain, a JSON object.
#[derive(Serialize)]
struct Line<'s> {
    domid: u16,
    here: Shown<'s>,
    #[serde(skip_serializing_if = "Option::is_none")]
    there: Option<Shown<'s>>,
    /// What the user has to know or decide.
    next: &'s str,
    commands: &'s [String],
}

/// A domain's state at one daemon, a JSON object. Fields that do not apply are omitted.
#[derive(Serialize)]
struct Shown<'s> {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<ShownBy<'s>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    to: &'s str,
    #[serde(skip_serializing_if = "str::is_empty")]
    vm: &'s str,
    #[serde(skip_serializing_if = "str::is_empty")]
    elsewhere: &'s str,
}

#[derive(Serialize)]
struct ShownBy<'s> {
    domid: u16,
    pid: u32,
    command: &'s str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lives: Option<bool>,
}

/// The summary, a JSON object.
#[derive(Serialize)]
struct Summary {
    command: &'static str,
    /// Domains served here.
    running: usize,
    /// Domains served there.
    #[serde(skip_serializing_if = "Option::is_none")]
    running_there: Option<usize>,
    /// The domains shown.
    unsettled: usize,
}

#[derive(Serialize)]
struct Last {
    summary: Summary,
}

impl Shown<'_> {
    fn of(standing: &Standing) -> Shown<'_> {
        let Standing { presence, since, by, to, vm, elsewhere, .. } = standing;
        let has_note = *since != 0;
        let shown_by =
            ShownBy { domid: by.domid, pid: by.pid, command: &by.command, lives: by.lives() };
        Shown {
            state: presence.name(),
            since_ms: has_note.then_some(*since),
            by: has_note.then_some(shown_by),
            to,
            vm,
            elsewhere,
        }
    }
}

/// Shows the domains that are not simply running, and those of them that are named individually in any state.
///
/// # Errors
/// A daemon cannot be reached; the output cannot be written.
pub fn run(
    here: &Daemon,
    there: Option<&Daemon>,
    domids: &Domids,
    form: Form,
) -> Result<Done, ToolError> {
    let at = |daemon: &Daemon| daemon.all_states(domids);
    let (mut at_here, mut at_there) = (at(here)?, there.map(at).transpose()?);
    let running = |states: &BTreeMap<Domid, Standing>| {
        states.values().filter(|standing| standing.presence == Presence::Running).count()
    };
    let counts = (running(&at_here), at_there.as_ref().map(running));
    let mut take = |domid: &Domid| {
        let of = |states: &mut BTreeMap<Domid, Standing>| {
            states.remove(domid).unwrap_or_else(Standing::absent)
        };
        (of(&mut at_here), at_there.as_mut().map(of))
    };
    let mut unsettled = 0;
    let mut output = Ok(());
    for (domid, is_named) in domids.numbers() {
        let (standing, other) = take(&domid);
        let is_unsettled =
            standing.is_unsettled() || other.as_ref().is_some_and(Standing::is_unsettled);
        if !is_unsettled && !is_named {
            continue;
        }
        unsettled += usize::from(is_unsettled);
        let next = match (there, &other) {
            (Some(daemon), Some(other)) => at_both(domid, (&standing, here), (other, daemon)),
            _ => here_only(domid, &standing, &here.socket),
        };
        output = output.and_then(|()| show(domid, &standing, other.as_ref(), &next, form.json));
    }
    output?;
    last(counts, unsettled, form)?;
    Ok(if unsettled > 0 { Done::Unsettled } else { Done::Well })
}

fn show(
    domid: Domid,
    here: &Standing,
    there: Option<&Standing>,
    next: &Next,
    is_json: bool,
) -> io::Result<()> {
    let Next { why, commands } = next;
    if is_json {
        let there = there.map(Shown::of);
        let line = Line { domid: domid.0, here: Shown::of(here), there, next: why, commands };
        return writeln!(io::stdout(), "{}", serde_json::to_string(&line)?);
    }
    let at = |place, standing: &Standing| {
        format!("{place} {}{}", standing.presence.name(), standing.history())
    };
    let there = there.map(|there| at("; there", there)).unwrap_or_default();
    let sep = if commands.is_empty() { "" } else { ": " };
    let next = format!("{why}{sep}{}", commands.join("; "));
    writeln!(io::stdout(), "domain {domid}: {}{there}; {next}", at("here", here))
}

fn last(
    (running, running_there): (usize, Option<usize>),
    unsettled: usize,
    form: Form,
) -> io::Result<()> {
    if form.json {
        let summary = Summary { command: "status", running, running_there, unsettled };
        return writeln!(io::stdout(), "{}", serde_json::to_string(&Last { summary })?);
    }
    let there = running_there.map(|count| format!(", {count} there")).unwrap_or_default();
    let all = match unsettled {
        0 => "all domains run".to_owned(),
        count => format!("{} not simply running", domains(count)),
    };
    if form.quiet {
        Ok(())
    } else {
        writeln!(io::stdout(), "{all}; running: {running} here{there}")
    }
}
