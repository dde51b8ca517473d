//! Export, import, release, and the commands that undo them.

use std::fs;
use std::path::PathBuf;

use super::*;

/// Returns a directory for an export, and its name.
pub fn directory() -> (tempfile::TempDir, PathBuf, String) {
    let held = tempfile::tempdir().unwrap();
    let path = held.path().join("state");
    let name = text(&path);
    (held, path, name)
}

fn names(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|it| name(it).unwrap()).collect();
    names.sort();
    names
}

#[test]
fn domains_move_through_files() {
    let (mut a, mut b) = worlds([1, 2, 3, 10]);
    let (from, to) = (socket(&a), socket(&b));
    let (_held, path, state) = directory();
    let run =
        well(&["export", "--socket", &from, "--domains", "1-20", "-o", &state, "--batch", "3"]);
    assert!(run.out.starts_with("exported 4 of 4 domains, 20 nodes, in "), "{run:?}");
    let hint = format!("xsctl unquiesce --socket {from} --domains 1-3,10;");
    assert!(run.err.contains(&hint), "{run:?}");
    assert!(run.err.contains(&format!("xsctl release --socket {from} {state}")), "{run:?}");
    let files = ["1.xenstore", "10.xenstore", "2.xenstore", "3.xenstore", "marks.json"];
    assert_eq!(names(&path), files);
    for file in files {
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(path.join(file)).unwrap());
        assert_eq!(mode & 0o777, 0o600, "{file} holds guests' data, so it is private");
    }
    for domid in [1, 2, 3, 10] {
        is_quiesced(&mut a, domid);
        well(&["inspect", &text(&path.join(format!("{domid}.xenstore")))]);
    }

    // A dry run changes nothing, however often it is repeated.
    for _ in 0..2 {
        let run = well(&["import", "--dry-run", "--socket", &to, &state]);
        assert!(run.out.starts_with("checked 4 of 4 domains, 20 nodes, in "), "{run:?}");
        assert_eq!(run.err, "");
        is_absent(&mut b, 1);
    }
    let run = well(&["import", "--introduce", "--socket", &to, &state, "--json", "--batch", "2"]);
    let (lines, summary) = run.json();
    assert_eq!((lines.len(), &summary["nodes"]), (4, &20.into()));
    let note = summary["notes"][0].as_str().unwrap();
    assert!(note.contains(&format!("xsctl discard --socket {to} --domains 1-3,10")), "{note}");
    // At the second import the domids are occupied.
    let run = xsctl(&["import", "--introduce", "--socket", &to, &state]);
    assert_eq!((run.code, run.err.matches("EEXIST").count()), (6, 4), "{run:?}");

    // Another client writes meanwhile.
    a.admin.write("/local/domain/2/data/late", "").unwrap();
    let run = xsctl(&["release", "--socket", &from, &state, "--domains", "2-3"]);
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.err.starts_with("xsctl: domain 2: it was changed since its export"), "{run:?}");
    is_released(&mut a, 3);
    is_quiesced(&mut a, 2);
    let run = xsctl(&["release", "--socket", &from, &state]);
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.err.contains("domain 3: RELEASE: ENOENT"), "domain 3 is already released: {run:?}");
    // The domain's import is therefore discarded, and the domain is moved again.
    well(&["discard", "--socket", &to, "--domains", "2"]);
    let again =
        ["export", "--socket", &from, "--domains", "2", "-o", &state].map(str::to_owned).to_vec();
    let refused = xsctl(&again.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("it already contains streams"), "{refused:?}");
    well(&again.iter().map(String::as_str).chain(["--force"]).collect::<Vec<_>>());
    assert_eq!(names(&path), files);
    well(&["import", "--introduce", "--socket", &to, &text(&path.join("2.xenstore"))]);
    well(&["release", "--socket", &from, &state, "--domains", "2"]);

    well(&["unquiesce", "--socket", &to, "--domains", "1-20"]);
    for domid in [1, 3, 10] {
        is_released(&mut a, domid);
        is_served(&mut b, domid);
    }
    b.connect_guest(2);
    assert_eq!(b.guest(2).next_event(), "data/late|t");
    is_served(&mut b, 2);
    b.check_store();
}

