//! One round's figures, and those of several rounds.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::quantity::{Quantity, Spread, Unit};
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
    /// Of what.
    pub unit: Unit,
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
    pub fn with(self, name: &'static str, value: f64) -> Sample {
        self.with_unit(name, value, Unit::Number)
    }

    /// Adds a time.
    #[must_use]
    pub fn with_unit(mut self, name: &'static str, value: f64, unit: Unit) -> Sample {
        self.extra.push(Figure { name, value, unit });
        self
    }

    /// A figure of this round, if it has it.
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

    /// The share of CPU time that is the kernel's, by its ticks.
    fn system_share(cpu: &Cpu) -> Option<f64> {
        let ticks = cpu.user + cpu.system;
        (!ticks.is_zero()).then(|| cpu.system.as_secs_f64() / ticks.as_secs_f64())
    }
}

/// What a target had done when its time was over, in the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unfinished {
    /// So many units.
    pub done: Spread,
    /// Of so many.
    pub of: u64,
    /// In so many seconds: those of the round that did the least.
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
    /// What was done in the rounds, if one of them is unfinished.
    pub fn unfinished(&self) -> Option<Unfinished> {
        let rounds = self.samples.iter().filter_map(|sample| Some((sample, sample.whole?)));
        let (least, of) = rounds.min_by_key(|(sample, _)| sample.units)?;
        let done = Spread::of(self.samples.iter().map(|sample| sample.units as f64))?;
        let seconds = least.elapsed.as_secs_f64();
        (least.units < of).then_some(Unfinished { done, of, seconds })
    }

    /// A figure over the rounds that have it. Of what is unfinished there are the scenario's own.
    pub fn get(&self, quantity: Quantity) -> Option<Spread> {
        if self.unfinished().is_some() && !matches!(quantity, Quantity::Extra(_)) {
            return None;
        }
        Spread::of(self.samples.iter().filter_map(|sample| sample.get(quantity)))
    }

    fn median(&self, quantity: Quantity) -> Option<f64> {
        self.get(quantity).map(|spread| spread.median)
    }

    /// Units per second.
    pub fn rate(&self) -> Option<f64> {
        self.median(Quantity::Rate)
    }

    /// CPU time per unit, in microseconds.
    pub fn cpu(&self) -> Option<f64> {
        self.median(Quantity::Cpu)
    }

    /// The latency, in microseconds, that `percent` of the requests of a round do not exceed.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        self.median(Quantity::Percentile(percent))
    }

    /// A figure of the scenario's own.
    pub fn figure(&self, name: &'static str) -> Option<f64> {
        self.median(Quantity::Extra(name))
    }

    /// The names of the scenario's own figures, with their units.
    pub fn figures(&self) -> impl Iterator<Item = (&'static str, Unit)> {
        let extra = self.samples.first().into_iter().flat_map(|sample| &sample.extra);
        extra.map(|figure| (figure.name, figure.unit))
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

#[cfg(test)]
mod tests {
    use super::*;

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
        close(measured.median(Quantity::User), 10.0);
        close(measured.median(Quantity::System), 20.0);
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
        // The note and the column of what was done say the same of the same rounds.
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
