//! A guest is charged for the memory that the daemon keeps for it: the daemon's memory stays within 1.25 times the sum
//! of the charges, whatever kind of objects the guests create.

use std::time::Duration;

use super::common::{Control, World, op};
use super::watch_all;

/// Number of guests that do the same in one daemon: enough to exceed the allocator's slack. Each costs time.
const GUESTS: u16 = 8;
/// Memory that the daemon may use in addition to the charges: partly used pages of its allocator.
const SLACK_BYTES: u64 = 4 << 20;
/// The quota `memory`.
const MEMORY: u32 = 2_621_440;
/// The quota `memory`, plus the bytes that one request of these tests copies above it.
const MEMORY_MAX: u32 = MEMORY + (8 << 10);

/// Returns the longest possible path of one-letter names.
fn deep(first: &str) -> String {
    format!("{first}{}", "/a".repeat((2040 - first.len()) / 2))
}

/// Lets each of [`GUESTS`] fill its quotas, then compares their charges with the daemon's growth.
fn fills_within_its_charge(shape: &str, fill: impl Fn(&mut World, u16)) {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        (1..=GUESTS).for_each(|domid| _ = world.guest(domid));
        let before = world.daemon.resident_bytes();
        (1..=GUESTS).for_each(|domid| fill(&mut world, domid));
        let grown = world.daemon.resident_bytes().saturating_sub(before);
        let charges: Vec<_> = (1..=GUESTS).map(|domid| world.accounted(domid, "memory")).collect();
        let charged: u64 = charges.iter().map(|&charge| u64::from(charge)).sum();
        println!("{shape}, {shards} shards: charged {charged}, grown by {grown} bytes");
        assert!(charged > u64::from(GUESTS) << 18, "{shape}: only {charged} bytes charged");
        assert!(charges.iter().all(|&charge| charge <= MEMORY_MAX), "{shape}: {charges:?}");
        assert!(
            grown <= charged / 4 * 5 + SLACK_BYTES,
            "{shape}: {grown} bytes used, {charged} charged"
        );
        world.check_store();
    }
}

#[test]
fn deep_watches_are_charged() {
    fills_within_its_charge("deep watches", |world, domid| {
        let paths = (0..1024).map(|i| (deep(&format!("{i:x}")), "t".to_owned()));
        watch_all(world.guest(domid), paths);
    });
}

#[test]
fn short_watches_are_charged() {
    fills_within_its_charge("short watches", |world, domid| {
        watch_all(world.guest(domid), (0..1024).map(|i| (format!("{i:x}"), "t".to_owned())));
    });
}

#[test]
fn watches_at_every_level_are_charged() {
    fills_within_its_charge("watches at every level", |world, domid| {
        let paths = (0..1024).map(|i| (format!("x{}", "/a".repeat(i)), "t".to_owned()));
        watch_all(world.guest(domid), paths.filter(|(path, _)| path.len() < 2048));
    });
}

/// A watch costs the same whether or not shorter paths on its way were watched meanwhile.
#[test]
fn removed_watches_above_a_deeper_one_leave_no_memory() {
    const LEVELS: usize = 200;
    let set_and_keep_the_deepest = |world: &mut World, first: usize| {
        let guest = world.guest(1);
        let level = |depth| format!("{first:x}{}", "/a".repeat(depth));
        assert_eq!(watch_all(guest, (1..=LEVELS).map(|i| (level(i), "t".to_owned()))), LEVELS);
        let unwatch = |i| (op::UNWATCH, 0, format!("{}\0t\0", level(i)).into_bytes());
        super::all_ok(&guest.pipeline(&(1..LEVELS).map(unwatch).collect::<Vec<_>>()));
    };
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        set_and_keep_the_deepest(&mut world, 0);
        let before = world.daemon.resident_bytes();
        (1..=300).for_each(|first| set_and_keep_the_deepest(&mut world, first));
        let grown = world.daemon.resident_bytes().saturating_sub(before);
        println!("{shards} shards: grown by {grown} bytes");
        // 300 watches of 1 KiB each; with a node for each level that was watched it would be above 6 MB.
        assert!(grown < 2 << 20, "300 watches take {grown} bytes");
        world.check_store();
    }
}

#[test]
fn long_tokens_are_charged() {
    fills_within_its_charge("long tokens", |world, domid| {
        let watches = (0..1024).map(|i| ("x".to_owned(), format!("{i}{}", "t".repeat(2000))));
        watch_all(world.guest(domid), watches);
    });
}

