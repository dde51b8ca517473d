//! A distance between two hosts: passes the bytes of a command's standard input and output on after a delay.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;

/// Chunks on their way in one direction, 64 KiB each at most: 64 MiB, more than the sender of a move keeps unread.
const CHUNKS_MAX: usize = 1024;
const CHUNK_BYTES: usize = 64 << 10;

/// Runs a command of the shell; each byte to it and from it takes `delay`. Returns its exit code.
///
/// # Errors
/// The command cannot be started.
pub fn run(delay: Duration, command: &str) -> io::Result<i32> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = shell.spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    if let Some(input) = input {
        // Ends with this process at the latest: the command may end before its input.
        thread::spawn(move || pass(io::stdin(), input, delay));
    }
    if let Some(output) = output {
        // An error is the end of the other side, which it notices itself.
        let _ = pass(output, io::stdout().lock(), delay);
    }
    Ok(child.wait()?.code().unwrap_or(1))
}

/// Copies bytes until the end of the input, each `delay` after it was read.
fn pass(mut from: impl Read + Send, mut to: impl Write, delay: Duration) -> io::Result<()> {
    let (sender, chunks) = bounded::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut bytes = vec![0; CHUNK_BYTES];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                if sender.send((Instant::now() + delay, bytes[..count].to_vec())).is_err() {
                    return;
                }
            }
        });
        for (due, chunk) in chunks {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            to.write_all(&chunk)?;
            to.flush()?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_complete_and_not_before_the_delay() {
        let sent: Vec<u8> = (0..=255).cycle().take(3 * CHUNK_BYTES).collect();
        let (begun, mut received) = (Instant::now(), Vec::new());
        let delay = Duration::from_millis(20);
        pass(&sent[..], &mut received, delay).unwrap();
        assert!(begun.elapsed() >= delay);
        assert_eq!(received, sent);
    }
}
