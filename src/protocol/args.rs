//! Request arguments: NUL-terminated strings.

use std::str::FromStr;

use crate::types::Errno;

/// Returns the string of a payload that is exactly one NUL-terminated string.
///
/// # Errors
/// `EINVAL` for any other payload.
pub fn one_string(payload: &[u8]) -> Result<&[u8], Errno> {
    match payload.split_last() {
        Some((0, string)) if !string.contains(&0) => Ok(string),
        _ => Err(Errno::EINVAL),
    }
}

/// Iterates over the NUL-terminated strings of a payload. Bytes after the last NUL are ignored.
pub fn strings(payload: &[u8]) -> Strings<'_> {
    Strings(payload)
}

/// Iterator over the remaining strings of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        let string = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(string)
    }
}

/// Parses decimal digits only (no sign, no blanks) as an unsigned number.
///
/// # Errors
/// `EINVAL` for anything else, and for a number that does not fit `N`.
pub fn decimal<N: FromStr>(digits: &[u8]) -> Result<N, Errno> {
    text(digits)
        // `parse` accepts a plus sign.
        .filter(|text| !text.starts_with('+'))
        .and_then(|text| text.parse().ok())
        .ok_or(Errno::EINVAL)
}

/// Returns the bytes as text if they are UTF-8.
pub fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_with_a_nul() {
        let all = |payload| strings(payload).collect::<Vec<_>>();
        assert_eq!(all(b"a\0bc\0\0rest"), [&b"a"[..], b"bc", b""]);
        assert!(all(b"").is_empty());
        assert!(all(b"no nul").is_empty());
        assert_eq!(one_string(b"a\0"), Ok(&b"a"[..]));
        for bad in [&b""[..], b"a", b"a\0b", b"a\0b\0"] {
            assert_eq!(one_string(bad), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn numbers_are_digits_only() {
        assert_eq!(decimal(b"42"), Ok(42));
        for bad in [&b""[..], b"-1", b"+1", b"4294967296", b"1 ", b"0x1", b"\xff"] {
            assert_eq!(decimal::<u32>(bad), Err(Errno::EINVAL));
        }
        assert_eq!(decimal(b"4294967296"), Ok(1_u64 << 32));
    }
}