/// The daemon's overhead of an event is larger than the bytes of a small one.
#[test]
fn small_events_that_are_not_read_are_charged() {
    const WATCHES: u32 = 500;
    const EVENT_BYTES: u32 = 100;
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.guest(1).write("d", "").unwrap();
        let watches = (0..WATCHES).map(|i| ("d".to_owned(), i.to_string()));
        assert_eq!(watch_all(world.guest(1), watches), WATCHES as usize);
        let before = world.accounted(1, "memory");
        world.admin.write("/local/domain/1/d", "v").unwrap();
        // Each request takes a pass of the thread, which queues some of the events.
        let charged = |world: &mut World| world.accounted(1, "memory") - before;
        let is_charged = (0..1000).any(|_| charged(&mut world) > WATCHES * EVENT_BYTES);
        assert!(is_charged, "{} bytes charged for {WATCHES} events", charged(&mut world));
        (0..WATCHES).for_each(|_| drop(world.next_event("dom1")));
        world.check_store();
    }
}

#[test]
fn small_events_use_no_more_memory_than_charged() {
    fills_within_its_charge("small events", |world, domid| {
        world.guest(domid).write("d", "").unwrap();
        watch_all(world.guest(domid), (0..1000).map(|i| ("d".to_owned(), i.to_string())));
        for i in 0..4 {
            world.admin.write(&format!("/local/domain/{domid}/d/{i}"), "").unwrap();
        }
    });
}

#[test]
fn small_nodes_are_charged() {
    fills_within_its_charge("small nodes with permissions of their own", |world, domid| {
        world.admin.set_quota(Some(domid), "nodes", 0);
        world.admin.set_quota(Some(domid), "node-size", 0);
        let guest = world.guest(domid);
        for directory in 0..60 {
            let nodes = (0..128).map(|node| format!("{directory}/a-name-of-19-bytes{node}"));
            let nodes: Vec<_> = nodes.collect();
            let writes = nodes.iter().map(|node| (op::WRITE, 0, format!("{node}\0").into_bytes()));
            guest.pipeline(&writes.collect::<Vec<_>>());
            let perms = nodes.iter().map(|node| {
                (op::SET_PERMS, 0, format!("{node}\0n{domid}\0r0\0r0\0r0\0").into_bytes())
            });
            guest.pipeline(&perms.collect::<Vec<_>>());
        }
    });
}

/// The index of owners keeps the path of each node whose parent has another owner.
#[test]
fn nodes_far_below_other_owners_are_charged_with_their_paths() {
    let far = format!("/far/down/{}", ["x".repeat(250).as_str(); 8].join("/"));
    fills_within_its_charge("nodes far below others", |world, domid| {
        for directory in 0..3 {
            let directory = format!("{far}/{domid}-{directory}");
            world.admin.mkdir(&directory).unwrap();
            world.admin.set_perms(&directory, &format!("b0 b{domid}")).unwrap();
            let writes =
                (0..300).map(|i| (op::WRITE, 0, format!("{directory}/{i}\0").into_bytes()));
            super::all_ok(&world.guest(domid).pipeline(&writes.collect::<Vec<_>>()));
        }
        // The charge is given back.
        let charged = world.accounted(domid, "memory");
        world.guest(domid).rm(&format!("{far}/{domid}-0/7")).unwrap();
        assert!(charged - world.accounted(domid, "memory") > 2000);
    });
}

/// Returns a partition root with a long path; the daemon keeps the path, by which it finds the root.
fn long_home(domid: u16, i: u16) -> String {
    format!("/local/domain/{domid}/backend/{}/{}", "k".repeat(1900), 1000 + i)
}

#[test]
fn partitions_are_charged_with_their_paths() {
    fills_within_its_charge("partitions with long paths", |world, domid| {
        let writes = (0..350).map(|i| (op::WRITE, 0, (long_home(domid, i) + "\0").into_bytes()));
        super::all_ok(&world.guest(domid).pipeline(&writes.collect::<Vec<_>>()));
    });
}

#[test]
fn partitions_in_transactions_are_charged_with_their_paths() {
    fills_within_its_charge("partitions with long paths in transactions", |world, domid| {
        let guest = world.guest(domid);
        for kind in [op::READ, op::WRITE] {
            let tx = guest.start().unwrap();
            let requests = (0..250).map(|i| (kind, tx, (long_home(domid, i) + "\0").into_bytes()));
            guest.pipeline(&requests.collect::<Vec<_>>());
        }
    });
}

#[test]
fn nodes_of_an_open_transaction_are_charged() {
    fills_within_its_charge("what a transaction creates", |world, domid| {
        let guest = world.guest(domid);
        for _ in 0..8 {
            let tx = guest.start().unwrap();
            let writes = (0..120)
                .map(|i| (op::WRITE, tx, format!("n{i}\0{}", "v".repeat(1900)).into_bytes()));
            super::all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
        }
        let charged = world.accounted(domid, "memory");
        assert!(charged >= 8 * 120 * 1900, "{charged} bytes charged");
    });
}

/// Returns requests that create a tree of 970 nodes and remove it again.
fn create_and_remove(tx: u32, times: usize) -> Vec<(u32, u32, Vec<u8>)> {
    let tree = format!("x{}\0", "/a".repeat(969));
    let pair = || [(op::WRITE, tx, tree.clone().into_bytes()), (op::RM, tx, b"x\0".to_vec())];
    (0..times).flat_map(|_| pair()).collect()
}

