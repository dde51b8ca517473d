use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use smallvec::SmallVec;

use super::name::order;
use super::{Domid, Errno};

/// Maximum length of an absolute path (xs_wire.h, `XENSTORE_ABS_PATH_MAX`).
pub const ABS_PATH_MAX: usize = 3072;
/// Maximum length of a path below a domain's partition root, and the ceiling of the quota `path-max` (xs_wire.h,
/// `XENSTORE_REL_PATH_MAX`).
pub const REL_PATH_MAX: usize = 2048;
/// The special path whose events report introduced domains (xenstore.txt, WATCH).
pub const INTRODUCE_DOMAIN: &[u8] = b"@introduceDomain";
/// The special path whose events report domains that shut down or died (xenstore.txt, WATCH).
pub const RELEASE_DOMAIN: &[u8] = b"@releaseDomain";

/// A validated path: absolute or special (`@...`), in xenstore.txt's alphabet, without a doubled or trailing slash, of
/// at most [`ABS_PATH_MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path<'a>(&'a [u8]);

/// The buffer in which [`Path::resolve`] expands a relative path.
pub type PathSpace = SmallVec<[u8; 128]>;

impl<'a> Path<'a> {
    /// The root, `/`.
    pub const ROOT: Path<'static> = Path(b"/");

    /// Validates a path as a client wrote it. A relative one means `/local/domain/<domid>/...` and is expanded in
    /// `space`. `path_max` (the quota `path-max`) limits the part below `/local/domain/<n>/`. Cost: the path's length.
    ///
    /// # Errors
    /// `EINVAL` for everything that xenstore.txt forbids. The limits apply *after* the prefix is added, so that the
    /// control domain can name every accepted path too.
    pub fn resolve(
        raw: &'a [u8],
        domid: Domid,
        path_max: usize,
        space: &'a mut PathSpace,
    ) -> Result<Path<'a>, Errno> {
        let path = match raw.first() {
            None => return Err(Errno::EINVAL),
            Some(b'/' | b'@') => raw,
            Some(_) => {
                space.clear();
                partition_prefix(domid, space);
                space.extend_from_slice(raw);
                &space[..]
            }
        };
        let path = Path::parse(path)?;
        if path.0.len() - path.partition_prefix_len() > path_max {
            return Err(Errno::EINVAL);
        }
        Ok(path)
    }

    /// Validates an absolute or special path.
    ///
    /// # Errors
    /// `EINVAL` if it is malformed.
    pub fn parse(raw: &'a [u8]) -> Result<Path<'a>, Errno> {
        // A trailing slash would name an empty component (XSA-481).
        let well_formed = match raw {
            b"/" => true,
            [b'/' | b'@', .., b'/'] => false,
            [b'/' | b'@', ..] => raw.len() <= ABS_PATH_MAX && well_formed(raw),
            _ => false,
        };
        if well_formed { Ok(Path(raw)) } else { Err(Errno::EINVAL) }
    }

    /// Returns the bytes as sent on the wire, without the NUL.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Returns whether this is `/`.
    pub fn is_root(self) -> bool {
        self.0 == b"/"
    }

    /// Returns whether this is one of WATCH's special paths.
    pub fn is_special(self) -> bool {
        // A path is never empty: `parse` refuses that.
        self.0[0] == b'@'
    }

    /// Returns the path without its last component: the root for a top-level or special path, `None` for the root.
    pub fn parent(self) -> Option<Path<'a>> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(0) | None => Some(Path::ROOT),
            Some(slash) => Some(Path(&self.0[..slash])),
        }
    }

    /// Returns the last component; empty for the root.
    pub fn name(self) -> &'a [u8] {
        let slash = self.0.iter().rposition(|&byte| byte == b'/');
        &self.0[slash.map_or(0, |slash| slash + 1)..]
    }

    /// Returns the components in order. The root has none; a special path starts with its `@name`.
    pub fn components(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.0.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
    }

    /// Returns whether this path is `ancestor` or lies below it.
    pub fn is_within(self, ancestor: Path<'_>) -> bool {
        self.below(ancestor).is_some()
    }

    /// Returns the part of this path after `ancestor`, without a leading slash: empty if they are equal, `None` if it
    /// is not below.
    pub fn below(self, ancestor: Path<'_>) -> Option<&'a [u8]> {
        if ancestor.is_root() {
            return self.0.strip_prefix(b"/");
        }
        match self.0.strip_prefix(ancestor.0)? {
            [] => Some(&[]),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }

    /// Returns this path extended by one component, joined on the stack: removals do this under a lock.
    pub fn child(self, name: &[u8]) -> PathBuf {
        let mut joined = PathSpace::with_capacity(self.0.len() + 1 + name.len());
        joined.extend_from_slice(self.0);
        if !self.is_root() {
            joined.push(b'/');
        }
        joined.extend_from_slice(name);
        PathBuf::new(&joined)
    }

    /// Compares two paths in the order of a depth-first walk of the tree: name by name, in directory order.
    pub fn order(self, other: Path<'_>) -> Ordering {
        let mut others = other.components();
        for name in self.components() {
            let by_name = others.next().map_or(Ordering::Greater, |other| order(name, other));
            if by_name != Ordering::Equal {
                return by_name;
            }
        }
        others.next().map_or(Ordering::Equal, |_| Ordering::Less)
    }

    /// Returns the first `len` bytes, which must end at a component boundary.
    pub fn prefix(self, len: usize) -> Path<'a> {
        debug_assert!(len == self.0.len() || self.0[len] == b'/' || len == 1);
        Path(&self.0[..len])
    }

    /// Returns an owned copy.
    pub fn to_buf(self) -> PathBuf {
        PathBuf::new(self.0)
    }

    /// Returns the length of the prefix `/local/domain/<n>/`, which does not count against `path-max`; 0 without it.
    fn partition_prefix_len(self) -> usize {
        let Some(rest) = self.0.strip_prefix(b"/local/domain/") else { return 0 };
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // A domid has at most five digits.
        let prefixed = (1..=5).contains(&digits) && rest.get(digits) == Some(&b'/');
        if prefixed { self.0.len() - rest.len() + digits + 1 } else { 0 }
    }
}

