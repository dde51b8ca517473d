//! Invalid requests, requests without permission, and the order of the checks.

use super::*;

#[test]
fn unknown_operations_are_enosys() {
    check(
        "
        dom0 WATCH_EVENT /a|t| -> ENOSYS
        dom0 ERROR EINVAL| -> ENOSYS
        dom0 RESTRICT 5| -> ENOSYS
        dom0 TYPE27 -> ENOSYS
        dom0 TYPE65535 -> ENOSYS
        dom0 TYPE4294967295 -> ENOSYS
        dom0 TYPE2147483648 x| -> ENOSYS
        dom5 RESTRICT 5| -> ENOSYS
        dom5 TYPE65535 -> ENOSYS
        # Checked before the transaction id.
        dom0 #99 TYPE27 -> ENOSYS
        dom0 READ /tool| -> \"\"
        ",
    );
}

#[test]
fn first_failed_check_determines_the_error() {
    check(
        "
        # Unknown operation, then privilege, then transaction, then the payload.
        dom5 #99 TYPE27 -> ENOSYS
        dom5 #99 INTRODUCE x -> EACCES
        dom5 #99 CONTROL help| -> EACCES
        dom5 #99 READ -> ENOENT
        dom0 #99 READ -> ENOENT
        dom0 #99 INTRODUCE x -> ENOENT
        dom0 #99 CONTROL help| -> ENOENT
        dom0 #99 GET_FEATURE -> ENOENT
        dom0 #99 START | -> ENOENT
        dom0 #99 END x| -> ENOENT
        dom0 #99 WATCH /w|t| -> OK
        event dom0 /w|t
        dom0 #99 UNWATCH /w|t| -> OK
        dom0 #99 WATCH /w -> EINVAL
        ",
    );
}

#[test]
fn guests_get_eacces_for_privileged_operations() {
    check(
        "
        dom5 CONTROL help| -> EACCES
        dom5 CONTROL -> EACCES
        dom5 INTRODUCE 6|1|1| -> EACCES
        dom5 RELEASE 6| -> EACCES
        dom5 IS_DOMAIN_INTRODUCED 5| -> EACCES
        dom5 RESUME 5| -> EACCES
        dom5 SET_TARGET 5|6| -> EACCES
        dom5 GET_FEATURE 5| -> EACCES
        dom5 SET_FEATURE 5|0| -> EACCES
        dom5 GET_QUOTA nodes| -> EACCES
        dom5 GET_QUOTA -> EACCES
        dom5 SET_QUOTA nodes|0| -> EACCES
        dom6 READ /| -> EACCES
        # Allowed to guests.
        dom5 GET_DOMAIN_PATH 7| -> /local/domain/7|
        dom5 GET_FEATURE -> 15|
        dom5 RESET_WATCHES | -> OK
        dom5 RESET_WATCHES -> OK
        ",
    );
}

#[test]
fn requests_without_a_payload_are_complete() {
    // A message of length zero is complete with its header.
    check(
        "
        dom0 CONTROL -> EINVAL
        dom0 DIRECTORY -> EINVAL
        dom0 READ -> EINVAL
        dom0 GET_PERMS -> EINVAL
        dom0 WATCH -> EINVAL
        dom0 UNWATCH -> EINVAL
        dom0 END -> EINVAL
        dom0 INTRODUCE -> EINVAL
        dom0 RELEASE -> EINVAL
        dom0 GET_DOMAIN_PATH -> EINVAL
        dom0 WRITE -> EINVAL
        dom0 MKDIR -> EINVAL
        dom0 RM -> EINVAL
        dom0 SET_PERMS -> EINVAL
        dom0 IS_DOMAIN_INTRODUCED -> EINVAL
        dom0 RESUME -> EINVAL
        dom0 SET_TARGET -> EINVAL
        dom0 RESET_WATCHES -> OK
        dom0 DIRECTORY_PART -> EINVAL
        dom0 GET_FEATURE -> 15|
        dom0 SET_FEATURE -> EINVAL
        dom0 SET_QUOTA -> EINVAL
        dom5 READ -> EINVAL
        dom5 WRITE -> EINVAL
        dom5 GET_FEATURE -> 15|
        ",
    );
}

#[test]
fn replies_come_in_the_order_of_requests() {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            // Requests that wait for another thread keep their place in the order.
            world.create(9);
            let port = world.ports[&9];
            let mut requests = Vec::new();
            for i in 0..500 {
                requests.push((
                    op::WRITE,
                    0,
                    format!("/local/domain/{}/x\0{i}", i % 7).into_bytes(),
                ));
                requests.push((op::READ, 0, format!("/local/domain/{}/x\0", i % 7).into_bytes()));
                if i % 50 == 0 {
                    requests.push((op::INTRODUCE, 0, format!("9\x001\0{port}\0").into_bytes()));
                    requests.push((op::IS_DOMAIN_INTRODUCED, 0, b"9\0".to_vec()));
                    requests.push((op::RELEASE, 0, b"9\0".to_vec()));
                    requests.push((op::IS_DOMAIN_INTRODUCED, 0, b"9\0".to_vec()));
                }
            }
            let replies = world.client("dom0").pipeline(&requests);
            let mut introduced = false;
            let mut written = Vec::new();
            for ((kind, _, payload), reply) in requests.iter().zip(replies) {
                let reply = reply.unwrap();
                match *kind {
                    op::WRITE => {
                        assert_eq!(reply, b"OK\0");
                        written = payload.split(|&byte| byte == 0).next_back().unwrap().to_vec();
                    }
                    op::READ => assert_eq!(reply, written),
                    op::IS_DOMAIN_INTRODUCED => {
                        introduced = !introduced;
                        assert_eq!(reply, if introduced { b"T\0" } else { b"F\0" });
                    }
                    _ => assert_eq!(reply, b"OK\0"),
                }
            }
        }
    }
}

/// C xenstored accepts an empty string, blanks and signs in some of these places.
#[test]
fn numbers_with_anything_but_decimal_digits_are_einval() {
    let mut table = String::from("dom0 MKDIR /d| -> OK\nhost create 7\n");
    for odd in ["", "\\x20", "\\x207", "7\\x20", "+7", "-7", "-0", "x", "7x", "0x7", "4294967296"] {
        for request in [
            "GET_DOMAIN_PATH {}|",
            "IS_DOMAIN_INTRODUCED {}|",
            "INTRODUCE {}|1|1|",
            "INTRODUCE 7|1|{}|",
            "RELEASE {}|",
            "RESUME {}|",
            "SET_TARGET {}|7|",
            "SET_TARGET 7|{}|",
            "GET_FEATURE {}|",
            "SET_FEATURE {}|1|",
            "SET_FEATURE 7|{}|",
            "GET_QUOTA {}|nodes|",
            "SET_QUOTA {}|nodes|1|",
            "SET_QUOTA 7|nodes|{}|",
            "SET_QUOTA nodes|{}|",
            "DIRECTORY_PART /d|{}|",
            "WATCH /d|t|{}|",
            "SET_PERMS /d|n0|r{}|",
        ] {
            // A number above any directory's size is a valid offset, and one deeper than any path is a valid depth.
            let is_large = request.starts_with("DIRECTORY_PART") || request.starts_with("WATCH");
            if odd == "4294967296" && is_large {
                continue;
            }
            let request = request.replace("{}", odd);
            table.push_str(&format!("dom0 {request} -> EINVAL\n"));
        }
    }
    check(&table);
}
