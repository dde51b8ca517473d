//! `xsctl upgrade`: replaces the program of a running daemon, whose clients and domains go on.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::client::{Client, ClientError};
use super::daemon::LONGEST;
use super::error::{Done, ToolError};
use super::line::{Fields, Json, Plain, Value};
use super::options::Common;
use crate::protocol::Operation;

/// The reply to each step that has succeeded.
const OK: &str = "OK";

/// The options of `xsctl upgrade`.
#[derive(Debug, Args)]
pub struct Upgrade {
    #[command(flatten)]
    pub common: Common,
    /// New program [default: the file that is now at the path of the running one]
    pub program: Option<PathBuf>,
    /// Options of the new program, as one argument [default: those of the running one]
    #[arg(long, short = 'c', value_name = "OPTIONS", allow_hyphen_values = true)]
    pub options: Option<String>,
    /// Only check whether the program can go on with the present state
    #[arg(long)]
    pub dry_run: bool,
}

/// A daemon, and what it is asked.
struct Dialogue {
    socket: PathBuf,
    client: Client,
}

/// Replaces the program.
///
/// # Errors
/// There is no daemon; it refuses the program, and goes on.
pub fn run(upgrade: &Upgrade) -> Result<Done, ToolError> {
    let socket = upgrade.common.socket();
    let client = Client::connect_with(&socket, LONGEST)?;
    let mut daemon = Dialogue { socket, client };
    let program = match &upgrade.program {
        Some(program) => std::path::absolute(program)?,
        None => daemon.running()?,
    };
    daemon.step(&["-f", &program.to_string_lossy()])?;
    if let Some(options) = &upgrade.options {
        daemon.step(&["-c", options])?;
    }
    let result = if upgrade.dry_run {
        let checked = daemon.ask(&["-s", "-n"])?;
        let Some(numbers) = checked.strip_prefix("OK, ") else {
            return Err(daemon.refused(&checked));
        };
        numbers.to_owned()
    } else {
        daemon.step(&["-s"])?;
        daemon.ask(&["-r"])?
    };
    show(upgrade, &program, &result)?;
    Ok(Done::Well)
}

/// Prints the program and the numbers of the update, which are `name=value` pairs.
fn show(upgrade: &Upgrade, program: &Path, numbers: &str) -> io::Result<()> {
    let form = upgrade.common.form();
    if form.quiet {
        return Ok(());
    }
    let state = if upgrade.dry_run { "checked" } else { "upgraded" };
    let program = program.to_string_lossy().into_owned();
    let mut fields: Fields =
        vec![("result", Value::Word(state.into())), ("program", Value::Bytes(program.into()))];
    for name in ["pause_us", "domains", "nodes", "clients", "transactions"] {
        let value = numbers.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let number = value.and_then(|value| value.parse().ok());
        fields.extend(number.map(|number| (name, Value::Number(number))));
    }
    let mut out = io::stdout().lock();
    if form.json { writeln!(out, "{}", Json(&fields)) } else { writeln!(out, "{}", Plain(&fields)) }
}

impl Dialogue {
    /// Returns the path of the running program: that of the keeper, whose process id the lock file has.
    fn running(&self) -> Result<PathBuf, ToolError> {
        let mut lock = self.socket.clone().into_os_string();
        lock.push(".lock");
        let text = fs::read_to_string(&lock);
        let pid = text.ok().and_then(|text| text.lines().next()?.trim().parse::<u32>().ok());
        let program = pid.and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
        let Some(program) = program else {
            let why = "cannot find its program; name it";
            return Err(ToolError::Daemon { socket: self.socket.clone(), why: why.into() });
        };
        // So the kernel shows the path of a file that was replaced.
        let text = program.to_string_lossy();
        Ok(PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text).to_owned()))
    }

    /// Sends one step of `live-update`, which must succeed.
    fn step(&mut self, words: &[&str]) -> Result<(), ToolError> {
        match self.ask(words)? {
            reply if reply == OK => Ok(()),
            reply => Err(self.refused(&reply)),
        }
    }

    /// Sends one step of `live-update`, and returns the reply.
    fn ask(&mut self, words: &[&str]) -> Result<String, ToolError> {
        let words = ["live-update"].iter().chain(words);
        let payload: Vec<u8> = words.flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
        match self.client.ask(Operation::Control, &payload) {
            Ok(reply) => Ok(String::from_utf8_lossy(&reply).trim_end_matches('\0').to_owned()),
            Err(ClientError::Refused(error, _)) => Err(self.refused(match &*error {
                "EBUSY" => "EBUSY: another update or long command is running; try again later",
                "EINVAL" => "EINVAL: this daemon cannot be updated by this version of xsctl",
                other => other,
            })),
            Err(lost) => {
                Err(ToolError::Daemon { socket: self.socket.clone(), why: lost.to_string() })
            }
        }
    }

    fn refused(&self, why: &str) -> ToolError {
        let (socket, command) = (self.socket.clone(), "live-update".to_owned());
        ToolError::Refused { socket, command, why: why.to_owned() }
    }
}