/// Appends `/local/domain/<domid>/`, the base of relative paths.
pub fn partition_prefix(domid: Domid, out: &mut PathSpace) {
    use std::io::Write;
    // Writing to a vector cannot fail.
    let _ = write!(out, "/local/domain/{domid}/");
}

/// Returns whether a path may contain `byte`: xenstore.txt's ASCII alphanumerics and `-/_@`. Branch-free, so that the
/// compiler vectorises the check.
const fn is_allowed(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    // The slash precedes the digits in ASCII.
    let slash_or_digit = byte.wrapping_sub(b'/') <= b'9' - b'/';
    letter | slash_or_digit | (byte == b'-') | (byte == b'_') | (byte == b'@')
}

/// A chunk of a path: 16 bytes and the byte before them.
type Part = [u8; 1 + 16];

/// Returns whether all bytes after the first are allowed and no slash is doubled, in a path without a trailing slash.
/// Checking all bytes, vectorised, is faster than stopping at the first wrong one: few paths are malformed.
fn well_formed(path: &[u8]) -> bool {
    let Some(last) = path.last_chunk::<{ size_of::<Part>() }>() else {
        let mut padded: Part = [b'a'; _];
        padded[..path.len()].copy_from_slice(path);
        return !has_wrong(&padded);
    };
    let mut wrong = has_wrong(last);
    let mut rest = path;
    while let Some(part) = rest.first_chunk::<{ size_of::<Part>() }>() {
        wrong |= has_wrong(part);
        // Chunks overlap by a byte, so that a slash doubled across two is found.
        rest = &rest[part.len() - 1..];
    }
    !wrong
}

/// Returns whether a byte after the first is not allowed or doubles a slash.
fn has_wrong(part: &Part) -> bool {
    let pairs = part.iter().zip(&part[1..]);
    let wrong = pairs.map(|(&byte, &next)| !is_allowed(next) | (byte == b'/') & (next == b'/'));
    wrong.fold(false, |some, wrong| some | wrong)
}

impl fmt::Debug for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0))
    }
}

/// Maximum length of a path stored inline; enough for a domain's partition root.
const INLINE_BYTES_MAX: usize = 22;

/// Minimum length of an owned path whose copies share its bytes. Most paths are shorter, and a reference count would
/// put them into the allocator's next size class.
const SHARED_BYTES_MIN: usize = 64;

/// An owned [`Path`], in 24 bytes. Short ones are inline: partitions are looked up by path, and comparing a boxed one
/// would cost another cache miss. Copies of a long one share its bytes: a guest chooses the length of paths, and a
/// transaction keeps each of them in its log, its change and its removals.
#[derive(Clone)]
pub struct PathBuf(Repr);

#[derive(Clone)]
enum Repr {
    Inline(u8, [u8; INLINE_BYTES_MAX]),
    Boxed(Box<[u8]>),
    Shared(triomphe::Arc<[u8]>),
}

const _: () = assert!(size_of::<PathBuf>() == 24);

impl PathBuf {
    fn new(bytes: &[u8]) -> PathBuf {
        let mut inline = [0; INLINE_BYTES_MAX];
        PathBuf(match (inline.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(bytes);
                Repr::Inline(len, inline)
            }
            _ if bytes.len() < SHARED_BYTES_MIN => Repr::Boxed(bytes.into()),
            _ => Repr::Shared(bytes.into()),
        })
    }

    /// Shares the bytes of `other` if both are the same long path.
    pub fn share(&mut self, other: &PathBuf) {
        if matches!(other.0, Repr::Shared(_)) && self == other {
            self.clone_from(other);
        }
    }

    /// Borrows the path.
    pub fn as_path(&self) -> Path<'_> {
        match &self.0 {
            Repr::Inline(len, bytes) => Path(&bytes[..usize::from(*len)]),
            Repr::Boxed(bytes) => Path(bytes),
            Repr::Shared(bytes) => Path(bytes),
        }
    }
}

