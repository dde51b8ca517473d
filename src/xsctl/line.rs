//! Lines of output: named values, as plain text or JSON.

use std::fmt;

use serde::{Serialize, Serializer};

/// A value of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(u64),
    /// A word chosen by this program.
    Word(String),
    /// Bytes chosen by a client.
    Bytes(Vec<u8>),
    /// Several words.
    Words(Vec<String>),
    /// Nested named values.
    Fields(Fields),
}

/// Named values, in output order.
pub type Fields = Vec<(&'static str, Value)>;

/// Formats `name=value` pairs separated by blanks. Bytes are quoted, with everything but visible ASCII escaped as in
/// the C language: `\n`, `\x1f`.
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

/// Formats a JSON object (RFC 8259) on one line. Bytes are strings with the same escapes as in plain text, because JSON
/// strings can only hold text.
pub struct Json<'a>(pub &'a [(&'static str, Value)]);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Number(number) => serializer.serialize_u64(*number),
            Value::Word(word) => serializer.serialize_str(word),
            Value::Bytes(bytes) => serializer.collect_str(&bytes.escape_ascii()),
            Value::Words(words) => serializer.collect_seq(words),
            Value::Fields(fields) => Json(fields).serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_print_as_one_line_in_both_forms() {
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
