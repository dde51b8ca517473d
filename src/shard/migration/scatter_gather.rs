//! Scatter/gather: one reply to a request about many domains, sent when each one's owner thread has done its part.

use crate::sync::{Arc, Mutex};
use crate::words::{Domid, Errno};

/// The domains that failed, by number, with their errors; or, if all failed, the error of the first.
pub type Gathered = Result<Vec<(Domid, Errno)>, Errno>;

/// The join of a request: the state that its parts share. The drop of the last part drops it, which sends the reply.
struct Gathering {
    asked: usize,
    failed: Mutex<Vec<(Domid, Errno)>>,
    reply: Option<Box<dyn FnOnce(Gathered) + Send + Sync>>,
}

/// One domain's part of a request. It counts however it ends: a part that is dropped, such as with the connection of a
/// domain that dies, reports ENOENT.
pub struct Share {
    domid: Domid,
    result: Result<(), Errno>,
    gathering: Arc<Gathering>,
}

/// Creates a part for each domain. The thread that ends the last part calls `answer` with the joined result, once.
pub fn shares(
    domids: &[Domid],
    reply: impl FnOnce(Gathered) + Send + Sync + 'static,
) -> Vec<Share> {
    let gathering = Arc::new(Gathering {
        asked: domids.len(),
        failed: Mutex::new(Vec::new()),
        reply: Some(Box::new(reply)),
    });
    let share = |&domid| {
        let gathering = Arc::clone(&gathering);
        Share { domid, result: Err(Errno::ENOENT), gathering }
    };
    domids.iter().map(share).collect()
}

impl Share {
    /// Returns the domain of this part.
    pub fn domid(&self) -> Domid {
        self.domid
    }

    /// Ends the part: it succeeded.
    pub fn done(mut self) {
        self.result = Ok(());
    }

    /// Ends the part: it failed.
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
        if let Some(reply) = self.reply.take() {
            reply(gathered);
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    /// Returns the joined result of three parts that end in these ways.
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
