//! The whole daemon in virtual time, on one thread: workers, reaper and matcher run by the steps of a seed, with guests
//! and sockets in memory. Everything that a client gets is compared with the naive model.
//!
//! `SIM_SEEDS=<n>` sets the number of seeds, `SIM_SEED=<n>` runs one. A failure prints its seed and the fewest steps
//! that still fail.

mod check;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod expected;
mod follow;
mod host;
mod link;
#[path = "../naive/mod.rs"]
mod naive;
mod observer;
mod shrink;
mod simulation;
mod steps;

use common::Random;
use shrink::{run, shrink};
use steps::{Setup, Step, random_setup, random_steps};

/// Seeds that are run by default.
const SEEDS: u64 = 1000;

fn from_seed(seed: u64) -> (Setup, Vec<Step>) {
    let mut random = Random::new(seed);
    let setup = random_setup(&mut random);
    let steps = random_steps(&mut random, &setup);
    (setup, steps)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs `work` on a thread whose traces are observed.
fn observed(work: impl FnOnce()) {
    let dispatch = tracing::Dispatch::new(observer::Observer);
    tracing::dispatcher::with_default(&dispatch, work);
}

fn run_seed(seed: u64) {
    let (setup, steps) = from_seed(seed);
    if let Err((at, error)) = run(&setup, &steps) {
        eprintln!("SIM_SEED={seed}, step {at}: {error}\nlooking for fewer steps");
        let (steps, error) = shrink(&setup, steps);
        let listed: Vec<_> = steps.iter().map(|step| format!("  {step:?}\n")).collect();
        panic!("SIM_SEED={seed}, {setup:?}\n{}{error}", listed.concat());
    }
}

#[test]
fn every_seed_is_as_in_the_model() {
    if let Some(seed) = number("SIM_SEED") {
        return observed(|| run_seed(seed));
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let run_half = |half| observed(|| (half..seeds).step_by(2).for_each(run_seed));
    std::thread::scope(|scope| {
        for half in [0, 1].map(|half| scope.spawn(move || run_half(half))) {
            half.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// Or a failure could not be repeated and shrunk.
#[test]
fn seed_when_run_twice_gives_the_same_bytes() {
    observed(|| {
        for seed in 0..20 {
            let (setup, steps) = from_seed(seed);
            let [first, second] = [(); 2].map(|()| run(&setup, &steps).ok());
            assert_eq!(first, second, "seed {seed}");
        }
    });
}
