//! Minimises a sequence that shows a difference.

use std::io;
use std::time::{Duration, Instant};

use super::known::Known;
use super::step::{Step, Tx};
use super::trial::{Difference, Tally, Trial};
use super::{fresh, step};

/// Maximum number of runs, each with fresh daemons: some seconds in total.
const RUNS_MAX: usize = 300;
/// Time limit of the whole minimisation: if a daemon hangs, each run waits for the timeout.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Returns the shortest sequence found that shows the same difference, as text.
///
/// # Errors
/// Those of starting daemons.
pub fn minimise(
    steps: &[Step],
    found: &Difference,
    forgotten: Option<&'static Known>,
) -> io::Result<String> {
    // Step numbers are kept, as they identify transactions.
    let mut kept: Vec<bool> = (0..steps.len()).map(|at| at <= found.at).collect();
    let mut shown = found.clone();
    let (started, mut runs) = (Instant::now(), 0);
    let mut length = (found.at / 2).max(1);
    loop {
        let mut at = 0;
        let mut changed = false;
        while at <= found.at && runs < RUNS_MAX && started.elapsed() < TIMEOUT {
            let end = (at + length).min(found.at + 1);
            if kept[at..end].contains(&true) {
                let mut fewer = kept.clone();
                fewer[at..end].fill(false);
                runs += 1;
                if let Some(same) = shows(fresh(forgotten)?, steps, &fewer, &found.kind) {
                    (kept, shown, changed) = (fewer, same, true);
                }
            }
            at = end;
        }
        match length {
            1 if changed && runs < RUNS_MAX && started.elapsed() < TIMEOUT => {}
            1 => break,
            _ => length = (length / 2).max(1),
        }
    }
    let mut text = String::new();
    for (at, step) in steps.iter().enumerate().filter(|(at, _)| kept[*at]) {
        text += &format!("{at:>5}  {step}\n");
    }
    Ok(format!("{text}{}\n({})", shown.text, found.kind))
}

/// Runs the kept steps on fresh daemons, and returns the difference if it is of this kind.
fn shows(mut trial: Trial, steps: &[Step], kept: &[bool], kind: &str) -> Option<Difference> {
    let left_out = Step::Request {
        who: step::Who(usize::MAX - step::SOCKETS),
        kind: 0,
        tx: Tx::None,
        payload: Vec::new(),
    };
    let fewer: Vec<Step> = steps
        .iter()
        .zip(kept)
        .map(|(step, keep)| if *keep { step.clone() } else { left_out.clone() })
        .collect();
    let found = trial.run(&fewer, &mut Tally::default());
    found.filter(|found| found.kind == kind)
}
