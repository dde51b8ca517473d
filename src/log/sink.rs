//! The queue between the threads that log and the thread that writes.
//!
//! A line is an append to a queue in memory: no thread that serves clients does file I/O, and none
//! waits for a full disk, a stuck syslog or a terminal that nobody reads. The thread `log` takes
//! lines in their order, and does what else has to happen between two lines in the same order: a
//! change of the destination, a rotation.
//!
//! The queue is bounded. Once it is full, lines are dropped until the writer has emptied it, and
//! their number is the next line.

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

/// Bytes of lines that wait to be written. A rotation or a busy disk takes tenths of a second, in
/// which all traces of a busy daemon are some MiB; a destination that is stuck for longer is stuck
/// for good, and costs no more memory than this.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// What a line costs besides its text: its entry in the queue, and its allocation.
const LINE_BYTES: usize = 64;
/// How long a dying thread waits until its line is written: the writer may be stuck.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a change of the destination waits until the lines before it are written.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(2);

/// The log's end.
pub(super) struct Sink {
    queue: Mutex<Queue>,
    /// The writer waits here for items.
    work: Condvar,
    /// Threads wait here until what they queued is done.
    done: Condvar,
}

struct Queue {
    items: VecDeque<Item>,
    /// What the lines cost that are not written yet, that in the writer's hand included.
    bytes: usize,
    /// Lines dropped since the queue was full.
    dropped: u64,
    /// Items ever queued.
    queued: u64,
    /// Items that the writer is done with: `queued` if it has nothing to do.
    finished: u64,
    /// A rotation is queued: the path that it opens is then the newest, so one will do.
    reopens: bool,
    writer: Option<ThreadId>,
}

/// What the writer does.
enum Item {
    Line(Level, Vec<u8>),
    /// Lines after this go there; the number finds it again.
    Change(u64, Output),
    Reopen,
    /// So many lines were dropped.
    Dropped(u64),
}

impl Sink {
    /// A sink without a writer.
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
    /// The destination cannot be opened; the system refuses a thread; `TimedOut` if the lines before
    /// cannot be written. Then nothing changes.
    pub(super) fn set(&'static self, destination: &Destination) -> io::Result<()> {
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
        let is_it = |item: &&mut Item| matches!(item, Item::Change(other, _) if *other == number);
        let Some(change) = queue.items.iter_mut().find(|item| is_it(item)) else { return Ok(()) };
        *change = Item::Dropped(0);
        let what = "the log's present destination does not take the lines that wait for it";
        Err(io::Error::new(io::ErrorKind::TimedOut, what))
    }

    /// Has the file opened again after the lines that wait.
    pub(super) fn reopen(&self) {
        let mut queue = self.queue.lock();
        if !std::mem::replace(&mut queue.reopens, true) {
            self.queue(&mut queue, Item::Reopen);
        }
    }

    /// Waits until all lines are written, but no longer than a time.
    pub(super) fn flush(&self, time_max: Duration) {
        let deadline = Instant::now() + time_max;
        let mut queue = self.queue.lock();
        while (queue.finished < queue.queued || queue.dropped > 0) && queue.writer.is_some() {
            if self.done.wait_until(&mut queue, deadline).timed_out() {
                return;
            }
        }
    }

    /// Writes a line of a thread that panics. If the writer cannot write it in time, or if it is the
    /// writer that panics, the line goes to standard error, unless that is full.
    pub(super) fn write_last(&self, text: &str) {
        let line = stamped(text);
        if let Some(mut queue) = self.queue.try_lock_for(LAST_WORDS)
            && queue.writer.is_some_and(|writer| writer != thread::current().id())
        {
            let number = queue.queued + 1;
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
        // Once one is dropped, all are until the queue is empty: one line says how many.
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

    /// Waits until the writer is done with item `number`; whether it is.
    fn wait_for(&self, queue: &mut MutexGuard<'_, Queue>, number: u64, time_max: Duration) -> bool {
        let pending = |queue: &mut Queue| queue.finished < number;
        !self.done.wait_while_for(queue, pending, time_max).timed_out()
    }

    /// Takes what the writer does next.
    fn next(&self) -> Item {
        let mut queue = self.queue.lock();
        loop {
            if let Some(item) = queue.items.pop_front() {
                queue.reopens &= !matches!(item, Item::Reopen);
                return item;
            }
            if queue.dropped > 0 {
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

/// What the writer has in hand.
struct Destinations {
    output: Output,
    /// Lines that were dropped, here or before the queue, of which the log says nothing yet.
    lost: u64,
}

impl Destinations {
    fn run(mut self, sink: &Sink) {
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
        if self.lost > 0 || self.output.write(level, line).is_err() {
            self.lost += 1;
        }
    }

    /// Says how many lines were lost, as soon as that can be written.
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
                let text = "error the log cannot be reopened, it goes on as before: ";
                self.write(Level::ERROR, &stamped(&format!("{text}{error}")));
            }
        }
    }
}

/// What a line costs while it waits.
fn cost(line: &[u8]) -> usize {
    LINE_BYTES + line.len()
}

/// One line on its way into the queue.
pub(super) struct Line {
    sink: &'static Sink,
    level: Level,
}

impl io::Write for Line {
    /// Takes the whole line, as the formatting layer hands it over in one piece.
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

    /// A sink of a test's own, to a file.
    fn sink(destination: &std::path::Path) -> &'static Sink {
        let sink = Box::leak(Box::new(Sink::new()));
        sink.set(&Destination::File(destination.to_path_buf())).unwrap();
        sink
    }

    /// What is in a file once all is written, without the times.
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
    fn lines_that_cannot_be_written_are_counted_once_writing_succeeds() {
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
    fn queue_when_full_drops_until_it_is_empty() {
        // Without a writer nothing is taken.
        let sink: &'static Sink = Box::leak(Box::new(Sink::new()));
        let line = [b"t ".to_vec(), vec![b'x'; 1022]].concat();
        let fits = QUEUE_BYTES_MAX / cost(&line);
        for _ in 0..fits + 10 {
            sink.push(Level::INFO, &line);
        }
        // There is room for a short one, but the dropped ones come before it.
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
