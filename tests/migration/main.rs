//! The operations that move domains (docs/PROTOCOL-EXTENSIONS.md).

#[path = "../common/mod.rs"]
mod common;
mod descriptors;
mod digests;
mod edges;
mod failures;
mod from_c;
mod imports;
mod lists;
mod moves;
mod notes;
mod quiesce;
mod states;
mod transactions;

use std::time::{Duration, Instant};

use common::bulk::{self, Bulk};
use common::client::Link;
use common::ring::at;
use common::wire::{header, show};
use common::{Client, Control, Daemon, HANG, World, check, op};

const OK: &[u8] = b"OK\0";
/// The bytes that the daemon and the guest share (xenstore-ring.txt).
const SHARED_BYTES: usize = at::EVTCHN_PORT + 4;

fn each_world(test: impl Fn(&mut World)) {
    for shards in [1, 4] {
        test(&mut World::new(Control::Socket, shards));
    }
}

fn quiesce(world: &mut World, domids: &str) -> common::Reply {
    world.admin.request(op::QUIESCE, 0, domids.replace(' ', "\0") + "\0")
}

fn unquiesce(world: &mut World, domids: &str) -> common::Reply {
    world.admin.request(op::UNQUIESCE, 0, domids.replace(' ', "\0") + "\0")
}

/// Serves domains that another host may have.
fn forced(world: &mut World, domids: &str) -> common::Reply {
    unquiesce(world, &format!("force {domids}"))
}

/// Returns a page of a domain's watches: the generation of the list, and each watch as `path|token`.
fn page(world: &mut World, domid: u16, index: usize) -> (u64, Vec<String>) {
    let reply = world.admin.request(op::GET_DOMAIN_WATCHES, 0, format!("{domid}\0{index}\0"));
    let reply = show_all(&reply.unwrap());
    let mut strings = reply.split_terminator('|').map(str::to_owned);
    let generation = strings.next().unwrap().parse().unwrap();
    let rest: Vec<_> = strings.collect();
    assert!(rest.len().is_multiple_of(2), "{reply}");
    (generation, rest.chunks(2).map(|pair| pair.join("|")).collect())
}

/// Returns the watches of all pages, in one generation.
fn list(world: &mut World, domid: u16) -> Vec<String> {
    let (generation, mut watches) = page(world, domid, 0);
    loop {
        let (again, more) = page(world, domid, watches.len());
        assert_eq!(again, generation);
        if more.is_empty() {
            return watches;
        }
        watches.extend(more);
    }
}

/// Formats all bytes, with `|` for a NUL.
fn show_all(bytes: &[u8]) -> String {
    bytes.chunks(100).map(show).collect()
}

fn whole_page(world: &mut World, domid: u16) -> Vec<u8> {
    let mut bytes = vec![0; SHARED_BYTES];
    world.guest(domid).ring().page().copy_out(0, &mut bytes);
    bytes
}

/// Waits until the domain's thread has handled all its messages, and for a pass after that.
fn passes(world: &mut World, domid: u16) {
    for _ in 0..2 {
        page(world, domid, 0);
    }
}

#[test]
fn malformed_or_unprivileged_requests_are_refused() {
    check(
        "
        dom5 QUIESCE 5| -> EACCES
        dom5 UNQUIESCE 5| -> EACCES
        dom5 GET_DOMAIN_WATCHES 5|0 -> EACCES
        dom5 ADD_DOMAIN_WATCHES 5|x|t| -> EACCES
        dom5 START_DOMAIN_TRANSACTION 5|1| -> EACCES
        dom5 GET_DOMAIN_WATCHES_DEPTH 5|0 -> EACCES
        dom5 ADD_DOMAIN_WATCHES_DEPTH 5|x|t|| -> EACCES
        dom0 TYPE65535 5| -> ENOSYS
        dom0 TYPE65543 5| -> ENOSYS
        dom0 TYPE65552 5| -> ENOSYS
        dom5 TYPE65555 5| -> ENOSYS
        dom0 #1 QUIESCE 5| -> ENOENT

        dom0 QUIESCE -> EINVAL
        dom0 QUIESCE | -> EINVAL
        dom0 QUIESCE x| -> EINVAL
        dom0 QUIESCE 5|x| -> EINVAL
        dom0 QUIESCE 5|| -> EINVAL
        dom0 QUIESCE 0| -> EINVAL
        dom0 QUIESCE 65536| -> EINVAL
        dom0 QUIESCE 77| -> ENOENT
        dom0 QUIESCE 32752| -> ENOENT
        dom0 UNQUIESCE x| -> EINVAL
        dom0 UNQUIESCE 0| -> EINVAL
        dom0 UNQUIESCE 77| -> ENOENT

        dom0 GET_DOMAIN_WATCHES 5| -> EINVAL
        dom0 GET_DOMAIN_WATCHES 5|x| -> EINVAL
        dom0 GET_DOMAIN_WATCHES 5|-1| -> EINVAL
        dom0 GET_DOMAIN_WATCHES 5|0|0| -> EINVAL
        dom0 GET_DOMAIN_WATCHES 0|0 -> EINVAL
        dom0 GET_DOMAIN_WATCHES 77|0 -> ENOENT

        dom0 ADD_DOMAIN_WATCHES 5| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 5|x| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 5|x|t|y| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 5|a//b|t| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 5||t| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 0|x|t| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 77|x|t| -> ENOENT
        dom0 ADD_DOMAIN_WATCHES_DEPTH 5|x|t| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES_DEPTH 5|x|t|no| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES_DEPTH 5|x|t||y|t| -> EINVAL

        dom0 START_DOMAIN_TRANSACTION 5| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 5|0| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 5|x| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 5|4294967296| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 5|1|2| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 0|1| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 77|1| -> ENOENT
        ",
    );
}

#[test]
fn requests_for_a_domain_not_introduced_are_enoent() {
    check(
        "
        host create 7
        dom0 QUIESCE 7| -> ENOENT
        dom0 UNQUIESCE 7| -> ENOENT
        dom0 GET_DOMAIN_WATCHES 7|0 -> ENOENT
        dom0 ADD_DOMAIN_WATCHES 7|x|t| -> ENOENT
        dom0 START_DOMAIN_TRANSACTION 7|1| -> ENOENT
        ",
    );
}

#[test]
fn operation_numbers_are_published_below_tool() {
    check(
        "
        dom0 READ /tool/xenstored/operations/QUIESCE| -> 65536
        dom0 READ /tool/xenstored/operations/UNQUIESCE| -> 65537
        dom0 READ /tool/xenstored/operations/GET_DOMAIN_WATCHES| -> 65538
        dom0 READ /tool/xenstored/operations/ADD_DOMAIN_WATCHES| -> 65539
        dom0 READ /tool/xenstored/operations/START_DOMAIN_TRANSACTION| -> 65540
        dom0 READ /tool/xenstored/operations/GET_DOMAIN_WATCHES_DEPTH| -> 65541
        dom0 READ /tool/xenstored/operations/ADD_DOMAIN_WATCHES_DEPTH| -> 65542
        dom0 GET_PERMS /tool/xenstored/operations/QUIESCE| -> n0|
        dom5 READ /tool/xenstored/operations/QUIESCE| -> EACCES
        dom5 DIRECTORY /tool/xenstored| -> EACCES
        ",
    );
}
