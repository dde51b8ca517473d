//! The requests of hostile guests within their quotas, one row per attack.

use std::rc::Rc;
use std::time::Duration;

use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::domains::{NAME, small_domain};
use crate::client::{payload, words};

/// Watches of a guest: the default quota. Peers allow fewer, and refuse the rest.
const WATCHES: usize = 1024;
/// Nodes that a guest commits at once, in [`DIRECTORIES`] directories: as many as its quota allows.
const NODES: usize = 990;
const DIRECTORIES: usize = 30;
/// Pairs of requests in a long transaction: its quota is 1,024 requests.
const PAIRS: usize = 505;
/// Length in bytes of a path near the maximum.
const DEEP_BYTES: usize = 2040;
/// Length in bytes of a long token: [`WATCHES`] of these tokens bring a guest near its memory quota.
const TOKEN_BYTES: usize = 2300;
/// Longer than the daemon keeps a transaction's snapshot.
const HELD: Duration = Duration::from_millis(1100);

/// A request: operation and payload.
pub type Asked = (Operation, Vec<u8>);

/// A step of a hostile guest.
pub enum Step {
    /// Sends requests outside of transactions, as fast as the ring accepts them.
    Requests(Vec<Asked>),
    /// Sends requests in a transaction, and ends it after some time.
    Transaction {
        /// The requests of the transaction.
        requests: Vec<Asked>,
        /// Time for which the transaction stays open after its requests.
        held: Duration,
        /// Whether the transaction is committed or aborted.
        commits: bool,
    },
    /// Writes indices that violate the protocol, and requests a reconnection once the daemon stops serving the ring.
    BreakRing,
    /// Stops reading replies and events for good.
    StopReading,
}

impl Step {
    /// Returns the number of requests for the rate.
    pub fn len(&self) -> usize {
        match self {
            Step::Requests(requests) => requests.len(),
            Step::Transaction { requests, .. } => requests.len() + 2,
            Step::BreakRing => 1,
            Step::StopReading => 0,
        }
    }

    /// Returns a step of as many harmless requests.
    pub fn harmless(&self) -> Step {
        Step::Requests(vec![(Operation::Read, words(&[NAME])); self.len()])
    }
}

/// A guest's role in an attack.
#[derive(Clone)]
pub struct Attacker {
    /// The attack that the guest takes part in.
    pub attack: &'static Attack,
    /// The guest's index in `group`.
    pub place: usize,
    /// All guests in the attack.
    pub group: Rc<[Domid]>,
}

impl Attacker {
    /// Returns the steps before the measurement.
    pub fn prepare(&self) -> Vec<Step> {
        (self.attack.prepare)(self)
    }

    /// Returns the steps of a round, sent at the same rate as harmless requests.
    pub fn repeat(&self, round: usize) -> Vec<Step> {
        (self.attack.repeat)(self, round)
    }

    /// Returns whether the guest is the first of its pair, which attacks the second.
    fn is_first(&self) -> bool {
        self.place.is_multiple_of(2)
    }

    /// Returns the second guest of the pair; without one, the guest itself.
    fn second(&self) -> Domid {
        let second = self.group.get(self.place | 1);
        second.copied().unwrap_or(self.group[self.place])
    }
}

/// An attack. In the case of all attacks at once, each guest takes part in one.
pub struct Attack {
    /// The attack's name on the command line and in the table.
    pub name: &'static str,
    prepare: fn(&Attacker) -> Vec<Step>,
    repeat: fn(&Attacker, usize) -> Vec<Step>,
    /// Whether a stopped client of the control domain watches all domains.
    pub stopped_client: bool,
    /// Minimum length of a round; a shorter one would end before the attack takes effect.
    pub time_min: Duration,
}

const fn attack(
    name: &'static str,
    prepare: fn(&Attacker) -> Vec<Step>,
    repeat: fn(&Attacker, usize) -> Vec<Step>,
) -> Attack {
    Attack { name, prepare, repeat, stopped_client: false, time_min: Duration::ZERO }
}

