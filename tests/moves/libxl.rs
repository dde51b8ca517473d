//! Domains as records of libxl's migration stream.

use std::fs;

use super::*;

#[test]
fn state_that_the_libxl_format_lacks_is_reported() {
    let (mut a, mut b) = worlds([1, 2]);
    a.guest(1).request(op::WATCH, 0, "deep\0u\x002\0").unwrap();
    assert_eq!(a.guest(1).next_event(), "deep|u");
    let transaction = a.guest(1).start().unwrap();
    a.admin.set_quota(Some(1), "nodes", 500);
    let held = tempfile::tempdir().unwrap();
    let state = text(held.path());
    let from = socket(&a);
    let run =
        well(&["export", "--socket", &from, "--domains", "1-2", "-o", &state, "--format", "libxl"]);
    let line = run.err.lines().find(|line| line.contains("domain 1:")).unwrap();
    for what in ["1 depth of a watch", "10 quotas", "the features"] {
        assert!(line.contains(what), "{line}");
    }
    let file = text(&held.path().join("1.libxl"));
    let bytes = fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"LibxlFmt\0\0\0\x02\0\0\0\0\x07\0\0\0"));
    assert!(bytes.ends_with(&[0; 8]) && bytes.len().is_multiple_of(8));
    assert!(held.path().join("marks.json").exists());

    let to = socket(&b);
    well(&["import", "--socket", &to, "--format", "libxl", "--domain", "1", &file]);
    let port = b.ports[&1];
    b.admin.request(op::INTRODUCE, 0, format!("1\x001\0{port}\0")).unwrap();
    well(&["release", "--socket", &from, &state, "--domains", "1"]);
    well(&["unquiesce", "--socket", &to, "--domains", "1"]);
    is_served(&mut b, 1);
    assert_eq!(b.guest(1).commit(transaction).err().as_deref(), Some("EAGAIN"));
    is_released(&mut a, 1);
}

/// Returns a record of libxl's stream.
fn record(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    let mut bytes = [&kind.to_le_bytes()[..], &len.to_le_bytes(), body].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Writes a libxl stream with these records to a file; returns its name.
fn file(directory: &Path, records: &[Vec<u8>]) -> String {
    let path = directory.join("domain");
    let header = b"LibxlFmt\0\0\0\x02\0\0\0\0".to_vec();
    fs::write(&path, [vec![header], records.to_vec()].concat().concat()).unwrap();
    text(&path)
}

/// Returns libxc's image of a domain, which is not in a record of libxl's: its headers, a record whose type is that of
/// ours in libxl's stream, its last record.
fn image() -> Vec<u8> {
    let header = [&[0xff; 8][..], b"XENF\0\0\0\x03\0\0\0\0\0\0\0\0"].concat();
    let domain = b"\x02\0\0\0\x0c\0\0\0\x04\0\0\0\x15\0\0\0".to_vec();
    [header, domain, record(7, b"shared info"), record(0, b"")].concat()
}

#[test]
fn draft_records_are_read_among_others() {
    let (_, mut b) = worlds([]);
    b.create(7);
    let held = tempfile::tempdir().unwrap();
    let records = [
        [record(1, b""), image()].concat(),
        record(2, b"\x02\0\0\0\0\0\0\0key\0value\0"),
        // Not in order.
        record(7, b"\x01\0\0\0/local/domain/7/data/own\x001\0n7\0of 7"),
        record(7, b"\x01\0\0\0/local/domain/7/data/nuls\x001\0n7\0\0\0"),
        record(7, b"\x01\0\0\0/local/domain/7\x001\0n7\0"),
        record(7, b"\x01\0\0\0/local/domain/7/data\x001\0n7\0"),
        record(7, b"\x02\0\0\0data\0t\0"),
        record(7, b"\x03\0\0\x002\x005\x009\0"),
        record(0, b""),
    ];
    let file = file(held.path(), &records);
    let to = socket(&b);
    well(&["import", "--socket", &to, "--format", "libxl", "--domain", "7", &file]);
    b.introduce(7);
    well(&["unquiesce", "--socket", &to, "--domains", "7"]);
    assert_eq!(b.guest(7).read("data/own").as_deref(), Ok(&b"of 7"[..]));
    assert_eq!(b.guest(7).read("data/nuls").as_deref(), Ok(&b"\0\0"[..]));
    assert_eq!(b.guest(7).read("data").as_deref(), Ok(&b""[..]));
    for transaction in [5, 9] {
        assert_eq!(b.guest(7).commit(transaction).err().as_deref(), Some("EAGAIN"));
    }
    b.admin.write("/local/domain/7/data/other", "").unwrap();
    assert_eq!(b.guest(7).next_event(), "data/other|t");
}

#[test]
fn malformed_libxl_file_fails_with_the_offset() {
    let (_, mut b) = worlds([]);
    b.create(7);
    let held = tempfile::tempdir().unwrap();
    let node = record(7, b"\x01\0\0\0/local/domain/7\x001\0n7\0");
    for (records, said) in [
        (&[][..], "at byte 16: the stream ends within the record"),
        (std::slice::from_ref(&node), "at byte 56: the stream ends within the record"),
        (
            &[record(7, b"\x09\0\0\0"), record(0, b"")],
            "record at byte 16, of version 8 of the design: its type cannot be 9",
        ),
        (
            &[node.clone(), record(7, b"\x02\0\0\0data\0t"), record(0, b"")],
            "of version 6 of the design: its token is not a NUL-terminated string",
        ),
        (
            &[record(1, b""), vec![0; 40]],
            "at byte 16: it begins with \"\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\" and is not a \
             libxc image",
        ),
        (&[record(1, b""), image()[..64].to_vec()], "at byte 16: "),
    ] {
        let file = file(held.path(), records);
        let run = xsctl(&[
            "import",
            "--socket",
            &socket(&b),
            "--format",
            "libxl",
            "--domain",
            "7",
            &file,
        ]);
        assert_eq!(run.code, 6, "{run:?}");
        assert!(run.err.starts_with(&format!("xsctl: {file}: ")), "{run:?}");
        assert!(run.err.contains(said), "{said}: {run:?}");
    }
    let path = held.path().join("domain");
    for (bytes, said) in [
        (&b"no stream"[..], "it begins with \"no strea\" and is not a libxl stream"),
        (b"LibxlFmt\0\0\0\x03\0\0\0\0", "unknown version 3"),
        (b"LibxlFmt\0\0\0\x02\0\0\0\x04", "unknown flags 0x4"),
        (b"LibxlFmt\0\0\0\x02\0\0\0\x02", "at byte 16: the stream ends within the record"),
        (b"LibxlFmt\0\0", "extends past its end"),
        (b"Libxl", "it begins with \"Libxl\" and is not a libxl stream"),
        (b"", "it is empty, not a libxl stream"),
    ] {
        fs::write(&path, bytes).unwrap();
        let run = xsctl(&[
            "import",
            "--socket",
            &socket(&b),
            "--format",
            "libxl",
            "--domain",
            "7",
            &text(&path),
        ]);
        assert_eq!(run.code, 6, "{run:?}");
        assert!(run.err.contains(said), "{said}: {run:?}");
    }
    is_absent(&mut b, 7);
}
