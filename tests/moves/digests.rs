//! Streams without a digest.

use super::hold::without_digests;
use super::*;

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
