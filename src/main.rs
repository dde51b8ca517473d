//! The xenstored daemon.

use std::process::ExitCode;

use xenstored::daemon::{self, Task};
use xenstored::guest;

fn main() -> ExitCode {
    let done = daemon::parse(std::env::args_os()).and_then(|task| match task {
        Task::Serve(settings) => daemon::run(&settings),
        Task::Guest(settings) => guest::run(&settings),
        Task::Print(text) => {
            print!("{text}");
            Ok(0)
        }
    });
    match done {
        Ok(code) => code.into(),
        Err(failure) => {
            eprintln!("xenstored: {failure}");
            failure.code().into()
        }
    }
}
