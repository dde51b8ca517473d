use proptest::prelude::*;

use super::super::window::WINDOWS_BYTES_MAX;
use super::*;

/// An end at a daemon that reads and never replies.
struct Daemon(Vec<UnixStream>);

impl End for Daemon {
    fn takes_streams(&self) -> bool {
        true
    }

    fn open(&mut self, _: Port) -> io::Result<UnixStream> {
        let (ours, its) = UnixStream::pair()?;
        self.0.push(ours);
        Ok(its)
    }

    fn lock(&mut self, _: LockStep) -> Option<LockStep> {
        Some(LockStep::IsShared)
    }
}

/// Lets an end at a daemon handle these frames; returns it with the daemon.
fn dispatched(frames: &[Frame]) -> (Arc<Mux>, Daemon) {
    let mut input = Vec::new();
    Frame::write(frames, &mut input).unwrap();
    let (mux, mut daemon) = (Mux::new(io::sink()), Daemon(Vec::new()));
    mux.dispatch(&mut input.as_slice(), &mut daemon);
    (mux, daemon)
}

fn frame() -> impl Strategy<Value = Frame> {
    let channel = 0..4u32;
    prop_oneof![
        channel.clone().prop_map(|number| Frame::Open(number, Port::Client)),
        (channel.clone(), 0..PAYLOAD_BYTES_MAX)
            .prop_map(|(number, len)| Frame::Data(number, vec![0; len])),
        (channel.clone(), proptest::collection::vec(0..8u32, 0..4))
            .prop_map(|(number, streams)| Frame::Streams(number, streams)),
        (channel.clone(), any::<u32>()).prop_map(|(number, bytes)| Frame::Credit(number, bytes)),
        channel.prop_map(Frame::Close),
        Just(Frame::Lock(LockStep::Take)),
        Just(Frame::Hello(Vec::new())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_frames_end_the_tunnel_and_its_channels(frames in proptest::collection::vec(frame(), 0..20)) {
        let (mux, _) = dispatched(&frames);
        prop_assert!(!mux.is_open() && mux.channels.lock().open.is_empty());
        prop_assert!(mux.open(Port::Client).is_err(), "a tunnel that has ended opens nothing");
    }
}

#[test]
fn data_beyond_the_window_ends_the_tunnel() {
    // Nothing reads the socket, so at most its buffer's bytes come back as credit.
    let data = || Frame::Data(1, vec![0; PAYLOAD_BYTES_MAX]);
    let mut frames = vec![Frame::Open(1, Port::Client)];
    frames.extend((0..100).map(|_| data()));
    frames.push(Frame::Open(2, Port::Client));
    let (_, daemon) = dispatched(&frames);
    assert_eq!(daemon.0.len(), 1, "the tunnel ended before the last frame");
}

#[test]
fn channels_are_limited() {
    let most = WINDOWS_BYTES_MAX / WINDOW_BYTES;
    let frames: Vec<_> =
        (1..=u32::try_from(most).unwrap() + 2).map(|n| Frame::Open(n, Port::Client)).collect();
    let (_, daemon) = dispatched(&frames);
    assert_eq!(daemon.0.len(), most + 1, "the one beyond the limit ended the tunnel");
}

/// The transport may still take a step when the other end is gone already.
#[test]
fn steps_of_the_lock_after_the_end_of_the_tunnel_wait_for_no_result() {
    let (mux, _daemon) = dispatched(&[]);
    assert!(!mux.lock(LockStep::Take) && !mux.lock(LockStep::Share));
}
