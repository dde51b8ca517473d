//! Domains exported from one store and imported into another: no state is lost, and no other domain changes.

#[path = "common/random.rs"]
mod random;
mod world;

use std::borrow::Cow;
use std::collections::BTreeMap;

use random::{Random, seeds};
use world::{Client as Caller, World, at, perms};
use xenstored::domain::Quota;
use xenstored::migration::store::place_domain::{
    ImportedDomain, PlaceError, place_domain, split_by_domain,
};
use xenstored::migration::store::write_domains::{ExportedDomain, snapshot_domains, write_domains};
use xenstored::migration::stream::digest::TAIL_BYTES;
use xenstored::migration::stream::fields::Order;
use xenstored::migration::stream::state::{Client, State};
use xenstored::migration::stream::{Connection, Reader, Record, Transport, Watch};
use xenstored::store::{self, Generations, ImportError, Verb};
use xenstored::types::Presence;
use xenstored::types::{Domid, Entry, Errno};

const DOMIDS: [u16; 3] = [5, 6, 7];

/// Returns the stream of these domains as they are now.
fn leave(world: &World, domids: &[u16], clients: &BTreeMap<u16, ClientOf>) -> Vec<u8> {
    let domids: Vec<Domid> = domids.iter().copied().map(Domid).collect();
    let seen = snapshot_domains(&world.store, &world.store.snapshot_all(), &domids);
    let leaving: Vec<_> = seen
        .into_iter()
        .map(|seen| ExportedDomain {
            domain: world.registry.get(seen.domid).unwrap(),
            client: clients.get(&seen.domid.0).map(|client| client(seen.domid.0)),
            seen,
        })
        .collect();
    write_domains(&world.store, &leaving, (2, Order::Little), Vec::new()).unwrap().0
}

type ClientOf = Box<dyn Fn(u16) -> Client>;

fn read(stream: &[u8]) -> Vec<ImportedDomain> {
    let state = State::read(&mut Reader::new(stream).unwrap()).unwrap();
    let (arrivals, left) = split_by_domain(state);
    assert_eq!(left, 0, "nodes that belong to no domain");
    arrivals
}

fn arrive(world: &World, arrival: &ImportedDomain) -> Result<(), PlaceError> {
    let by = world.control();
    let (executed, seen) =
        place_domain(&world.store, arrival, &by.caller, &mut Generations::default())?;
    assert!(seen.changed_in(&world.store).is_empty());
    assert!(world.store.settle(executed.removed).is_none());
    Ok(())
}

/// Checks the invariants, the control domain's account included.
fn check(world: &World) {
    world.check();
    let checked = store::check(&world.store).unwrap();
    assert!(checked.findings.is_empty(), "{:?}", checked.findings.sentences());
}

/// Returns a client with watches, transactions and bytes that depend on a random number.
fn client(number: u64) -> ClientOf {
    Box::new(move |domid| {
        let mut random = Random::new(number);
        let connection = Connection {
            id: u32::from(domid),
            transport: Transport::Ring(Domid(domid), None, 3),
            input: vec![1; random.below(20)],
            output_begun: 0,
            output: vec![2; random.below(5000)],
            unique_id: None,
        };
        let watch = |number: usize| Watch {
            connection: u32::from(domid),
            path: if number.is_multiple_of(2) {
                b"device".to_vec()
            } else {
                b"@releaseDomain".to_vec()
            },
            token: number.to_string().into(),
            depth: number.is_multiple_of(3).then_some(2),
        };
        let watches = (0..random.below(5)).map(watch).rev().collect();
        let transactions = (0..random.below(3)).map(|_| (1 + random.below(99), BTreeMap::new()));
        let transactions =
            transactions.map(|(id, nodes)| (u32::try_from(id).unwrap(), nodes)).collect();
        Client { connection, watches, transactions }
    })
}

