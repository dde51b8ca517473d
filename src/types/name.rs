//! The name of a node within its parent.

use std::cmp::Ordering;
use std::fmt;

use equivalent::{Comparable, Equivalent};

/// Names that nearly every domain has and that do not fit inline into [`Name`]. Fixed at build time: interning at run
/// time would let guests grow the table.
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

/// Maximum length of a name stored without an allocation.
const INLINE_BYTES_MAX: usize = 14;

/// A name of any length in 16 bytes: short ones inline, well-known ones as an index, others boxed.
#[derive(Clone)]
pub struct Name(Repr);

#[derive(Clone)]
enum Repr {
    /// The length, or-ed with [`OTHER`] unless the name is all digits, and the zero-padded bytes.
    Inline(u8, [u8; INLINE_BYTES_MAX]),
    WellKnown(u8),
    // Double boxing keeps the rare long name from making every `Name` 24 bytes.
    #[allow(clippy::redundant_allocation)]
    Boxed(Box<Box<[u8]>>),
}

const _: () = assert!(size_of::<Name>() == 16);

/// A bit above all lengths, so that all names that are not numbers sort after all numbers, however long.
const OTHER: u8 = 0x10;

impl Name {
    /// Makes a name of `bytes`. Cost: a copy, and an allocation if it is long and not well-known.
    pub fn new(bytes: &[u8]) -> Name {
        if let Some(short) = Short::of(bytes) {
            return short.listed();
        }
        // The table is sorted, which a test checks.
        match WELL_KNOWN.binary_search(&bytes).map(u8::try_from) {
            Ok(Ok(index)) => Name(Repr::WellKnown(index)),
            _ => Name(Repr::Boxed(Box::new(bytes.into()))),
        }
    }

    /// Makes a name that is ordered by its bytes alone, for directories that are never listed. Only comparable with
    /// other unlisted names.
    pub fn unlisted(bytes: &[u8]) -> Name {
        Short::of(bytes).map_or_else(|| Name::new(bytes), Short::unlisted)
    }

    /// Like [`class_of`], except that a short unlisted name never counts as a number.
    fn class(&self) -> usize {
        match &self.0 {
            Repr::Inline(kind, _) if kind & OTHER == 0 => usize::from(*kind),
            Repr::Inline(..) | Repr::WellKnown(_) => usize::MAX,
            Repr::Boxed(bytes) => class_of(bytes),
        }
    }

    /// Returns the name's bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(kind, bytes) => &bytes[..usize::from(*kind & !OTHER)],
            Repr::WellKnown(index) => WELL_KNOWN[usize::from(*index)],
            Repr::Boxed(bytes) => bytes,
        }
    }
}

/// A lookup key of at most 14 bytes. Two such names are compared without a branch on their lengths.
#[derive(Clone, Copy)]
pub struct Short {
    len: u8,
    /// The name as a little-endian number, padded with zeros.
    padded: u128,
}

impl Short {
    /// Makes a key of `bytes` if they fit.
    #[inline] // Called for each component of each path that is looked up.
    pub fn of(bytes: &[u8]) -> Option<Short> {
        let len =
            u8::try_from(bytes.len()).ok().filter(|&len| usize::from(len) <= INLINE_BYTES_MAX)?;
        Some(Short { len, padded: padded(bytes) })
    }

    /// Returns whether `name` is the same name.
    #[inline]
    pub fn is(self, name: &Name) -> bool {
        let Repr::Inline(kind, bytes) = &name.0 else { return false };
        kind & !OTHER == self.len && *bytes == self.inline()
    }

    #[inline]
    fn inline(self) -> [u8; INLINE_BYTES_MAX] {
        self.padded.to_le_bytes().first_chunk().copied().unwrap_or_default()
    }

    /// Returns the name as a directory stores it, with numbers marked for sorting.
    pub fn listed(self) -> Name {
        let kind = if is_number(self.padded, self.len) { self.len } else { self.len | OTHER };
        Name(Repr::Inline(kind, self.inline()))
    }

