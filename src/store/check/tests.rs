//! Each kind of fault is injected into a sound store, and the check must name it.

use super::*;
use crate::store::alone::alone;
use crate::store::tree::get_mut;
use crate::store::{Caller, Executed, Generations, Op, Verb, sweep};
use crate::types::{Entry as PermEntry, Path, PathBuf, PermSet, ShardId, Subject};
use crate::watch::{Entry, Watcher};

fn path(text: &str) -> PathBuf {
    Path::parse(text.as_bytes()).unwrap().to_buf()
}

/// A store of four shards with a partition, a backend and some nodes of domain 5.
struct World {
    store: Store,
    generations: Generations,
}

impl World {
    fn new() -> World {
        let store = alone(Layout::new(4));
        let mut world = World { store, generations: Generations::default() };
        world.store.registry.admit(Domid(5), 1).unwrap();
        for partition in ["/local/domain/5", "/local/domain/0/backend/vif/5", "/vm/abc"] {
            world.write(partition, "");
            world.give(partition, 5);
        }
        world.write("/local/domain/5/a/b", "value");
        world.write("/local/domain/5/toolstack", "value");
        world.give("/local/domain/5/toolstack", 0);
        world.write("/tool/greeting", "hello");
        assert_eq!(world.findings(), [""; 0]);
        world
    }

    fn run(&mut self, path: &str, verb: Verb<'_>) -> Executed {
        let domain = self.store.registry.get(Domid::CONTROL).unwrap();
        let caller = Caller { domain, subject: Subject::CONTROL, epoch: 0, unblocked: None };
        let path = Path::parse(path.as_bytes()).unwrap();
        let op = Op { path, verb };
        self.store.execute(&caller, &op, &mut self.generations, &mut Vec::new()).unwrap()
    }

    fn write(&mut self, path: &str, value: &str) {
        self.run(path, Verb::Write(value.as_bytes().into()));
    }

    fn give(&mut self, path: &str, owner: u16) {
        let entry = PermEntry::parse(format!("n{owner}").as_bytes()).unwrap();
        let perms = PermSet::new(self.store.registry.now(), entry, &[]);
        self.run(path, Verb::SetPerms(Arc::new(perms)));
    }

    /// Changes the tree that holds `text`.
    fn tree<R>(&self, text: &str, change: impl FnOnce(&mut Tree) -> R) -> R {
        let shard = self.store.layout.partition(path(text).as_path()).shard;
        change(&mut self.store.shards.write(shard).tree)
    }

    fn node(&self, text: &str, change: impl FnOnce(&mut super::super::Node)) {
        let path = path(text);
        let partition = self.store.layout.partition(path.as_path());
        self.tree(text, |tree| {
            let root = tree.root_mut(&partition).unwrap();
            change(get_mut(root, &partition, path.as_path()).unwrap());
        });
    }

    fn findings(&self) -> Vec<String> {
        check(&self.store).ok().unwrap().findings.sentences().to_vec()
    }

    /// Asserts that the findings are exactly these.
    #[track_caller]
    fn finds(&self, expected: &[&str]) {
        let mut findings = self.findings();
        findings.sort_unstable();
        assert_eq!(findings, expected);
    }
}

#[test]
fn check_finds_a_wrong_account() {
    let world = World::new();
    let account = &world.store.registry.get(Domid(5)).unwrap().account;
    account.charge(Quota::Nodes, 1);
    world.finds(&["domain 5 owns 5 nodes, and its account says 6"]);
    account.release(Quota::Nodes, 1);
    let bytes = account.used(Quota::Memory);
    account.release(Quota::Memory, 1);
    let found =
        format!("domain 5's nodes take {bytes} bytes, and its account says {} in all", bytes - 1);
    world.finds(&[&found]);
}

#[test]
fn check_finds_a_name_without_a_node() {
    let world = World::new();
    world.node("/local/domain/5/a", |node| {
        node.insert_child(0, b"ghost", None);
    });
    world.finds(&["/local/domain/5/a/ghost is a name without a node"]);
}

#[test]
fn check_finds_a_name_without_its_partition() {
    let world = World::new();
    world.node("/local/domain/0/backend/vif", |node| {
        node.insert_child(0, b"6", None);
    });
    world.finds(&["/local/domain/0/backend/vif/6 is a name without a partition in shard 2"]);
}

