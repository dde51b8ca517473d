//! The queue between the threads that log and the writer thread.
//!
//! Logging a line appends it to an in-memory queue, so no thread that serves clients does file I/O or waits for a full
//! disk, a stuck syslog or a terminal that is not read. The writer thread `log` takes lines in order. Changes of the
//! destination and rotations go through the same queue, so they take effect between two lines.
//!
//! The queue is bounded. Once it is full, lines are dropped until the writer has emptied it; the next line then reports
//! their number.

use std::collections::VecDeque;
use std::io;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::Destination;
use super::format::stamped;
use super::output::{Output, try_stderr};

/// Maximum bytes of queued lines. A rotation or a busy disk takes tenths of a second, in which all traces of a busy
/// daemon are a few MiB. A destination that is stuck for longer rarely recovers, and must not cost more memory than
/// this.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Overhead of a line besides its text: its queue entry and its allocation.
const LINE_BYTES: usize = 64;
/// Timeout of a panicking thread for its line to be written: the writer may be stuck.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Timeout of a change of the destination, which waits for earlier lines to be written.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(2);

/// The queue of log lines, and its synchronization with the writer thread.
pub(super) struct Sink {
    queue: Mutex<Queue>,
    /// Signalled when there are items for the writer.
    work: Condvar,
    /// Signalled when the writer has finished an item.
    done: Condvar,
}

struct Queue {
    items: VecDeque<Item>,
    /// Bytes charged for lines that are not written yet, including the one being written.
    bytes: usize,
    /// Lines dropped since the queue became full.
    dropped: u64,
    /// Items queued since the start.
    queued: u64,
    /// Items finished by the writer; equals `queued` when it is idle.
    finished: u64,
    /// A rotation is queued. A queued rotation opens the path only when it runs, so one is enough.
    reopens: bool,
    writer: Option<ThreadId>,
}

/// A task of the writer.
enum Item {
    Line(Level, Vec<u8>),
    /// Sends later lines to the output. The number identifies the item while it is queued.
    Change(u64, Output),
    Reopen,
    /// Reports this many dropped lines.
    Dropped(u64),
}

impl Sink {
    /// Makes a sink without a writer.
    pub(super) const fn new() -> Sink {
        let queue = Queue {
            items: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            queued: 0,
            finished: 0,
            reopens: false,
            writer: None,
        };
        Sink { queue: Mutex::new(queue), work: Condvar::new(), done: Condvar::new() }
    }

    /// Sends further lines to a destination. The first call starts the writer.
    ///
    /// # Errors
    /// The destination cannot be opened; the system refuses a thread; `TimedOut` if earlier lines cannot be written.
    /// Then nothing changes.
    pub(super) fn set(&'static self, destination: &Destination) -> io::Result<()> {
        // Before the lock, which every logging thread takes: opening a file may take as long as a disk.
        let output = Output::open(destination)?;
        let mut queue = self.queue.lock();
        if queue.writer.is_none() {
            let run = move || Destinations { output, lost: 0 }.run(self);
            queue.writer =
                Some(thread::Builder::new().name("log".into()).spawn(run)?.thread().id());
            return Ok(());
        }
        let number = queue.queued + 1;
        self.queue(&mut queue, Item::Change(number, output));
        if self.wait_for(&mut queue, number, CHANGE_TIME_MAX) {
            return Ok(());
        }
        // Timed out. The change must not take effect later, after its client got an error.
        let is_it = |item: &&mut Item| matches!(item, Item::Change(other, _) if *other == number);
        let Some(change) = queue.items.iter_mut().find(|item| is_it(item)) else { return Ok(()) };
        // Replaced, not removed: `finished` counts items, so the numbers of those behind must not move.
        *change = Item::Dropped(0);
        let what = "timed out writing the queued lines to the present destination of the log";
        Err(io::Error::new(io::ErrorKind::TimedOut, what))
    }

