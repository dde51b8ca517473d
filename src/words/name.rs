//! The name of a node within its parent.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

/// Names that nearly every domain has and that do not fit [`Name`] inline. Fixed at build time:
/// nothing is interned at run time, so nothing can be made to grow.
const WELL_KNOWN: [&[u8]; 18] = [
    b"event-channel-rx",
    b"event-channel-tx",
    b"feature-flush-cache",
    b"feature-gso-tcpv4",
    b"feature-gso-tcpv6",
    b"feature-ipv6-csum-offload",
    b"feature-large-receive-offload",
    b"feature-max-indirect-segments",
    b"feature-multicast-control",
    b"feature-no-csum-offload",
    b"feature-persistent",
    b"feature-rx-notify",
    b"feature-split-event-channels",
    b"feature-static-max",
    b"multi-queue-max-queues",
    b"multi-queue-num-queues",
    b"physical-device",
    b"platform-feature-multiprocessor-suspend",
];

/// Longest name that needs no allocation.
const INLINE_BYTES_MAX: usize = 14;

/// A name of any length in 16 bytes: short ones inline, well-known ones as a number, others boxed.
#[derive(Clone)]
pub struct Name(Repr);

#[derive(Clone)]
enum Repr {
    Inline(u8, [u8; INLINE_BYTES_MAX]),
    WellKnown(u8),
    // The double box keeps the rare long name from making every name 24 bytes.
    #[allow(clippy::redundant_allocation)]
    Boxed(Box<Box<[u8]>>),
}

const _: () = assert!(size_of::<Name>() == 16);

impl Name {
    /// Makes a name of `bytes`. Cost: a copy, and an allocation if it is long and unusual.
    pub fn new(bytes: &[u8]) -> Name {
        if let Some(name) = Name::short(bytes) {
            return name;
        }
        match WELL_KNOWN.binary_search(&bytes).map(u8::try_from) {
            Ok(Ok(index)) => Name(Repr::WellKnown(index)),
            _ => Name(Repr::Boxed(Box::new(bytes.into()))),
        }
    }

    /// Makes a name of at most 14 bytes: to be looked for among others, since two such are compared
    /// without a look at their lengths.
    #[inline] // Of each name of each path that is looked for.
    pub fn short(bytes: &[u8]) -> Option<Name> {
        let len =
            u8::try_from(bytes.len()).ok().filter(|&len| usize::from(len) <= INLINE_BYTES_MAX)?;
        let padded = padded(bytes).to_le_bytes();
        let inline = padded.first_chunk().copied().unwrap_or_default();
        Some(Name(Repr::Inline(len, inline)))
    }

    /// The name's bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Repr::WellKnown(index) => WELL_KNOWN[usize::from(*index)],
            Repr::Boxed(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl PartialEq for Name {
    #[inline]
    fn eq(&self, other: &Name) -> bool {
        match (&self.0, &other.0) {
            // What is left of a short name is zero, so all places can be compared at once.
            (Repr::Inline(len, bytes), Repr::Inline(other_len, other_bytes)) => {
                len == other_len && bytes == other_bytes
            }
            _ => is_same(self, other),
        }
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    #[inline] // A directory of 30,000 compares 15 times.
    fn cmp(&self, other: &Name) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Inline(len, bytes), Repr::Inline(other_len, other_bytes)) => {
                let (high, other_high) = (first(bytes), first(other_bytes));
                if high != other_high {
                    return high.cmp(&other_high);
                }
                last(*len, bytes).cmp(&last(*other_len, other_bytes))
            }
            _ => self.bytes().cmp(other.bytes()),
        }
    }
}

/// At most 16 bytes, followed by zeros, as a little-endian number. Two loads that may overlap take less
/// than a copy of a length that only the caller knows.
#[inline]
fn padded(bytes: &[u8]) -> u128 {
    let len = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
        return u128::from(first) | u128::from(last) << (8 * (len - 8));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return u128::from(u64::from(first) | u64::from(last) << (8 * (len - 4)));
    }
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u128::from(byte))
}

/// Whether names are the same of which not both are short. Not in line, so that the rest of the
/// comparison can be.
#[inline(never)]
fn is_same(name: &Name, other: &Name) -> bool {
    name.bytes() == other.bytes()
}

/// The first 8 bytes, as a number that is in their order.
fn first(bytes: &[u8; INLINE_BYTES_MAX]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().unwrap_or(&[0; 8]))
}

/// The other 6 bytes, in the same way. What is left of a short name is zero, and the length decides
/// between names that differ by zeros only.
fn last(len: u8, bytes: &[u8; INLINE_BYTES_MAX]) -> u64 {
    u64::from_be_bytes(*bytes.last_chunk().unwrap_or(&[0; 8])) << 16 | u64::from(len)
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_are_in_the_order_of_their_bytes(
            common in 0usize..16,
            a in prop::collection::vec(0u8..3, 0..6),
            b in prop::collection::vec(0u8..3, 0..6),
        ) {
            let [a, b] = [a, b].map(|rest| [vec![1; common], rest].concat());
            prop_assert_eq!(Name::new(&a).cmp(&Name::new(&b)), a.cmp(&b));
        }
    }

    #[test]
    fn every_byte_counts() {
        for len in 1..=INLINE_BYTES_MAX + 2 {
            let name = vec![1; len];
            for place in 0..len {
                let mut higher = name.clone();
                higher[place] = 2;
                let (name, higher) = (Name::new(&name), Name::new(&higher));
                let orders = (name.cmp(&higher), higher.cmp(&name));
                let wanted = (Ordering::Less, Ordering::Greater);
                assert_eq!(orders, wanted, "{len} bytes, the one at {place}");
            }
        }
    }

    #[test]
    fn every_length_keeps_its_bytes() {
        assert!(WELL_KNOWN.is_sorted());
        for len in 0..64 {
            let bytes = vec![b'x'; len];
            assert_eq!(Name::new(&bytes).bytes(), bytes);
        }
        for name in WELL_KNOWN {
            assert!(matches!(Name::new(name).0, Repr::WellKnown(_)));
            assert_eq!(Name::new(name).bytes(), name);
        }
    }
}
