//! The xenstored daemon.

use std::process::ExitCode;

use xenstored::daemon::{self, Failure, Task};

fn main() -> ExitCode {
    let done = daemon::parse(std::env::args_os()).and_then(|task| match task {
        Task::Serve(settings) => daemon::run(&settings),
        Task::Guest(_) => Err(Failure::Host("this build has no simulated guest".into())),
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