/// Makes a random request, which may be refused.
fn step(random: &mut Random, callers: &mut [Caller], now: u64) {
    const PATHS: [&str; 22] = [
        "/local/domain/5",
        "/local/domain/5/x",
        "/local/domain/5/x/y/z",
        "/local/domain/5/x-y",
        "/local/domain/5/backend/vif/5/0",
        "/local/domain/6",
        "/local/domain/6/x",
        "/local/domain/6/backend/vbd/5/0/state",
        "/local/domain/6/backend/vbd/7/0/state",
        "/local/domain/6/device-model/5/s",
        "/local/domain/7",
        "/local/domain/7/deep/er",
        "/local/domain/0/backend/vif/5/0/state",
        "/local/domain/0/backend/vif/6",
        "/local/domain/0/backend/vif/7/1",
        "/local/domain/0/device-model/7/state",
        "/libxl/5/device",
        "/libxl/6",
        "/libxl/7/a/b",
        "/vm/u/name",
        "/vm/v",
        "/tool/of/nobody",
    ];
    const PERMS: [&str; 9] =
        ["n0", "r0", "n0 r5", "n5", "n6 r5", "b7", "n7 w5 r6", "n0 b9", "n5 r32757"];
    let caller = if random.chance(70) { 0 } else { random.below(callers.len()) };
    let mut path = (*random.pick(&PATHS)).to_owned();
    if random.chance(20) {
        path = format!("/local/domain/{}/many/{}", random.pick(&DOMIDS), random.below(50));
    }
    let value = vec![random.byte(); random.below(9)];
    let entries: &&str = random.pick(&PERMS);
    let verb = match random.below(100) {
        0..50 => Verb::Write(Cow::Owned(value)),
        50..65 => Verb::Mkdir,
        65..72 => Verb::Rm,
        _ => Verb::SetPerms(perms(now, entries)),
    };
    let _: Result<Vec<u8>, Errno> = callers[caller].run(&path, verb);
}

/// Returns a world with a random history.
fn random_world(random: &mut Random) -> World {
    let world = World::new();
    let domains: Vec<_> = DOMIDS.iter().map(|&domid| world.admit(domid)).collect();
    // Domain 9 dies, so that its permissions are stale.
    let mortal = world.admit(9);
    let mut callers = vec![world.control()];
    callers.extend(domains.iter().map(|domain| world.client(domain)));
    for domid in DOMIDS {
        let home = format!("/local/domain/{domid}");
        callers[0].write(&format!("{home}/vm"), ["/vm/u", "/vm/v", "no"][random.below(3)]).unwrap();
        callers[0].set_perms(&home, &format!("n{domid}")).unwrap();
    }
    for number in 0..150 {
        step(random, &mut callers, world.registry.now());
        if number == 100 {
            world.die(&mortal);
        }
    }
    for domain in &domains {
        domain.set_features(u32::try_from(random.below(16)).unwrap());
        for quota in Quota::all().filter(|_| random.chance(30)) {
            world.registry.set_limit(Some(domain), quota, 3 + u32::from(domain.domid.0));
        }
        if random.chance(30) {
            world.registry.set_soft_memory(Some(domain), 77);
        }
    }
    if random.chance(50) {
        world.registry.set_target(&domains[0], &domains[2]);
    }
    check(&world);
    world
}

/// Up to 16 domains and 2,048 nodes are written by one thread, more by several threads.
#[test]
fn parallel_export_writes_the_same_bytes() {
    let world = World::new();
    let mut control = world.control();
    let domids: Vec<u16> = (1..=17).collect();
    for domid in &domids {
        world.admit(*domid);
        for name in ["name", "device/vbd/1", "data"] {
            control.write(&format!("/local/domain/{domid}/{name}"), name).unwrap();
        }
    }
    let many = leave(&world, &domids, &BTreeMap::new());
    let few = leave(&world, &domids[..16], &BTreeMap::new());
    assert!(many.starts_with(&few[..few.len() - TAIL_BYTES]));

    // The number of nodes counts, whichever subtrees they are in.
    let begun = read(&leave(&world, &[1], &BTreeMap::new()))[0].nodes.len();
    for count in [2047, 2048, 2049, 5000] {
        for number in begun..count {
            let below = if number % 2 == 0 { "data" } else { "device/vbd/1" };
            let path = format!("/local/domain/1/{below}/n{number:04}");
            // The nodes of the earlier counts already exist.
            control.write(&path, "").unwrap();
        }
        let alone = leave(&world, &[1], &BTreeMap::new());
        assert_eq!(read(&alone)[0].nodes.len(), count);
        let among_many = leave(&world, &domids, &BTreeMap::new());
        assert!(among_many.starts_with(&alone[..alone.len() - TAIL_BYTES]), "{count} nodes");
    }
}

