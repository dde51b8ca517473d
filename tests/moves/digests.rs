//! Damaged, swapped and missing files, and streams without a digest.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use xenstored::migration::stream::digest::TAIL_BYTES;

use super::files::directory;
use super::hold::without_digests;
use super::*;

fn file(directory: &Path, domid: u16) -> PathBuf {
    directory.join(format!("{domid}.xenstore"))
}

/// Takes the digest out of a file.
fn strip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.drain(bytes.len() - TAIL_BYTES..bytes.len() - 8);
    fs::write(path, bytes).unwrap();
}

/// Six files: one truncated, one with bytes after its end, two swapped, one missing, one whole.
#[test]
fn damaged_set_of_files_is_named_by_import_and_release() {
    let (mut a, mut b) = worlds(1..=6);
    let (from, to) = (socket(&a), socket(&b));
    let (_held, path, state) = directory();
    well(&["export", "--socket", &from, "--domains", "1-6", "-o", &state, "-q"]);
    let whole: Vec<Vec<u8>> = (1..=6).map(|domid| fs::read(file(&path, domid)).unwrap()).collect();
    let len = whole[0].len();
    fs::write(file(&path, 1), &whole[0][..len - 1]).unwrap();
    fs::write(file(&path, 2), &whole[2]).unwrap();
    fs::write(file(&path, 3), &whole[1]).unwrap();
    fs::remove_file(file(&path, 4)).unwrap();
    fs::write(file(&path, 5), [&whole[4][..], b"\0"].concat()).unwrap();
    let truncated = format!("it is truncated: it has {} of {len} bytes, by marks.json", len - 1);
    let longer = format!(
        "it has {} bytes, but {} were exported, by marks.json",
        whole[4].len() + 1,
        whole[4].len()
    );
    let swapped = |with| format!("it has the contents of {with}.xenstore, by marks.json");
    for dry_run in [&["--dry-run"][..], &[]] {
        let import = [&["import", "--socket", &to, &state][..], dry_run].concat();
        let run = xsctl(&import);
        assert_eq!(run.code, 6, "{run:?}");
        for (domid, why) in [
            (1, truncated.clone()),
            (2, swapped(3)),
            (3, swapped(2)),
            (4, "it is missing: marks.json lists it".into()),
            (5, longer.clone()),
        ] {
            let line = format!("xsctl: {}: {why}\n", text(&file(&path, domid)));
            assert!(run.err.contains(&line), "{line}: {run:?}");
        }
        assert!(run.out.contains("ed 1 of 6 domains, "), "{run:?}");
    }
    (1..=5).for_each(|domid| is_absent(&mut b, domid));
    assert_eq!(b.admin.read("/local/domain/6/data/own").as_deref(), Ok(&b"of 6"[..]));

    let run = xsctl(&["release", "--socket", &from, &state]);
    assert_eq!(run.code, 6, "{run:?}");
    for (domid, why) in [(1, truncated), (2, swapped(3)), (3, swapped(2)), (5, longer)] {
        let line =
            format!("domain {domid}: its file {domid}.xenstore: {why}; it is not released\n");
        assert!(run.err.contains(&line), "{line}: {run:?}");
    }
    assert!(run.err.contains("domain 4: its file 4.xenstore: No such file"), "{run:?}");
    (1..=5).for_each(|domid| is_quiesced(&mut a, domid));
    is_released(&mut a, 6);

    // The right files again.
    for (domid, bytes) in (1..=6).zip(&whole) {
        fs::write(file(&path, domid), bytes).unwrap();
    }
    let run = xsctl(&["import", "--socket", &to, &state]);
    assert_eq!((run.code, run.err.matches("EEXIST").count()), (6, 1), "{run:?}");
    let run = well(&["release", "--socket", &from, &state, "--domains", "1-5"]);
    assert_eq!(run.err, "");
}

#[test]
fn flipped_bit_of_a_file_is_found_by_its_marks_or_its_digest() {
    let (a, mut b) = worlds([1]);
    let (_held, path, state) = directory();
    well(&["export", "--socket", &socket(&a), "--domains", "1", "-o", &state, "-q"]);
    let path = file(&path, 1);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|some| some == b"of 1").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let run = xsctl(&["import", "--socket", &socket(&b), &text(&path)]);
    let why = "its contents are not those that were exported, by marks.json";
    assert_eq!((run.code, run.err.contains(why)), (6, true), "{run:?}");
    fs::remove_file(path.with_file_name("marks.json")).unwrap();
    let run = xsctl(&["import", "--socket", &socket(&b), &text(&path)]);
    let why = "bytes before it: the stream is damaged";
    assert_eq!((run.code, run.err.contains(why)), (6, true), "{run:?}");
    assert!(run.err.starts_with(&format!("xsctl: {}: record ", text(&path))), "{run:?}");
    is_absent(&mut b, 1);
}

/// Files and marks as former versions wrote them.
#[test]
fn files_without_digests_are_read_with_a_warning() {
    let (mut a, mut b) = worlds([1, 2]);
    let (from, to) = (socket(&a), socket(&b));
    let (_held, path, state) = directory();
    well(&["export", "--socket", &from, "--domains", "1-2", "-o", &state, "-q"]);
    strip(&file(&path, 1));
    let marks = path.join("marks.json");
    let read: Value = serde_json::from_slice(&fs::read(&marks).unwrap()).unwrap();
    let entry = &read["2"];
    let len = fs::metadata(file(&path, 2)).unwrap().len();
    assert_eq!([&entry["file"], &entry["bytes"]], [&json!("2.xenstore"), &json!(len)]);
    assert_eq!(entry["digest"].as_str().unwrap().len(), 32);
    let old = json!({ "1": read["1"]["mark"], "2": read["2"]["mark"] });
    fs::write(&marks, old.to_string()).unwrap();
    let of_marks = format!(
        "xsctl: {}: an older xsctl wrote it, without digests: damage to files is not noticed\n",
        text(&marks)
    );
    let of_file = format!(
        "xsctl: {}: it has no digest: damage to it is not noticed\n",
        text(&file(&path, 1))
    );
    let run = well(&["import", "--introduce", "--socket", &to, &state, "--json"]);
    assert_eq!(run.err, of_marks.clone() + &of_file);
    assert_eq!(run.json().1["done"], 2);
    let run = well(&["release", "--socket", &from, &state]);
    assert_eq!(run.err, of_marks);
    well(&["unquiesce", "--socket", &to, "--domains", "1-2"]);
    for domid in [1, 2] {
        is_released(&mut a, domid);
        is_served(&mut b, domid);
    }
}

/// Both daemons say that they write digests, so a stream without one was changed.
#[test]
fn move_requires_a_digest_if_both_daemons_write_one() {
    const MIGRATION: &str = "/tool/xenstored/operations/migration-socket";
    let (mut a, mut b) = worlds([1]);
    let (from, to) = (socket(&a), socket(&b));
    let path = a.daemon.path("stripped");
    without_digests(&path, a.daemon.path("socket.migration"));
    a.admin.write(MIGRATION, &text(&path)).unwrap();
    let arguments = ["move", "--socket", &from, "--to", &to, "--domains", "1"];
    let run = xsctl(&arguments);
    assert_eq!(run.code, 6, "{run:?}");
    let why = "the stream ends without a digest, which both daemons write";
    assert!(run.err.contains(why), "{run:?}");
    is_absent(&mut b, 1);
    is_served(&mut a, 1);
    // A source that does not say so.
    a.admin.request(op::RM, 0, "/tool/xenstored/operations/stream-digest\0").unwrap();
    well(&arguments);
    is_served(&mut b, 1);
}