#[test]
fn imported_files_can_be_discarded() {
    let (mut a, mut b) = worlds([1, 2, 3]);
    let (from, to) = (socket(&a), socket(&b));
    let (_held, path, state) = directory();
    well(&["export", "--socket", &from, "--domains", "1-3", "-o", &state, "-q"]);
    well(&["import", "--socket", &to, &text(&path.join("1.xenstore"))]);
    well(&["import", "--introduce", "--socket", &to, &text(&path.join("2.xenstore"))]);
    // A range includes only imported domains; a domain that is named individually must have been imported.
    let run = xsctl(&["discard", "--socket", &to, "--domains", "1-100,200"]);
    assert_eq!((run.code, run.err.lines().count()), (6, 1), "{run:?}");
    assert!(run.err.contains("domain 200: E"), "{run:?}");
    assert!(run.out.starts_with("discarded 2 of 3 domains"), "{run:?}");
    for domid in [1, 2, 3] {
        is_absent(&mut b, domid);
    }
    let run = xsctl(&["discard", "--socket", &to, "--domains", "1-100"]);
    assert_eq!((run.code, run.out.as_str()), (6, ""), "{run:?}");
    let run = well(&["unquiesce", "--socket", &from, "--domains", "1-3", "--json"]);
    assert_eq!(run.json().1["done"], 3);
    for domid in [1, 2, 3] {
        is_served(&mut a, domid);
    }
}

#[test]
fn malformed_file_does_not_stop_the_others() {
    let (a, mut b) = worlds([1, 2]);
    let (_held, path, state) = directory();
    well(&["export", "--socket", &socket(&a), "--domains", "1,2", "-o", &state, "-q"]);
    let whole = fs::read(path.join("1.xenstore")).unwrap();
    fs::write(path.join("3.xenstore"), &whole[..whole.len() - 20]).unwrap();
    fs::write(path.join("4.xenstore"), "no stream").unwrap();
    let run = xsctl(&["import", "--socket", &socket(&b), &state, "--json"]);
    let (lines, summary) = run.json();
    assert_eq!(run.code, 6, "{run:?}");
    assert_eq!([&summary["done"], &summary["failed"], &summary["left"]], [2, 2, 0]);
    let of_files: Vec<_> = lines.iter().filter(|line| line.get("domid").is_none()).collect();
    let [third, fourth] = of_files[..] else { panic!("{run:?}") };
    assert!(third["file"].as_str().unwrap().ends_with("/3.xenstore"));
    assert!(third["error"].as_str().unwrap().contains(" at byte "), "{third}");
    assert!(fourth["file"].as_str().unwrap().ends_with("/4.xenstore"));
    well(&["discard", "--socket", &socket(&b), "--domains", "1,2"]);
    is_absent(&mut b, 1);
    let missing = text(&path.join("5.xenstore"));
    let run = xsctl(&["import", "--socket", &socket(&b), &missing]);
    assert_eq!(run.code, 6);
    assert!(run.err.starts_with(&format!("xsctl: {missing}: No such file")), "{run:?}");
    let run = xsctl(&["import", "--socket", &socket(&b), &text(_held.path())]);
    assert_eq!(run.code, 4, "{run:?}");
}

#[test]
fn failed_export_leaves_no_file() {
    let (mut a, _) = worlds([1]);
    let (_held, path, state) = directory();
    let run = xsctl(&["export", "--socket", &socket(&a), "--domains", "1,9", "-o", &state]);
    assert_eq!(run.code, 6);
    assert!(run.err.starts_with("xsctl: domain 9: EXPORT_DOMAINS: ENOENT"), "{run:?}");
    assert_eq!(names(&path), ["1.xenstore", "marks.json"]);
    well(&["unquiesce", "--socket", &socket(&a), "--domains", "1"]);
    is_served(&mut a, 1);
    // A regular file is where a directory is expected.
    let file = text(&path.join("1.xenstore"));
    let run = xsctl(&["export", "--socket", &socket(&a), "--domains", "1", "-o", &file]);
    assert_eq!((run.code, run.out.as_str()), (3, ""), "{run:?}");
    let run = xsctl(&["release", "--socket", &socket(&a), &text(_held.path())]);
    assert_eq!(run.code, 4, "{run:?}");
    is_served(&mut a, 1);
}

#[test]
fn quiesce_stops_domains_and_unquiesce_resumes_them() {
    let (mut a, _) = worlds([1, 2, 3]);
    let run = xsctl(&["quiesce", "--socket", &socket(&a), "--domains", "1-2,9"]);
    assert_eq!(run.code, 6);
    assert_eq!(run.err, "xsctl: domain 9: ENOENT\n");
    assert!(run.out.starts_with("quiesced 2 of 3 domains"), "{run:?}");
    is_quiesced(&mut a, 1);
    is_quiesced(&mut a, 2);
    a.guest(1).send(op::READ, 0, "data/own\0");
    assert!(!a.guest(1).has_reply());
    let run = well(&["unquiesce", "-q", "--socket", &socket(&a), "--domains", "1-9"]);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
    assert_eq!(a.guest(1).reply().as_deref(), Ok(&b"of 1"[..]));
    for domid in [1, 2, 3] {
        is_served(&mut a, domid);
    }
    // Neither domain exists, and each is reported.
    let run = xsctl(&["quiesce", "--socket", &socket(&a), "--domains", "8,9"]);
    assert_eq!(run.err, "xsctl: domain 8: ENOENT\nxsctl: domain 9: ENOENT\n");
}