impl Borrow<[u8]> for PathBuf {
    fn borrow(&self) -> &[u8] {
        self.as_path().0
    }
}

impl PartialEq for PathBuf {
    fn eq(&self, other: &PathBuf) -> bool {
        self.as_path() == other.as_path()
    }
}

impl Eq for PathBuf {}

impl PartialOrd for PathBuf {
    fn partial_cmp(&self, other: &PathBuf) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathBuf {
    fn cmp(&self, other: &PathBuf) -> Ordering {
        self.as_path().cmp(&other.as_path())
    }
}

impl Hash for PathBuf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_path().hash(state);
    }
}

impl fmt::Debug for PathBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_path(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(raw: &[u8], domid: u16) -> Result<Vec<u8>, Errno> {
        let mut space = PathSpace::new();
        Path::resolve(raw, Domid(domid), REL_PATH_MAX, &mut space).map(|path| path.bytes().to_vec())
    }

    #[test]
    fn paths_that_xenstore_txt_forbids_are_einval() {
        for bad in ["", "a//b", "/a//b", "/a/", "a/", "//", "/a b", "/a+b", "/a\u{e9}", "@a/"] {
            assert_eq!(resolved(bad.as_bytes(), 1), Err(Errno::EINVAL), "{bad:?}");
        }
        for good in ["/", "/a", "/a-b_c@d/9", "@releaseDomain", "@releaseDomain/7"] {
            assert_eq!(resolved(good.as_bytes(), 1).as_deref(), Ok(good.as_bytes()), "{good:?}");
        }
        assert_eq!(resolved(b"x/y", 3).as_deref(), Ok(&b"/local/domain/3/x/y"[..]));
    }

    #[test]
    fn every_byte_of_a_path_is_checked() {
        for len in 2..3 * size_of::<Part>() {
            let good = [&b"/"[..], &vec![b'a'; len - 1]].concat();
            for place in 1..len {
                let with = |byte: u8| {
                    let mut path = good.clone();
                    path[place] = byte;
                    path
                };
                for byte in 0..=u8::MAX {
                    let ends_a_name = byte == b'/' && place > 1 && place < len - 1;
                    let allowed = byte.is_ascii_alphanumeric() || b"-_@".contains(&byte);
                    let parsed = Path::parse(&with(byte)).is_ok();
                    assert_eq!(parsed, allowed || ends_a_name, "byte {byte} at {place} of {len}");
                }
                let mut doubled = with(b'/');
                doubled[place - 1] = b'/';
                assert!(Path::parse(&doubled).is_err(), "two slashes up to {place} of {len}");
            }
        }
    }

    #[test]
    fn xsa_323_length_is_checked_after_the_prefix() {
        assert!(resolved(&[b'a'; REL_PATH_MAX], 10_000).is_ok());
        assert!(resolved(&[b'a'; REL_PATH_MAX + 1], 10_000).is_err());
        let absolute = |len: usize| [&b"/"[..], &vec![b'a'; len - 1]].concat();
        assert!(resolved(&absolute(REL_PATH_MAX), 0).is_ok());
        assert!(resolved(&absolute(REL_PATH_MAX + 1), 0).is_err());
    }

    #[test]
    fn paths_of_every_length_are_kept_and_ordered() {
        let path = |len: usize, last: u8| [&vec![b'/'; 1][..], &vec![b'a'; len], &[last]].concat();
        for len in 0..2 * SHARED_BYTES_MIN {
            let [low, high] = [path(len, b'a'), path(len, b'b')];
            let [kept, higher] = [&low, &high].map(|bytes| Path::parse(bytes).unwrap().to_buf());
            assert_eq!(kept.as_path().bytes(), low);
            assert!(kept < higher && kept == kept.clone() && kept != higher);
        }
    }

    #[test]
    fn path_has_a_parent_a_name_and_components() {
        let path = Path::parse(b"/a/bc/d").unwrap();
        assert_eq!(path.name(), b"d");
        assert_eq!(path.parent().unwrap().bytes(), b"/a/bc");
        assert_eq!(path.components().count(), 3);
        assert_eq!(Path::parse(b"/a").unwrap().parent(), Some(Path::ROOT));
        assert_eq!(Path::parse(b"@x").unwrap().parent(), Some(Path::ROOT));
        assert_eq!(Path::ROOT.parent(), None);
        assert_eq!(Path::ROOT.components().count(), 0);
        assert_eq!(path.below(Path::parse(b"/a").unwrap()), Some(&b"bc/d"[..]));
        assert!(!path.is_within(Path::parse(b"/a/b").unwrap()));
        assert!(path.is_within(Path::ROOT));
    }
}