/// All attacks, in the order of the table.
pub static ATTACKS: [Attack; 14] = [
    attack("commit_events", watch_the_firsts_home, commit_as_the_first),
    attack("own_commit_events", watch_its_own_home, |_, round| commit_all_nodes(round)),
    attack("trie_memory", watch_deep_paths, |_, round| replace_a_watch(&deep_path(round))),
    attack("deep_watches", watch_deep_below_a_small_domain, replace_a_watch_below_a_small_domain),
    attack("contended_commits", nothing, commit_long_or_write_what_it_read),
    Attack {
        time_min: HELD.saturating_mul(3),
        ..attack("given_up_transactions", nothing, |_, _| hold_a_long_transaction())
    },
    attack("created_and_removed", nothing, |_, _| commit_what_is_created_and_removed()),
    Attack {
        stopped_client: true,
        ..attack("stopped_client", nothing, |_, round| write_many_nodes(round))
    },
    attack("event_amplification", watch_the_second_with_long_tokens, write_one_node_as_the_second),
    attack("ring_reconnect_log_flood", nothing, |_, _| vec![Step::BreakRing]),
    attack("kernel_events", nothing, |_, round| commit_below_a_device(round)),
    attack("special_watches", |_| watch_special_paths(), |_, round| write_many_nodes(round)),
    attack("wide_root_watches", |_| watch_the_upper_levels(), |_, round| write_many_nodes(round)),
    attack("ancestor_watches", watch_all_ancestors_of_the_second, write_deep_as_the_second),
];

fn nothing(_: &Attacker) -> Vec<Step> {
    Vec::new()
}

fn request(kind: Operation, strings: &[&str]) -> Asked {
    (kind, words(strings))
}

fn write(path: &str, value: impl AsRef<[u8]>) -> Asked {
    (Operation::Write, payload(path, value))
}

fn home(domid: Domid) -> String {
    format!("/local/domain/{domid}")
}

/// Returns a path of one-letter names of nearly maximum length, which differs from others in its first name.
fn deep(first: &str) -> String {
    format!("{first}{}", "/a".repeat((DEEP_BYTES - first.len()) / 2))
}

fn deep_path(number: usize) -> String {
    deep(&format!("{:x}", number % WATCHES))
}

/// Sets watches on these paths, each with its own token.
fn watches(paths: impl Iterator<Item = String>) -> Vec<Step> {
    let watch =
        |(number, path): (usize, String)| request(Operation::Watch, &[&path, &number.to_string()]);
    vec![Step::Requests(paths.take(WATCHES).enumerate().map(watch).collect())]
}

fn node(number: usize) -> String {
    format!("{}/{}", number % DIRECTORIES, number / DIRECTORIES)
}

fn all_nodes(value: &str) -> Vec<Asked> {
    (0..NODES).map(|number| write(&node(number), value)).collect()
}

/// Commits nearly all nodes that a guest may own in one transaction.
fn commit_all_nodes(round: usize) -> Vec<Step> {
    vec![committed(all_nodes(&round.to_string()))]
}

fn committed(requests: Vec<Asked>) -> Step {
    Step::Transaction { requests, held: Duration::ZERO, commits: true }
}

/// All guests watch the first one's root node, as often as the quota allows.
fn watch_the_firsts_home(attacker: &Attacker) -> Vec<Step> {
    let first = home(attacker.group[0]);
    let mut steps = watches(std::iter::repeat_n(first, WATCHES));
    if attacker.place == 0 {
        steps.insert(0, Step::Requests(all_nodes("")));
    }
    steps
}

fn commit_as_the_first(attacker: &Attacker, round: usize) -> Vec<Step> {
    if attacker.place == 0 { commit_all_nodes(round) } else { Vec::new() }
}

/// Each guest watches its own root node, as often as the quota allows.
fn watch_its_own_home(attacker: &Attacker) -> Vec<Step> {
    let mut steps = watches(std::iter::repeat_n(home(attacker.group[attacker.place]), WATCHES));
    steps.insert(0, Step::Requests(all_nodes("")));
    steps
}

/// Sets watches of a thousand levels that share no level.
fn watch_deep_paths(_: &Attacker) -> Vec<Step> {
    watches((0..WATCHES).map(deep_path))
}

fn replace_a_watch(path: &str) -> Vec<Step> {
    let [unwatch, watch] =
        [Operation::Unwatch, Operation::Watch].map(|kind| request(kind, &[path, "0"]));
    vec![Step::Requests(vec![watch, unwatch])]
}

/// Sets watches of a thousand levels below the root node of a domain that is removed repeatedly.
fn watch_deep_below_a_small_domain(attacker: &Attacker) -> Vec<Step> {
    watches((0..WATCHES).map(|number| deep_below_a_small_domain(attacker, number)))
}

