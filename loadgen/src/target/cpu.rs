//! CPU time of a process.

use std::io;
use std::ops::{Add, Sub};
use std::time::Duration;

/// CPU time of all living threads of a process.
///
/// The total is exact: the scheduler's own count, in nanoseconds (`/proc/PID/task/*/schedstat`). User and system time
/// are the kernel's division of it (`/proc/PID/stat`), in hundredths of a second, and include threads that ended:
/// accurate for shares over seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Time on a CPU.
    pub total: Duration,
    /// The part in user mode.
    pub user: Duration,
    /// The part in the kernel.
    pub system: Duration,
}

/// `USER_HZ`: the unit of times in `/proc`, the same on every architecture that Xen runs on.
const TICK: Duration = Duration::from_millis(10);

impl Cpu {
    /// Returns the CPU time that the process has used so far.
    ///
    /// # Errors
    /// `NotFound` if there is no such process.
    pub fn of(pid: u32) -> io::Result<Cpu> {
        let mut total = Duration::ZERO;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // The thread may have ended by now.
            let Ok(text) = std::fs::read_to_string(task.join("schedstat")) else { continue };
            let on_cpu = text.split_ascii_whitespace().next().and_then(|n| n.parse().ok());
            total += Duration::from_nanos(on_cpu.ok_or(io::ErrorKind::InvalidData)?);
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, the second field, is in parentheses and may contain anything.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = |nth: usize| -> io::Result<Duration> {
            let field = fields.split_ascii_whitespace().nth(nth).and_then(|n| n.parse().ok());
            Ok(TICK * field.ok_or(io::ErrorKind::InvalidData)?)
        };
        Ok(Cpu { total, user: ticks(11)?, system: ticks(12)? })
    }
}

impl Add for Cpu {
    type Output = Cpu;

    fn add(self, other: Cpu) -> Cpu {
        Cpu {
            total: self.total + other.total,
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, earlier: Cpu) -> Cpu {
        Cpu {
            total: self.total.saturating_sub(earlier.total),
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn cpu_time_of_one_thread_is_counted() {
        let before = Cpu::of(std::process::id()).unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        let used = Cpu::of(std::process::id()).unwrap() - before;
        assert!(used.total > Duration::from_millis(5), "{used:?}");
        assert!(used.total < Duration::from_secs(30), "{used:?}");
    }

    #[test]
    fn cpu_time_of_a_missing_process_is_not_found() {
        assert_eq!(Cpu::of(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
