//! The limit of a move's bytes per second (`--rate`).

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The least rate in bytes per second: a daemon fails a stream without a byte for 30 seconds, and what a pipe holds,
/// 64 KiB, has to pass before the daemon at its other end can write again.
pub const RATE_MIN: u64 = 10_000;
/// The most bytes that pass at once.
const PIECE_BYTES_MAX: u64 = 32 * 1024;
/// Pieces per second at low rates.
const PIECES: u64 = 20;

/// A rate that all streams of a move share.
pub struct Pace {
    /// Bytes per second.
    rate: u64,
    /// When the next piece may pass.
    next: Mutex<Instant>,
}

impl Pace {
    /// Makes a limit of `rate` bytes per second.
    pub fn new(rate: u64) -> Pace {
        Pace { rate: rate.max(RATE_MIN), next: Mutex::new(Instant::now()) }
    }

    /// Returns how long this many bytes take.
    pub fn time(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate as f64)
    }

    /// Copies a stream at this pace. Either end is closed when the other one ends.
    pub fn copy(&self, mut from: PipeReader, mut to: PipeWriter) -> io::Result<()> {
        let piece = (self.rate / PIECES).clamp(1, PIECE_BYTES_MAX);
        let mut bytes = vec![0; usize::try_from(piece).unwrap_or(1)];
        loop {
            match from.read(&mut bytes)? {
                0 => return Ok(()),
                len => {
                    self.pass(len as u64);
                    to.write_all(&bytes[..len])?;
                }
            }
        }
    }

    /// Waits until this many bytes may pass, after all that came before.
    fn pass(&self, bytes: u64) {
        let mut next = self.next.lock();
        let at = (*next).max(Instant::now());
        *next = at + self.time(bytes);
        drop(next);
        thread::sleep(at.saturating_duration_since(Instant::now()));
    }
}

/// Parses a rate, such as `500k` or `10M`.
///
/// # Errors
/// A sentence for the user.
pub fn parse(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.split_at(text.trim_end_matches(['k', 'M', 'G']).len()) {
        (digits, "") => (digits, 1),
        (digits, "k") => (digits, 1_000),
        (digits, "M") => (digits, 1_000_000),
        (digits, "G") => (digits, 1_000_000_000),
        _ => ("", 1),
    };
    let rate = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let rate = rate.ok_or("expected bytes per second, such as 500k or 10M")?;
    match rate {
        ..RATE_MIN => Err(format!("the least rate is {RATE_MIN}")),
        rate => Ok(rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_suffixes() {
        for (text, expected) in [
            ("10000", Some(10_000)),
            ("500k", Some(500_000)),
            ("10M", Some(10_000_000)),
            ("2G", Some(2_000_000_000)),
            ("9k", None),
            ("k", None),
            ("1kk", None),
            ("-1k", None),
            ("", None),
            ("1.5M", None),
            ("99999999999999999999G", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn parallel_streams_share_the_rate() {
        let pace = Pace::new(1_000_000);
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5).for_each(|_| pace.pass(10_000)));
            }
        });
        // The last piece passes after the others' 190,000 bytes.
        assert!(began.elapsed() >= Duration::from_millis(190));
    }
}
