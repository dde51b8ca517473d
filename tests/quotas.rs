//! Quotas: a limit of N allows exactly N; only unprivileged domains have limits.

mod common;

use common::{Control, Reply, World, check_with, op};

/// Runs a test over both transports of the control domain, with 1 and with 4 shards.
fn each_world(test: impl Fn(&mut World)) {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            test(&mut World::new(control, shards));
        }
    }
}

fn refused(reply: Reply) {
    assert_eq!(reply, Err("ENOSPC".to_owned()));
}

#[test]
fn nodes_are_counted_exactly() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "nodes", 10);
        // The partition root is one of them.
        let guest = world.guest(5);
        for i in 0..8 {
            guest.write(&format!("n{i}"), "v").unwrap();
        }
        // The quota admits one more node; of two new levels, neither is created.
        refused(guest.write("deep/er", "v"));
        refused(guest.mkdir("deep/er/still"));
        assert_eq!(guest.read("deep"), Err("ENOENT".to_owned()));
        guest.write("last", "v").unwrap();
        refused(guest.write("more", "v"));
        refused(guest.mkdir("more"));
        guest.write("n0", "other").unwrap();
        assert_eq!(world.nodes_of(5), 10);
        world.guest(5).rm("n0").unwrap();
        assert_eq!(world.nodes_of(5), 9);
        world.guest(5).mkdir("more").unwrap();
        refused(world.guest(5).mkdir("again"));
        // The control domain has no limit, not even below a guest's node.
        let control = world.client("dom0");
        for i in 0..20 {
            control.write(&format!("/local/domain/5/by0-{i}"), "v").unwrap();
        }
        world.check_store();
    });
}

#[test]
fn quota_of_zero_means_no_limit() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "nodes", 0);
        // The names of the children would exceed the size of their parent.
        world.admin.set_quota(Some(5), "node-size", 0);
        let requests: Vec<_> =
            (0..1100).map(|i| (op::WRITE, 0, format!("n{i}\0").into_bytes())).collect();
        assert!(world.guest(5).pipeline(&requests).iter().all(Result::is_ok));
        assert_eq!(world.nodes_of(5), 1101);
        // The limit is below the current usage: nothing more is created, and existing nodes stay usable.
        world.admin.set_quota(Some(5), "nodes", 5);
        refused(world.guest(5).write("another", "v"));
        world.guest(5).write("n7", "v").unwrap();
    });
}

#[test]
fn change_of_owner_moves_the_charge() {
    each_world(|world| {
        world.guest(5);
        world.guest(6);
        world.admin.write("/gift/inside", "v").unwrap();
        world.admin.set_perms("/gift", "n5").unwrap();
        assert_eq!((world.nodes_of(5), world.nodes_of(6)), (2, 1));
        world.admin.set_perms("/gift", "n6 b5").unwrap();
        assert_eq!((world.nodes_of(5), world.nodes_of(6)), (1, 2));
        // The creator of a node is charged, wherever the node is.
        world.guest(5).write("/gift/of5", "v").unwrap();
        assert_eq!((world.nodes_of(5), world.nodes_of(6)), (2, 2));
        world.admin.rm("/gift").unwrap();
        assert_eq!((world.nodes_of(5), world.nodes_of(6)), (1, 1));
        world.check_store();
    });
}

#[test]
fn watches_are_counted_exactly() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "watches", 3);
        let guest = world.guest(5);
        for token in ["a", "b", "c"] {
            guest.watch("x", token).unwrap();
            guest.next_event();
        }
        refused(guest.watch("x", "d"));
        assert_eq!(guest.watch("x", "a"), Err("EEXIST".to_owned()));
        guest.unwatch("x", "a").unwrap();
        guest.watch("x", "d").unwrap();
        refused(guest.watch("x", "a"));
        guest.request(op::RESET_WATCHES, 0, "\0").unwrap();
        guest.watch("x", "a").unwrap();
        // Watches of others and of the control domain do not count.
        world.guest(6).watch("/local/domain/5/x", "t").unwrap();
        for i in 0..10 {
            world.client("dom0").watch("/local/domain/5/x", &i.to_string()).unwrap();
        }
        assert_eq!(world.accounted(5, "watches"), 1);
    });
}

#[test]
fn transactions_are_counted_exactly() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "transactions", 3);
        let guest = world.guest(5);
        let open = [(); 3].map(|()| guest.start().unwrap());
        assert_eq!(guest.start(), Err("ENOSPC".to_owned()));
        guest.commit(open[1]).unwrap();
        let again = guest.start().unwrap();
        assert_eq!(guest.start(), Err("ENOSPC".to_owned()));
        for tx in [open[0], open[2], again] {
            guest.commit(tx).unwrap();
        }
        let control = world.client("dom0");
        for _ in 0..20 {
            control.start().unwrap();
        }
    });
}

