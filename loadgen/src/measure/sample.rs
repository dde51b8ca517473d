//! One round's figures, and the medians of several rounds.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::client::{Tally, histogram};
use crate::scenario::Case;
use crate::target::Cpu;

/// A figure that only one scenario has.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What it is, with its unit: a column's title.
    pub name: &'static str,
    /// How much.
    pub value: f64,
}

/// What a round came to.
#[derive(Default)]
pub struct Sample {
    /// How many requests, events or whatever the scenario counts; 0 if it counts nothing.
    pub units: u64,
    /// How many there were to be, if that is fixed. A round that has done fewer is unfinished, and
    /// what it has done is no measure: the easy part may have been first.
    pub whole: Option<u64>,
    /// How long it took.
    pub elapsed: Duration,
    /// CPU time of the target in it, if its process is known.
    pub cpu: Option<Cpu>,
    /// Latencies in nanoseconds, if single requests were timed.
    pub latency: Option<Histogram<u64>>,
    /// Further figures.
    pub extra: Vec<Figure>,
}

impl Sample {
    /// The sample of a round of requests.
    pub fn of(tally: Tally, cpu: Option<Cpu>) -> Sample {
        Sample {
            units: tally.requests,
            elapsed: tally.elapsed,
            cpu,
            latency: Some(tally.latency),
            ..Sample::default()
        }
    }

    /// Adds a figure.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: f64) -> Sample {
        self.extra.push(Figure { name, value });
        self
    }

    fn per_unit(&self, time: Duration) -> Option<f64> {
        (self.units > 0).then(|| time.as_secs_f64() * 1e6 / self.units as f64)
    }

    /// The share of CPU time that is the kernel's, by its ticks.
    fn system_share(cpu: &Cpu) -> Option<f64> {
        let ticks = cpu.user + cpu.system;
        (!ticks.is_zero()).then(|| cpu.system.as_secs_f64() / ticks.as_secs_f64())
    }
}

/// What a target had done when its time was over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unfinished {
    /// So many units.
    pub done: u64,
    /// Of so many.
    pub of: u64,
    /// In so many seconds.
    pub seconds: f64,
}

/// All rounds of one case with one target. Of what is unfinished there are no rates, CPU times and
/// latencies, only the scenario's own figures.
pub struct Measured {
    /// What was done.
    pub case: Case,
    /// Who was asked.
    pub target: String,
    /// A sample a round.
    pub samples: Vec<Sample>,
}

impl Measured {
    /// The round that did the least, if one is unfinished.
    pub fn unfinished(&self) -> Option<Unfinished> {
        let rounds = self.samples.iter().filter_map(|sample| {
            let (done, of) = (sample.units, sample.whole?);
            (done < of).then_some(Unfinished { done, of, seconds: sample.elapsed.as_secs_f64() })
        });
        rounds.min_by_key(|round| round.done)
    }

    fn median_of_finished(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        if self.unfinished().is_some() { None } else { self.median_of(figure) }
    }

    fn median_of(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.samples.iter().filter_map(figure).collect())
    }

    /// Units per second.
    pub fn rate(&self) -> Option<f64> {
        self.median_of_finished(|sample| {
            let seconds = sample.elapsed.as_secs_f64();
            (sample.units > 0 && seconds > 0.0).then(|| sample.units as f64 / seconds)
        })
    }

    /// CPU time per unit, in microseconds.
    pub fn cpu(&self) -> Option<f64> {
        self.median_of_finished(|sample| sample.per_unit(sample.cpu?.total))
    }

    /// Of it, what the kernel took. Its clock for that ticks a hundred times a second: rounds of
    /// less than a second say little.
    pub fn system(&self) -> Option<f64> {
        self.median_of_finished(|sample| {
            let cpu = sample.cpu?;
            Some(sample.per_unit(cpu.total)? * Sample::system_share(&cpu)?)
        })
    }

    /// Of it, what the program itself took.
    pub fn user(&self) -> Option<f64> {
        self.median_of_finished(|sample| {
            let cpu = sample.cpu?;
            Some(sample.per_unit(cpu.total)? * (1.0 - Sample::system_share(&cpu)?))
        })
    }

    /// The latency, in microseconds, that `percent` of the requests of a round do not exceed.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        self.median_of_finished(|sample| {
            let latency = sample.latency.as_ref().filter(|latency| !latency.is_empty())?;
            Some(latency.value_at_percentile(percent) as f64 / 1e3)
        })
    }

    /// A figure of the scenario's own.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.median_of(|sample| {
            sample.extra.iter().find(|figure| figure.name == name).map(|figure| figure.value)
        })
    }

    /// The names of the scenario's own figures.
    pub fn figures(&self) -> impl Iterator<Item = &'static str> {
        self.samples.first().into_iter().flat_map(|s| s.extra.iter().map(|figure| figure.name))
    }

    /// The latencies of all rounds together, if there are any.
    pub fn latencies(&self) -> Option<Histogram<u64>> {
        if self.unfinished().is_some() {
            return None;
        }
        let mut all = histogram();
        for latency in self.samples.iter().filter_map(|sample| sample.latency.as_ref()) {
            all.add(latency).ok()?;
        }
        (!all.is_empty()).then_some(all)
    }
}

/// The one in the middle, or the mean of the two there.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn cpu_time_is_shared_out() {
        let cpu = Cpu {
            total: Duration::from_millis(30),
            user: Duration::from_millis(10),
            system: Duration::from_millis(20),
        };
        let sample = Sample {
            units: 1000,
            elapsed: Duration::from_millis(100),
            cpu: Some(cpu),
            ..Sample::default()
        };
        let samples = vec![sample.with("EAGAIN %", 5.0)];
        let measured = Measured { case: Case::named("x"), target: "ours".into(), samples };
        let close = |value: Option<f64>, expected: f64| {
            assert!((value.unwrap() - expected).abs() < 1e-9, "{value:?}");
        };
        close(measured.cpu(), 30.0);
        close(measured.user(), 10.0);
        close(measured.system(), 20.0);
        close(measured.rate(), 10_000.0);
        close(measured.figure("EAGAIN %"), 5.0);
        assert_eq!(measured.percentile(50.0), None);
        assert_eq!(measured.figure("other"), None);
        assert_eq!(measured.unfinished(), None);
    }

    #[test]
    fn what_is_unfinished_has_no_figures_per_unit() {
        let sample = |units| Sample {
            units,
            whole: Some(300),
            elapsed: Duration::from_secs(40),
            cpu: Some(Cpu { total: Duration::from_secs(30), ..Cpu::default() }),
            latency: Some(histogram()),
            ..Sample::default()
        };
        let row = |rounds: &[u64]| Measured {
            case: Case::sized(300, "domains"),
            target: "c".into(),
            samples: rounds.iter().map(|&units| sample(units).with("EAGAIN %", 94.0)).collect(),
        };
        let unfinished = row(&[300, 41, 85]);
        let expected = Unfinished { done: 41, of: 300, seconds: 40.0 };
        assert_eq!(unfinished.unfinished(), Some(expected));
        assert_eq!((unfinished.cpu(), unfinished.rate()), (None, None));
        assert!(unfinished.percentile(50.0).is_none() && unfinished.latencies().is_none());
        assert_eq!(unfinished.figure("EAGAIN %"), Some(94.0));
        let finished = row(&[300, 300]);
        assert_eq!(finished.unfinished(), None);
        assert_eq!((finished.cpu(), finished.rate()), (Some(100_000.0), Some(7.5)));
    }
}
