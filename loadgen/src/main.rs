//! The `loadgen` program: see `loadgen --help`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use loadgen::delay;
use loadgen::differential;
use loadgen::report::{self, Header};
use loadgen::scenario::{self, Outcome, Plan, Scenario};
use loadgen::target::{Target, echo};
use loadgen::trouble::ClientError;
use mimalloc::MiMalloc;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use xenstored::host::sim::SimHost;

/// The allocator is that of the daemon (`src/main.rs`), since `loadgen daemon` is the daemon.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Exit code for an invalid command line.
const USAGE: u8 = 2;
/// Exit code for a run that could not be done.
const CANNOT: u8 = 3;
/// Exit code for a run in which only Debian's daemons failed.
const PEER_FAILED: u8 = 4;
/// Upper bound of `--seconds`: a soak may take a day.
const SECONDS_MAX: f64 = 86_400.0;
/// Upper bound of hostile guests: each has a ring, and all share a thread.
const ATTACKERS_MAX: usize = 1000;

/// Puts load on xenstored and its peers, side by side, and reports the cost of each request.
///
/// Exit codes: 0 all replies were right; 1 a reply was wrong, as the error says; 2 invalid command
/// line; 3 the run or a part of it could not be completed; 4 only c or ocaml failed. A target that
/// fails is left out of the rest of that scenario, and the run continues. A peer that times out has
/// not failed.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version)]
struct Options {
    /// Scenarios to run, `all`, or `list` to describe them. `loadgen echo --socket PATH --sim PATH
    /// [--threads N]` is the echo server, `loadgen daemon ...` this project's xenstored, `loadgen
    /// xsctl ...` its tool, `loadgen differential [--requests N] [--seed S]` compares the replies of
    /// the daemons, `loadgen delay MS COMMAND` runs a command whose input and output take that long
    #[arg(required = true)]
    scenarios: Vec<String>,
    /// Target: ours, c, ocaml, echo or socket:PATH; may be repeated [default: ours, echo]
    #[arg(long, value_name = "TARGET")]
    target: Vec<Target>,
    /// Run only cases whose name contains this, such as an attack of `hostile`
    #[arg(long, visible_alias = "attack", value_name = "TEXT", default_value = "")]
    case: String,
    /// Number of hostile guests of `hostile`
    #[arg(long, value_name = "N", default_value_t = 8)]
    attackers: usize,
    /// Rounds of each case; medians are reported
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Duration of a round of requests in seconds
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// Check only correctness: few and small cases, one short round
    #[arg(long)]
    quick: bool,
    /// Run one round; exceeding a bound that holds on any machine, such as that of memory in `hostile`, fails the run
    #[arg(long)]
    check: bool,
    /// Write all figures to this file, anew after each scenario
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots to this file, anew after each scenario
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// The echo server's own options.
#[derive(Debug, Parser)]
#[command(name = "loadgen echo")]
struct EchoOptions {
    /// Socket to listen on
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Socket of its simulated host
    #[arg(long, value_name = "PATH")]
    sim: PathBuf,
    /// Number of threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// File of replies to the first requests of each connection
    #[arg(long, value_name = "FILE")]
    replies: Option<PathBuf>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(word) if word == "daemon" => xenstored::run(std::env::args_os().skip(1)),
        // As the daemon starts it, with its own arguments.
        Some(word) if word == "sim" => xenstored::run(std::env::args_os()),
        Some(word) if word == "xsctl" => xenstored::run_xsctl(std::env::args_os().skip(1)),
        Some(word) if word == "echo" => serve_echo(),
        Some(word) if word == "differential" => compare(),
        Some(word) if word == "share" => share(),
        Some(word) if word == "delay" => serve_delay(),
        _ => run(&Options::parse()),
    }
}

/// The options of the differential test.
#[derive(Debug, Parser)]
#[command(name = "loadgen differential")]
struct CompareOptions {
    /// Minimum number of steps
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    requests: u64,
    /// Seed of the first sequence
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Continue after unknown differences, and list them by kind
    #[arg(long)]
    survey: bool,
    /// Treat a known difference as unknown: fail where it occurs, with a sequence that shows it
    #[arg(long, value_name = "NAME")]
    forget: Option<String>,
}

fn compare() -> ExitCode {
    let CompareOptions { requests, seed, survey, forget } =
        CompareOptions::parse_from(std::env::args_os().skip(1));
    match differential::run(&differential::Plan { requests, seed, survey, forget }) {
        Ok((text, good)) => {
            println!("{text}");
            u8::from(!good).into()
        }
        Err(error) => {
            eprintln!("loadgen differential: {error}");
            CANNOT.into()
        }
    }
}

/// The options of a distance.
#[derive(Debug, Parser)]
#[command(name = "loadgen delay")]
struct DelayOptions {
    /// Milliseconds that each byte takes, in each direction
    #[arg(value_name = "MS")]
    milliseconds: u64,
    /// Command of the shell
    #[arg(value_name = "COMMAND")]
    command: String,
}

fn serve_delay() -> ExitCode {
    let DelayOptions { milliseconds, command } =
        DelayOptions::parse_from(std::env::args_os().skip(1));
    match delay::run(Duration::from_millis(milliseconds), &command) {
        Ok(code) => u8::try_from(code).unwrap_or(1).into(),
        Err(error) => {
            eprintln!("loadgen delay: {error}");
            CANNOT.into()
        }
    }
}

