//! Watches on long paths that a guest removes all at once: they leave the tries in slices.

use super::common::{Control, World, op};
use super::watch_all;

/// Returns a path of about 900 levels, near the limit.
fn long(first: usize) -> String {
    format!("{first}{}", "/a".repeat(900))
}

#[test]
fn reset_watches_gives_the_quota_back_with_its_reply() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let guest = world.guest(5);
        let count = watch_all(guest, (0..500).map(|i| (long(i), "t".to_owned())));
        assert_eq!(count, 500);
        guest.request(op::RESET_WATCHES, 0, b"\0").unwrap();
        assert_eq!(watch_all(guest, (0..500).map(|i| (long(i), "u".to_owned()))), 500);
        guest.write(&long(0), "v").unwrap();
        assert_eq!(guest.next_event(), format!("{}|u", long(0)));
        assert_eq!(world.accounted(5, "watches"), 500);
        world.check_store();
    }
}

/// Watches are set while earlier ones on the same paths may still await their removal.
#[test]
fn watches_of_the_next_incarnation_survive_removal_of_the_old() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        watch_all(world.guest(5), (0..500).map(|i| (format!("/tool/{}", long(i)), "t".to_owned())));
        world.until_released(5);
        let guest = world.guest(5);
        watch_all(guest, (0..500).map(|i| (format!("/tool/{}", long(i)), "u".to_owned())));
        world.check_store();
        for i in [0, 250, 499] {
            let path = format!("/tool/{}", long(i));
            world.admin.write(&path, "v").unwrap();
            world.admin.set_perms(&path, "n0\0r5").unwrap();
            assert_eq!(world.next_event("dom5"), format!("{path}|u"));
        }
        world.until_released(5);
        world.check_store();
    }
}
