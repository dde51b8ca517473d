//! The tool beside the daemon: looks at what is carried when domains move.

use std::process::ExitCode;

fn main() -> ExitCode {
    xenstored::run_xsctl(std::env::args_os())
}
