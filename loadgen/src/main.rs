//! Load for xenstored.

use std::process::ExitCode;

use loadgen::differential::{self, Plan};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    match arguments.peek().and_then(|word| word.to_str()) {
        Some("daemon") => loadgen::target::ours::run(arguments),
        Some("differential") => {
            let words: Vec<u64> =
                arguments.skip(1).filter_map(|word| word.to_str()?.parse().ok()).collect();
            let plan = Plan {
                requests: words.first().copied().unwrap_or(10_000),
                seed: words.get(1).copied().unwrap_or(1),
                survey: std::env::var_os("SURVEY").is_some(),
            };
            match differential::run(plan) {
                Ok((text, good)) => {
                    println!("{text}");
                    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
                }
                Err(error) => {
                    eprintln!("{error}");
                    ExitCode::FAILURE
                }
            }
        }
        _ => ExitCode::FAILURE,
    }
}
