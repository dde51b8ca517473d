//! Messages of the maximum length, and lists that exceed it.

use super::*;

#[test]
fn replies_of_4096_bytes_are_e2big() {
    // Sixteen names of 255 bytes and their NULs make 4096.
    let fill = |world: &mut World| {
        for i in 10..26 {
            world.admin.mkdir(&format!("/d/{i}{}", "n".repeat(253))).unwrap();
        }
    };
    check_with(
        fill,
        "
        dom0 DIRECTORY /d| -> E2BIG
        dom0 RM /d/10{n*253}| -> OK
        dom0 MKDIR /d/10{n*252}| -> OK
        dom0 DIRECTORY /d| -> *
        dom0 MKDIR /d/x| -> OK
        dom0 DIRECTORY /d| -> E2BIG
        dom0 START t1
        dom0 t1 DIRECTORY /d| -> E2BIG
        dom0 t1 END T| -> OK
        ",
    );
}

#[test]
fn requests_of_4096_bytes_are_served() {
    check(
        "
        dom0 WRITE /a|{v*4093} -> OK
        dom0 READ /a| -> {v*4093}
        dom0 CONTROL print|{v*4089}| -> OK
        ",
    );
}

/// Reads a directory in parts, as a client does; starts over when the generation changes.
pub fn directory_in_parts(world: &mut World, who: &str, tx: u32, path: &str) -> Vec<String> {
    let mut list = Vec::new();
    let mut generation = None;
    loop {
        let request = format!("{path}\0{}\0", list.len());
        let reply = world.client(who).request(op::DIRECTORY_PART, tx, request).unwrap();
        assert!(reply.len() < 4096, "a reply of {} bytes", reply.len());
        let nul = reply.iter().position(|&byte| byte == 0).expect("a generation and a NUL");
        let (now, part) = (reply[..nul].to_vec(), &reply[nul + 1..]);
        assert!(!now.is_empty() && now.iter().all(u8::is_ascii_digit));
        if *generation.get_or_insert_with(|| now.clone()) != now {
            list.clear();
            generation = None;
            continue;
        }
        // A part has only whole names; an empty name ends the list.
        assert_eq!(part.last(), Some(&0));
        let ends = part == [0] || part.ends_with(&[0, 0]);
        list.extend_from_slice(if ends { &part[..part.len() - 1] } else { part });
        if ends {
            let list = String::from_utf8(list).unwrap();
            return list.split_terminator('\0').map(str::to_owned).collect();
        }
    }
}

#[test]
fn directory_part_pages_three_thousand_children() {
    for control in [Control::Socket, Control::Ring] {
        let mut world = World::new(control, 4);
        let requests: Vec<_> = (0..3000)
            .map(|i| (op::WRITE, 0, format!("/local/domain/{i}/name\0n").into_bytes()))
            .collect();
        assert!(world.admin.pipeline(&requests).iter().all(Result::is_ok));
        assert_eq!(world.admin.directory("/local/domain"), Err("E2BIG".to_owned()));
        let wanted: Vec<String> = (0..3000).map(|i| i.to_string()).collect();
        let tx = world.client("dom0").start().unwrap();
        for tx in [0, tx] {
            let names = directory_in_parts(&mut world, "dom0", tx, "/local/domain");
            assert_eq!(names, wanted);
        }
        world.client("dom0").commit(tx).unwrap();
    }
}

#[test]
fn invalid_directory_part_requests_are_refused() {
    check(
        "
        dom0 MKDIR /d| -> OK
        dom0 DIRECTORY_PART /d| -> EINVAL
        dom0 DIRECTORY_PART /d|0|0| -> EINVAL
        dom0 DIRECTORY_PART -> EINVAL
        dom0 DIRECTORY_PART /missing|0| -> ENOENT
        dom5 DIRECTORY_PART /d|0| -> EACCES
        ",
    );
}

#[test]
fn directory_part_has_a_new_generation_when_children_change() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let generation = |world: &mut World, path: &str| {
            let reply = world.admin.request(op::DIRECTORY_PART, 0, format!("{path}\x000\0"));
            reply.unwrap().split(|&byte| byte == 0).next().unwrap().to_vec()
        };
        world.admin.write("/d/a", "1").unwrap();
        world.admin.write("/local/domain/7/a", "1").unwrap();
        for (path, child) in [("/d", "/d/b"), ("/local/domain", "/local/domain/8")] {
            let first = generation(&mut world, path);
            assert_eq!(generation(&mut world, path), first, "the generation of {path} changed");
            world.admin.mkdir(child).unwrap();
            let second = generation(&mut world, path);
            assert_ne!(second, first, "creating a child left the generation of {path}");
            world.admin.rm(child).unwrap();
            let third = generation(&mut world, path);
            assert!(
                third != first && third != second,
                "removing a child left the generation of {path}"
            );
        }
        let reply = world.admin.request(op::DIRECTORY_PART, 0, "/d\x001000\0").unwrap();
        assert!(reply.ends_with(b"\0\0"), "an offset past the end yields an empty name");
    }
}
