//! Domain 0's kernel: a slow reader that must notice every new backend.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use xenstored::host::RING_BYTES;
use xenstored::host::sim::SimGuest;
use xenstored::protocol::{ERROR, Input, Operation, WATCH_EVENT, request};

use crate::client::{event, histogram, record, words};
use crate::trouble::Result;
use crate::wrong;

/// The directory watched by Linux.
pub const BACKENDS: &str = "/local/domain/0/backend";
/// Pause of the kernel after each read of at most a ring's content.
const PAUSE: Duration = Duration::from_millis(5);
/// Time without an event, or with only unrelated ones, after which a missing event counts as lost.
const QUIET: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(60);

/// A backend: its path, and the time of the reply to the request that created it.
pub type Created = (String, Instant);

/// The kernel's notifications of new backends.
pub struct Learnt {
    /// Latency from a backend's creation to the event that names it, or to the event after which the kernel reads all
    /// backends.
    pub latency: Histogram<u64>,
    /// Number of backends named in no event: only an event of the watched directory itself arrived.
    pub unnamed: usize,
    /// Backends without any notification.
    pub lost: Vec<String>,
}

/// Domain 0's kernel with its ring.
pub struct Kernel {
    guest: SimGuest,
    input: Input,
    /// Time of the first event for each path below [`BACKENDS`].
    named: HashMap<String, Instant>,
    /// Time of the last event for [`BACKENDS`] itself, after which the kernel reads all backends.
    read_all: Option<Instant>,
}

impl Kernel {
    /// Sets the kernel's watches: on the backends, and on each of these paths.
    pub fn new(guest: SimGuest, paths: impl Iterator<Item = String>) -> Result<Kernel> {
        let mut kernel =
            Kernel { guest, input: Input::default(), named: HashMap::new(), read_all: None };
        kernel.watch(BACKENDS, "backends")?;
        for path in paths {
            kernel.watch(&path, "frontend")?;
        }
        Ok(kernel)
    }

    fn watch(&mut self, path: &str, token: &str) -> Result<()> {
        let request = request(Operation::Watch, 1, &words(&[path, token]));
        let mut rest = request.as_slice();
        while !rest.is_empty() {
            rest = &rest[self.guest.try_send(rest)?..];
        }
        loop {
            match self.take_message()? {
                Some(WATCH_EVENT) => {}
                Some(ERROR) => wrong!("the watch of domain 0's kernel on {path} was refused"),
                Some(_) => return Ok(()),
                None if self.receive()? > 0 || self.wait()? => {}
                None => wrong!("domain 0's kernel got no reply to WATCH"),
            }
        }
    }

    /// Reads slowly until `over` is set.
    pub fn read_slowly(&mut self, over: &AtomicBool) -> Result<()> {
        while !over.load(Ordering::Relaxed) {
            self.receive()?;
            while self.take_message()?.is_some() {}
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Reads the rest without pauses, until the kernel has been notified of all `created` or no event arrives.
    pub fn catch_up(&mut self, created: &[Created]) -> Result<Learnt> {
        let began = Instant::now();
        while created.iter().any(|it| self.learnt(it).is_none()) && began.elapsed() < TIMEOUT {
            if self.receive()? == 0 && !self.wait()? {
                break;
            }
            while self.take_message()?.is_some() {}
        }
        let mut learnt = Learnt { latency: histogram(), unnamed: 0, lost: Vec::new() };
        for backend in created {
            match self.learnt(backend) {
                Some(when) => {
                    record(&mut learnt.latency, when.saturating_duration_since(backend.1));
                    learnt.unnamed += usize::from(!self.named.contains_key(&backend.0));
                }
                None => learnt.lost.push(backend.0.clone()),
            }
        }
        Ok(learnt)
    }

    /// Returns the time at which the kernel was notified of a backend.
    fn learnt(&self, (path, created): &Created) -> Option<Instant> {
        let read_all = self.read_all.filter(|when| when >= created);
        self.named.get(path).copied().or(read_all)
    }

    /// Returns the type of the next complete message.
    fn take_message(&mut self) -> Result<Option<u32>> {
        let Some(message) = self.input.take()? else { return Ok(None) };
        let path = event(message.payload).filter(|_| message.is_event()).map(|(path, _)| path);
        if path == Some(BACKENDS) {
            self.read_all = Some(Instant::now());
        } else if let Some(path) = path.filter(|path| path.starts_with(BACKENDS)) {
            self.named.entry(path.to_owned()).or_insert_with(Instant::now);
        }
        Ok(Some(message.kind))
    }

    /// Reads at most one ring's content.
    fn receive(&mut self) -> Result<usize> {
        let mut bytes = [0; RING_BYTES];
        let count = self.guest.try_recv(&mut bytes)?;
        self.input.buffer().extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// Waits for the daemon; returns `false` after [`QUIET`].
    fn wait(&mut self) -> Result<bool> {
        Ok(self.guest.wait(Some(QUIET))?)
    }
}