#[test]
fn check_finds_a_partition_root_kept_by_its_parent() {
    let world = World::new();
    let root = path("/local/domain/0/backend/vif/5");
    let node = world.tree("/local/domain/0/backend/vif/5", |tree| {
        tree.forget_owned(Domid(5), root.as_path());
        tree.set_root(root.as_path(), None)
    });
    world.node("/local/domain/0/backend/vif", |vif| {
        vif.insert_child(0, b"5", node);
    });
    world.finds(&[
        "/local/domain/0/backend/vif/5 is stored in its parent, but should be a partition root",
        "the index of owners of shard 0 lacks /local/domain/0/backend/vif/5 of domain 5",
    ]);
}

#[test]
fn check_finds_a_partition_without_a_name_or_a_parent() {
    let world = World::new();
    world.node("/local/domain/0/backend/vif", |node| {
        node.remove_child(0, b"5");
    });
    let nameless = "/local/domain/0/backend/vif/5 exists, but is not among its parent's children";
    world.finds(&[nameless]);
    world.tree("/local/domain/0", |tree| {
        let root = path("/local/domain/0");
        tree.set_root(root.as_path(), None);
    });
    let findings = world.findings();
    let parentless = "/local/domain/0/backend/vif/5 exists, but its parent does not";
    assert!(findings.iter().any(|finding| finding == parentless), "{findings:?}");
}

#[test]
fn check_finds_a_partition_in_the_wrong_shard() {
    let world = World::new();
    let root = path("/local/domain/5");
    world.tree("/local/domain/5", |tree| tree.forget_owned(Domid(5), root.as_path()));
    let node = world.tree("/local/domain/5", |tree| tree.set_root(root.as_path(), None)).unwrap();
    let mut wrong = world.store.shards.write(ShardId(3));
    wrong.tree.set_root(root.as_path(), Some(node));
    wrong.tree.note_owned(Domid(5), root.as_path());
    drop(wrong);
    world.finds(&[
        "/local/domain/5 is a name without a partition in shard 1",
        "/local/domain/5 is in shard 3, and belongs to shard 1",
    ]);
}

#[test]
fn check_finds_invalid_names_and_wrong_sums() {
    let world = World::new();
    world.node("/local/domain/5/a", |node| {
        // Once there were many children they stay in a map, which stores the sum of their names instead of computing
        // it.
        let names: Vec<_> = (0..40).map(|number| format!("n{number}")).collect();
        names.iter().for_each(|name| drop(node.insert_child(0, name.as_bytes(), None)));
        names.iter().for_each(|name| drop(node.remove_child(0, name.as_bytes())));
        node.falsify_names_bytes();
    });
    world.finds(&["/local/domain/5/a: its children's names take 2 bytes, not 3"]);
    let world = World::new();
    world.node("/local/domain/5/a", |node| {
        let child = node.remove_child(0, b"b").unwrap();
        node.insert_child(0, b"b c", child);
    });
    let findings = world.findings();
    let name = "/local/domain/5/a/b c is not a valid node name";
    assert!(findings.iter().any(|finding| finding == name), "{findings:?}");
}

#[test]
fn check_finds_missing_and_extra_entries_of_the_owner_index() {
    let world = World::new();
    let (partition, below) = (path("/local/domain/5"), path("/local/domain/5/a"));
    world.tree("/local/domain/5", |tree| tree.forget_owned(Domid(5), partition.as_path()));
    world.finds(&["the index of owners of shard 1 lacks /local/domain/5 of domain 5"]);
    let world = World::new();
    world.tree("/local/domain/5", |tree| tree.note_owned(Domid(5), below.as_path()));
    world.finds(&[
        "the index of owners of shard 1 has /local/domain/5/a for domain 5, whose nodes \
                   do not begin there",
    ]);
}

#[test]
fn check_finds_a_birth_that_differs_from_the_birth_table() {
    let world = World::new();
    let birth = world.store.registry.births().of(Domid(5));
    world.store.registry.births().begin(Domid(5), birth + 7);
    let found = format!("domain 5 was born at {birth}, and the table of births says {}", birth + 7);
    world.finds(&[&found]);
    world.store.registry.births().begin(Domid(5), birth);
    world.store.registry.births().begin(Domid(9), 3);
    world.finds(&["domain 9 is not known, and the table of births says 3"]);
}

