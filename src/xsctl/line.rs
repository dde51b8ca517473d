//! What is printed: named values on a line, for people or as JSON.

use std::fmt::{self, Write};

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(u64),
    /// A word of this program's own.
    Word(String),
    /// Bytes that a client chose.
    Bytes(Vec<u8>),
    /// Several words.
    Words(Vec<String>),
    /// Named values of their own.
    Fields(Fields),
}

/// Values by their names, in the order in which they are shown.
pub type Fields = Vec<(&'static str, Value)>;

/// For people: `name=value` with blanks between. Bytes are in quotes; what is not a visible ASCII
/// character is written as in C: `\n`, `\x1f`.
pub struct Plain<'a>(pub &'a [(&'static str, Value)]);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            let between = if at > 0 { " " } else { "" };
            write!(f, "{between}{name}=")?;
            match value {
                Value::Number(number) => write!(f, "{number}")?,
                Value::Word(word) => f.write_str(word)?,
                Value::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii())?,
                Value::Words(words) => f.write_str(&words.join(","))?,
                Value::Fields(fields) => write!(f, "({})", Plain(fields))?,
            }
        }
        Ok(())
    }
}

/// An object of JSON (RFC 8259) on one line. Bytes are strings in the same writing as for people,
/// since JSON's own can hold text only.
pub struct Json<'a>(pub &'a [(&'static str, Value)]);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('{')?;
        for (at, (name, value)) in self.0.iter().enumerate() {
            let between = if at > 0 { "," } else { "" };
            write!(f, "{between}\"{name}\":")?;
            match value {
                Value::Number(number) => write!(f, "{number}")?,
                Value::Word(word) => string(word, f)?,
                Value::Bytes(bytes) => string(&bytes.escape_ascii().to_string(), f)?,
                Value::Words(words) => {
                    f.write_char('[')?;
                    for (at, word) in words.iter().enumerate() {
                        f.write_str(if at > 0 { "," } else { "" })?;
                        string(word, f)?;
                    }
                    f.write_char(']')?;
                }
                Value::Fields(fields) => write!(f, "{}", Json(fields))?,
            }
        }
        f.write_char('}')
    }
}

/// Text without control characters, which nothing here has.
fn string(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(character)?;
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_one_line_in_both_forms() {
        let bytes: Vec<u8> = (0..=255).collect();
        let fields = [("n", Value::Number(1)), ("b", Value::Bytes(bytes))];
        for line in [Plain(&fields).to_string(), Json(&fields).to_string()] {
            assert!(line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{line}");
        }
        let words = Value::Words(vec!["n0".into(), "r5".into()]);
        let inner = vec![("path", Value::Bytes(b"a\"\n\\".into())), ("perms", words)];
        let fields = [("is", Value::Word("new".into())), ("node", Value::Fields(inner))];
        assert_eq!(Plain(&fields).to_string(), r#"is=new node=(path="a\"\n\\" perms=n0,r5)"#);
        assert_eq!(
            Json(&fields).to_string(),
            r#"{"is":"new","node":{"path":"a\\\"\\n\\\\","perms":["n0","r5"]}}"#
        );
    }
}