#[test]
fn imported_domains_are_exported_as_the_same_bytes() {
    for seed in seeds(40) {
        let mut random = Random::new(seed);
        let from = random_world(&mut random);
        let clients: BTreeMap<u16, ClientOf> =
            DOMIDS.iter().map(|&domid| (domid, client(seed + u64::from(domid)))).collect();
        let stream = leave(&from, &DOMIDS, &clients);
        assert_eq!(
            stream,
            leave(&from, &DOMIDS, &clients),
            "seed {seed}: the order of records varies"
        );

        let to = World::new();
        DOMIDS.iter().for_each(|&domid| drop(to.admit(domid)));
        let mut arrivals = read(&stream);
        // Domains may be imported in any order: nodes that an import creates above its partitions must not block
        // another import.
        if random.chance(50) {
            arrivals.reverse();
        }
        for arrival in &arrivals {
            arrive(&to, arrival).unwrap_or_else(|refusal| panic!("seed {seed}: {refusal}"));
            check(&to);
        }
        let again = leave(&to, &DOMIDS, &clients);
        assert!(stream == again, "seed {seed}: {} bytes, then {}", stream.len(), again.len());
        // Domains exported one by one yield the same bytes, too.
        for domid in DOMIDS {
            assert_eq!(leave(&from, &[domid], &clients), leave(&to, &[domid], &clients), "{seed}");
        }
    }
}

/// Returns a world in which domain 5 has at least one object of each kind.
fn small_world() -> World {
    let world = World::new();
    DOMIDS.iter().for_each(|&domid| drop(world.admit(domid)));
    let mut control = world.control();
    for (path, value) in [
        ("/local/domain/5/name", "five"),
        ("/local/domain/5/vm", "/vm/u"),
        ("/local/domain/0/backend/vif/5/0/state", "4"),
        ("/local/domain/6/backend/vbd/5/0/state", "4"),
        ("/local/domain/0/device-model/5/state", "running"),
        ("/libxl/5/type", "pvh"),
        ("/vm/u/name", "five"),
        ("/vm/w/name", "another"),
        ("/tool/of", "nobody"),
        ("/local/domain/7/name", "seven"),
    ] {
        control.write(path, value).unwrap();
    }
    world
}

fn paths(arrival: &ImportedDomain) -> Vec<String> {
    let path = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
    arrival.nodes.iter().map(|(of, _)| path(of.as_path().bytes())).collect()
}

fn empty_world() -> World {
    let world = World::new();
    DOMIDS.iter().for_each(|&domid| drop(world.admit(domid)));
    world
}

#[test]
fn export_has_all_subtrees_of_a_domain_and_no_others() {
    let world = small_world();
    let arrivals = read(&leave(&world, &[5], &BTreeMap::new()));
    let expected = [
        "/libxl/5",
        "/libxl/5/type",
        "/local/domain/0/backend/vif/5",
        "/local/domain/0/backend/vif/5/0",
        "/local/domain/0/backend/vif/5/0/state",
        "/local/domain/0/device-model/5",
        "/local/domain/0/device-model/5/state",
        "/local/domain/5",
        "/local/domain/5/name",
        "/local/domain/5/vm",
        "/local/domain/6/backend/vbd/5",
        "/local/domain/6/backend/vbd/5/0",
        "/local/domain/6/backend/vbd/5/0/state",
        "/vm/u",
        "/vm/u/name",
    ];
    assert_eq!((arrivals.len(), paths(&arrivals[0])), (1, expected.map(str::to_owned).to_vec()));
    // If a domain could choose the `/vm/<uuid>` exported with it, it could take another machine's along.
    world.control().set_perms("/local/domain/5/vm", "n5").unwrap();
    let arrivals = read(&leave(&world, &[5], &BTreeMap::new()));
    assert!(!paths(&arrivals[0]).contains(&"/vm/u".to_owned()));
}

#[test]
fn import_notifies_watchers_of_its_nodes() {
    let arrivals = read(&leave(&small_world(), &[5], &BTreeMap::new()));
    let to = empty_world();
    to.watch("/local/domain/0/backend", 1);
    arrive(&to, &arrivals[0]).unwrap();
    let mut events = to.outlet.take_events();
    events.sort();
    let expected = [
        "/local/domain/0/backend/vif",
        "/local/domain/0/backend/vif/5",
        "/local/domain/0/backend/vif/5/0",
        "/local/domain/0/backend/vif/5/0/state",
    ];
    assert_eq!(events, expected.map(|path| (1, path.to_owned())));
}

/// Each domain of a virtual machine brings its `/vm/<uuid>`; entries of dead domains make no difference.
#[test]
fn existing_vm_subtree_with_a_dead_entry_is_accepted() {
    let arrivals = read(&leave(&small_world(), &[5], &BTreeMap::new()));
    let to = empty_world();
    let nine = to.admit(9);
    to.control().write("/vm/u/name", "five").unwrap();
    to.control().set_perms("/vm/u", "n0 r9").unwrap();
    to.die(&nine);
    arrive(&to, &arrivals[0]).unwrap();
    check(&to);
}