#[test]
fn default_quotas_suit_real_use() {
    each_world(|world| {
        let guest = world.guest(5);
        for _ in 0..256 {
            guest.start().unwrap();
        }
        assert_eq!(guest.start(), Err("ENOSPC".to_owned()));
        for i in 0..1024 {
            guest.watch("x", &i.to_string()).unwrap();
        }
        refused(guest.watch("x", "more"));
    });
}

#[test]
fn permissions_of_a_node_are_limited() {
    check_with(
        |world| {
            world.guest(5);
            world.admin.set_quota(Some(5), "node-permissions", 3);
        },
        "
        dom5 MKDIR x| -> OK
        dom5 SET_PERMS x|n5|r1|r2| -> OK
        dom5 SET_PERMS x|n5|r1|r2|r3| -> ENOSPC
        dom5 GET_PERMS x| -> n5|r1|r2|
        dom0 SET_PERMS /local/domain/5/x|n5|r1|r2|r3|r4|r6|r7| -> OK
        ",
    );
}

#[test]
fn path_length_is_limited() {
    check_with(
        |world| {
            world.guest(5);
            world.admin.set_quota(Some(5), "path-max", 20);
        },
        "
        dom5 WRITE {a*20}|v -> OK
        dom5 WRITE {a*21}|v -> EINVAL
        dom5 WRITE /local/domain/5/{a*20}|v -> OK
        dom5 READ /local/domain/5/{a*21}| -> EINVAL
        dom5 WATCH {a*21}|t| -> EINVAL
        dom0 WRITE /local/domain/5/{a*21}|v -> OK
        ",
    );
}

#[test]
fn node_size_is_limited() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "node-size", 500);
        let guest = world.guest(5);
        guest.write("x", &"v".repeat(400)).unwrap();
        refused(guest.write("x", &"v".repeat(501)));
        refused(guest.write("y", &"v".repeat(501)));
        assert_eq!(guest.read("x").map(|value| value.len()), Ok(400));
        assert_eq!(guest.read("y"), Err("ENOENT".to_owned()));
        // Every size above the largest accepted one was refused, so the limit is a single number.
        let largest = (401..=500).filter(|&n| guest.write("x", &"v".repeat(n)).is_ok()).max();
        let largest = largest.unwrap_or(400);
        assert_eq!(guest.read("x").map(|value| value.len()), Ok(largest));
        // Names of children count.
        let mut made = 0;
        while made < 20 && guest.mkdir(&format!("d/{made}{}", "n".repeat(60))).is_ok() {
            made += 1;
        }
        assert!((6..=8).contains(&made), "{made} names of 61 or 62 bytes within 500");
        world.client("dom0").write("/local/domain/5/x", &"v".repeat(600)).unwrap();
        world.check_store();
    });
}

#[test]
fn nodes_of_a_transaction_are_limited() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "transaction-nodes", 20);
        let guest = world.guest(5);
        let tx = guest.start().unwrap();
        let mut replies = (0..40).map(|i| guest.request(op::WRITE, tx, format!("n{i}\0v")));
        let fit = replies.by_ref().take_while(Result::is_ok).count();
        assert!((10..=20).contains(&fit), "{fit} new nodes in a transaction of 20");
        drop(replies);
        refused(guest.request(op::WRITE, tx, "more\0v"));
        guest.request(op::TRANSACTION_END, tx, "F\0").unwrap();
        assert_eq!(guest.directory("/local/domain/5").unwrap(), Vec::<String>::new());
    });
}

#[test]
fn transaction_is_charged_when_it_commits() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "nodes", 4);
        let guest = world.guest(5);
        // The transaction's own count is checked at each operation.
        let tx = guest.start().unwrap();
        for i in 0..3 {
            guest.request(op::WRITE, tx, format!("n{i}\0v")).unwrap();
        }
        refused(guest.request(op::WRITE, tx, "more\0v"));
        guest.request(op::RM, tx, "n0\0").unwrap();
        guest.request(op::WRITE, tx, "more\0v").unwrap();
        assert_eq!(world.nodes_of(5), 1);
        let guest = world.guest(5);
        assert_eq!(guest.commit(tx).as_deref(), Ok(&b"OK\0"[..]));
        assert_eq!(world.nodes_of(5), 4);
        // Each of two transactions fits alone, but not both: the second is refused as a whole.
        let guest = world.guest(5);
        guest.rm("n1").unwrap();
        guest.rm("n2").unwrap();
        let (one, two) = (guest.start().unwrap(), guest.start().unwrap());
        for i in 0..2 {
            guest.request(op::WRITE, one, format!("one{i}\0v")).unwrap();
            guest.request(op::WRITE, two, format!("two{i}\0v")).unwrap();
        }
        assert_eq!(guest.commit(one).as_deref(), Ok(&b"OK\0"[..]));
        let second = guest.commit(two);
        assert!(
            matches!(second.as_ref().map_err(String::as_str), Err("ENOSPC" | "EAGAIN")),
            "{second:?}"
        );
        assert_eq!(guest.read("two0"), Err("ENOENT".to_owned()));
        assert_eq!(world.nodes_of(5), 4);
        world.check_store();
    });
}