    /// Like [`Name::unlisted`].
    #[inline]
    pub fn unlisted(self) -> Name {
        Name(Repr::Inline(self.len | OTHER, self.inline()))
    }
}

/// A lookup key of any length, for lookups where making a [`Name`] would allocate.
pub struct Sought<'n>(pub &'n [u8]);

impl Equivalent<Name> for Sought<'_> {
    fn equivalent(&self, name: &Name) -> bool {
        self.0 == name.bytes()
    }
}

impl Comparable<Name> for Sought<'_> {
    fn compare(&self, name: &Name) -> Ordering {
        (class_of(self.0), self.0).cmp(&(name.class(), name.bytes()))
    }
}

impl PartialEq for Name {
    #[inline]
    fn eq(&self, other: &Name) -> bool {
        match (&self.0, &other.0) {
            // Short names are zero-padded, so all bytes can be compared at once.
            (Repr::Inline(kind, bytes), Repr::Inline(other_kind, other_bytes)) => {
                kind == other_kind && bytes == other_bytes
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

/// The order of names in a directory, see `order`.
impl Ord for Name {
    #[inline] // Called 15 times for a lookup among 30,000.
    fn cmp(&self, other: &Name) -> Ordering {
        let (Repr::Inline(kind, bytes), Repr::Inline(other_kind, other_bytes)) =
            (&self.0, &other.0)
        else {
            return (self.class(), self.bytes()).cmp(&(other.class(), other.bytes()));
        };
        // Numbers come first, shorter ones before longer ones.
        if kind & other_kind & OTHER == 0 && kind != other_kind {
            // `min` makes one class of all names that are not numbers, above every length.
            return kind.min(&OTHER).cmp(other_kind.min(&OTHER));
        }
        let (high, other_high) = (first(bytes), first(other_bytes));
        if high != other_high {
            return high.cmp(&other_high);
        }
        last(*kind, bytes).cmp(&last(*other_kind, other_bytes))
    }
}

/// Compares names in directory order: all-digit names first, by length and then by bytes; then all others by bytes.
/// Guests number their devices in this order, so `10` comes after `9`. The order depends only on the names, so equal
/// trees list equally and nodes need no memory for it.
pub fn order(name: &[u8], other: &[u8]) -> Ordering {
    (class_of(name), name).cmp(&(class_of(other), other))
}

/// Returns the length of an all-digit name, and the same larger value for all other names.
fn class_of(name: &[u8]) -> usize {
    if name.iter().all(u8::is_ascii_digit) { name.len() } else { usize::MAX }
}

/// Returns whether a name of `len` bytes is all digits. `padded` is the name as a little-endian number.
#[inline]
fn is_number(padded: u128, len: u8) -> bool {
    const ZEROS: u128 = u128::from_le_bytes([b'0'; 16]);
    const TOP_BITS: u128 = u128::from_le_bytes([0x80; 16]);
    // Adding this to a value above 9 carries into the byte's top bit.
    const OVER_NINE: u128 = u128::from_le_bytes([0x7f - 9; 16]);
    // Bytes past the end become zeros, which are digits. A digit XORed with `0` is its value, at most 9.
    let rest = ZEROS & (u128::MAX << (8 * u32::from(len)));
    let values = (padded | rest) ^ ZEROS;
    (values | values.wrapping_add(OVER_NINE)) & TOP_BITS == 0
}

/// Returns at most 16 bytes as a zero-padded little-endian number. Two loads that may overlap cost less than a copy of
/// a length unknown at compile time.
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

/// Returns whether two names are equal of which at least one is not inline. Not inlined, so that the rest of the
/// comparison can be.
#[inline(never)]
fn is_same(name: &Name, other: &Name) -> bool {
    name.bytes() == other.bytes()
}

/// Returns the first 8 bytes as a number that sorts like them.
fn first(bytes: &[u8; INLINE_BYTES_MAX]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().unwrap_or(&[0; 8]))
}

/// Returns the remaining 6 bytes in the same form, followed by the kind: inline names are zero-padded, and the length
/// decides between names that differ only in trailing zeros.
fn last(kind: u8, bytes: &[u8; INLINE_BYTES_MAX]) -> u64 {
    // The shift drops the two bytes that `first` compares.
    u64::from_be_bytes(*bytes.last_chunk().unwrap_or(&[0; 8])) << 16 | u64::from(kind)
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

    /// The documented order, implemented literally.
    fn documented(a: &[u8], b: &[u8]) -> Ordering {
        let is_number = |name: &[u8]| name.iter().all(|byte| b"0123456789".contains(byte));
        match (is_number(a), is_number(b)) {
            (true, true) if a.len() != b.len() => a.len().cmp(&b.len()),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            _ => a.cmp(b),
        }
    }

    proptest! {
        #[test]
        fn names_are_ordered_as_documented(
            common in prop::sample::select(vec!["", "1", "999999", "1234567", "-", "a", "feature-", "aaaaaaaaaaaaa"]),
            a in "[-/019:@a]{0,9}",
            b in "[-/019:@a]{0,9}",
        ) {
            let [a, b] = [a, b].map(|rest| [common.as_bytes(), rest.as_bytes()].concat());
            prop_assume!(!a.is_empty() && !b.is_empty());
            let wanted = documented(&a, &b);
            let (one, other) = (Name::new(&a), Name::new(&b));
            prop_assert_eq!(one.cmp(&other), wanted);
            prop_assert_eq!(order(&a, &b), wanted);
            prop_assert_eq!(Sought(&a).compare(&other), wanted);
            prop_assert_eq!(Sought(&a).equivalent(&other), a == b);
        }

        #[test]
        fn names_of_any_bytes_are_ordered_as_documented(
            a in prop::collection::vec(any::<u8>(), 1..17),
            b in prop::collection::vec(any::<u8>(), 1..17),
        ) {
            prop_assert_eq!(Name::new(&a).cmp(&Name::new(&b)), documented(&a, &b));
        }
    }

    proptest! {
        #[test]
        fn unlisted_names_have_a_total_order(
            names in prop::collection::vec("[-1a]{1,2}|[-1a]{14,16}", 3),
        ) {
            let [a, b, c] = [0, 1, 2].map(|at| Name::unlisted(names[at].as_bytes()));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a.cmp(&b) == Ordering::Equal, names[0] == names[1]);
            prop_assert!(!(a <= b && b <= c) || a <= c, "{:?}", names);
            if names[1].len() > INLINE_BYTES_MAX {
                let sought = Sought(names[1].as_bytes());
                prop_assert_eq!(sought.compare(&a), b.cmp(&a));
            }
        }
    }

    #[test]
    fn numbers_sort_first_and_by_length() {
        let ordered: [&[u8]; 12] = [
            b"0",
            b"1",
            b"9",
            b"01",
            b"10",
            b"11",
            b"12345678",
            b"123456789",
            b"-1",
            b"0x1",
            b"1a",
            b"event-channel-tx",
        ];
        for (at, one) in ordered.iter().enumerate() {
            for (other_at, other) in ordered.iter().enumerate() {
                let names = (Name::new(one), Name::new(other));
                assert_eq!(names.0.cmp(&names.1), at.cmp(&other_at), "{names:?}");
            }
        }
    }

    #[test]
    fn every_byte_of_a_name_is_compared() {
        for len in 1..=INLINE_BYTES_MAX + 2 {
            let name = vec![1; len];
            for place in 0..len {
                let mut higher = name.clone();
                higher[place] = 2;
                let (name, higher) = (Name::new(&name), Name::new(&higher));
                let orders = (name.cmp(&higher), higher.cmp(&name));
                let wanted = (Ordering::Less, Ordering::Greater);
                assert_eq!(orders, wanted, "byte {place} of {len}");
            }
        }
    }

    #[test]
    fn names_of_every_length_keep_their_bytes() {
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
