//! What is to be said of domains' accounts. It is found under the locks of the store and said when
//! none is held.

use crossbeam::queue::SegQueue;

use super::Quota;
use crate::log;
use crate::words::Domid;

/// Something to be said of a domain.
pub enum Report {
    /// A quota refused something: for the how-many-th time. Only the 1st, 2nd, 4th, 8th ... of a
    /// domain and quota is reported, which bounds what waits here and what is logged.
    Refused {
        /// The domain.
        domid: Domid,
        /// The quota.
        quota: Quota,
        /// Its value.
        limit: u32,
        /// How often it refused so far.
        refused: u64,
    },
    /// A domain's memory rose over its soft quota.
    SoftMemory {
        /// The domain.
        domid: Domid,
        /// Bytes in use.
        used: u64,
        /// The soft quota.
        limit: u32,
    },
    /// An account changed, and changes are traced.
    Changed {
        /// The domain.
        domid: Domid,
        /// Of which quota.
        quota: Quota,
        /// What was in use.
        before: u64,
        /// What is in use.
        used: u64,
    },
}

/// Reports that wait to be logged.
#[derive(Default)]
pub struct Reports(SegQueue<Report>);

impl Reports {
    /// Keeps a report. Takes no lock.
    pub fn push(&self, report: Report) {
        self.0.push(report);
    }

    /// Logs all. Cost: two loads if there are none.
    pub fn log(&self) {
        while let Some(report) = self.0.pop() {
            match report {
                Report::Refused { domid, quota, limit, refused } => {
                    tracing::warn!(%domid, quota = quota.name(), limit, refused, "quota reached");
                }
                Report::SoftMemory { domid, used, limit } => {
                    tracing::warn!(%domid, used, limit, "soft memory quota exceeded");
                }
                Report::Changed { domid, quota, before, used } => {
                    let quota = quota.name();
                    tracing::trace!(target: log::ACC, %domid, quota, before, used, "change");
                }
            }
        }
    }

    /// Takes what would be logged, for tests.
    #[cfg(test)]
    pub fn take_all(&self) -> Vec<String> {
        let text = |report| match report {
            Report::Refused { quota, refused, .. } => format!("{} {refused}", quota.name()),
            Report::SoftMemory { used, limit, .. } => format!("soft memory {used} over {limit}"),
            Report::Changed { quota, used, .. } => format!("{} is {used}", quota.name()),
        };
        std::iter::from_fn(|| self.0.pop()).map(text).collect()
    }
}
