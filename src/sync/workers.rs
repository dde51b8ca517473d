//! Threads that share out the work on many nodes or domains: those of `check`, exports and imports.
//!
//! They are rayon's, in a pool of our own: rayon's global pool panics where the system refuses it
//! threads, also when it could have them later. Without workers the calling thread does the work.

use parking_lot::Mutex;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::Arc;

static POOL: Mutex<Option<Arc<ThreadPool>>> = Mutex::new(None);

/// What an operation that can be shared out is done by.
pub struct Workers(Option<Arc<ThreadPool>>);

impl Workers {
    /// The workers, which are started when they are first wanted: one for each core. None if the system
    /// has no threads for them now.
    pub fn find() -> Workers {
        Workers::start(0)
    }

    /// The same with a number of threads, if none are started yet; 0: one for each core.
    pub fn start(threads: usize) -> Workers {
        let mut pool = POOL.lock();
        if pool.is_none() {
            let named = ThreadPoolBuilder::new().thread_name(|number| format!("worker{number}"));
            match named.num_threads(threads).build() {
                Ok(built) => *pool = Some(Arc::new(built)),
                Err(error) => tracing::warn!(%error, "worker threads refused, one thread does all"),
            }
        }
        Workers(pool.clone())
    }

    /// Does `work` with each of `items`, and returns the results in their order.
    pub fn map<I, T, R>(&self, items: I, work: impl Fn(T) -> R + Send + Sync) -> Vec<R>
    where
        I: IntoIterator<Item = T> + IntoParallelIterator<Item = T> + Send,
        T: Send,
        R: Send,
    {
        match &self.0 {
            Some(pool) => pool.install(|| items.into_par_iter().map(work).collect()),
            None => items.into_iter().map(work).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_with_and_without_workers_returns_the_same() {
        let items: Vec<u32> = (0..1000).collect();
        let expected: Vec<u32> = items.iter().map(|item| item + 1).collect();
        for workers in [Workers::find(), Workers(None)] {
            assert_eq!(workers.map(&items, |item| item + 1), expected);
            assert_eq!(workers.map(items.clone(), |item| item + 1), expected);
        }
    }
}
