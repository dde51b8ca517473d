//! Lists of watches, read and set.

use super::*;

#[test]
fn watches_are_listed_as_the_domain_wrote_them() {
    each_world(|world| {
        world.guest(5);
        assert_eq!(list(world, 5), [""; 0]);
        let watches = [
            ("@releaseDomain", "special"),
            ("data", "relative"),
            ("/local/domain/5/data", "absolute"),
            ("/local/domain/0/backend", "upper"),
            ("/", "all"),
            ("/elsewhere", ""),
            ("data", " odd\\\n\x01\x7f"),
        ];
        for (path, token) in watches {
            world.guest(5).watch(path, token).unwrap();
        }
        let reply = world.admin.request(op::GET_DOMAIN_WATCHES, 0, "5\x000").unwrap();
        let at = reply.iter().position(|&byte| byte == 0).unwrap();
        let expected = watches.map(|(path, token)| format!("{path}\0{token}\0")).concat();
        assert_eq!(show_all(&reply[at + 1..]), show_all(expected.as_bytes()));
        // In text form every token is a single word.
        let text = show(&world.admin.control("get-domain-watches 5 5").unwrap());
        let (generation, _) = page(world, 5, 0);
        let odd = "data \\x20odd\\x5c\\x0a\\x01\\x7f\n";
        assert_eq!(text, format!("{generation}\n/elsewhere \n{odd}|"));
        // Setting the watches caused events that are irrelevant here.
        world.guest(5).poll();
        world.guest(5).take_events();
    });
}

#[test]
fn generation_changes_with_the_list_of_watches() {
    each_world(|world| {
        world.guest(5);
        let mut seen = vec![page(world, 5, 0).0];
        let mut changed = |world: &mut World, expected: &[&str]| {
            let (generation, watches) = page(world, 5, 0);
            assert_eq!(watches, expected);
            assert_eq!(page(world, 5, 1).0, generation, "all pages have one generation");
            assert!(!seen.contains(&generation), "{generation} is used again");
            seen.push(generation);
        };
        for path in ["a", "b", "c"] {
            world.guest(5).watch(path, "t").unwrap();
        }
        changed(world, &["a|t", "b|t", "c|t"]);
        world.guest(5).unwatch("b", "t").unwrap();
        changed(world, &["a|t", "c|t"]);
        // The new watch takes the slot of the removed one, but is listed after the others.
        world.guest(5).watch("d", "t").unwrap();
        changed(world, &["a|t", "c|t", "d|t"]);
        world.guest(5).request(op::RESET_WATCHES, 0, "\0").unwrap();
        changed(world, &[]);
        world.guest(5).watch("e", "t").unwrap();
        changed(world, &["e|t"]);
        let port = world.ports[&5];
        world.admin.request(op::RELEASE, 0, "5\0").unwrap();
        world.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
        changed(world, &[]);
    });
}

#[test]
fn long_list_is_split_between_watches() {
    each_world(|world| {
        let expected: Vec<_> =
            (0..200).map(|i| format!("w{i}|{}", "t".repeat(i * 7 % 300))).collect();
        for watch in &expected {
            let (path, token) = watch.split_once('|').unwrap();
            world.guest(5).watch(path, token).unwrap();
            world.guest(5).next_event();
        }
        assert_eq!(list(world, 5), expected);
        let (_, first) = page(world, 5, 0);
        assert!(first.len() < 200 && first.len() > 20, "{}", first.len());
        for index in [1, 57, 199] {
            let (_, part) = page(world, 5, index);
            assert_eq!(part[..], expected[index..index + part.len()]);
        }
        for index in [200, 201, 4_000_000_000] {
            assert_eq!(page(world, 5, index).1, [""; 0]);
        }
        // The same holds in text form, in which escaped bytes take more space.
        let text = show_all(&world.admin.control("get-domain-watches 5 0").unwrap());
        let lines: Vec<_> = text.lines().skip(1).filter(|line| *line != "|").collect();
        assert!(lines.len() > 20);
        for (line, watch) in lines.iter().zip(&expected) {
            assert_eq!(*line, watch.replace('|', " "));
        }
    });
}