fn deep_below_a_small_domain(attacker: &Attacker, number: usize) -> String {
    let (home, domid) = (home(small_domain(attacker.place)), attacker.group[attacker.place]);
    deep(&format!("{home}/{number:x}_{domid}"))
}

fn replace_a_watch_below_a_small_domain(attacker: &Attacker, round: usize) -> Vec<Step> {
    replace_a_watch(&deep_below_a_small_domain(attacker, WATCHES + round % WATCHES))
}

/// Creates and removes a tree of a thousand levels repeatedly.
fn long_transaction() -> impl Iterator<Item = Asked> {
    let tree = deep("q");
    (0..PAIRS).flat_map(move |_| [write(&tree, ""), request(Operation::Rm, &["q"])])
}

/// The first guest reads a node in a transaction that takes long to replay; the second rewrites that node with the same
/// value.
fn commit_long_or_write_what_it_read(attacker: &Attacker, _: usize) -> Vec<Step> {
    if !attacker.is_first() {
        return vec![Step::Requests(vec![write("x", "same"); 16])];
    }
    let read = request(Operation::Read, &[&format!("{}/x", home(attacker.second()))]);
    vec![committed(std::iter::once(read).chain(long_transaction()).collect())]
}

/// Holds a long transaction until its snapshot is discarded, so that it must be replayed.
fn hold_a_long_transaction() -> Vec<Step> {
    let requests = long_transaction().collect();
    vec![Step::Transaction { requests, held: HELD, commits: false }]
}

/// Commits a transaction whose nodes are created and removed in it, but must be kept until then.
fn commit_what_is_created_and_removed() -> Vec<Step> {
    vec![committed(long_transaction().collect())]
}

/// Writes one node after another.
fn write_many_nodes(round: usize) -> Vec<Step> {
    let write = |number| write(&format!("data/{}", (16 * round + number) % 900), "v");
    vec![Step::Requests((0..16).map(write).collect())]
}

/// The first guest watches one node of the second with long tokens, and reads no event.
fn watch_the_second_with_long_tokens(attacker: &Attacker) -> Vec<Step> {
    if !attacker.is_first() {
        return Vec::new();
    }
    let (path, token) = (format!("{}/x", home(attacker.second())), "t".repeat(TOKEN_BYTES));
    let watch = |number| request(Operation::Watch, &[&path, &format!("{number:04}{token}")]);
    vec![Step::Requests((0..WATCHES).map(watch).collect()), Step::StopReading]
}

fn write_one_node_as_the_second(attacker: &Attacker, _: usize) -> Vec<Step> {
    if attacker.is_first() {
        return Vec::new();
    }
    vec![Step::Requests(vec![write("x", "same"); 16])]
}

/// Changes nodes below that of a device watched by domain 0's kernel.
fn commit_below_a_device(round: usize) -> Vec<Step> {
    let write = |number| write(&format!("device/vif/0/state/{}", node(number)), round.to_string());
    vec![committed((0..NODES - DIRECTORIES).map(write).collect())]
}

/// Sets watches that each introduction and death of a domain matches.
fn watch_special_paths() -> Vec<Step> {
    let special = ["@releaseDomain", "@introduceDomain"].map(str::to_owned);
    watches(special.into_iter().cycle())
}

/// Sets watches that each write matches.
fn watch_the_upper_levels() -> Vec<Step> {
    let levels = ["/", "/local", "/local/domain"].map(str::to_owned);
    watches(levels.into_iter().cycle())
}

/// The first guest watches each ancestor of one node of the second.
fn watch_all_ancestors_of_the_second(attacker: &Attacker) -> Vec<Step> {
    if !attacker.is_first() {
        return vec![Step::Requests(vec![write(&deep("x"), "")])];
    }
    let (home, leaf) = (home(attacker.second()), deep("x"));
    let levels = leaf.match_indices('/').map(|(at, _)| &leaf[..at]);
    watches(levels.map(|level| format!("{home}/{level}")))
}

fn write_deep_as_the_second(attacker: &Attacker, round: usize) -> Vec<Step> {
    if attacker.is_first() {
        return Vec::new();
    }
    vec![Step::Requests(vec![write(&deep("x"), round.to_string()); 4])]
}