/// Nodes are exported in directory order, so that an importing daemon that lists children in the order of creation
/// lists them in the same order.
#[test]
fn nodes_are_exported_in_the_order_of_directories() {
    let world = small_world();
    let vif = "/local/domain/5/device/vif";
    for number in [10, 9, 0, 35, 2] {
        world.control().write(&format!("{vif}/{number}"), "").unwrap();
    }
    for driver in [10, 9] {
        let backend = format!("/local/domain/{driver}/backend/vif/5");
        world.control().write(&backend, "").unwrap();
    }
    let stream = leave(&world, &[5], &BTreeMap::new());
    let mut reader = Reader::new(&*stream).unwrap();
    let mut paths = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        if let Record::Node(node) = record {
            paths.push(String::from_utf8(node.path).unwrap());
        }
    }
    let wanted = [0, 2, 9, 10, 35].map(|number| format!("{vif}/{number}"));
    let devices: Vec<_> =
        paths.iter().filter(|path| path.starts_with(&format!("{vif}/"))).collect();
    assert_eq!(devices, wanted.iter().collect::<Vec<_>>());
    let roots: Vec<_> = paths.iter().filter(|path| path.ends_with("/5")).collect();
    let wanted = [
        "/libxl/5",
        "/local/domain/0/backend/vif/5",
        "/local/domain/0/device-model/5",
        "/local/domain/5",
        "/local/domain/6/backend/vbd/5",
        "/local/domain/9/backend/vif/5",
        "/local/domain/10/backend/vif/5",
    ];
    assert_eq!(roots, wanted);
}

/// No part of the domain is imported, and the error names the occupied domid.
#[test]
fn import_into_an_occupied_domid_fails_and_names_it() {
    let arrivals = read(&leave(&small_world(), &[5], &BTreeMap::new()));
    for (occupied, value, perms) in [
        ("/local/domain/5/x", "here", "n0"),
        ("/libxl/5", "here", "n0"),
        ("/vm/u", "here", "n0"),
        ("/local/domain/0/backend/vif/5", "here", "n0"),
        ("/local/domain/5/x", "", "n0"),
        ("/libxl/5", "", "n5"),
    ] {
        let to = empty_world();
        to.control().write(occupied, value).unwrap();
        to.control().set_perms(occupied, perms).unwrap();
        let before = to.nodes().len();
        let refusal = arrive(&to, &arrivals[0]).unwrap_err();
        assert_eq!(refusal, PlaceError::Occupied(Domid(5), at(occupied).to_buf()));
        let said = format!("domid 5 is in use: node {occupied} already exists");
        assert_eq!(refusal.to_string(), said);
        assert_eq!(to.nodes().len(), before);
        check(&to);
    }
    let to = empty_world();
    to.registry.get(Domid(5)).unwrap().set_presence(Presence::Running);
    assert_eq!(arrive(&to, &arrivals[0]), Err(PlaceError::Taken(Domid(5), Presence::Running)));
    let to = World::new();
    assert_eq!(arrive(&to, &arrivals[0]), Err(PlaceError::Unknown(Domid(5))));
    // An empty node of the control domain does not block an import.
    let to = empty_world();
    to.control().write("/libxl/5", "").unwrap();
    arrive(&to, &arrivals[0]).unwrap();
    check(&to);
    // A second import is refused like any other, and changes nothing.
    let to = empty_world();
    arrive(&to, &arrivals[0]).unwrap();
    let before = to.nodes().len();
    assert!(matches!(arrive(&to, &arrivals[0]), Err(PlaceError::Occupied(Domid(5), _))));
    assert_eq!(to.nodes().len(), before);
}

#[test]
fn import_without_the_owner_or_target_fails() {
    let from = small_world();
    from.control().set_perms("/libxl/5/type", "n7").unwrap();
    let arrivals = read(&leave(&from, &[5], &BTreeMap::new()));
    let to = World::new();
    to.admit(5);
    let (path, owner) = (at("/libxl/5/type").to_buf(), Domid(7));
    let expected = PlaceError::Nodes(Domid(5), ImportError::NoOwner(path, owner));
    let before = to.nodes().len();
    assert_eq!(arrive(&to, &arrivals[0]), Err(expected));
    let [five, seven] = [5, 7].map(|domid| from.registry.get(Domid(domid)).unwrap());
    from.registry.set_target(&five, &seven);
    let clients = [(5, client(1))].into();
    let arrivals = read(&leave(&from, &[5], &clients));
    assert_eq!(arrive(&to, &arrivals[0]), Err(PlaceError::NoTarget(Domid(5), Domid(7))));
    assert_eq!(to.nodes().len(), before);
    check(&to);
}

