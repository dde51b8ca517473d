//! The quotas: their names in both existing daemons, their defaults, and a domain's own values.

use crate::sync::{AtomicU32, Ordering};

/// A quota. The order is that of C xenstored's tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumCount)]
pub enum Quota {
    /// Nodes owned by a domain.
    Nodes,
    /// Watches set by a domain.
    Watches,
    /// Requests with undelivered replies or events; at the limit the ring is not read.
    Outstanding,
    /// Bytes of nodes, watches, transactions, replies and events held for a domain.
    Memory,
    /// Open transactions of a domain.
    Transactions,
    /// Nodes accessed by one transaction.
    TransactionNodes,
    /// Permission entries of one node.
    NodePermissions,
    /// Length of a path, not counting `/local/domain/<n>/`.
    PathMax,
    /// Size of one node in bytes: permissions, names of children, value.
    NodeSize,
}

/// The static properties of a quota.
struct About {
    quota: Quota,
    name: &'static str,
    /// Names in older options, in xenstore.txt and in oxenstored.conf.
    aliases: &'static [&'static str],
    description: &'static str,
    default: u32,
}

/// The defaults are C xenstored's except for watches (128 there) and transactions (10 there), at which ten to fifty
/// simultaneous calls of ordinary use fail; the memory quota still bounds a domain.
/// Indexed by the enum, whose order a test compares.
const ABOUT: [About; Quota::COUNT] = [
    about(Quota::Nodes, "nodes", &["quota-maxentity", "entry-nb"], "Nodes per domain", 1000),
    about(Quota::Watches, "watches", &["quota-maxwatch", "watch-nb"], "Watches per domain", 1024),
    about(
        Quota::Outstanding,
        "outstanding",
        &["quota-maxoutstanding"],
        "Outstanding requests per domain",
        20,
    ),
    about(Quota::Memory, "memory", &[], "Total Xenstore memory per domain", 2_621_440),
    about(
        Quota::Transactions,
        "transactions",
        &["quota-transaction", "transaction"],
        "Active transactions per domain",
        256,
    ),
    about(
        Quota::TransactionNodes,
        "transaction-nodes",
        &["quota-maxrequests"],
        "Max. number of accessed nodes per transaction",
        1024,
    ),
    about(
        Quota::NodePermissions,
        "node-permissions",
        &["permissions", "perm-nb"],
        "Max. number of permissions per node",
        5,
    ),
    about(
        Quota::PathMax,
        "path-max",
        &["path-length", "quota-path-max"],
        "Max. length of a node path",
        2048,
    ),
    about(
        Quota::NodeSize,
        "node-size",
        &["quota-maxsize", "entry-size"],
        "Max. size of a node",
        2048,
    ),
];

const fn about(
    quota: Quota,
    name: &'static str,
    aliases: &'static [&'static str],
    description: &'static str,
    default: u32,
) -> About {
    About { quota, name, aliases, description, default }
}

impl Quota {
    /// Number of quotas.
    pub const COUNT: usize = <Quota as strum::EnumCount>::COUNT;
    /// The default of the soft memory quota in bytes; no other quota has a soft limit.
    pub const SOFT_MEMORY_DEFAULT: u32 = 2_097_152;

    /// Returns all quotas, in the order of C xenstored's tools.
    pub fn all() -> impl Iterator<Item = Quota> {
        ABOUT.iter().map(|about| about.quota)
    }

    /// Finds a quota by its name or an alias.
    pub fn from_name(name: &str) -> Option<Quota> {
        let named = |about: &&About| about.name == name || about.aliases.contains(&name);
        ABOUT.iter().find(named).map(|about| about.quota)
    }

    /// Returns the quota's name, as `xsctl control quota` prints it.
    pub fn name(self) -> &'static str {
        ABOUT[self as usize].name
    }

    /// Returns a description of the quantity that the quota limits.
    pub fn description(self) -> &'static str {
        ABOUT[self as usize].description
    }

    /// Returns the quota's default value; 0 means no limit.
    pub fn default_value(self) -> u32 {
        ABOUT[self as usize].default
    }
}

/// A value for each quota; 0 means no limit (xenstore.txt, SET_QUOTA).
/// Relaxed accesses suffice: a request may see a limit that changes concurrently either way, and a transaction notices
/// by `Registry::rights`.
pub struct Limits {
    hard: [AtomicU32; Quota::COUNT],
    soft_memory: AtomicU32,
}

impl Limits {
    /// Returns the defaults.
    pub fn defaults() -> Limits {
        Limits {
            hard: ABOUT.each_ref().map(|about| AtomicU32::new(about.default)),
            soft_memory: AtomicU32::new(Quota::SOFT_MEMORY_DEFAULT),
        }
    }

    /// Returns a copy of the values.
    pub fn copy(&self) -> Limits {
        let copy = |value: &AtomicU32| AtomicU32::new(value.load(Ordering::Relaxed));
        Limits { hard: self.hard.each_ref().map(copy), soft_memory: copy(&self.soft_memory) }
    }

    /// Copies every value from `others`.
    pub fn set_all(&self, others: &Limits) {
        Quota::all().for_each(|quota| self.set(quota, others.get(quota)));
        self.set_soft_memory(others.soft_memory());
    }

    /// Returns the value of a quota, in the quota's own unit; 0 means no limit.
    pub fn get(&self, quota: Quota) -> u32 {
        self.hard[quota as usize].load(Ordering::Relaxed)
    }

    /// Sets a quota's value; 0 means no limit.
    pub fn set(&self, quota: Quota, value: u32) {
        self.hard[quota as usize].store(value, Ordering::Relaxed);
    }

    /// Returns the soft memory quota in bytes: a domain above it is only reported.
    pub fn soft_memory(&self) -> u32 {
        self.soft_memory.load(Ordering::Relaxed)
    }

    /// Sets the soft memory quota in bytes; 0 means no limit.
    pub fn set_soft_memory(&self, value: u32) {
        self.soft_memory.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_table_follows_the_enum_and_names_are_unique() {
        let mut names = Vec::new();
        for (index, about) in ABOUT.iter().enumerate() {
            assert_eq!(about.quota as usize, index);
            names.push(about.name);
            names.extend(about.aliases);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn quota_names_of_both_daemons_are_known() {
        assert_eq!(Quota::from_name("quota-maxentity"), Some(Quota::Nodes));
        assert_eq!(Quota::from_name("path-length"), Some(Quota::PathMax));
        assert_eq!(Quota::from_name("soft-memory"), None);
    }

    #[test]
    fn quota_names_round_trip_and_limits_are_independent() {
        let limits = Limits::defaults();
        for (value, quota) in (1..).zip(Quota::all()) {
            assert_eq!(Quota::from_name(quota.name()), Some(quota));
            assert_eq!(limits.get(quota), quota.default_value());
            limits.set(quota, value);
        }
        let values: Vec<u32> = Quota::all().map(|quota| limits.get(quota)).collect();
        assert!((1..).zip(&values).all(|(expected, value)| *value == expected));
        for (place, quota) in Quota::all().enumerate() {
            assert_eq!(quota as usize, place, "its row is at its place");
        }
        limits.set_soft_memory(7);
        assert_eq!(limits.soft_memory(), 7);
    }
}
