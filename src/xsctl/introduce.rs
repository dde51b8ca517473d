//! `xsctl introduce`: introduces domains as the toolstack that created them does. The command is for domains that were
//! released and whose destination host is lost, and for imported domains that no toolstack introduces.

use std::path::Path;

use super::client::{Client, ClientError, Connecting};
use super::domids::Domids;
use super::error::{Done, ToolError};
use super::places::command;
use super::report::{Form, Line, Report};
use crate::protocol::{Operation, decimal};
use crate::types::{Domid, ranges};

/// Introduces domains, each with the frame and the port that libxl wrote below its partition root, or with `port`. A
/// range includes the domains that are not introduced and have a port.
///
/// # Errors
/// There is no daemon; none of the domains can be introduced; the output cannot be written.
pub fn run(
    socket: &Path,
    domids: &Domids,
    port: Option<u32>,
    form: Form,
) -> Result<Done, ToolError> {
    let mut client = Client::connect(socket)?;
    let numbers = domids.numbers();
    let all: Vec<_> = numbers.keys().copied().collect();
    let failure = |trouble: ClientError| ToolError::Daemon {
        socket: socket.to_path_buf(),
        why: trouble.to_string(),
    };
    let introduced = client.are_introduced(&all).map_err(failure)?;
    let (there, absent): (Vec<_>, Vec<_>) =
        all.into_iter().zip(introduced).partition(|(_, is_introduced)| *is_introduced);
    let said = there.into_iter().map(|(domid, _)| (domid, Err("it is already introduced".into())));
    let absent: Vec<_> = absent.into_iter().map(|(domid, _)| domid).collect();
    let found = connecting(&mut client, &absent, port).map_err(failure)?;
    let (mut known, mut failed) = (Vec::new(), Vec::new());
    for (domid, found) in said.chain(absent.into_iter().zip(found)) {
        match found {
            Ok(connecting) => known.push(connecting),
            Err(why) => failed.extend(numbers[&domid].then_some((domid, why))),
        }
    }
    if known.is_empty() && failed.is_empty() {
        return Err(ToolError::NothingLeft(socket.to_path_buf()));
    }
    let mut report = Report::new(form, "introduce", "introduced", known.len() + failed.len());
    let outcomes = client.introduce(&known);
    let mut done = Vec::new();
    for (Connecting { domid, .. }, outcome) in known.iter().zip(outcomes) {
        done.extend(outcome.is_ok().then_some(*domid));
        let error = outcome.err().map(|trouble| format!("INTRODUCE: {trouble}"));
        report.domain(&Line::new(*domid, error));
    }
    for (domid, why) in failed {
        report.domain(&Line::new(domid, Some(why)));
    }
    if !done.is_empty() {
        let unquiesce = command("unquiesce", socket, &ranges(done));
        report.note(format!(
            "domains that were released or imported here are quiesced; if no other daemon serves \
             them: {unquiesce}"
        ));
    }
    report.end()
}

/// Returns the INTRODUCE arguments of each domain, or why they are unknown.
///
/// # Errors
/// The daemon does not reply.
fn connecting(
    client: &mut Client,
    domids: &[Domid],
    port: Option<u32>,
) -> Result<Vec<Result<Connecting, String>>, ClientError> {
    let frames = numbers(client, domids, "ring-ref")?;
    let ports = match port {
        Some(port) => vec![Ok(Some(port.into())); domids.len()],
        None => numbers(client, domids, "port")?,
    };
    let one = |((&domid, frame), port): ((&Domid, Number), Number)| {
        let path = path(domid, "port");
        let unknown = format!("{path} does not exist; name the event channel with --port");
        let by_port = Connecting::with_port(domid, &port?.ok_or(unknown)?.to_string());
        Ok(Connecting { frame: frame?.unwrap_or(by_port.frame), ..by_port })
    };
    Ok(domids.iter().zip(frames).zip(ports).map(one).collect())
}

/// The number in a node, `None` without the node, or the error of an invalid value.
type Number = Result<Option<u64>, String>;

/// Reads the number that libxl wrote to a node of each domain.
fn numbers(client: &mut Client, domids: &[Domid], name: &str) -> Result<Vec<Number>, ClientError> {
    let payload = |&domid: &Domid| format!("{}\0", path(domid, name)).into_bytes();
    let payloads: Vec<_> = domids.iter().map(payload).collect();
    let read = |(&domid, value): (&Domid, Result<Vec<u8>, ClientError>)| match value {
        Ok(value) => {
            let number = decimal(&value).map(Some);
            Ok(number.map_err(|_| format!("{} is not a number", path(domid, name))))
        }
        Err(trouble) if trouble.is("ENOENT") => Ok(Ok(None)),
        Err(ClientError::Refused(error, _)) => Ok(Err(format!("{}: {error}", path(domid, name)))),
        Err(lost) => Err(lost),
    };
    domids.iter().zip(client.ask_all(Operation::Read, &payloads)).map(read).collect()
}

fn path(domid: Domid, name: &str) -> String {
    format!("/local/domain/{domid}/store/{name}")
}
