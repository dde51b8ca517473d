//! Load for xenstored.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    match arguments.peek().and_then(|word| word.to_str()) {
        Some("daemon") => loadgen::target::ours::run(arguments),
        _ => ExitCode::FAILURE,
    }
}
