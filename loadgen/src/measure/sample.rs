//! The figures of one round, and of several rounds.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::quantity::{Quantity, Spread, Unit};
use crate::client::{Tally, histogram};
use crate::scenario::Case;
use crate::target::Cpu;

/// A figure specific to a scenario.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The figure's name with its unit, used as a column's title.
    pub name: &'static str,
    /// The figure's value in `unit`.
    pub value: f64,
    /// The unit of `value`.
    pub unit: Unit,
}

/// The result of a round.
#[derive(Default)]
pub struct Sample {
    /// Number of requests, events or other units counted by the scenario; 0 if it counts nothing.
    pub units: u64,
    /// Expected number of units, if it is fixed. A round with fewer units is unfinished, and its rates are not
    /// meaningful: later units may be more expensive.
    pub whole: Option<u64>,
    /// Duration of the round.
    pub elapsed: Duration,
    /// CPU time of the target in the round, if its process is known.
    pub cpu: Option<Cpu>,
    /// Latencies in nanoseconds, if single requests were timed.
    pub latency: Option<Histogram<u64>>,
    /// Figures specific to the scenario.
    pub extra: Vec<Figure>,
}

impl Sample {
    /// Creates the sample of a round of requests.
    pub fn of(tally: Tally, cpu: Option<Cpu>) -> Sample {
        Sample {
            units: tally.requests,
            elapsed: tally.elapsed,
            cpu,
            latency: Some(tally.latency),
            ..Sample::default()
        }
    }

    /// Adds a figure without a unit.
    #[must_use]
    pub fn with(self, name: &'static str, value: f64) -> Sample {
        self.with_unit(name, value, Unit::Number)
    }

    /// Adds a figure with a unit.
    #[must_use]
    pub fn with_unit(mut self, name: &'static str, value: f64, unit: Unit) -> Sample {
        self.extra.push(Figure { name, value, unit });
        self
    }

    /// Returns a figure of this round, if it exists.
    pub fn get(&self, quantity: Quantity) -> Option<f64> {
        let system = |cpu: Cpu| Some((self.per_unit(cpu.total)?, Sample::system_share(&cpu)?));
        match quantity {
            Quantity::Rate => {
                let seconds = self.elapsed.as_secs_f64();
                (self.units > 0 && seconds > 0.0).then(|| self.units as f64 / seconds)
            }
            Quantity::Cpu => self.per_unit(self.cpu?.total),
            Quantity::User => system(self.cpu?).map(|(all, share)| all * (1.0 - share)),
            Quantity::System => system(self.cpu?).map(|(all, share)| all * share),
            Quantity::Percentile(percent) => {
                let latency = self.latency.as_ref().filter(|latency| !latency.is_empty())?;
                Some(latency.value_at_percentile(percent) as f64 / 1e3)
            }
            Quantity::Extra(name) => {
                self.extra.iter().find(|figure| figure.name == name).map(|figure| figure.value)
            }
        }
    }

    fn per_unit(&self, time: Duration) -> Option<f64> {
        (self.units > 0).then(|| time.as_secs_f64() * 1e6 / self.units as f64)
    }

    /// Returns the kernel's share of the CPU time, by its ticks.
    fn system_share(cpu: &Cpu) -> Option<f64> {
        let ticks = cpu.user + cpu.system;
        (!ticks.is_zero()).then(|| cpu.system.as_secs_f64() / ticks.as_secs_f64())
    }
}

/// The progress of a target that did not finish in time, over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unfinished {
    /// Units done.
    pub done: Spread,
    /// Units expected.
    pub of: u64,
    /// Duration in seconds of the round with the fewest units.
    pub seconds: f64,
}

/// All rounds of a case on a target. If a round is unfinished, rates, CPU times and latencies are not reported, only
/// the figures specific to the scenario.
pub struct Measured {
    /// The case that was run.
    pub case: Case,
    /// The name of the target.
    pub target: String,
    /// One sample per round.
    pub samples: Vec<Sample>,
}

impl Measured {
    /// Returns the progress in the rounds, if one of them is unfinished.
    pub fn unfinished(&self) -> Option<Unfinished> {
        let rounds = self.samples.iter().filter_map(|sample| Some((sample, sample.whole?)));
        let (least, of) = rounds.min_by_key(|(sample, _)| sample.units)?;
        let done = Spread::of(self.samples.iter().map(|sample| sample.units as f64))?;
        let seconds = least.elapsed.as_secs_f64();
        (least.units < of).then_some(Unfinished { done, of, seconds })
    }

    /// Returns a figure's spread over the rounds that have it; for unfinished measurements only figures specific to
    /// the scenario.
    pub fn get(&self, quantity: Quantity) -> Option<Spread> {
        if self.unfinished().is_some() && !matches!(quantity, Quantity::Extra(_)) {
            return None;
        }
        Spread::of(self.samples.iter().filter_map(|sample| sample.get(quantity)))
    }

    fn median(&self, quantity: Quantity) -> Option<f64> {
        self.get(quantity).map(|spread| spread.median)
    }

    /// Returns units per second.
    pub fn rate(&self) -> Option<f64> {
        self.median(Quantity::Rate)
    }

    /// Returns CPU time per unit, in microseconds.
    pub fn cpu(&self) -> Option<f64> {
        self.median(Quantity::Cpu)
    }

    /// Returns a latency percentile, in microseconds: the median over the rounds.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        self.median(Quantity::Percentile(percent))
    }

    /// Returns a figure specific to the scenario.
    pub fn figure(&self, name: &'static str) -> Option<f64> {
        self.median(Quantity::Extra(name))
    }

    /// Returns the names of the figures specific to the scenario, with their units.
    pub fn figures(&self) -> impl Iterator<Item = (&'static str, Unit)> {
        let extra = self.samples.first().into_iter().flat_map(|sample| &sample.extra);
        extra.map(|figure| (figure.name, figure.unit))
    }

    /// Merges the latencies of all rounds, if there are any.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_divided_among_the_units() {
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
        close(measured.median(Quantity::User), 10.0);
        close(measured.median(Quantity::System), 20.0);
        close(measured.rate(), 10_000.0);
        close(measured.figure("EAGAIN %"), 5.0);
        assert_eq!(measured.percentile(50.0), None);
        assert_eq!(measured.figure("other"), None);
        assert_eq!(measured.unfinished(), None);
    }

    #[test]
    fn unfinished_sample_has_no_figures_per_unit() {
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
        // The note and the progress column agree on the same rounds.
        let done = Spread { least: 41.0, median: 85.0, most: 300.0 };
        let expected = Unfinished { done, of: 300, seconds: 40.0 };
        assert_eq!(unfinished.unfinished(), Some(expected));
        assert_eq!((unfinished.cpu(), unfinished.rate()), (None, None));
        assert!(unfinished.percentile(50.0).is_none() && unfinished.latencies().is_none());
        assert_eq!(unfinished.figure("EAGAIN %"), Some(94.0));
        let finished = row(&[300, 300]);
        assert_eq!(finished.unfinished(), None);
        assert_eq!((finished.cpu(), finished.rate()), (Some(100_000.0), Some(7.5)));
    }
}
