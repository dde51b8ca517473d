//! Random bytes and random messages; the replies are counted and checked.

use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

use super::common::{HANG, Message, Random, World, op};
use super::each_world;

/// Returns random bytes that look like messages: their types and lengths are mostly plausible.
fn random_stream(random: &mut Random) -> Vec<u8> {
    let mut stream = Vec::new();
    while stream.len() < 2000 {
        let len = 16 + random.below(100);
        let mut bytes: Vec<u8> = (0..len).map(|_| random.byte()).collect();
        // INTRODUCE and RELEASE accept no random payload: they want digits, and NULs in their places.
        if random.chance(80) {
            let kind = u32::try_from(random.below(30)).unwrap();
            bytes[..4].copy_from_slice(&kind.to_le_bytes());
        }
        if random.chance(95) {
            bytes[12..16].copy_from_slice(&u32::try_from(len - 16).unwrap().to_le_bytes());
        }
        stream.extend(bytes);
    }
    stream
}

/// Returns a stream's requests (type, number, transaction), and whether a length ends it.
fn requests_of(mut stream: &[u8]) -> (Vec<[u32; 3]>, bool) {
    let mut requests = Vec::new();
    while let Some((header, rest)) = stream.split_at_checked(16) {
        let word = |at: usize| u32::from_le_bytes(header[4 * at..][..4].try_into().unwrap());
        if word(3) > 4096 {
            return (requests, true);
        }
        let Some((_, next)) = rest.split_at_checked(usize::try_from(word(3)).unwrap()) else {
            break;
        };
        requests.push([word(0), word(1), word(2)]);
        stream = next;
    }
    (requests, false)
}

/// Sends a stream and returns the replies up to the end of the connection.
fn replies_to(world: &World, stream: &[u8], ends: bool) -> Vec<Message> {
    let mut socket = world.daemon.connect();
    // The daemon may close the connection before everything is written.
    let _ = socket.write_all(stream);
    if !ends {
        socket.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let mut input = Vec::new();
    let end = socket.read_to_end(&mut input).map_err(|error| error.kind());
    assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    let replies = std::iter::from_fn(|| Message::take(&mut input)).collect();
    assert!(input.is_empty(), "a reply is truncated");
    replies
}

#[test]
fn random_bytes_get_replies_until_a_length_over_the_limit() {
    each_world(|world| {
        world.guest(6);
        world.admin.write("/kept/deep", "v").unwrap();
        let roots = world.admin.directory("/").unwrap();
        let descriptors = world.daemon.descriptors();
        let (mut replied, mut ended) = (0, 0);
        for seed in 0..50 {
            let stream = random_stream(&mut Random::new(seed));
            let (requests, ends) = requests_of(&stream);
            let replies = replies_to(world, &stream, ends);
            assert_eq!(replies.len(), requests.len(), "seed {seed}");
            for (reply, [kind, req, tx]) in replies.iter().zip(requests) {
                assert_eq!((reply.req, reply.tx), (req, tx), "seed {seed}: {reply:?}");
                assert!(reply.kind == kind || reply.kind == op::ERROR, "seed {seed}: {reply:?}");
                if [15, 16, 20].contains(&kind) || kind > op::SET_QUOTA {
                    assert_eq!(
                        reply.payload, b"ENOSYS\0",
                        "seed {seed}: operation {kind} is not served"
                    );
                }
            }
            replied += requests_of(&stream).0.len();
            ended += usize::from(ends);
        }
        // Both counts must be positive, or nothing was tested.
        assert!(replied > 500 && (10..50).contains(&ended), "{replied} replies, {ended} ended");
        assert_eq!(world.admin.directory("/").unwrap(), roots);
        assert_eq!(world.admin.read("/kept/deep").as_deref(), Ok(&b"v"[..]));
        world.check_store();
        let begun = Instant::now();
        while world.daemon.descriptors() > descriptors {
            assert!(begun.elapsed() < HANG, "closed connections keep their descriptors");
        }
    });
}

/// Operations that random words may execute without breaking the test's assumptions.
const HARMLESS: [u32; 17] = [1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 17, 21, 22, 23, 25];
/// Operations that never succeed for a guest: those of the control domain only, and unknown ones.
const REFUSED_TO_GUESTS: [u32; 13] = [0, 8, 9, 15, 16, 17, 18, 19, 20, 24, 25, 26, 99];

fn random_payload(random: &mut Random, kind: u32) -> Vec<u8> {
    let words: [&[u8]; 12] =
        [b"/", b"/a", b"/a/b", b"x", b"", b"@releaseDomain", b"n0", b"r5", b"5", b"0", b"-1", b"T"];
    // One request in four is well-formed: otherwise an operation that needs two matching words would never succeed.
    let right: &[u8] = match kind {
        op::WATCH | op::UNWATCH => b"/a\0T\0",
        op::TRANSACTION_END => b"T\0",
        op::SET_PERMS => b"x\0n5\0",
        op::DIRECTORY_PART => b"/\x000\0",
        op::GET_QUOTA => b"nodes\0",
        _ => b"",
    };
    if !right.is_empty() && random.chance(25) {
        return right.to_vec();
    }
    let mut payload = if kind == op::CONTROL { b"?".to_vec() } else { Vec::new() };
    for _ in 0..random.below(4) {
        payload.extend_from_slice(random.pick::<&[u8]>(&words));
        if random.chance(90) {
            payload.push(0);
        }
    }
    payload
}

#[test]
fn random_messages_get_one_reply_each_and_affect_no_other() {
    each_world(|world| {
        let mut random = Random::new(7);
        world.guest(6).write("kept", "6").unwrap();
        world.admin.write("/kept", "0").unwrap();
        world.client("dom0.idle").watch("/kept", "t").unwrap();
        assert_eq!(world.client("dom0.idle").next_event(), "/kept|t");
        for name in ["dom0", "dom5"] {
            let never: &[u32] = if name == "dom0" { &[0, 99] } else { &REFUSED_TO_GUESTS };
            let kinds = [&HARMLESS[..], never].concat();
            let client = world.client(name);
            let mut done = Vec::new();
            for _ in 0..60 {
                let open = [0, 1, 2, client.start().unwrap(), client.start().unwrap()];
                let requests: Vec<(u32, u32, Vec<u8>)> = (0..100)
                    .map(|_| {
                        let kind = *random.pick(&kinds);
                        // END always names a transaction, or it would rarely find an open one: RESET_WATCHES soon ends
                        // them all.
                        let in_tx = kind == op::TRANSACTION_END || random.chance(20);
                        let tx = if in_tx { *random.pick(&open) } else { 0 };
                        (kind, tx, random_payload(&mut random, kind))
                    })
                    .collect();
                // The client checks order, numbers and types of the replies.
                let replies = client.pipeline(&requests);
                let both = requests.iter().zip(replies);
                done.extend(both.filter(|(_, reply)| reply.is_ok()).map(|((kind, ..), _)| *kind));
            }
            let mut undone = kinds;
            undone.retain(|kind| !done.contains(kind));
            undone.sort_unstable();
            undone.dedup();
            assert_eq!(undone, never, "{name}");
            client.request(op::RESET_WATCHES, 0, "\0").unwrap();
            client.take_events();
            assert!(!client.has_reply(), "{name}: unexpected reply");
        }
        world.check_store();
        assert_eq!(world.guest(6).read("kept").as_deref(), Ok(&b"6"[..]));
        assert_eq!(world.admin.read("/kept").as_deref(), Ok(&b"0"[..]));
        assert_eq!(world.events_until_now("dom0.idle"), Vec::<String>::new());
    });
}