/// Runs as an additional process of a storm.
fn share() -> ExitCode {
    allow_many_files();
    let share = scenario::Share::parse_from(std::env::args_os().skip(1));
    match scenario::serve_share(&share) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("loadgen share: {trouble}");
            trouble.code().into()
        }
    }
}

fn serve_echo() -> ExitCode {
    let options = EchoOptions::parse_from(std::env::args_os().skip(1));
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or_else(cores);
    let replies = options.replies.map_or(Ok(Vec::new()), std::fs::read);
    let served = replies.and_then(|replies| {
        let host = SimHost::find_or_start(&options.sim, &std::env::current_exe()?)?;
        echo::serve(&options.socket, host, threads, replies)
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadgen echo: {error}");
            CANNOT.into()
        }
    }
}

fn run(options: &Options) -> ExitCode {
    let scenarios = scenario::all();
    if options.scenarios == ["list"] {
        for scenario in &scenarios {
            println!("{:<14} {}", scenario.name(), scenario.about());
        }
        return ExitCode::SUCCESS;
    }
    let chosen = match choose(&scenarios, &options.scenarios) {
        Ok(chosen) => chosen,
        Err(unknown) => {
            eprintln!("loadgen: unknown scenario {unknown}; `loadgen list` lists all");
            return USAGE.into();
        }
    };
    if !(options.seconds > 0.0 && options.seconds <= SECONDS_MAX) || options.rounds == 0 {
        eprintln!(
            "loadgen: --rounds must be at least 1, and --seconds more than 0 and at most a day"
        );
        return USAGE.into();
    }
    let attackers = options.attackers;
    if !(1..=ATTACKERS_MAX).contains(&attackers) {
        eprintln!("loadgen: --attackers must be 1 to {ATTACKERS_MAX}");
        return USAGE.into();
    }
    let plan = if options.quick {
        let time = Duration::from_millis(200);
        Plan { time, rounds: 1, quick: true, check: true, attackers }
    } else {
        let time = Duration::from_secs_f64(options.seconds);
        let (check, rounds) = (options.check, if options.check { 1 } else { options.rounds });
        Plan { time, rounds, quick: false, check, attackers }
    };
    let targets = match options.target.as_slice() {
        [] => vec![Target::Ours, Target::Echo],
        some => some.to_vec(),
    };
    allow_many_files();
    match run_all(&chosen, &plan, &targets, options) {
        Ok(outcomes) => finish(&outcomes),
        Err(trouble) => {
            eprintln!("loadgen: {trouble}");
            trouble.code().into()
        }
    }
}

/// Runs the scenarios, prints a table for each, and rewrites the reports after each.
fn run_all(
    scenarios: &[&dyn Scenario],
    plan: &Plan,
    targets: &[Target],
    options: &Options,
) -> Result<Vec<Outcome>, ClientError> {
    let header = Header::look(scenarios.len(), targets);
    let mut outcomes = Vec::new();
    // Unwritable report files should fail now, not after an hour.
    write_reports(options, &header, &outcomes)?;
    println!("{}", header.builds());
    for scenario in scenarios {
        let outcome = scenario::run(*scenario, plan, targets, &options.case);
        println!("{}", report::table(&outcome));
        outcomes.push(outcome);
        write_reports(options, &header, &outcomes)?;
    }
    print!("{}", report::summary(&outcomes));
    Ok(outcomes)
}

/// Prints a summary of the failures and returns the exit code. Our own failures take precedence over the peers', and
/// wrong results over runs that could not be done.
fn finish(outcomes: &[Outcome]) -> ExitCode {
    let mut codes = Vec::new();
    for outcome in outcomes {
        for (missing, trouble) in outcome.failures() {
            let case = missing.cases.first().map_or("", String::as_str);
            eprintln!("loadgen: {}, {case}, {}: {trouble}", outcome.name, missing.target);
            codes.push(match missing.target {
                Target::C | Target::OCaml => PEER_FAILED,
                _ => trouble.code(),
            });
        }
    }
    codes.into_iter().min().unwrap_or(0).into()
}

/// Returns the scenarios of these names, or the first unknown name.
fn choose<'a>(
    scenarios: &'a [Box<dyn Scenario>],
    names: &'a [String],
) -> Result<Vec<&'a dyn Scenario>, &'a str> {
    if names == ["all"] {
        return Ok(scenarios.iter().map(Box::as_ref).collect());
    }
    let find = |name: &'a String| {
        let found = scenarios.iter().find(|scenario| scenario.name() == name);
        found.map(Box::as_ref).ok_or(name.as_str())
    };
    names.iter().map(find).collect()
}

fn write_reports(
    options: &Options,
    header: &Header,
    outcomes: &[Outcome],
) -> Result<(), ClientError> {
    let files = [
        (&options.json, report::json as fn(&Header, &[Outcome]) -> String),
        (&options.html, report::html),
    ];
    for (path, text) in files {
        if let Some(path) = path {
            std::fs::write(path, text(header, outcomes)).map_err(|error| {
                ClientError::io(format!("cannot write {}", path.display()), error)
            })?;
        }
    }
    Ok(())
}

/// Raises the limit of open files: thousands of clients need as many.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