    /// Makes the writer reopen the file after the queued lines.
    pub(super) fn reopen(&self) {
        let mut queue = self.queue.lock();
        if !std::mem::replace(&mut queue.reopens, true) {
            self.queue(&mut queue, Item::Reopen);
        }
    }

    /// Waits until all lines are written, for at most `time_max`.
    pub(super) fn flush(&self, time_max: Duration) {
        let deadline = Instant::now() + time_max;
        let mut queue = self.queue.lock();
        // Dropped lines count as unwritten until the log reports their number.
        while (queue.finished < queue.queued || queue.dropped > 0) && queue.writer.is_some() {
            if self.done.wait_until(&mut queue, deadline).timed_out() {
                return;
            }
        }
    }

    /// Writes the line of a panicking thread. If the writer does not write it in time, or is itself the panicking
    /// thread, writes it to standard error unless that would block.
    pub(super) fn write_last(&self, text: &str) {
        let line = stamped(text);
        // With a timeout, as the panicking thread itself may hold the lock.
        if let Some(mut queue) = self.queue.try_lock_for(LAST_WORDS)
            && queue.writer.is_some_and(|writer| writer != thread::current().id())
        {
            let number = queue.queued + 1;
            // Charged but not limited: these are the last words of the process.
            queue.bytes += cost(&line);
            self.queue(&mut queue, Item::Line(Level::ERROR, line.clone()));
            if self.wait_for(&mut queue, number, LAST_WORDS) {
                return;
            }
        }
        try_stderr(&line);
    }

    fn push(&self, level: Level, line: &[u8]) {
        let mut queue = self.queue.lock();
        let bytes = queue.bytes + cost(line);
        // Once a line is dropped, all are until the queue is empty, so that one line reports their number.
        if queue.dropped > 0 || bytes > QUEUE_BYTES_MAX {
            queue.dropped += 1;
            return;
        }
        queue.bytes = bytes;
        self.queue(&mut queue, Item::Line(level, line.to_vec()));
    }

    fn queue(&self, queue: &mut Queue, item: Item) {
        queue.items.push_back(item);
        queue.queued += 1;
        self.work.notify_one();
    }

    /// Waits until the writer has finished item `number`. Returns whether the item was finished in time.
    fn wait_for(&self, queue: &mut MutexGuard<'_, Queue>, number: u64, time_max: Duration) -> bool {
        let pending = |queue: &mut Queue| queue.finished < number;
        !self.done.wait_while_for(queue, pending, time_max).timed_out()
    }

    /// Returns the writer's next task. Blocks until there is one.
    fn next(&self) -> Item {
        let mut queue = self.queue.lock();
        loop {
            if let Some(item) = queue.items.pop_front() {
                // From here on a further rotation needs another item: this one may open the path before it.
                queue.reopens &= !matches!(item, Item::Reopen);
                return item;
            }
            if queue.dropped > 0 {
                // The report is an item like others, so that `flush` waits for it.
                queue.queued += 1;
                return Item::Dropped(std::mem::take(&mut queue.dropped));
            }
            self.work.wait(&mut queue);
        }
    }

    fn finish(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        queue.bytes -= bytes;
        queue.finished += 1;
        self.done.notify_all();
    }
}

/// The writer's state.
struct Destinations {
    output: Output,
    /// Lines dropped by the queue or by a failed write that the log does not report yet.
    lost: u64,
}

impl Destinations {
    fn run(mut self, sink: &Sink) {
        // It ends with the process, which waits for it in `flush` only.
        loop {
            let item = sink.next();
            let bytes = if let Item::Line(_, line) = &item { cost(line) } else { 0 };
            match item {
                Item::Line(level, line) => self.write(level, &line),
                Item::Change(_, output) => self.output = output,
                Item::Reopen => self.reopen(),
                Item::Dropped(count) => {
                    self.lost += count;
                    self.confess();
                }
            }
            sink.finish(bytes);
        }
    }

