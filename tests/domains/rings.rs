//! The ring page of a guest.

use super::*;

#[test]
fn ring_indices_wrap_around() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.create(7);
        let guest = &world.guests[&7];
        // Neither the daemon nor the guest may assume that indices begin at zero.
        for (cons, prod) in [(at::REQ_CONS, at::REQ_PROD), (at::RSP_CONS, at::RSP_PROD)] {
            guest.page.word(cons).store(u32::MAX - 300, Ordering::Release);
            guest.page.word(prod).store(u32::MAX - 300, Ordering::Release);
        }
        world.admin.mkdir("/local/domain/7").unwrap();
        world.admin.set_perms("/local/domain/7", "n7").unwrap();
        world.introduce(7);
        let value = "v".repeat(700);
        for _ in 0..20 {
            let guest = world.guest(7);
            guest.write("x", &value).unwrap();
            assert_eq!(guest.read("x").as_deref(), Ok(value.as_bytes()));
        }
    }
}

#[test]
fn messages_longer_than_the_ring_pass_through_it() {
    let quota = |world: &mut World| world.admin.set_quota(Some(5), "node-size", 0);
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            world.guest(5);
            quota(&mut world);
            for (name, path) in [("dom5", "/local/domain/5/x"), ("dom0", "/x")] {
                let value = "v".repeat(4096 - path.len() - 1);
                let client = world.client(name);
                client.write(path, &value).unwrap();
                assert_eq!(client.read(path).as_deref(), Ok(value.as_bytes()));
            }
        }
    }
}

#[test]
fn features_are_written_to_the_page() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        assert_eq!(world.guest(5).ring().page().load(at::FEATURES), 15);
        world.create(7);
        world.admin.request(op::SET_FEATURE, 0, "7\x006\0").unwrap();
        world.introduce(7);
        assert_eq!(world.guest(7).ring().page().load(at::FEATURES), 6);
    }
}

#[test]
fn a_port_in_the_page_overrides_that_of_introduce() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.create(7);
        let port = world.ports[&7];
        world.guests[&7].page.store(at::EVTCHN_PORT, port);
        world.admin.request(op::INTRODUCE, 0, format!("7\x001\0{}\0", port + 1000)).unwrap();
        world.connect_guest(7);
        let path = world.guest(7).request(op::GET_DOMAIN_PATH, 0, "7\0");
        assert_eq!(path.as_deref(), Ok(&b"/local/domain/7\0"[..]));
    }
}
