//! Hostile ends of a tunnel: random frames to `xsctl receive`, and from what should be one.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Instant;

use super::common::random::seeds;
use super::common::{HANG, Random};
use super::*;

/// A frame of src/xsctl/tunnel/frame.rs, which is written here a second time as a stranger would.
fn frame(kind: u8, channel: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [&[kind], &channel.to_le_bytes()[..], &len.to_le_bytes(), payload].concat()
}

/// A message of the daemon's protocol of a random kind above those of requests, with a random length.
fn message(random: &mut Random) -> Vec<u8> {
    let kind = 1000 + u32::from(random.byte());
    let payload: Vec<u8> = (0..random.below(40)).map(|_| random.byte()).collect();
    let right = u32::try_from(payload.len()).unwrap();
    let len = *random.pick(&[right, 0, 4096, u32::MAX]);
    let numbers = [kind, u32::from(random.byte() % 4), 0, len];
    let header: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    [header, payload].concat()
}

/// The version of the frames, which both ends say first.
const PROTOCOL: &str = "3";

fn random_frame(random: &mut Random) -> Vec<u8> {
    let channel = *random.pick(&[0, 1, 1, 1, 2, 2, 3, 4, 5, u32::MAX]);
    let port = *random.pick(&[0, 0, 1, 1, 2]);
    match random.below(12) {
        0 => frame(0, 0, PROTOCOL.as_bytes()),
        1 | 2 => frame(1, channel, &[port]),
        3..=5 => frame(2, channel, &message(random)),
        6 => frame(3, channel, &[2, 0, 0, 0, 9, 0, 0, 0][..4 * (1 + random.below(2))]),
        7 => frame(4, channel, &u32::MAX.to_le_bytes()),
        8 => frame(5, channel, &[]),
        9 => frame(6, 0, &[*random.pick(&[0, 1, 2, 3, 4])]),
        10 => (0..random.below(30)).map(|_| random.byte()).collect(),
        _ => frame(2, channel, &vec![0; 32 * 1024])[..1 + random.below(40)].to_vec(),
    }
}

#[test]
fn random_frames_to_receive_harm_neither_the_daemon_nor_the_next_tunnel() {
    let (_, mut b) = worlds([]);
    b.guest(5).write("data/own", "of 5").unwrap();
    for seed in seeds(60) {
        let mut random = Random::new(seed);
        let mut receive = command(&["receive", "--socket", &socket(&b)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = receive.stdin.take().unwrap();
        let mut frames = frame(0, 0, PROTOCOL.as_bytes());
        for _ in 0..random.below(40) {
            frames.extend(random_frame(&mut random));
        }
        // It may have ended already.
        let _ = input.write_all(&frames);
        drop(input);
        let mut received = Vec::new();
        receive.stdout.take().unwrap().read_to_end(&mut received).unwrap();
        let hello = format!("{{\"protocol\":{PROTOCOL},");
        assert!(received[9..].starts_with(hello.as_bytes()), "{seed}: {received:?}");
        let output = receive.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some() && !said.contains("panicked"), "{seed}: {said}");
    }
    assert_eq!(b.guest(5).read("data/own"), Ok(b"of 5".to_vec()));
    b.check_store();
    let (mut a, mut b) = worlds([5]);
    let to = format!("exec:{} receive --socket {}", env!("CARGO_BIN_EXE_xsctl"), socket(&b));
    well(&["move", "--socket", &socket(&a), "--to", &to, "--domains", "5"]);
    is_released(&mut a, 5);
    is_served(&mut b, 5);
}

#[test]
fn random_frames_from_the_destination_leave_the_domain_at_the_source() {
    let (mut a, _) = worlds([5]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("frames");
    for seed in seeds(40) {
        let mut random = Random::new(seed);
        let rest = r#""version":"0.1.0","daemon":"host /run/socket","error":null}"#;
        let hello = format!(r#"{{"protocol":{PROTOCOL},{rest}"#);
        let mut frames = frame(0, 0, hello.as_bytes());
        for _ in 0..random.below(40) {
            frames.extend(random_frame(&mut random));
        }
        std::fs::write(&file, frames).unwrap();
        let to = format!("exec:cat {}", file.display());
        let begun = Instant::now();
        let run = xsctl(&["move", "--socket", &socket(&a), "--to", &to, "--domains", "5"]);
        assert!(run.code != 0 && !run.err.contains("panicked"), "{seed}: {run:?}");
        assert!(begun.elapsed() < HANG, "{seed}: {run:?}");
        is_served(&mut a, 5);
    }
}