    fn write(&mut self, level: Level, line: &[u8]) {
        self.confess();
        // Once a line is lost, further ones are too until the loss can be reported: the log never hides a gap.
        if self.lost > 0 || self.output.write(level, line).is_err() {
            self.lost += 1;
        }
    }

    /// Reports the number of lost lines as soon as that can be written.
    fn confess(&mut self) {
        let line = || stamped(&format!("warning log lines dropped count={}", self.lost));
        if self.lost > 0 && self.output.write(Level::WARN, &line()).is_ok() {
            self.lost = 0;
        }
    }

    fn reopen(&mut self) {
        match self.output.reopen() {
            Ok(()) => self.write(Level::INFO, &stamped("info log reopened")),
            Err(error) => {
                let text = "error cannot reopen the log, keeping the open file: ";
                self.write(Level::ERROR, &stamped(&format!("{text}{error}")));
            }
        }
    }
}

/// Returns the bytes charged for a queued line.
fn cost(line: &[u8]) -> usize {
    LINE_BYTES + line.len()
}

/// A writer that queues one formatted line.
pub(super) struct Line {
    sink: &'static Sink,
    level: Level,
}

impl io::Write for Line {
    /// Queues the whole line: the formatting layer passes it in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.sink.push(self.level, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for &'static Sink {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line { sink: self, level: Level::INFO }
    }

    fn make_writer_for(&self, about: &Metadata<'_>) -> Line {
        Line { sink: self, level: *about.level() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Makes a sink for one test that writes to a file.
    fn sink(destination: &std::path::Path) -> &'static Sink {
        let sink = Box::leak(Box::new(Sink::new()));
        sink.set(&Destination::File(destination.to_path_buf())).unwrap();
        sink
    }

    /// Returns the lines of a file without their times, once all are written.
    fn text(sink: &Sink, file: &std::path::Path) -> Vec<String> {
        sink.flush(Duration::from_secs(30));
        let text = fs::read_to_string(file).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn rotation_between_two_lines_splits_them() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("log"), dir.path().join("log.1"));
        let sink = sink(&path);
        sink.push(Level::INFO, b"t one\n");
        sink.flush(Duration::from_secs(30));
        fs::rename(&path, &rotated).unwrap();
        sink.push(Level::INFO, b"t two");
        sink.reopen();
        sink.push(Level::INFO, b"t three");
        assert_eq!(text(sink, &path), ["info log reopened", "three"]);
        assert_eq!(text(sink, &rotated), ["one", "two"]);
    }

    #[test]
    fn unwritable_lines_are_counted_once_writing_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let sink = sink("/dev/full".as_ref());
        for _ in 0..3 {
            sink.push(Level::INFO, b"t lost");
        }
        let file = dir.path().join("log");
        sink.set(&Destination::File(file.clone())).unwrap();
        sink.push(Level::INFO, b"t kept");
        assert_eq!(text(sink, &file), ["warning log lines dropped count=3", "kept"]);
    }

    #[test]
    fn full_queue_drops_lines_until_it_is_empty() {
        // Without a writer, nothing is taken from the queue.
        let sink: &'static Sink = Box::leak(Box::new(Sink::new()));
        let line = [b"t ".to_vec(), vec![b'x'; 1022]].concat();
        let fits = QUEUE_BYTES_MAX / cost(&line);
        for _ in 0..fits + 10 {
            sink.push(Level::INFO, &line);
        }
        // A short line would fit, but the dropped ones come before it.
        sink.push(Level::INFO, b"t short");
        let queue = sink.queue.lock();
        assert_eq!((queue.items.len(), queue.dropped), (fits, 11));
        assert!(queue.bytes <= QUEUE_BYTES_MAX);
        drop(queue);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        sink.set(&Destination::File(file.clone())).unwrap();
        let lines = text(sink, &file);
        assert_eq!(lines.len(), fits + 1);
        assert_eq!(lines.last().unwrap(), "warning log lines dropped count=11");
        sink.push(Level::INFO, b"t after");
        assert_eq!(text(sink, &file).last().unwrap(), "after");
    }
}
