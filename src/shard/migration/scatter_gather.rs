//! One answer to a request about many domains, given when each one's home thread has done its part.

use crate::sync::{Arc, Mutex};
use crate::words::{Domid, Errno};

/// The domains for which nothing was done, by number, and why; or, if that is all of them, the first
/// one's error.
pub type Gathered = Result<Vec<(Domid, Errno)>, Errno>;

/// What all shares of a request have in common.
struct Gathering {
    asked: usize,
    failed: Mutex<Vec<(Domid, Errno)>>,
    answer: Option<Box<dyn FnOnce(Gathered) + Send + Sync>>,
}

/// One domain's share of a request. However it ends, it is counted: a share that is dropped where
/// its domain's connection ends says that there is none.
pub struct Share {
    domid: Domid,
    result: Result<(), Errno>,
    gathering: Arc<Gathering>,
}

/// A share for each domain. `answer` is called with what came of all, once, by the thread that ends
/// the last share.
pub fn shares(
    domids: &[Domid],
    answer: impl FnOnce(Gathered) + Send + Sync + 'static,
) -> Vec<Share> {
    let gathering = Arc::new(Gathering {
        asked: domids.len(),
        failed: Mutex::new(Vec::new()),
        answer: Some(Box::new(answer)),
    });
    let share = |&domid| {
        let gathering = Arc::clone(&gathering);
        Share { domid, result: Err(Errno::ENOENT), gathering }
    };
    domids.iter().map(share).collect()
}

impl Share {
    /// The domain.
    pub fn domid(&self) -> Domid {
        self.domid
    }

    /// What was asked is done.
    pub fn done(mut self) {
        self.result = Ok(());
    }

    /// It cannot be done.
    pub fn failed(mut self, errno: Errno) {
        self.result = Err(errno);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Err(errno) = self.result {
            self.gathering.failed.lock().push((self.domid, errno));
        }
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let mut failed = std::mem::take(&mut *self.failed.lock());
        failed.sort_unstable_by_key(|(domid, _)| *domid);
        let gathered = match failed.first() {
            Some((_, errno)) if failed.len() == self.asked => Err(*errno),
            _ => Ok(failed),
        };
        if let Some(answer) = self.answer.take() {
            answer(gathered);
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    /// What three shares come to that end in these ways.
    fn gathered(ends: [fn(Share); 3]) -> Gathered {
        let (sender, receiver) = crossbeam::channel::unbounded();
        let shares = shares(&[Domid(9), Domid(5), Domid(7)], move |gathered| {
            sender.send(gathered).unwrap();
        });
        for (share, end) in shares.into_iter().zip(ends) {
            assert!(receiver.try_recv().is_err(), "answered before the last");
            end(share);
        }
        receiver.try_recv().unwrap()
    }

    #[test]
    fn the_last_share_answers_for_all() {
        let again: fn(Share) = |share| share.failed(Errno::EAGAIN);
        assert_eq!(gathered([Share::done; 3]), Ok(vec![]));
        assert_eq!(
            gathered([drop, Share::done, again]),
            Ok(vec![(Domid(7), Errno::EAGAIN), (Domid(9), Errno::ENOENT)])
        );
        assert_eq!(gathered([drop, again, drop]), Err(Errno::EAGAIN));
    }
}
