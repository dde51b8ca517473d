//! The xenstored daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    xenstored::run(std::env::args_os())
}