#[test]
fn watch_larger_than_a_reply_is_e2big() {
    each_world(|world| {
        world.guest(5).watch("a", "short").unwrap();
        world.guest(5).watch("b", &"t".repeat(4092)).unwrap();
        world.guest(5).watch("c", &"\n".repeat(1100)).unwrap();
        let get = |world: &mut World, index: usize| {
            world.admin.request(op::GET_DOMAIN_WATCHES, 0, format!("5\0{index}\0"))
        };
        assert_eq!(page(world, 5, 0).1, ["a|short"]);
        assert_eq!(get(world, 1).err().as_deref(), Some("E2BIG"));
        assert_eq!(get(world, 2).unwrap().len() - page(world, 5, 3).0.to_string().len(), 1104);
        let text = world.admin.control("get-domain-watches 5 2");
        assert_eq!(text.err().as_deref(), Some("E2BIG"), "each byte takes four in the text");
        world.guest(5).poll();
        world.guest(5).take_events();
    });
}

#[test]
fn depths_are_listed_and_added_by_separate_operations() {
    check(
        "
        dom5 WATCH a|t| -> OK
        dom5 WATCH b|t|2| -> OK
        dom5 WATCH c|t|0| -> OK
        dom0 ADD_DOMAIN_WATCHES_DEPTH 5|d|t||e|t|1|f||0| -> OK
        events dom5 a|t b|t c|t d|t e|t f|
        dom0 WRITE /local/domain/5/e/1|v -> OK
        dom0 WRITE /local/domain/5/e/1/2|v -> OK
        event dom5 e/1|t
        no events dom5
        ",
    );
    each_world(|world| {
        for watch in ["a\0t\0", "b\0t\x002\0", "c\0t\x000\0"] {
            world.guest(5).request(op::WATCH, 0, watch).unwrap();
            world.guest(5).next_event();
        }
        let reply = world.admin.request(op::GET_DOMAIN_WATCHES_DEPTH, 0, "5\x001").unwrap();
        assert!(show(&reply).ends_with("|b|t|2|c|t|0|"), "{}", show(&reply));
        let reply = world.admin.request(op::GET_DOMAIN_WATCHES_DEPTH, 0, "5\x000\0").unwrap();
        assert!(show(&reply).contains("|a|t||b|t|2|"), "{}", show(&reply));
        let text = show(&world.admin.control("get-domain-watches -d 5 0").unwrap());
        assert!(text.ends_with("\na t \nb t 2\nc t 0\n|"), "{text}");
    });
}

#[test]
fn watches_are_added_as_if_set_by_the_domain() {
    check(
        "
        dom0 ADD_DOMAIN_WATCHES 5|data|rel|/local/domain/5/data|abs|@releaseDomain|s|/hidden|h| -> OK
        events dom5 data|rel /local/domain/5/data|abs @releaseDomain|s /hidden|h
        dom0 WRITE /local/domain/5/data/x|v -> OK
        events dom5 data/x|rel /local/domain/5/data/x|abs
        # Added watches have the domain's rights.
        dom0 WRITE /hidden/x|v -> OK
        no events dom5
        dom5 UNWATCH data|rel| -> OK
        dom0 WRITE /local/domain/5/data/x|v -> OK
        event dom5 /local/domain/5/data/x|abs
        # Without the last NUL, and an empty token.
        dom0 ADD_DOMAIN_WATCHES 5|one|t -> OK
        dom0 ADD_DOMAIN_WATCHES 5|two|| -> OK
        events dom5 one|t two|
        # The same by CONTROL.
        dom0 CONTROL add-domain-watches|5|data|odd\\x5cx41word|data|t| -> OK
        events dom5 data|oddAword data|t
        dom0 CONTROL add-domain-watches|5|data|bad\\x5c| -> EINVAL
        dom0 CONTROL add-domain-watches|-d|5|deep|t|1| -> OK
        event dom5 deep|t
        ",
    );
}

