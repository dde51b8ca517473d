//! Log reports about domains' accounts. Reports are queued under the locks of the store and logged when none is held.

use crossbeam::queue::SegQueue;

use super::Quota;
use crate::log;
use crate::types::{Domid, Path};

/// Logged paths are truncated to this many bytes: guests choose them.
const PATH_SHOWN_BYTES: usize = 256;

/// A report about a domain's account.
pub enum Report {
    /// A quota refused a request. Only the 1st, 2nd, 4th, 8th ... refusal of a domain and quota is reported, which
    /// bounds both the queue and the log.
    Refused {
        /// The refused domain.
        domid: Domid,
        /// The exhausted quota.
        quota: Quota,
        /// The quota's value.
        limit: u32,
        /// Number of refusals so far, including this one.
        refused: u64,
        /// The path of the refused request, if any, truncated.
        path: Option<Box<str>>,
    },
    /// A domain's memory rose above its soft quota.
    SoftMemory {
        /// The domain above the quota.
        domid: Domid,
        /// Memory in use, in bytes.
        used: u64,
        /// The soft quota, in bytes.
        limit: u32,
    },
    /// An account changed while changes are traced.
    Changed {
        /// The domain charged.
        domid: Domid,
        /// The quota charged.
        quota: Quota,
        /// Usage before the change.
        before: u64,
        /// Usage after the change.
        used: u64,
    },
}

/// Formats a path for the log, truncated to [`PATH_SHOWN_BYTES`].
pub(super) fn shown(path: Path<'_>) -> Box<str> {
    let text = path.to_string();
    // Paths are ASCII, so any split is at a character boundary.
    match text.split_at_checked(PATH_SHOWN_BYTES) {
        Some((shown, rest)) if !rest.is_empty() => format!("{shown}...").into(),
        _ => text.into(),
    }
}

/// The queue of reports to be logged.
#[derive(Default)]
pub struct Reports(SegQueue<Report>);

impl Reports {
    /// Queues a report. Takes no lock.
    pub fn push(&self, report: Report) {
        self.0.push(report);
    }

    /// Logs and removes all queued reports. Cost: two loads if there are none.
    pub fn log(&self) {
        while let Some(report) = self.0.pop() {
            match report {
                Report::Refused { domid, quota, limit, refused, path } => {
                    let (quota, path) = (quota.name(), path.as_deref());
                    tracing::warn!(%domid, quota, limit, refused, path, "quota reached");
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

    /// Drains the queue as text, for tests.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Account;
    use crate::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// A subscriber that counts the traces of accounts.
    #[derive(Default)]
    struct Lines(AtomicU32);

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == log::ACC
        }
        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn long_path_is_truncated_in_reports() {
        let path = |len: usize| format!("/{}", "p".repeat(len - 1));
        let shown_of = |len: usize| shown(Path::parse(path(len).as_bytes()).unwrap());
        assert_eq!(*shown_of(256), path(256));
        assert_eq!(*shown_of(257), path(256) + "...");
    }

    #[test]
    fn account_changes_are_recorded_while_traced() {
        let reports = Arc::<Reports>::default();
        let account = Account::new(Domid(5), Arc::clone(&reports));
        let lines = Arc::<Lines>::default();
        account.charge(Quota::Nodes, 1);
        assert!(reports.take_all().is_empty(), "tracing is off");
        tracing::subscriber::with_default(Arc::clone(&lines), || {
            account.reserve(Quota::Nodes, 2, 0);
            account.charge(Quota::Nodes, 4);
            account.charge(Quota::Nodes, 0);
            account.release(Quota::Nodes, 1);
            assert_eq!(reports.take_all(), ["nodes is 3", "nodes is 7", "nodes is 6"]);
            account.charge(Quota::Nodes, 1);
            reports.log();
        });
        assert!(reports.take_all().is_empty());
        assert_eq!(lines.0.load(Ordering::Relaxed), 1);
    }
}
