//! Damaged streams, and streams without a digest.

use std::os::fd::AsFd;

use xenstored::migration::stream::digest::{ALGORITHM, TAIL_BYTES, ends_with_digest};

use super::common::Random;
use super::common::random::seeds;
use super::moves::inhabit;
use super::*;

const DOMIDS: [u16; 3] = [5, 6, 7];

/// Returns the stream of three domains, and a daemon on whose host they exist.
fn exported() -> (Vec<u8>, World) {
    let [mut from, mut to] = [2, 1].map(|shards| World::new(Control::Socket, shards));
    for domid in DOMIDS {
        inhabit(&mut from, domid);
        to.create(domid);
    }
    (Bulk::connect(&from.daemon).export("5-7|").0, to)
}

fn without_digest(stream: &[u8]) -> Vec<u8> {
    let (tail, end) = (stream.len() - TAIL_BYTES, stream.len() - 8);
    [&stream[..tail], &stream[end..]].concat()
}

fn is_empty(world: &mut World) {
    for domid in DOMIDS {
        let state = Bulk::connect(&world.daemon).ask(bulk::STATES, &format!("{domid}|"), &[]);
        assert!(state.contains("|absent|"), "{state}");
        let root = world.admin.read(&format!("/local/domain/{domid}"));
        assert_eq!(root.err().as_deref(), Some("ENOENT"));
    }
}

#[test]
fn exported_stream_has_a_digest_and_the_daemon_announces_it() {
    let (stream, mut to) = exported();
    assert!(ends_with_digest(stream[stream.len() - TAIL_BYTES..].try_into().unwrap()));
    let told = to.admin.read("/tool/xenstored/operations/stream-digest");
    assert_eq!(told.as_deref(), Ok(ALGORITHM.as_bytes()));
}

#[test]
fn damaged_stream_is_refused_before_any_of_its_domains_arrives() {
    let (stream, mut to) = exported();
    let covered = stream.len() - TAIL_BYTES;
    // In a value of the last domain.
    let at = stream.windows(6).rposition(|some| some == b"guest7").unwrap();
    let mut damaged = stream.clone();
    damaged[at] ^= 4;
    let said = Bulk::connect(&to.daemon).import(&damaged);
    let why = format!(
        " at byte {covered}: its digest is not that of the {covered} bytes before it: the stream \
         is damaged|"
    );
    assert!(said.starts_with("-|EINVAL|record ") && said.contains(&why), "{said}");
    for seed in seeds(60) {
        let bit = Random::new(seed).below(8 * covered);
        let mut damaged = stream.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let said = Bulk::connect(&to.daemon).import(&damaged);
        assert!(said.starts_with("-|EINVAL|"), "XENSTORED_SEED={seed}, bit {bit}: {said}");
    }
    is_empty(&mut to);
    let said = Bulk::connect(&to.daemon).import(&stream);
    assert_eq!(said.matches("|OK|").count(), 3, "{said}");
}

#[test]
fn stream_without_digest_is_refused_only_if_one_is_required() {
    let (stream, mut to) = exported();
    let bare = without_digest(&stream);
    let ask = |payload: &str, stream: &[u8]| {
        Bulk::connect(&to.daemon).ask(bulk::IMPORT, payload, &[bulk::file_of(stream).as_fd()])
    };
    for payload in ["digest|", "check|digest|"] {
        let said = ask(payload, &bare);
        let why = "the stream ends without a digest, which both daemons write|";
        assert!(said.starts_with("-|EINVAL|record ") && said.contains(why), "{payload}: {said}");
    }
    for (payload, stream) in [("check|", &bare), ("check|digest|", &stream)] {
        assert_eq!(ask(payload, stream).matches("|OK|").count(), 3, "{payload}");
    }
    for payload in ["digest|check|", "digest|digest|", "digest", "digest|x|"] {
        assert!(ask(payload, &stream).starts_with("EINVAL|"), "{payload}");
    }
    is_empty(&mut to);
    let said = Bulk::connect(&to.daemon).import(&bare);
    assert_eq!(said.matches("|OK|").count(), 3, "{said}");
}
