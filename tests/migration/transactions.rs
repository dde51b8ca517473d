//! Transactions that are already open when they arrive at a host.

use super::*;

#[test]
fn reserved_transaction_continues_and_ends_with_eagain() {
    check(
        "
        dom5 WRITE x|old -> OK
        dom5 #77 READ x| -> ENOENT
        dom0 START_DOMAIN_TRANSACTION 5|77| -> OK
        dom0 START_DOMAIN_TRANSACTION 5|4294967295| -> OK
        dom5 #77 READ x| -> old
        dom5 #77 WRITE x|new -> OK
        dom5 #77 READ x| -> new
        dom5 #77 DIRECTORY | -> EINVAL
        dom5 #77 RM none/at/all| -> ENOENT
        dom5 READ x| -> old
        dom5 #77 END T| -> EAGAIN
        dom5 #77 END T| -> ENOENT
        dom5 READ x| -> old
        dom5 #4294967295 READ x| -> old
        dom5 #4294967295 END F| -> OK
        # An empty transaction conflicts too: its requests at the source are unknown.
        dom0 CONTROL start-domain-transaction|5|78| -> OK
        dom5 #78 END T| -> EAGAIN
        # Other clients cannot use it.
        dom0 START_DOMAIN_TRANSACTION 5|79| -> OK
        dom6 #79 READ x| -> ENOENT
        dom0 #79 READ /| -> ENOENT
        dom5 RESET_WATCHES | -> OK
        dom5 #79 READ x| -> ENOENT
        ",
    );
}

#[test]
fn transaction_id_in_use_is_eexist() {
    check(
        "
        dom5 START t1
        dom5 t1 WRITE x|v -> OK
        dom0 START_DOMAIN_TRANSACTION 5|1| -> EEXIST
        dom0 START_DOMAIN_TRANSACTION 5|2| -> OK
        dom0 START_DOMAIN_TRANSACTION 5|2| -> EEXIST
        # New transactions get unused ids.
        dom5 START t3
        dom5 t3 WRITE y|v -> OK
        dom5 #2 WRITE z|v -> OK
        dom5 t1 END T| -> OK
        dom5 t3 END T| -> OK
        dom5 #2 END T| -> EAGAIN
        dom5 READ z| -> ENOENT
        dom0 SET_QUOTA 5|transactions|1| -> OK
        dom0 START_DOMAIN_TRANSACTION 5|1| -> OK
        dom0 START_DOMAIN_TRANSACTION 5|2| -> ENOSPC
        dom5 TYPE6 | -> ENOSPC
        dom5 #1 END F| -> OK
        dom0 START_DOMAIN_TRANSACTION 5|2| -> OK
        ",
    );
}

/// Snapshots are dropped after a second: the log is replayed, and the transaction still ends in EAGAIN.
#[test]
fn reserved_transaction_outlives_its_snapshots() {
    each_world(|world| {
        world.guest(5).write("x", "old").unwrap();
        world.admin.request(op::START_DOMAIN_TRANSACTION, 0, "5\x009\0").unwrap();
        let guest = world.guest(5);
        assert_eq!(guest.request(op::READ, 9, "x\0").as_deref(), Ok(&b"old"[..]));
        world.admin.write("/local/domain/5/other", "v").unwrap();
        let guest = world.guest(5);
        // A daemon that has to wait for a CPU drops the snapshots later.
        let reads_on = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            guest.request(op::READ, 9, "other\0").as_deref() == Ok(&b"v"[..])
        });
        assert!(reads_on, "timed out waiting for its snapshots to be dropped");
        assert_eq!(guest.commit(9), Err("EAGAIN".to_owned()));
    });
}

/// A quiesce neither ends a domain's open transactions nor blocks them.
#[test]
fn transactions_stay_open_across_a_quiesce() {
    check(
        "
        dom5 START t
        dom5 t WRITE x|v -> OK
        dom0 QUIESCE 5| -> OK
        dom0 UNQUIESCE 5| -> OK
        dom5 t WRITE y|v -> OK
        dom5 t END T| -> OK
        dom5 READ x| -> v
        ",
    );
}