#[test]
fn nodes_that_a_transaction_removes_again_are_charged() {
    fills_within_its_charge("what a transaction removes again", |world, domid| {
        let guest = world.guest(domid);
        let tx = guest.start().unwrap();
        let replies = guest.pipeline(&create_and_remove(tx, 30));
        assert!(replies[..10].iter().all(Result::is_ok), "{replies:?}");
        assert!(replies.contains(&Err("ENOSPC".to_owned())));
    });
}

/// A request that the memory quota refuses is not part of its transaction: the rest can be committed.
#[test]
fn transaction_at_the_memory_quota_commits_what_succeeded() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let guest = world.guest(1);
        let tx = guest.start().unwrap();
        guest.request(op::WRITE, tx, b"y\0v").unwrap();
        let replies = guest.pipeline(&create_and_remove(tx, 30));
        assert!(replies.contains(&Err("ENOSPC".to_owned())));
        let charged = world.accounted(1, "memory");
        assert!(charged <= MEMORY, "{charged} bytes");
        let guest = world.guest(1);
        guest.commit(tx).unwrap();
        assert_eq!(guest.read("y").as_deref(), Ok(&b"v"[..]));
        let charged = world.accounted(1, "memory");
        assert!(charged < 200 << 10, "{charged} bytes");
        world.check_store();
    }
}

/// A guest above its quota is still read, because only its own requests can bring it below the quota again.
#[test]
fn guest_above_its_memory_quota_with_nothing_unread_is_read() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let guest = world.guest(1);
        let writes = (0..100).map(|i| (op::WRITE, 0, format!("d/{i}\0").into_bytes()));
        super::all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
        let used = world.accounted(1, "memory");
        world.admin.set_quota(Some(1), "memory", used / 2);
        let guest = world.guest(1);
        assert_eq!(guest.write("e", "v"), Err("ENOSPC".to_owned()));
        assert_eq!(guest.read("d/7").as_deref(), Ok(&b""[..]));
        guest.request(op::RM, 0, b"d\0").unwrap();
        guest.write("e", "v").unwrap();
        world.check_store();
    }
}

/// A transaction whose snapshots are dropped needs as much memory again at its next request, so its guest cannot fill
/// its quota with something else meanwhile.
#[test]
fn transaction_without_snapshots_stays_charged() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let guest = world.guest(1);
        let tx = guest.start().unwrap();
        super::all_ok(&guest.pipeline(&create_and_remove(tx, 10)));
        let writes: Vec<_> = (0..300)
            .map(|i| (op::WRITE, tx, format!("n{i}\0{}", "v".repeat(1900)).into_bytes()))
            .collect();
        super::all_ok(&guest.pipeline(&writes));
        let charged = world.accounted(1, "memory");
        // After a second the snapshots are dropped, and nodes that others replace are no longer kept.
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(world.accounted(1, "memory"), charged);
        let value = world.guest(1).request(op::READ, tx, b"n7\0").unwrap();
        assert_eq!(value.len(), 1900);
        let again = world.accounted(1, "memory");
        assert!(again.abs_diff(charged) < 1 << 10, "{charged} bytes, then {again}");
        world.guest(1).commit(tx).unwrap();
        world.check_store();
    }
}

#[test]
fn copies_of_open_transactions_are_charged() {
    fills_within_its_charge("copies of open transactions", |world, domid| {
        let guest = world.guest(domid);
        let writes: Vec<_> = (0..900)
            .map(|i| (op::WRITE, 0, format!("{}/{}\0", i / 30, i % 30).into_bytes()))
            .collect();
        guest.pipeline(&writes);
        for _ in 0..100 {
            let Ok(tx) = guest.start() else { break };
            let writes = (0..30).map(|i| (op::WRITE, tx, format!("{i}/0\0v").into_bytes()));
            guest.pipeline(&writes.collect::<Vec<_>>());
        }
    });
}

/// The default quotas admit everything that C xenstored's do: nodes of the largest size, and watches.
#[test]
fn largest_guest_that_c_xenstored_admits_is_admitted() {
    let mut world = World::new(Control::Socket, 2);
    let guest = world.guest(5);
    // The partition root is the first node; permissions, C xenstored's header and names count towards a node's size.
    let path = |i: u32| if i < 31 { format!("{i}") } else { format!("{}/{i}", i % 31) };
    let writes: Vec<_> = (0..999)
        .map(|i| {
            let value = "v".repeat(if i < 31 { 1800 } else { 2000 });
            (op::WRITE, 0, format!("{}\0{value}", path(i)).into_bytes())
        })
        .collect();
    super::all_ok(&guest.pipeline(&writes));
    let paths = (0..128).map(|i| (format!("{}/device/vif/0/state", path(i)), format!("{i}-token")));
    assert_eq!(watch_all(guest, paths), 128);
}
