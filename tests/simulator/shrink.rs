//! Runs lists of steps, and finds the fewest that fail.

use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::simulation::Simulation;
use crate::steps::{Setup, Step};

/// Runs steps, and returns a digest of what all clients received; on failure, the number of the step and the error.
pub fn run(setup: &Setup, steps: &[Step]) -> Result<u64, (usize, String)> {
    let mut at = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut simulation = Simulation::new(setup)?;
        for step in steps {
            simulation.step(step)?;
            at += 1;
        }
        simulation.calm()?;
        simulation.check_store()?;
        simulation.end()?;
        Ok(simulation.received.finish())
    }));
    match outcome {
        Ok(result) => result.map_err(|error| (at, error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err((at, text.unwrap_or_else(|| "panic".to_owned())))
        }
    }
}

/// Deletes steps as long as the rest still fails, larger parts first.
pub fn shrink(setup: &Setup, mut steps: Vec<Step>) -> (Vec<Step>, String) {
    // Each run that still fails may panic.
    std::panic::set_hook(Box::new(|_| {}));
    let (at, mut error) = run(setup, &steps).expect_err("it does not fail each time");
    steps.truncate(at + 1);
    let mut part = steps.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(from..(from + part).min(steps.len()));
            match run(setup, &fewer) {
                Err((at, still)) => {
                    fewer.truncate(at + 1);
                    (steps, error) = (fewer, still);
                }
                Ok(_) => from += part,
            }
        }
        part /= 2;
    }
    let _ = std::panic::take_hook();
    (steps, error)
}
