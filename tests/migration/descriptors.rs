//! The migration socket, and the descriptors that come over it.

use std::cell::RefCell;
use std::os::fd::AsFd;

use super::moves::{each_pair, inhabit, nodes};
use super::*;

#[test]
fn each_domain_may_have_its_own_stream() {
    each_pair(|from, to| {
        for domid in [5, 6] {
            inhabit(from, domid);
        }
        let files = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let said = Bulk::connect(&from.daemon).ask(
            bulk::EXPORT,
            "5-6|",
            &[files[0].as_fd(), files[1].as_fd()],
        );
        assert_eq!(said.lines().count(), 2, "{said}");
        for (mut file, domid) in files.iter().zip([5, 6]) {
            std::io::Seek::rewind(&mut file).unwrap();
            to.create(domid);
        }
        let said =
            Bulk::connect(&to.daemon).ask(bulk::IMPORT, "", &[files[1].as_fd(), files[0].as_fd()]);
        let domids: Vec<&str> = said.lines().map(|line| &line[..5]).collect();
        assert_eq!(domids, ["6|OK|", "5|OK|"]);
        assert_eq!(nodes(to, 6), nodes(from, 6));
    });
}

#[test]
fn malformed_requests_over_the_migration_socket_are_refused() {
    each_world(|world| {
        world.guest(5);
        let mut bulk = Bulk::connect(&world.daemon);
        let file = tempfile::tempfile().unwrap();
        let [one, two] = [&[file.as_fd()][..], &[file.as_fd(), file.as_fd()]];
        for (kind, payload, descriptors, expected) in [
            (bulk::EXPORT, "5|", &[][..], "EINVAL|"),
            (bulk::EXPORT, "5|", two, "EINVAL|"),
            (bulk::EXPORT, "5", one, "EINVAL|"),
            (bulk::EXPORT, "x|", one, "EINVAL|"),
            (bulk::EXPORT, "5-x|", one, "EINVAL|"),
            (bulk::EXPORT, "0|", one, "EINVAL|"),
            (bulk::EXPORT, "0-9|", one, "EINVAL|"),
            (bulk::EXPORT, "77|", one, "77|ENOENT|it is not introduced, or was unquiesced|"),
            (bulk::EXPORT, "77-99|", one, ""),
            (bulk::IMPORT, "", &[], "EINVAL|"),
            (bulk::IMPORT, "x|", one, "EINVAL|"),
            (bulk::DISCARD, "x|", &[], "EINVAL|"),
            (op::QUIESCE, "5|", &[], "ENOSYS|"),
            (bulk::STATES + 1, "5|", &[], "ENOSYS|"),
        ] {
            assert_eq!(bulk.ask(kind, payload, descriptors), expected, "{kind} {payload}");
        }
        let many: String = (100..357).map(|domid| format!("{domid}|")).collect();
        assert_eq!(bulk.ask(bulk::EXPORT, &many, one), "E2BIG|");
        // None of these requests quiesced a domain.
        assert_eq!(world.guest(5).write("x", "v").as_deref(), Ok(OK));
    });
}

/// Linux lets any process send 253 descriptors with each part of a request.
#[test]
fn request_with_more_than_253_descriptors_ends_the_connection() {
    each_world(|world| {
        let file = tempfile::tempfile().unwrap();
        for (with_rest, has_reply) in [(0, true), (1, false)] {
            let mut bulk = Bulk::connect(&world.daemon);
            bulk.send_part(&header(bulk::IMPORT, 7, 0, 2), &[file.as_fd(); 253]);
            bulk.send_part(b"x\0", &vec![file.as_fd(); with_rest]);
            if has_reply {
                assert_eq!(bulk.replies(), "EINVAL|");
            } else {
                assert!(bulk.is_closed_by_daemon());
            }
        }
    });
}

