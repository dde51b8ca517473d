//! `xsctl control`: sends a CONTROL command in the same bytes as Xen's `xenstore-control`. Debian's wrapper of that
//! name refuses to run on a machine without Xen.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::client::{Client, ClientError};
use super::daemon::LONGEST;
use super::error::{Done, ToolError};
use crate::protocol::{Operation, REQUEST_PAYLOAD_BYTES_MAX};

/// Commands whose reply is `OK` or the text of a failure.
const OK_OR_FAILED: [&str; 2] = ["check", "live-update"];

/// Sends a command (name and arguments) and prints the reply.
///
/// # Errors
/// There is no daemon; it refuses the command; the output cannot be written.
pub fn run(socket: &Path, words: &[OsString]) -> Result<Done, ToolError> {
    let payload: Vec<u8> =
        words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
    let refused = |why: &str| ToolError::Refused {
        socket: socket.to_path_buf(),
        command: words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default(),
        why: why.to_owned(),
    };
    if payload.len() > REQUEST_PAYLOAD_BYTES_MAX {
        return Err(refused("a command has at most 4096 bytes"));
    }
    // With the long timeout: a check visits every node.
    let reply = match Client::connect_with(socket, LONGEST)?.ask(Operation::Control, &payload) {
        Ok(reply) => reply,
        Err(ClientError::Refused(error, _)) => return Err(refused(&explained(&error))),
        Err(lost) => {
            return Err(ToolError::Daemon { socket: socket.to_path_buf(), why: lost.to_string() });
        }
    };
    let text = reply.split(|&byte| byte == 0).next().unwrap_or_default();
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    if !text.is_empty() && !text.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    let failed =
        text != b"OK" && words.first().is_some_and(|word| OK_OR_FAILED.iter().any(|it| word == it));
    Ok(if failed { Done::Refused } else { Done::Well })
}

fn explained(error: &str) -> String {
    match error {
        "EINVAL" => {
            format!("{error}: unknown command or invalid arguments (try: xsctl control help)")
        }
        "EBUSY" => format!("{error}: another long command is running; try again later"),
        _ => error.to_owned(),
    }
}
