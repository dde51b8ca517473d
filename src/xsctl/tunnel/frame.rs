//! The frames of a tunnel: a kind (1 byte), a channel and a length (4 bytes each, little-endian), and the payload.

use std::borrow::Cow;
use std::io::{self, Read, Write};

/// The most bytes of a payload. Longer data is split, so that a long stream does not delay a short request.
pub const PAYLOAD_BYTES_MAX: usize = 32 * 1024;
const HEADER_BYTES: usize = 9;

/// The socket of a daemon that a channel is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The client socket.
    Client,
    /// The migration socket.
    Migration,
}

/// A step of the lock of moves at the other end, or its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockStep {
    /// Take it exclusively, without waiting; shared otherwise.
    Take,
    /// Downgrade it to shared.
    Share,
    /// It is exclusive.
    IsExclusive,
    /// It is shared.
    IsShared,
    /// Release it. Has no result.
    Release,
}

/// A message between the two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first frame in each direction.
    Hello(Vec<u8>),
    /// Connect a channel to a socket.
    Open(u32, Port),
    /// Bytes for a channel, within its credit.
    Data(u32, Vec<u8>),
    /// The next bytes of a channel are accompanied by descriptors, which are these channels.
    Streams(u32, Vec<u32>),
    /// The other end may send this many more bytes.
    Credit(u32, u32),
    /// No more bytes come from this end.
    Close(u32),
    /// See [`LockStep`].
    Lock(LockStep),
}

impl Frame {
    /// Writes frames by one write, and flushes them.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(frames: &[Frame], out: &mut impl Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        for frame in frames {
            frame.append_to(&mut bytes)?;
        }
        out.write_all(&bytes)?;
        out.flush()
    }

    fn append_to(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let numbers = |numbers: &[u32]| -> Cow<'_, [u8]> {
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
        };
        let (kind, channel, payload): (u8, u32, Cow<'_, [u8]>) = match self {
            Frame::Hello(text) => (0, 0, text.into()),
            Frame::Open(channel, port) => (1, *channel, vec![*port as u8].into()),
            Frame::Data(channel, bytes) => (2, *channel, bytes.into()),
            Frame::Streams(channel, streams) => (3, *channel, numbers(streams)),
            Frame::Credit(channel, bytes) => (4, *channel, numbers(&[*bytes])),
            Frame::Close(channel) => (5, *channel, Cow::Borrowed(&[])),
            Frame::Lock(step) => (6, 0, vec![*step as u8].into()),
        };
        let len = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        bytes.push(kind);
        bytes.extend_from_slice(&channel.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&payload);
        Ok(())
    }

    /// Reads the next frame; `None` at the end of the input.
    ///
    /// # Errors
    /// Those of the reader; `InvalidData` for what is no frame, `UnexpectedEof` for a part of one.
    pub fn read(input: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut header = [0; HEADER_BYTES];
        if input.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        input.read_exact(&mut header[1..])?;
        let [kind, c0, c1, c2, c3, l0, l1, l2, l3] = header;
        let channel = u32::from_le_bytes([c0, c1, c2, c3]);
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if len > PAYLOAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; len];
        input.read_exact(&mut payload)?;
        Frame::of(kind, channel, payload).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn of(kind: u8, channel: u32, payload: Vec<u8>) -> Option<Frame> {
        Some(match (kind, payload.as_slice()) {
            (0, _) => Frame::Hello(payload),
            (1, [0]) => Frame::Open(channel, Port::Client),
            (1, [1]) => Frame::Open(channel, Port::Migration),
            (2, _) => Frame::Data(channel, payload),
            (3, bytes) if bytes.len() % 4 == 0 => Frame::Streams(channel, numbers(bytes)),
            (4, bytes) if bytes.len() == 4 => Frame::Credit(channel, numbers(bytes)[0]),
            (5, []) => Frame::Close(channel),
            (6, [0]) => Frame::Lock(LockStep::Take),
            (6, [1]) => Frame::Lock(LockStep::Share),
            (6, [2]) => Frame::Lock(LockStep::IsExclusive),
            (6, [3]) => Frame::Lock(LockStep::IsShared),
            (6, [4]) => Frame::Lock(LockStep::Release),
            _ => return None,
        })
    }
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    bytes.chunks_exact(4).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_round_trip() {
        let frames = [
            Frame::Hello(b"{}".to_vec()),
            Frame::Open(1, Port::Client),
            Frame::Open(u32::MAX, Port::Migration),
            Frame::Data(7, vec![9; PAYLOAD_BYTES_MAX]),
            Frame::Data(7, Vec::new()),
            Frame::Streams(3, vec![4, 5, 1 << 30]),
            Frame::Credit(3, 65536),
            Frame::Close(3),
            Frame::Lock(LockStep::Take),
            Frame::Lock(LockStep::IsShared),
            Frame::Lock(LockStep::Release),
        ];
        let mut bytes = Vec::new();
        Frame::write(&frames, &mut bytes).unwrap();
        let mut input = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut input).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut input).unwrap(), None);
        for len in [1, HEADER_BYTES - 1, HEADER_BYTES + 1] {
            assert!(Frame::read(&mut &bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn long_payload_is_refused_before_it_is_read() {
        let mut bytes = vec![2, 0, 0, 0, 0];
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        let error = Frame::read(&mut bytes.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut input = bytes.as_slice();
            while let Ok(Some(_)) = Frame::read(&mut input) {}
        }
    }
}
