//! The client that brought a domain into its state, since when, and where the domain may be besides; and the UNQUIESCE
//! that this refuses.

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
    elsewhere: String,
}

fn told(world: &World) -> Told {
    let said = Bulk::connect(&world.daemon).ask(bulk::STATES, "5|", &[]);
    let words: Vec<&str> = said.split('|').collect();
    let ["5", "OK", state, _, _, _, since, by, pid, command, to, vm, elsewhere, ""] = words[..]
    else {
        panic!("{said}")
    };
    let [state, to, vm, elsewhere] = [state, to, vm, elsewhere].map(str::to_owned);
    let by = [by, pid, command].map(str::to_owned);
    Told { state, since: since.parse().unwrap(), by, to, vm, elsewhere }
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
        let is_own = |world: &World, since: u64, expected: [&str; 3]| {
            let told = told(world);
            assert!((since..=now()).contains(&told.since), "{told:?}");
            assert_eq!([&*told.state, &told.to, &told.elsewhere], expected, "{told:?}");
            assert_eq!((told.by, &*told.vm), (own(), "/vm/uuid-5"));
            told.since
        };
        let begun = now();
        quiesce(from, "5").unwrap();
        let since = is_own(from, begun, ["quiesced", "", ""]);
        quiesce(from, "5").unwrap();
        assert_eq!(is_own(from, begun, ["quiesced", "", ""]), since, "it was quiesced before");
        Bulk::connect(&from.daemon).export("5|");
        is_own(from, since, ["exported", "", ""]);
        let (stream, _) = Bulk::connect(&from.daemon).export("5|to=/run/a b/socket|");
        let since = is_own(from, since, ["exported", "/run/a b/socket", "exported"]);
        Bulk::connect(&to.daemon).import(&stream);
        is_own(to, since, ["arrived", "", ""]);
        to.introduce(5);
        is_own(to, since, ["arrived-introduced", "", ""]);
        // An export without a destination leaves what is known of the earlier one.
        let said = Bulk::connect(&from.daemon).export("5|").1;
        is_own(from, since, ["exported", "/run/a b/socket", "exported"]);
        release(from, 5, bulk::mark(&said)).unwrap();
        is_own(from, since, ["left", "/run/a b/socket", ""]);
        unquiesce(to, "5").unwrap();
        assert_eq!((told(to).since, &*told(to).state), (0, "running"));
        introduce_again(from);
        is_own(from, since, ["quiesced", "/run/a b/socket", "left"]);
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

#[test]
fn each_cause_of_a_refused_unquiesce_has_its_own_error() {
    each_pair(|from, to| {
        inhabit(from, 5);
        to.create(5);
        let refused = |error: &str| Err(error.to_owned());
        let (stream, said) = Bulk::connect(&from.daemon).export("5|to=there|");
        assert_eq!(unquiesce(to, "5"), refused("ENOENT"), "never there");
        Bulk::connect(&to.daemon).import(&stream);
        assert_eq!(unquiesce(to, "5"), refused("EAGAIN"), "arrived");
        assert_eq!(forced(to, "5"), refused("EAGAIN"), "there is no ring to serve");
        assert_eq!(unquiesce(from, "5"), refused("EBUSY"), "exported");
        // Of several domains each has its own.
        from.guest(6);
        let reply = unquiesce(from, "5 6 77").unwrap();
        assert_eq!(show(&reply), "OK|5|EBUSY|77|ENOENT|");
        assert_eq!(show(&from.admin.control("unquiesce 5 6").unwrap()), "5 EBUSY\n|");
        release(from, 5, bulk::mark(&said)).unwrap();
        assert_eq!(unquiesce(from, "5"), refused("EEXIST"), "left");
        assert_eq!(forced(from, "5"), refused("EEXIST"), "there is no ring to serve");
        introduce_again(from);
        assert_eq!(unquiesce(from, "5"), refused("EEXIST"), "it is quiesced here again");
        assert_eq!(forced(from, "5").as_deref(), Ok(OK));
        assert_eq!(from.guest(5).read("data/a").as_deref(), Ok(&b"\x01\n\""[..]));
        assert_eq!(told(from).elsewhere, "");
        quiesce(from, "5").unwrap();
        assert_eq!(unquiesce(from, "5").as_deref(), Ok(OK), "it was served since");
        assert!(
            from.log().contains(" domain served by force domid=5 elsewhere=\"left\" to=\"there\" ")
        );
    });
}

/// The mark ends, but not what the destination may have.
#[test]
fn exported_domain_needs_force_after_its_mark_has_ended() {
    each_world(|world| {
        inhabit(world, 5);
        let said = Bulk::connect(&world.daemon).export("5|to=there|").1;
        world.admin.write("/libxl/5/late", "").unwrap();
        assert_eq!(release(world, 5, bulk::mark(&said)), Err("EAGAIN".to_owned()));
        let told = told(world);
        assert_eq!([&*told.state, &told.elsewhere], ["quiesced", "exported"]);
        assert_eq!(unquiesce(world, "5"), Err("EBUSY".to_owned()));
        assert_eq!(show(&world.admin.control("unquiesce force 5").unwrap()), "OK|");
        world.guest(5).write("x", "served").unwrap();
        assert_eq!(world.admin.request(op::UNQUIESCE, 0, "force\0"), Err("EINVAL".to_owned()));
        assert_eq!(world.admin.request(op::UNQUIESCE, 0, "5\0force\0"), Err("EINVAL".to_owned()));
    });
}
