//! The client that brought a domain into its state, since when, and where the domain may be besides.

use std::time::{SystemTime, UNIX_EPOCH};

use super::moves::{each_pair, inhabit, release};
use super::*;

/// What DOMAIN_STATES says of a domain, without the numbers of its incarnation.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    state: String,
    since: u64,
    by: [String; 3],
    to: String,
    vm: String,
}

fn told(world: &World) -> Told {
    let said = Bulk::connect(&world.daemon).ask(bulk::STATES, "5|", &[]);
    let words: Vec<&str> = said.split('|').collect();
    let ["5", "OK", state, _, _, _, since, by, pid, command, to, vm, ""] = words[..]
    else {
        panic!("{said}")
    };
    let [state, to, vm] = [state, to, vm].map(str::to_owned);
    let by = [by, pid, command].map(str::to_owned);
    Told { state, since: since.parse().unwrap(), by, to, vm }
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Returns this process as the author of a state.
fn own() -> [String; 3] {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    ["0".to_owned(), std::process::id().to_string(), name.trim_end().to_owned()]
}

fn introduce_again(world: &mut World) {
    let port = world.ports[&5];
    world.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
}

#[test]
fn state_is_reported_with_its_author_time_and_destination() {
    each_pair(|from, to| {
        inhabit(from, 5);
        to.create(5);
        let served = told(from);
        assert_eq!((&*served.state, served.since, &*served.to), ("running", 0, ""));
        assert_eq!((served.by, &*served.vm), (["0", "0", ""].map(str::to_owned), "/vm/uuid-5"));
        let is_own = |world: &World, since: u64, expected: [&str; 2]| {
            let told = told(world);
            assert!((since..=now()).contains(&told.since), "{told:?}");
            assert_eq!([&*told.state, &told.to], expected, "{told:?}");
            assert_eq!((told.by, &*told.vm), (own(), "/vm/uuid-5"));
            told.since
        };
        let begun = now();
        quiesce(from, "5").unwrap();
        let since = is_own(from, begun, ["quiesced", ""]);
        quiesce(from, "5").unwrap();
        assert_eq!(is_own(from, begun, ["quiesced", ""]), since, "it was quiesced before");
        Bulk::connect(&from.daemon).export("5|");
        is_own(from, since, ["exported", ""]);
        let (stream, _) = Bulk::connect(&from.daemon).export("5|to=/run/a b/socket|");
        let since = is_own(from, since, ["exported", "/run/a b/socket"]);
        Bulk::connect(&to.daemon).import(&stream);
        is_own(to, since, ["arrived", ""]);
        to.introduce(5);
        is_own(to, since, ["arrived-introduced", ""]);
        // An export without a destination leaves what is known of the earlier one.
        let said = Bulk::connect(&from.daemon).export("5|").1;
        is_own(from, since, ["exported", "/run/a b/socket"]);
        release(from, 5, bulk::mark(&said)).unwrap();
        is_own(from, since, ["left", "/run/a b/socket"]);
        unquiesce(to, "5").unwrap();
        assert_eq!((told(to).since, &*told(to).state), (0, "running"));
        introduce_again(from);
        is_own(from, since, ["quiesced", "/run/a b/socket"]);
    });
}

#[test]
fn name_of_a_virtual_machine_is_bounded_and_plain() {
    each_world(|world| {
        world.guest(5);
        for (value, named) in [
            ("/vm/u", "/vm/u"),
            ("/vm/", ""),
            ("/vm/u/x", ""),
            ("/local/domain/6", ""),
            ("/vm/a\0b", ""),
            (&format!("/vm/{}", "u".repeat(252)), &format!("/vm/{}", "u".repeat(252))),
            (&format!("/vm/{}", "u".repeat(253)), ""),
        ] {
            world.guest(5).write("vm", value).unwrap();
            assert_eq!(told(world).vm, named, "{value:?}");
        }
    });
}

#[test]
fn malformed_destination_is_refused() {
    each_world(|world| {
        world.guest(5);
        let mut bulk = Bulk::connect(&world.daemon);
        let long = |len: usize| format!("5|to={}|", "x".repeat(len));
        for wrong in ["to=x|", "5|to=|", "5|to=a\n|", "5|to=x", "to=x|5|", &long(257)] {
            assert_eq!(bulk.export(wrong).1, "EINVAL|", "{wrong}");
        }
        assert_eq!(told(world).state, "running");
        assert!(bulk.export(&long(256)).1.starts_with("5|OK|"));
        assert!(bulk.export(&long(100)).1.starts_with("5|OK|"));
        assert_eq!(told(world).to, "x".repeat(100));
    });
}
