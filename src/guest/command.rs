//! The commands of `xenstored sim guest`.

use std::io;

use super::client::{Client, Refused};
use crate::protocol::{Operation, REQUEST_PAYLOAD_BYTES_MAX};

/// The output of `help`.
pub const HELP: &str = "\
read PATH            print a value
write PATH VALUE     set a value; creates missing nodes
ls [PATH]            print the names of the children
mkdir PATH           create a node
rm PATH              remove a node and its subtree
perms PATH           print the permissions, the owner first
perms PATH PERM...   set them: n, r, w or b and a domid, as in n5 r0
watch PATH           print an event now and on each change of the node and its subtree
unwatch PATH         remove the watch
begin                start a transaction
commit               commit the transaction; EAGAIN: it conflicts and changes nothing
abort                end the transaction without its changes
quit                 exit; the domain is destroyed
";

/// One line of input.
pub enum Command {
    /// A request and its payload; the reply is printed unchanged.
    Value(Operation, Vec<u8>),
    /// A request whose reply is strings, printed one a line.
    Strings(Operation, Vec<u8>),
    /// A request whose reply has no content.
    Change(Operation, Vec<u8>),
    /// Begins a transaction.
    Begin,
    /// Ends the transaction: commits if true, else aborts.
    End(bool),
    /// Prints the commands.
    Help,
    /// Ends the session.
    Quit,
}

impl Command {
    /// Parses a line; returns `None` if it is empty or a comment.
    ///
    /// # Errors
    /// The command's usage.
    pub fn parse(line: &[u8]) -> Result<Option<Command>, String> {
        let line = line.trim_ascii();
        let (name, rest) = split(line);
        let words: Vec<&[u8]> =
            rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        let strings =
            |words: &[&[u8]]| words.iter().flat_map(|word| [word, &b"\0"[..]].concat()).collect();
        let command = match (name, &words[..]) {
            (b"", _) | (b"#", _) => return Ok(None),
            (b"read", [path]) => Command::Value(Operation::Read, strings(&[path])),
            (b"write", [path, ..]) => {
                // The value is the rest of the line, with its blanks.
                let (_, value) = split(rest);
                Command::Change(Operation::Write, [path, &b"\0"[..], value].concat())
            }
            (b"ls", []) => Command::Strings(Operation::Directory, Vec::new()),
            (b"ls", [path]) => Command::Strings(Operation::Directory, strings(&[path])),
            (b"mkdir", [path]) => Command::Change(Operation::Mkdir, strings(&[path])),
            (b"rm", [path]) => Command::Change(Operation::Rm, strings(&[path])),
            (b"perms", [path]) => Command::Strings(Operation::GetPerms, strings(&[path])),
            (b"perms", [_, _, ..]) => Command::Change(Operation::SetPerms, strings(&words)),
            // The token distinguishes a client's watches; here the path does that.
            (b"watch", [path]) => Command::Change(Operation::Watch, strings(&[path, path])),
            (b"unwatch", [path]) => Command::Change(Operation::Unwatch, strings(&[path, path])),
            (b"begin", []) => Command::Begin,
            (b"commit", []) => Command::End(true),
            (b"abort", []) => Command::End(false),
            (b"help", []) => Command::Help,
            (b"quit" | b"exit", []) => Command::Quit,
            _ => return Err(usage(name)),
        };
        Ok(Some(command))
    }

    /// Runs the command; returns the text to print.
    ///
    /// # Errors
    /// The connection's; the daemon's own error is the inner result.
    pub fn run(self, client: &mut Client) -> io::Result<Result<Vec<u8>, Refused>> {
        let line = |mut text: Vec<u8>| {
            text.push(b'\n');
            text
        };
        Ok(match self {
            Command::Value(kind, payload) => request(client, kind, &payload)?.map(line),
            Command::Strings(kind, payload) => {
                let payload = if payload.is_empty() { home(client) } else { payload };
                let lines = |strings: Vec<u8>| {
                    strings.iter().map(|&byte| if byte == 0 { b'\n' } else { byte }).collect()
                };
                request(client, kind, &payload)?.map(lines)
            }
            Command::Change(kind, payload) => request(client, kind, &payload)?.map(|_| Vec::new()),
            Command::Begin if client.transaction() != 0 => {
                Err(Refused("a transaction is already open".into()))
            }
            Command::Begin => request(client, Operation::TransactionStart, b"\0")?.and_then(|id| {
                let id = id.strip_suffix(b"\0").and_then(|id| std::str::from_utf8(id).ok());
                let id = id.and_then(|id| id.parse().ok());
                client.set_transaction(
                    id.ok_or(Refused("the reply is not a transaction id".into()))?,
                );
                Ok(Vec::new())
            }),
            Command::End(_) if client.transaction() == 0 => {
                Err(Refused("no transaction is open".into()))
            }
            Command::End(commit) => {
                let payload = if commit { b"T\0" } else { b"F\0" };
                let ended = request(client, Operation::TransactionEnd, payload)?;
                // Also after an error such as EAGAIN: the transaction has ended either way.
                client.set_transaction(0);
                ended.map(|_| Vec::new())
            }
            Command::Help | Command::Quit => Ok(Vec::new()),
        })
    }
}

fn request(
    client: &mut Client,
    kind: Operation,
    payload: &[u8],
) -> io::Result<Result<Vec<u8>, Refused>> {
    if payload.len() > REQUEST_PAYLOAD_BYTES_MAX {
        // The daemon would close the connection on a longer request.
        return Ok(Err(Refused("the request is too long for a message".into())));
    }
    client.request(kind, payload)
}

/// Returns the path of the domain's own directory, which `ls` without an argument lists.
fn home(client: &Client) -> Vec<u8> {
    format!("/local/domain/{}\0", client.domid()).into_bytes()
}

/// Returns a command's usage, or that there is no such command.
fn usage(name: &[u8]) -> String {
    let named = |line: &&str| line.split(' ').next().is_some_and(|first| first.as_bytes() == name);
    let lines: Vec<&str> = HELP.lines().filter(named).collect();
    match lines[..] {
        [] => "unknown command; type help for a list".into(),
        _ => format!("usage:\n{}", lines.join("\n")),
    }
}

/// Splits off the first word.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    (&line[..end], line[end..].trim_ascii_start())
}