/// The stream cannot be written: a domain that was served before is served again.
#[test]
fn failed_export_ends_the_quiesce_that_it_began() {
    each_world(|world| {
        for domid in [5, 6] {
            inhabit(world, domid);
        }
        quiesce(world, "6").unwrap();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut bulk = Bulk::connect(&world.daemon);
        assert_eq!(bulk.ask(bulk::EXPORT, "5-6|", &[full.as_fd()]), "EIO|");
        assert_eq!(world.guest(5).write("x", "v").as_deref(), Ok(OK));
        let guest = world.guest(6);
        guest.send(op::WRITE, 0, "x\0v");
        guest.ring().notify();
        passes(world, 6);
        assert!(
            !world.guest(6).has_reply(),
            "a failed export leaves a domain quiesced that was so before"
        );
        unquiesce(world, "6").unwrap();
        assert_eq!(world.guest(6).reply().as_deref(), Ok(OK));
    });
}

#[test]
fn migration_socket_path_is_published_below_tool() {
    let shards = RefCell::new(Vec::new());
    each_world(|world| {
        shards.borrow_mut().push(world.admin.read("/tool/xenstored/operations/shards").unwrap());
        let path = world.admin.read("/tool/xenstored/operations/migration-socket").unwrap();
        let expected = world.daemon.path("socket.migration");
        assert_eq!(path, expected.to_str().unwrap().as_bytes());
        let number = world.admin.read("/tool/xenstored/operations/EXPORT_DOMAINS");
        assert_eq!(number.as_deref(), Ok(&b"65552"[..]));
        let mode = std::fs::metadata(&expected).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
        world.daemon.stop();
        assert!(!expected.exists());
    });
    assert_eq!(shards.into_inner(), [b"1", b"4"]);
}

fn nine_pipes() -> (Vec<std::io::PipeReader>, Vec<std::io::PipeWriter>) {
    (1..=9).map(|_| std::io::pipe().unwrap()).unzip()
}

/// A peer may serve several pipes one after another, though the daemon reads and writes them concurrently. Each stream
/// is larger than a pipe.
#[test]
fn pipes_served_one_after_another_do_not_deadlock() {
    each_pair(|from, to| {
        for domid in 1..=9 {
            from.guest(domid);
            for number in 0..50 {
                let path = format!("/local/domain/{domid}/data/{number}");
                from.admin.write(&path, &"v".repeat(2000)).unwrap();
            }
            to.create(domid);
        }
        let (readers, writers) = nine_pipes();
        let mut bulk = Bulk::connect(&from.daemon);
        let ends: Vec<_> = writers.iter().map(AsFd::as_fd).collect();
        bulk.send(bulk::EXPORT, "1-9|", &ends);
        drop(ends);
        drop(writers);
        let mut streams = [const { Vec::new() }; 9];
        for (mut reader, stream) in readers.into_iter().zip(&mut streams) {
            std::io::Read::read_to_end(&mut reader, stream).unwrap();
        }
        assert_eq!(bulk.replies().matches("|OK|").count(), 9);

        let (readers, writers) = nine_pipes();
        let mut bulk = Bulk::connect(&to.daemon);
        let ends: Vec<_> = readers.iter().map(AsFd::as_fd).collect();
        bulk.send(bulk::IMPORT, "", &ends);
        drop(ends);
        drop(readers);
        for (mut writer, stream) in writers.into_iter().zip(&streams) {
            std::io::Write::write_all(&mut writer, stream).unwrap();
        }
        let said = bulk.replies();
        let domids: Vec<_> = said.lines().map(|line| line.split_once('|').unwrap()).collect();
        let expected: Vec<_> = (1..=9).map(|domid| domid.to_string()).collect();
        assert!(domids.iter().all(|(_, rest)| rest.starts_with("OK|")), "{said}");
        assert!(domids.iter().map(|(domid, _)| *domid).eq(&expected), "{said}");
    });
}

/// If one stream cannot be written, no domain is exported.
#[test]
fn export_to_several_streams_is_all_or_nothing() {
    each_world(|world| {
        world.guest(5);
        world.guest(6);
        let whole = tempfile::tempfile().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        for ends in [[whole.as_fd(), writer.as_fd()], [writer.as_fd(), whole.as_fd()]] {
            assert_eq!(Bulk::connect(&world.daemon).ask(bulk::EXPORT, "5-6|", &ends), "EIO|");
            for domid in [5, 6] {
                assert_eq!(world.guest(domid).write("x", "v").as_deref(), Ok(OK));
            }
        }
    });
}