#[test]
fn memory_is_limited() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "memory", 100_000);
        world.admin.set_quota(Some(5), "nodes", 0);
        let value = "v".repeat(1500);
        let mut written = 0;
        let guest = world.guest(5);
        let refusal = loop {
            match guest.write(&format!("n{written}"), &value) {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 1000, "no write was refused");
        };
        assert!(["ENOSPC", "ENOMEM"].contains(&refusal.as_str()), "{refusal}");
        assert!((30..=66).contains(&written), "{written} nodes of 1500 bytes within 100,000");
        // The guest can still read and free memory.
        assert!(world.guest(5).read("n0").is_ok());
        world.guest(5).rm("n0").unwrap();
        world.guest(5).write("n0", "small").unwrap();
        assert!(world.accounted(5, "memory") <= 100_000);
        world.check_store();
    });
}

#[test]
fn refusals_are_logged_with_domain_quota_and_path() {
    let mut world = World::new(Control::Socket, 4);
    world.guest(5);
    world.admin.set_quota(Some(5), "nodes", 2);
    world.guest(5).write("a", "v").unwrap();
    for _ in 0..1000 {
        refused(world.guest(5).write("b", "v"));
    }
    // The 1st, 2nd, 4th ... 512th of a thousand refusals.
    let nodes = |refused| {
        format!(r#"domid=5 quota="nodes" limit=2 refused={refused} path="/local/domain/5/b""#)
    };
    let expected: Vec<String> = (0..10).map(|power| nodes(1 << power)).collect();
    assert_eq!(quota_lines(&mut world), expected);

    let mut world = World::new(Control::Socket, 4);
    let long = "/".to_owned() + &"x".repeat(300);
    world.guest(5);
    for (quota, limit) in
        [("watches", 1), ("node-permissions", 1), ("node-size", 50), ("transaction-nodes", 1)]
    {
        world.admin.set_quota(Some(5), quota, limit);
    }
    let guest = world.guest(5);
    guest.watch("a", "t").unwrap();
    refused(guest.watch(&long, "t"));
    guest.write("p", "").unwrap();
    refused(guest.set_perms("p", "n5 r1"));
    refused(guest.write("s", &"v".repeat(60)));
    let tx = guest.start().unwrap();
    guest.request(op::READ, tx, "p\0").unwrap();
    refused(guest.request(op::READ, tx, "t\0"));
    // The refusals of a pass are logged before the next pass.
    guest.read("p").unwrap();
    let shown = format!("{}...", &long[..256]);
    assert_eq!(
        quota_lines(&mut world),
        [
            format!(r#"domid=5 quota="watches" limit=1 refused=1 path="{shown}""#),
            r#"domid=5 quota="node-permissions" limit=1 refused=1 path="/local/domain/5/p""#
                .to_owned(),
            r#"domid=5 quota="node-size" limit=50 refused=1 path="/local/domain/5/s""#.to_owned(),
            r#"domid=5 quota="transaction-nodes" limit=1 refused=1 path="/local/domain/5/t""#
                .to_owned(),
        ]
    );
}

/// Returns the log's lines about quotas.
fn quota_lines(world: &mut World) -> Vec<String> {
    let log = world.log();
    log.lines().filter_map(|line| line.split_once("quota reached ")).map(|it| it.1.into()).collect()
}

#[test]
fn options_set_the_default_quotas() {
    let daemon = common::Daemon::start_with(&[
        "--shards",
        "2",
        "-Q",
        "nodes=3",
        "--watch-nb=2",
        "--transaction=1",
    ]);
    let mut world = World::around(daemon, Control::Socket);
    let guest = world.guest(5);
    guest.write("a", "v").unwrap();
    guest.write("b", "v").unwrap();
    refused(guest.write("c", "v"));
    guest.watch("a", "1").unwrap();
    guest.watch("a", "2").unwrap();
    refused(guest.watch("a", "3"));
    guest.start().unwrap();
    assert_eq!(guest.start(), Err("ENOSPC".to_owned()));
}

#[test]
fn outstanding_quota_blocks_instead_of_refusing() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "outstanding", 2);
        let requests: Vec<_> = (0..200)
            .map(|i| (op::WRITE, 0, format!("n{}\0{}", i % 10, "v".repeat(50)).into_bytes()))
            .collect();
        assert!(world.guest(5).pipeline(&requests).iter().all(Result::is_ok));
    });
}