/// A stale permission matches no domain at the destination (XSA-322).
#[test]
fn import_revives_no_stale_permissions() {
    let from = small_world();
    let nine = from.admit(9);
    from.control().set_perms("/libxl/5/type", "n0 r9 r8").unwrap();
    let (fresh, to) = (leave(&from, &[5], &BTreeMap::new()), empty_world());
    let reader = to.admit(9);
    arrive(&to, &read(&fresh)[0]).unwrap();
    assert_eq!(to.client(&reader).read("/libxl/5/type").as_deref(), Ok("pvh"));
    from.die(&nine);
    let (stale, to) = (leave(&from, &[5], &BTreeMap::new()), empty_world());
    let reader = to.admit(9);
    let arrival = &read(&stale)[0];
    let carried = arrival.nodes.iter().find(|(path, _)| path.as_path() == at("/libxl/5/type"));
    let entry = |entry: &Entry| {
        let stale = if entry.ignored { "!" } else { "" };
        format!("{}{}{stale}", char::from(entry.access.letter()), entry.domid)
    };
    let entries: Vec<_> = carried.unwrap().1.perms.iter().map(entry).collect();
    assert_eq!(entries, ["n0", "r8!"], "9 has died, 8 never existed");
    arrive(&to, arrival).unwrap();
    assert_eq!(to.client(&reader).read("/libxl/5/type"), Err(Errno::EACCES));
    assert_eq!(to.control().run("/libxl/5/type", Verb::GetPerms).unwrap(), b"n0\0r8\0");
    // A permission for a domain that is created at the destination later does not match either.
    let to = empty_world();
    arrive(&to, &read(&fresh)[0]).unwrap();
    let reader = to.admit(9);
    assert_eq!(to.client(&reader).read("/libxl/5/type"), Err(Errno::EACCES));
}

/// Quotas, features and target are set, and use is counted anew, even if it exceeds the quota.
#[test]
fn quotas_features_and_target_are_imported() {
    let from = small_world();
    let [five, seven] = [5, 7].map(|domid| from.registry.get(Domid(domid)).unwrap());
    from.registry.set_limit(Some(&five), Quota::Nodes, 1);
    from.registry.set_soft_memory(Some(&five), 99);
    from.registry.set_target(&five, &seven);
    five.set_features(3);
    for path in ["/libxl/5/type", "/local/domain/5/name"] {
        from.control().set_perms(path, "n5").unwrap();
    }
    let to = World::new();
    to.registry.set_limit(None, Quota::Watches, 3);
    to.registry.set_soft_memory(None, 7);
    DOMIDS.iter().for_each(|&domid| drop(to.admit(domid)));
    arrive(&to, &read(&leave(&from, &[5], &[(5, client(1))].into()))[0]).unwrap();
    let arrived = to.registry.get(Domid(5)).unwrap();
    assert_eq!(arrived.limits().get(Quota::Nodes), 1);
    let watches = Quota::Watches.default_value();
    assert_eq!(
        arrived.limits().get(Quota::Watches),
        watches,
        "the imported domain keeps its quota"
    );
    assert_eq!((arrived.limits().soft_memory(), arrived.features()), (99, 3));
    assert_eq!(to.registry.subject(&arrived).target, Some(Domid(7)));
    assert_eq!(arrived.account.used(Quota::Nodes), 2);
    check(&to);
}

/// Nodes that exist below stay: another domain's backend in this one arrived first.
#[test]
fn driver_domain_is_imported_after_its_frontends() {
    let from = small_world();
    from.control().write("/local/domain/6/name", "six").unwrap();
    let to = empty_world();
    for domid in [5, 6] {
        arrive(&to, &read(&leave(&from, &[domid], &BTreeMap::new()))[0]).unwrap();
        check(&to);
    }
    let mut control = to.control();
    assert_eq!(control.read("/local/domain/6/name").as_deref(), Ok("six"));
    assert_eq!(control.read("/local/domain/6/backend/vbd/5/0/state").as_deref(), Ok("4"));
    // A node that is missing at the source is kept at the destination for the nodes below it.
    let from = empty_world();
    from.control().write("/local/domain/6/name", "six").unwrap();
    let six = read(&leave(&from, &[6], &BTreeMap::new()));
    let to = empty_world();
    arrive(&to, &read(&leave(&small_world(), &[5], &BTreeMap::new()))[0]).unwrap();
    arrive(&to, &six[0]).unwrap();
    check(&to);
    assert_eq!(to.control().read("/local/domain/6/backend/vbd/5/0/state").as_deref(), Ok("4"));
}
