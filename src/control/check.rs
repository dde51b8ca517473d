//! The command `check`.

use std::time::Duration;

use super::Served;
use crate::store::{self, Findings};
use crate::types::PAYLOAD_BYTES_MAX;

/// Timeout for a thread to list its watches, which it does between two requests.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Space reserved in a reply for the last line, which counts the findings left out. It fits with any number, of up to
/// 20 digits.
const LAST_LINE_BYTES: usize = 48;

/// Checks the store and the watches of all threads. Returns `OK` or the findings, which are logged as well.
pub fn run(served: &dyn Served) -> String {
    // Removals that are not accounted yet would look like wrong accounts, so the check is refused instead.
    let checked = match store::check(served.store()) {
        Ok(checked) => checked,
        Err(unsettled) => {
            let removals = unsettled.removals;
            return format!(
                "not checked: {removals} removals are still being accounted, try again"
            );
        }
    };
    let mut findings = checked.findings;
    let lists = served.watch_lists(TIMEOUT);
    for number in 0..served.threads() {
        // A worker that does not reply may hang, so it is a finding itself.
        if !lists.iter().any(|list| usize::from(list.thread) == number) {
            findings
                .add(|| format!("worker {number} did not report its watches within {TIMEOUT:?}"));
        }
    }
    for list in lists {
        // Each list comes with the tries of the same moment, of which only this worker's entries are compared: other
        // workers set and remove watches meanwhile.
        findings.append(list.check(served.store().layout()));
    }
    // A finding is a bug of the daemon. The log has all of them, the reply only those that fit.
    for sentence in findings.sentences() {
        tracing::error!("check: {sentence}");
    }
    tracing::info!(
        nodes = checked.nodes,
        watches = checked.watches,
        findings = findings.len(),
        "checked the store"
    );
    reply(&findings)
}

/// Returns the findings, as many as fit into a reply.
fn reply(findings: &Findings) -> String {
    if findings.is_empty() {
        return "OK".into();
    }
    let mut text = format!("{} findings:\n", findings.len());
    let mut left_out = findings.len();
    for sentence in findings.sentences() {
        // Whole findings only: half a path would name another node.
        if text.len() + sentence.len() + 1 + LAST_LINE_BYTES > PAYLOAD_BYTES_MAX {
            break;
        }
        text.push_str(sentence);
        text.push('\n');
        left_out -= 1;
    }
    if left_out > 0 {
        text.push_str(&format!("and {left_out} more, see the log\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{Counters, State};
    use super::*;
    use crate::store::alone::alone;
    use crate::store::{Store, Tries, WatchList};
    use crate::sync::Arc;
    use crate::types::Layout;

    /// Two threads, one of which lists its watches in time.
    struct OneIsSlow {
        store: Arc<Store>,
        state: State,
    }

    impl Served for OneIsSlow {
        fn store(&self) -> &Arc<Store> {
            &self.store
        }

        fn state(&self) -> &State {
            &self.state
        }

        fn counters(&self) -> Counters {
            unreachable!("check reads no counters")
        }

        fn watch_lists(&self, timeout: Duration) -> Vec<WatchList> {
            assert_eq!(timeout, TIMEOUT);
            vec![WatchList { thread: 0, watches: Vec::new(), tries: Tries::of(&self.store) }]
        }

        fn threads(&self) -> usize {
            2
        }
    }

    #[test]
    fn worker_that_misses_the_watch_list_timeout_is_a_finding() {
        let served = OneIsSlow { store: Arc::new(alone(Layout::new(2))), state: State::default() };
        let expected = "1 findings:\nworker 1 did not report its watches within 10s\n";
        assert_eq!(run(&served), expected);
    }

    #[test]
    fn findings_beyond_the_reply_size_are_counted() {
        assert_eq!(reply(&Findings::default()), "OK");
        let mut findings = Findings::default();
        findings.add(|| "one".into());
        assert_eq!(reply(&findings), "1 findings:\none\n");
        for _ in 0..999 {
            findings.add(|| "x".repeat(99));
        }
        let text = reply(&findings);
        assert!(text.len() < PAYLOAD_BYTES_MAX && text.len() > PAYLOAD_BYTES_MAX - 200);
        let shown = text.lines().count() - 2;
        assert!(text.ends_with(&format!("and {} more, see the log\n", 1000 - shown)), "{text}");
    }
}
