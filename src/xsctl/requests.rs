//! `xsctl quiesce`, `unquiesce`, `discard`: one request for many domains.

use std::collections::BTreeMap;
use std::path::Path;

use super::client::{Client, ClientError, Each};
use super::daemon::Daemon;
use super::domids::Domids;
use super::error::{Done, ToolError};
use super::report::{Form, Line, Report};
use crate::types::Domid;

/// Sends a request for each domain.
///
/// # Errors
/// There is no daemon; none of the domains exists; the output cannot be written.
pub fn each(socket: &Path, request: Each, domids: &Domids, form: Form) -> Result<Done, ToolError> {
    let mut client = Client::connect(socket)?;
    let domids = client.meant(domids, socket)?;
    let (command, verb) = match request {
        Each::Quiesce => ("quiesce", "quiesced"),
        Each::Unquiesce | Each::Force => ("unquiesce", "unquiesced"),
    };
    let report = Report::new(form, command, verb, domids.len());
    say(client.ask_each(request, &domids), report)
}

/// Runs DISCARD_DOMAINS. A range includes the domains that were imported and not served since.
///
/// # Errors
/// There is no daemon; none of the domains exists; the output cannot be written.
pub fn discard(socket: &Path, domids: &Domids, form: Form) -> Result<Done, ToolError> {
    let daemon = Daemon::find(socket.to_path_buf())?;
    let numbers = domids.numbers();
    let all: Vec<_> = numbers.keys().copied().collect();
    let mut report = Report::new(form, "discard", "discarded", 0);
    let mut outcomes = daemon.discard(&mut None, &all);
    outcomes.retain(|domid, outcome| {
        numbers[domid] || !matches!(outcome, Err(ClientError::Refused(..)))
    });
    if outcomes.is_empty() {
        return Err(ToolError::NoDomain(socket.to_path_buf()));
    }
    report.found(0, outcomes.len());
    say(outcomes, report)
}

fn say(
    outcomes: BTreeMap<Domid, Result<(), ClientError>>,
    mut report: Report,
) -> Result<Done, ToolError> {
    for (domid, outcome) in outcomes {
        report.domain(&Line::new(domid, outcome.err().map(|trouble| trouble.to_string())));
    }
    report.end()
}
