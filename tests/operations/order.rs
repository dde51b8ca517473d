//! The order in which names are listed: a pure function of the names. Numbers come first, by length and
//! then by bytes; all others by bytes.

use super::sizes::directory_in_parts;
use super::*;

#[test]
fn numbers_are_listed_first_by_length_and_all_others_by_bytes() {
    check(
        "
        dom5 WRITE device/vif/10/mac|b -> OK
        dom5 WRITE device/vif/2/mac|a -> OK
        dom5 WRITE device/vif/01/mac|a -> OK
        dom5 WRITE device/vif/9/mac|a -> OK
        dom5 WRITE device/vif/0/mac|a -> OK
        dom5 WRITE device/vif/b/mac|a -> OK
        dom5 WRITE device/vif/1a/mac|a -> OK
        dom5 WRITE device/vif/-1/mac|a -> OK
        dom5 WRITE device/vif/B/mac|a -> OK
        dom5 WRITE device/vif/11/mac|a -> OK
        dom5 WRITE device/vif/123456789/mac|a -> OK
        dom5 WRITE device/vif/023456789/mac|a -> OK
        dom5 WRITE device/vif/12345678x/mac|a -> OK
        dom5 WRITE device/vif/event-channel-tx|a -> OK
        dom5 WRITE device/vif/event-channel-of-its-own|a -> OK
        dom5 DIRECTORY device/vif| -> 0|2|9|01|10|11|023456789|123456789|-1|12345678x|1a|B|b|event-channel-of-its-own|event-channel-tx|
        dom5 RM device/vif/2| -> OK
        dom5 RM device/vif/b| -> OK
        dom5 START t1
        dom5 t1 WRITE device/vif/2|again -> OK
        dom5 t1 RM device/vif/12345678x| -> OK
        dom5 t1 DIRECTORY device/vif| -> 0|2|9|01|10|11|023456789|123456789|-1|1a|B|event-channel-of-its-own|event-channel-tx|
        dom5 t1 END T| -> OK
        dom5 DIRECTORY device/vif| -> 0|2|9|01|10|11|023456789|123456789|-1|1a|B|event-channel-of-its-own|event-channel-tx|
        dom0 DIRECTORY /local/domain/5/device/vif| -> 0|2|9|01|10|11|023456789|123456789|-1|1a|B|event-channel-of-its-own|event-channel-tx|
        ",
    );
}

/// More than 32 children are stored differently. Partition roots of guests are in the guests' shards; their names are
/// in the root shard.
#[test]
fn a_large_directory_is_listed_in_the_same_order() {
    let long = |number: usize| format!("a-name-that-is-not-kept-inline-{number:03}");
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            world.admin.set_quota(None, "nodes", 0);
            let mut wanted: Vec<String> = (0..300).map(|number| number.to_string()).collect();
            for parent in ["/local/domain", "/plain"] {
                // The nodes are created in an order that is neither by bytes nor by number.
                for number in (0..300).map(|number| number * 7 % 300) {
                    world.admin.write(&format!("{parent}/{number}/x"), "").unwrap();
                }
                assert_eq!(world.client("dom0").directory(parent).unwrap(), wanted, "{parent}");
            }
            for number in (0..50).rev() {
                world.admin.write(&format!("/plain/{}", long(number)), "").unwrap();
                world.admin.write(&format!("/plain/short{number:03}"), "").unwrap();
            }
            wanted.extend((0..50).map(long));
            wanted.extend((0..50).map(|number| format!("short{number:03}")));
            // Names of any length are found and removed.
            for name in ["17", "short017", &long(17)] {
                let path = format!("/plain/{name}");
                assert_eq!(world.admin.read(&path).as_deref(), Ok(&b""[..]));
                world.admin.rm(&path).unwrap();
                assert_eq!(world.admin.read(&path), Err("ENOENT".to_owned()));
                wanted.retain(|other| other != name);
            }
            assert_eq!(world.client("dom0").directory("/plain").unwrap(), wanted);
            assert_eq!(directory_in_parts(&mut world, "dom0", 0, "/plain"), wanted);
            world.check_store();
        }
    }
}
