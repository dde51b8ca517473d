//! Escaping of watch tokens as single words, for CONTROL commands.

use std::fmt::Write;

use crate::types::Errno;

/// Escapes a token as one word of printable ASCII: other bytes and backslashes become `\xhh`.
pub fn escape(token: &[u8]) -> String {
    let mut word = String::with_capacity(token.len());
    for &byte in token {
        if byte.is_ascii_graphic() && byte != b'\\' {
            word.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(word, "\\x{byte:02x}");
        }
    }
    word
}

/// Reverses [`escape`]. Also accepts `\xhh` for bytes that need no escape.
///
/// # Errors
/// `EINVAL` for any other use of a backslash, and for a NUL.
pub fn unescape(word: &[u8]) -> Result<Box<[u8]>, Errno> {
    let mut pieces = word.split(|&byte| byte == b'\\');
    let mut token = pieces.next().unwrap_or_default().to_vec();
    for piece in pieces {
        let (code, rest) = piece.split_at_checked(3).ok_or(Errno::EINVAL)?;
        let digits = code.strip_prefix(b"x").and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        // A NUL would end the token on the wire.
        token.push(byte.filter(|&byte| byte != 0).ok_or(Errno::EINVAL)?);
        token.extend_from_slice(rest);
    }
    Ok(token.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_token_is_one_word_and_round_trips() {
        let all: Vec<u8> = (1..=255).collect();
        for token in [&b""[..], b"plain", b" \n\t\\", b"\\x41", &all] {
            let word = escape(token);
            assert!(word.bytes().all(|byte| byte.is_ascii_graphic()), "{word}");
            assert_eq!(unescape(word.as_bytes()).as_deref(), Ok(token));
        }
        for bad in ["\\", "\\x4", "\\n11", "\\xg0", "\\x+1", "\\x00", "a\\\\x41"] {
            assert_eq!(unescape(bad.as_bytes()), Err(Errno::EINVAL), "{bad}");
        }
    }
}
