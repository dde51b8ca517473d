//! The digest over a stream or a file: XXH3 of 128 bits, in its canonical form, as `xxhsum -H2` prints it.
//!
//! It finds damage, not forgery: a stream comes from a trusted daemon (docs/THREAT-MODEL.md). A CRC of 32 bits would
//! miss one of four billion damaged streams, and a cryptographic hash takes ten times as long.

use std::fmt;
use std::io::{self, Read};

use twox_hash::xxhash3_128::Hasher;

use super::fields::Order;
use super::kind;

/// The name of the algorithm, by which daemons announce that they write and check digests.
pub const ALGORITHM: &str = "xxh3-128";
/// Length of a digest in bytes: a multiple of 8, so that C xenstored, which ignores padding, finds the next record.
pub const DIGEST_BYTES: usize = 16;
/// Length of the last records of a stream with a digest: DIGEST and END.
pub const TAIL_BYTES: usize = 8 + DIGEST_BYTES + 8;
/// Number of bytes per read from a file.
const READ_BYTES: usize = 1 << 16;

/// A digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; DIGEST_BYTES]);

impl Digest {
    /// Returns the digest of all bytes that are left in a file, and their number. Cost: reads them.
    ///
    /// # Errors
    /// Those of the file.
    pub fn of_file(mut file: impl Read) -> io::Result<(Digest, u64)> {
        // In blocks, so that a file of any length takes constant memory.
        let (mut digester, mut bytes, mut len) = (Digester::default(), vec![0; READ_BYTES], 0);
        loop {
            match file.read(&mut bytes) {
                Ok(0) => return Ok((digester.digest(), len)),
                Ok(read) => {
                    digester.add(&bytes[..read]);
                    len += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The computation of a digest, in any number of pieces; by default of no bytes yet.
#[derive(Default)]
pub struct Digester(Hasher);

impl Digester {
    /// Adds bytes. Cost: their number, at some ten gigabytes per second.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// Returns the digest of all bytes added so far.
    pub fn digest(&self) -> Digest {
        Digest(self.0.finish_128().to_be_bytes())
    }
}

/// Returns whether the last bytes of a stream are a DIGEST record and END, in either byte order. Whether the digest is
/// right only a [`Reader`](super::Reader) finds.
pub fn ends_with_digest(tail: &[u8; TAIL_BYTES]) -> bool {
    let is_head = |order: Order| {
        let len = u32::try_from(DIGEST_BYTES).unwrap_or(u32::MAX);
        tail[..8] == [order.u32(kind::DIGEST), order.u32(len)].concat()
    };
    [Order::Little, Order::Big].into_iter().any(is_head) && tail[TAIL_BYTES - 8..] == [0; 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are those of libxxhash 0.8.1.
    #[test]
    fn digest_in_pieces_is_the_published_algorithms() {
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        for (len, expected) in [
            (0, "99aa06d3014798d86001c324468d497f"),
            (16, "72950631827607e2842812cc870dcae2"),
            (1000, "076f7e02b7120d2ad33dd80b46f60e50"),
            (100_000, "077f8d86a61f4d7439cf9d035d60ad58"),
        ] {
            let mut digester = Digester::default();
            bytes[..len].chunks(7).for_each(|piece| digester.add(piece));
            assert_eq!(digester.digest().to_string(), expected, "{len}");
            assert_eq!(Digest::of_file(&bytes[..len]).unwrap(), (digester.digest(), len as u64));
        }
    }
}