#[test]
fn check_finds_unswept_nodes_of_a_dead_domain() {
    let world = World::new();
    world.store.registry.bury(&world.store.registry.get(Domid(5)).unwrap());
    let findings = world.findings();
    assert_eq!(findings.len(), 2, "one finding per shard: {findings:?}");
    let sentence = "nodes belong to a domain 5 that is dead, such as /";
    assert!(findings.iter().all(|finding| finding.contains(sentence)), "{findings:?}");
}

#[test]
fn check_waits_for_a_running_sweep() {
    let mut world = World::new();
    let domain = world.store.registry.get(Domid(5)).unwrap();
    assert!(world.store.registry.bury(&domain));
    let control = world.store.registry.get(Domid::CONTROL).unwrap();
    let by = Caller { domain: control, subject: Subject::CONTROL, epoch: 0, unblocked: None };
    let World { store, generations } = &mut world;
    let found = std::thread::scope(|scope| {
        let check = scope.spawn(|| check(store).ok().unwrap().findings.len());
        std::thread::sleep(SWEEP_PAUSE / 2);
        for executed in sweep(store, &domain, &by, generations) {
            assert!(store.settle(executed.removed).is_none());
        }
        check.join().unwrap()
    });
    assert_eq!(found, 0);
}

#[test]
fn check_fails_while_a_removal_is_unsettled() {
    let mut world = World::new();
    let executed = world.run("/local/domain/5/a", Verb::Rm);
    assert_eq!(check(&world.store).err(), Some(CheckError { removals: 1 }));
    assert!(world.store.settle(executed.removed).is_none());
    world.finds(&[]);
}

fn entry(seq: u64) -> Entry {
    let watcher = Watcher { thread: 2, connection: 0, group: u32::try_from(seq).unwrap(), seq };
    Entry { watcher, domid: Domid(5), depth: None, watches: 1 }
}

#[test]
fn check_finds_miscounted_and_misplaced_watches() {
    let world = World::new();
    for (seq, watched) in ["/", "@releaseDomain/7", "/@a/b", "/local/domain/5/a"].iter().enumerate()
    {
        world.store.watch(path(watched).as_path(), entry(seq as u64));
    }
    world.finds(&[]);
    assert_eq!(check(&world.store).ok().unwrap().watches, 4);
    world.store.shards.write(ShardId(2)).watches.falsify_len();
    world.finds(&["the trie of shard 2 has 0 watches, but its counter says 1"]);
    let world = World::new();
    world.store.publisher.global.insert(path("/local/domain/5/a").as_path(), entry(1));
    world.store.shards.write(ShardId(0)).watches.insert(path("/local").as_path(), entry(2));
    world.finds(&[
        "a watch on /local is in the trie of shard 0",
        "a watch on /local/domain/5/a is in the global watch trie",
    ]);
}

#[test]
fn check_finds_watches_that_differ_from_the_connections() {
    let world = World::new();
    let low = path("/local/domain/5/a");
    let check = |watches: &[(PathBuf, Entry)]| {
        let tries = Tries::of(&world.store);
        let list = WatchList { thread: 2, watches: watches.to_vec(), tries };
        list.check(world.store.layout).sentences().to_vec()
    };
    world.store.watch(low.as_path(), entry(1));
    assert_eq!(check(&[(low.clone(), entry(1))]), [""; 0]);
    assert_eq!(
        check(&[(low.clone(), entry(1)), (path("@releaseDomain"), entry(2))]),
        ["domain 5's watch on @releaseDomain is not in the global watch trie"]
    );
    assert_eq!(
        check(&[]),
        ["the trie of shard 1 has a watch of domain 5 on /local/domain/5/a that no connection of \
          thread 2 has set"]
    );
    assert_eq!(
        check(&[(path("/local/domain/5/b"), entry(1))]),
        [
            "domain 5's watch on /local/domain/5/b is a different watch on /local/domain/5/a in the trie of \
          shard 1"
        ]
    );
    let deep = Entry { depth: Some(1), ..entry(1) };
    assert!(check(&[(low.clone(), deep)])[0].contains("is a different watch"), "the depths differ");
    world.store.publisher.global.insert(low.as_path(), entry(1));
    assert!(check(&[(low.clone(), entry(1))])[0].contains("in the tries twice"));
    assert_eq!(world.store.layout.partition(low.as_path()).shard, ShardId(1));
}
