//! Scatter/gather: one reply to a request about many domains, sent when each one's owner thread has done its part.

use crate::sync::{Arc, Mutex};
use crate::types::{Domid, Errno};

/// The domains that failed, by domid, with their errors; or, if all failed, the error of the first.
pub type Joined = Result<Vec<(Domid, Errno)>, Errno>;

/// The join of a request: the state that its parts share. The drop of the last part drops it, which sends the reply.
struct Join {
    asked: usize,
    // Behind a mutex, as parts end on several owner threads.
    failed: Mutex<Vec<(Domid, Errno)>>,
    reply: Option<Box<dyn FnOnce(Joined) + Send + Sync>>,
}

/// One domain's part of a request. A part counts however it ends: one that is dropped, such as with the connection of a
/// domain that dies, reports ENOENT.
pub struct Part {
    domid: Domid,
    result: Result<(), Errno>,
    join: Arc<Join>,
}

/// Creates a part for each domain. The thread that ends the last part calls `reply` with the joined result, once.
pub fn parts(domids: &[Domid], reply: impl FnOnce(Joined) + Send + Sync + 'static) -> Vec<Part> {
    let join = Arc::new(Join {
        asked: domids.len(),
        failed: Mutex::new(Vec::new()),
        reply: Some(Box::new(reply)),
    });
    let part = |&domid| {
        let join = Arc::clone(&join);
        Part { domid, result: Err(Errno::ENOENT), join }
    };
    domids.iter().map(part).collect()
}

impl Part {
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

impl Drop for Part {
    fn drop(&mut self) {
        // Success needs no entry, so the mutex is taken for failures only.
        if let Err(errno) = self.result {
            self.join.failed.lock().push((self.domid, errno));
        }
    }
}

impl Drop for Join {
    fn drop(&mut self) {
        let mut failed = std::mem::take(&mut *self.failed.lock());
        // By domid, so that the reply does not depend on which thread was first.
        failed.sort_unstable_by_key(|(domid, _)| *domid);
        let joined = match failed.first() {
            Some((_, errno)) if failed.len() == self.asked => Err(*errno),
            _ => Ok(failed),
        };
        if let Some(reply) = self.reply.take() {
            reply(joined);
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    /// Returns the joined result of three parts that end in these ways.
    fn joined(ends: [fn(Part); 3]) -> Joined {
        let (sender, receiver) = crossbeam::channel::unbounded();
        let parts = parts(&[Domid(9), Domid(5), Domid(7)], move |joined| {
            sender.send(joined).unwrap();
        });
        for (part, end) in parts.into_iter().zip(ends) {
            assert!(receiver.try_recv().is_err(), "answered before the last");
            end(part);
        }
        receiver.try_recv().unwrap()
    }

    #[test]
    fn last_part_replies_for_all() {
        let again: fn(Part) = |part| part.failed(Errno::EAGAIN);
        assert_eq!(joined([Part::done; 3]), Ok(vec![]));
        assert_eq!(
            joined([drop, Part::done, again]),
            Ok(vec![(Domid(7), Errno::EAGAIN), (Domid(9), Errno::ENOENT)])
        );
        assert_eq!(joined([drop, again, drop]), Err(Errno::EAGAIN));
    }
}
