//! Seeds, and the steps that they stand for.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::Random;
use crate::observer::Observer;
use crate::shrink::{run, shrink};
use crate::steps::{Setup, Step, random_setup, random_steps};

/// Seeds that are run by default.
const SEEDS: u64 = 1000;
/// Threads that run them, each some.
const THREADS: usize = 2;

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
    let dispatch = tracing::Dispatch::new(Observer);
    tracing::dispatcher::with_default(&dispatch, work);
}

/// Runs a seed. Returns what has to be said of it if it fails.
fn run_seed(seed: u64, has_failed: &AtomicBool) -> Result<(), String> {
    let (setup, steps) = from_seed(seed);
    if let Err((at, error)) = run(&setup, &steps) {
        has_failed.store(true, Ordering::Relaxed);
        eprintln!("SIM_SEED={seed}, step {at}: {error}\nlooking for fewer steps");
        let (steps, error) = shrink(&setup, steps);
        let listed: Vec<_> = steps.iter().map(|step| format!("  {step:?}\n")).collect();
        return Err(format!("{error}\nSIM_SEED={seed}, {setup:?}\n{}", listed.concat()));
    }
    Ok(())
}

#[test]
fn every_seed_is_as_in_the_model() {
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    let has_failed = AtomicBool::new(false);
    let run_part = |part: usize| {
        let mut failure = None;
        observed(|| {
            let mine = seeds.clone().skip(part).step_by(THREADS);
            let mut until_failure = mine.take_while(|_| !has_failed.load(Ordering::Relaxed));
            failure = until_failure.find_map(|seed| run_seed(seed, &has_failed).err());
        });
        failure
    };
    let failures: Vec<_> = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS)
            .map(|part| {
                scope.spawn({
                    let run_part = &run_part;
                    move || run_part(part)
                })
            })
            .collect();
        parts.into_iter().filter_map(|part| part.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
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