#[test]
fn adding_watches_is_all_or_nothing() {
    check(
        "
        dom5 WATCH known|t| -> OK
        event dom5 known|t
        dom0 ADD_DOMAIN_WATCHES 5|known|t| -> EEXIST
        dom0 ADD_DOMAIN_WATCHES 5|new|t|known|t| -> EEXIST
        dom0 ADD_DOMAIN_WATCHES 5|new|t|new|t| -> EEXIST
        dom0 ADD_DOMAIN_WATCHES 5|new|t|/local/domain/5/new|t| -> EEXIST
        dom0 ADD_DOMAIN_WATCHES 5|new|t|a//b|t| -> EINVAL
        dom0 SET_QUOTA 5|watches|3| -> OK
        dom0 ADD_DOMAIN_WATCHES 5|1|t|2|t|3|t| -> ENOSPC
        no events dom5
        dom0 WRITE /local/domain/5/new|v -> OK
        dom0 WRITE /local/domain/5/1|v -> OK
        no events dom5
        dom0 ADD_DOMAIN_WATCHES 5|1|t| -> OK
        event dom5 1|t
        ",
    );
}

#[test]
fn listed_watches_can_be_added_at_another_daemon() {
    for shards in [1, 4] {
        let mut from = World::new(Control::Socket, shards);
        for i in 0..300 {
            let path = ["data", "/local/domain/5/data", "@introduceDomain", "/"][i % 4];
            let token: Vec<u8> = (0..i % 50).map(|j| 1 + u8::try_from(j * 5).unwrap()).collect();
            let number = i.to_string();
            let payload = [path.as_bytes(), b"\0", number.as_bytes(), &token, b"\0"];
            from.guest(5).request(op::WATCH, 0, payload.concat()).unwrap();
            from.guest(5).poll();
        }
        quiesce(&mut from, "5").unwrap();
        let mut to = World::new(Control::Socket, shards);
        to.guest(5);
        let pages = pages_with_depth(&mut from);
        assert!(pages.len() > 2);
        for page in &pages {
            let add = [b"5\0", &page[..]].concat();
            to.admin.request(op::ADD_DOMAIN_WATCHES_DEPTH, 0, add).unwrap();
            to.guest(5).poll();
        }
        assert_eq!(pages_with_depth(&mut to).concat(), pages.concat());
    }
}

/// Returns all watches of domain 5 in the form for ADD_DOMAIN_WATCHES_DEPTH, page by page.
fn pages_with_depth(world: &mut World) -> Vec<Vec<u8>> {
    let (mut index, mut pages) = (0, Vec::new());
    loop {
        let get = format!("5\0{index}\0");
        let mut reply = world.admin.request(op::GET_DOMAIN_WATCHES_DEPTH, 0, get).unwrap();
        let at = reply.iter().position(|&byte| byte == 0).unwrap();
        let watches = reply.split_off(at + 1);
        if watches.is_empty() {
            return pages;
        }
        index += watches.iter().filter(|&&byte| byte == 0).count() / 3;
        pages.push(watches);
    }
}

#[test]
fn watches_added_to_a_quiesced_domain_fire_after_unquiesce() {
    each_world(|world| {
        world.guest(5);
        quiesce(world, "5").unwrap();
        let before = whole_page(world, 5);
        world.admin.request(op::ADD_DOMAIN_WATCHES, 0, "5\0data\0t\0").unwrap();
        world.admin.request(op::START_DOMAIN_TRANSACTION, 0, "5\x0077\0").unwrap();
        passes(world, 5);
        assert_eq!(whole_page(world, 5), before);
        assert_eq!(list(world, 5), ["data|t"]);
        unquiesce(world, "5").unwrap();
        assert_eq!(world.next_event("dom5"), "data|t");
        assert_eq!(world.guest(5).commit(77), Err("EAGAIN".to_owned()));
    });
}
