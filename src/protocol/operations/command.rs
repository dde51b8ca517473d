//! CONTROL commands that stand for wire requests, with arguments and replies as text.

use super::{Form, Operation, Parser, Request};
use crate::types::Errno;

/// A CONTROL command that stands for a wire request.
pub struct RequestCommand {
    /// The command's name.
    pub name: &'static str,
    /// The arguments as `help` shows them.
    pub arguments: &'static str,
    operation: Operation,
    /// The variant with watch depths, which the option `-d` selects.
    with_depth: Option<Operation>,
}

/// The CONTROL commands that stand for wire requests, in the order in which `help` lists them.
pub static COMMANDS: [RequestCommand; 5] = [
    row("quiesce", "<domid>...", Operation::Quiesce, None),
    row("unquiesce", "[force] <domid>...", Operation::Unquiesce, None),
    row(
        "get-domain-watches",
        "[-d] <domid> <index>",
        Operation::GetDomainWatches,
        Some(Operation::GetDomainWatchesDepth),
    ),
    row(
        "add-domain-watches",
        "[-d] <domid> <path> <token> [<depth>] ...",
        Operation::AddDomainWatches,
        Some(Operation::AddDomainWatchesDepth),
    ),
    row("start-domain-transaction", "<domid> <transid>", Operation::StartDomainTransaction, None),
];

const fn row(
    name: &'static str,
    arguments: &'static str,
    operation: Operation,
    with_depth: Option<Operation>,
) -> RequestCommand {
    RequestCommand { name, arguments, operation, with_depth }
}

/// Parses a CONTROL command that stands for a wire request, with its arguments as text. Returns `None` for all other
/// commands; the module `control` serves those.
pub fn command<'a>(words: &[&'a [u8]]) -> Option<Result<Request<'a>, Errno>> {
    let (name, arguments) = words.split_first()?;
    let command = COMMANDS.iter().find(|command| command.name.as_bytes() == *name)?;
    let (operation, arguments) = match (command.with_depth, arguments) {
        (Some(with_depth), [b"-d", rest @ ..]) => (with_depth, rest),
        _ => (command.operation, arguments),
    };
    match operation.row().parser {
        Parser::Arguments(parse) => Some(parse(arguments, Form::Text)),
        Parser::Payload(_) | Parser::Migration(_) => None,
    }
}
