//! The operator's tool: migrates domains, sends CONTROL commands, and inspects migration streams.

use std::process::ExitCode;

fn main() -> ExitCode {
    xenstored::run_xsctl(std::env::args_os())
}
