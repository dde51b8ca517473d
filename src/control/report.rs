//! The command `memreport`: the contents of each shard, the state of the server, and usage by domain.

use std::fmt::{self, Write};

use super::Served;
use crate::domain::{Domain, Quota};
use crate::store::Sizes;
use crate::sync::Arc;
use crate::types::Domid;

/// Number of domains listed: those with the highest memory usage, as a host may have ten thousand.
const DOMAINS_MAX: usize = 50;

/// Returns the report. Cost: a walk over all nodes, on snapshots.
pub fn of(served: &dyn Served) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(served, &mut text);
    text
}

fn write(served: &dyn Served, text: &mut String) -> fmt::Result {
    let store = served.store();
    // The words `homes`, `turns` and `guarded` are older than docs/GLOSSARY.md; scripts may read them.
    writeln!(text, "shard      homes      nodes     watches  begins of owners  pinned homes")?;
    for shard in store.layout().all() {
        let sizes = Sizes::of(store, shard);
        let name =
            if shard == store.layout().root_shard() { "root_shard" } else { &shard.0.to_string() };
        writeln!(
            text,
            "{name:<6}{:>10} {:>10} {:>11} {:>17} {:>16}",
            sizes.partitions, sizes.nodes, sizes.watches, sizes.boundaries, sizes.pinned
        )?;
    }
    writeln!(text, "watches on what has homes below it: {}", store.global_watches())?;
    let registry = store.registry();
    let mut domains: Vec<_> =
        registry.known().into_iter().filter_map(|domid| registry.get(domid)).collect();
    let transactions: u64 =
        domains.iter().map(|domain| domain.account.used(Quota::Transactions)).sum();
    let counters = served.counters();
    writeln!(text, "clients on the socket: {}", counters.clients)?;
    writeln!(text, "known domains: {}, died: {}", domains.len(), counters.deaths)?;
    let introduced = domains.iter().filter(|domain| domain.is_introduced()).count();
    writeln!(text, "domains with a ring: {introduced}")?;
    let quiesced =
        domains.iter().filter(|domain| domain.presence().is_quiesced()).map(|domain| domain.domid);
    write_quiesced(&quiesced.collect::<Vec<_>>(), text)?;
    writeln!(text, "open transactions: {transactions}")?;
    let (begun, overdue, awaited) =
        (counters.reservations, counters.reservations_overdue, counters.reservations_awaited);
    writeln!(text, "turns of transactions: {begun}, overdue: {overdue}, awaited: {awaited}")?;
    writeln!(text, "guarded paths: {}", counters.reserved)?;
    write_conflicts(served, text)?;
    domains.sort_by_key(|domain| std::cmp::Reverse(domain.account.used(Quota::Memory)));
    write_domains(&domains, text)
}

fn write_quiesced(domids: &[Domid], text: &mut String) -> fmt::Result {
    write!(text, "quiesced domains: {}", domids.len())?;
    for (at, domid) in domids.iter().take(DOMAINS_MAX).enumerate() {
        write!(text, "{}{domid}", if at == 0 { ": " } else { ", " })?;
    }
    writeln!(text, "{}", if domids.len() > DOMAINS_MAX { " and others" } else { "" })
}

fn write_conflicts(served: &dyn Served, text: &mut String) -> fmt::Result {
    let conflicts = &served.state().conflicts;
    writeln!(text, "transactions answered EAGAIN: {}", conflicts.count())?;
    for reason in conflicts.last() {
        let (domid, conflict) = (reason.domid, reason.conflict);
        write!(text, "  of domain {domid}: {} {}", conflict.verb, conflict.path.as_path())?;
        match conflict.changed_by {
            Some(by) => writeln!(text, ", changed by domain {by}")?,
            None => writeln!(text)?,
        }
    }
    Ok(())
}

fn write_domains(domains: &[Arc<Domain>], text: &mut String) -> fmt::Result {
    writeln!(text, "domain      nodes     watches outstanding      memory transactions")?;
    for domain in domains.iter().take(DOMAINS_MAX) {
        let used = |quota| domain.account.used(quota);
        writeln!(
            text,
            "{:<6}{:>11} {:>11} {:>11} {:>11} {:>12}",
            domain.domid.0,
            used(Quota::Nodes),
            used(Quota::Watches),
            used(Quota::Outstanding),
            used(Quota::Memory),
            used(Quota::Transactions),
        )?;
    }
    match domains.len().checked_sub(DOMAINS_MAX) {
        Some(1) => writeln!(text, "and 1 domain that uses less memory"),
        Some(more @ 2..) => writeln!(text, "and {more} domains that use less memory"),
        _ => Ok(()),
    }
}
