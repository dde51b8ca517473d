//! Numbers and strings in a record body, in either byte order, with every length checked.

use std::fmt;

/// The byte order of a stream's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Little-endian, written by every machine that Xen runs on.
    Little,
    /// Big-endian, accepted for other writers.
    Big,
}

impl Order {
    /// Encodes a number.
    pub fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }
}

/// An error in a stream or record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The expected format, and the bytes found at the start instead.
    NotAStream(&'static str, Vec<u8>),
    /// Unknown version.
    Version(u32),
    /// Unknown flags.
    Flags(u32),
    /// The stream ends within the record.
    Truncated,
    /// The record's length exceeds the maximum.
    TooLong(u32),
    /// A length in the record reaches past its end.
    PastTheEnd(&'static str),
    /// The record is longer than its fields, by this many bytes.
    Surplus(usize),
    /// A field has an invalid value.
    Value(&'static str, u64),
    /// A string lacks its NUL at the end, or has one before it.
    Unterminated(&'static str),
    /// The record contradicts an earlier one.
    Contradicts(String),
    /// With this record the state exceeds this limit of bytes in memory.
    TooMuch(u64),
    /// The bytes before the record, as many, do not have its digest.
    Digest(u64),
    /// The stream ends without a digest, which was required.
    NoDigest,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::NotAStream(expected, begins) if begins.is_empty() => {
                write!(f, "it is empty, not a {expected}")
            }
            StreamError::NotAStream(expected, begins) => {
                write!(f, "it begins with \"{}\" and is not a {expected}", begins.escape_ascii())
            }
            StreamError::Version(version) => write!(f, "unknown version {version}"),
            StreamError::Flags(flags) => write!(f, "unknown flags {flags:#x}"),
            StreamError::Truncated => f.write_str("the stream ends within the record"),
            StreamError::TooLong(len) => write!(f, "its length of {len} bytes exceeds the maximum"),
            StreamError::PastTheEnd(field) => write!(f, "its {field} extends past its end"),
            StreamError::Surplus(len) => write!(f, "it has {len} bytes after its last field"),
            StreamError::Value(field, value) => write!(f, "its {field} cannot be {value}"),
            StreamError::Unterminated(field) => {
                write!(f, "its {field} is not a NUL-terminated string")
            }
            StreamError::Contradicts(what) => f.write_str(what),
            StreamError::TooMuch(max) => {
                write!(f, "with it the state exceeds the limit of {max} bytes in memory")
            }
            StreamError::Digest(len) => {
                write!(
                    f,
                    "its digest is not that of the {len} bytes before it: the stream is damaged"
                )
            }
            StreamError::NoDigest => {
                f.write_str("the stream ends without a digest, which both daemons write")
            }
        }
    }
}

impl std::error::Error for StreamError {}

/// A record body that is read sequentially.
#[derive(Clone)]
pub struct Body<'a> {
    bytes: &'a [u8],
    at: usize,
    order: Order,
}

impl<'a> Body<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8], order: Order) -> Body<'a> {
        Body { bytes, at: 0, order }
    }

    /// Returns the byte order.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Returns the number of bytes left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Returns the next `len` bytes; errors name `field`.
    pub fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], StreamError> {
        // A comparison without an addition, which a length from a stream could overflow.
        let taken = self.bytes[self.at..].get(..len).ok_or(StreamError::PastTheEnd(field))?;
        self.at += len;
        Ok(taken)
    }

    /// Returns the next `LEN` bytes.
    pub fn array<const LEN: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; LEN], StreamError> {
        let bytes = self.take(LEN, field)?;
        bytes.try_into().map_err(|_| StreamError::PastTheEnd(field))
    }

    /// Reads a byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, StreamError> {
        self.array(field).map(|[byte]| byte)
    }

    /// Reads a 16-bit number.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, StreamError> {
        let bytes = self.array(field)?;
        Ok(match self.order {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        })
    }

    /// Reads a 32-bit number.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, StreamError> {
        let bytes = self.array(field)?;
        Ok(match self.order {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        })
    }

    /// Reads a 64-bit number.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, StreamError> {
        let bytes = self.array(field)?;
        Ok(match self.order {
            Order::Little => u64::from_le_bytes(bytes),
            Order::Big => u64::from_be_bytes(bytes),
        })
    }

    /// Reads a string of `len` bytes including its NUL; returns it without the NUL.
    pub fn string(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], StreamError> {
        match self.take(len, field)?.split_last() {
            Some((0, text)) if !text.contains(&0) => Ok(text),
            _ => Err(StreamError::Unterminated(field)),
        }
    }

    /// Reads a string up to its NUL; returns it without the NUL.
    pub fn string_to_nul(&mut self, field: &'static str) -> Result<&'a [u8], StreamError> {
        // Within this record, so a missing NUL cannot take bytes of the next one.
        let rest = &self.bytes[self.at..];
        let len =
            rest.iter().position(|&byte| byte == 0).ok_or(StreamError::Unterminated(field))?;
        self.at += len + 1;
        Ok(&rest[..len])
    }

    /// Skips to a multiple of `alignment`. The padding's content is ignored, as the formats require.
    pub fn align(&mut self, alignment: usize) -> Result<(), StreamError> {
        let padding = self.at.next_multiple_of(alignment) - self.at;
        self.take(padding, "padding").map(|_| ())
    }
}

/// A writer that appends numbers in a byte order.
pub struct Sink<'a> {
    /// The buffer appended to.
    pub out: &'a mut Vec<u8>,
    order: Order,
    start: usize,
}

impl<'a> Sink<'a> {
    /// Appends to `out`; alignment is relative to its present end.
    pub fn new(out: &'a mut Vec<u8>, order: Order) -> Sink<'a> {
        let start = out.len();
        // Padding is relative to the body, not to a buffer that holds several records.
        Sink { out, order, start }
    }

    /// Appends bytes unchanged.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// Appends a 16-bit number.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        match self.order {
            Order::Little => self.bytes(&value.to_le_bytes()),
            Order::Big => self.bytes(&value.to_be_bytes()),
        }
    }

    /// Appends a 32-bit number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&self.order.u32(value))
    }

    /// Appends a 64-bit number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        match self.order {
            Order::Little => self.bytes(&value.to_le_bytes()),
            Order::Big => self.bytes(&value.to_be_bytes()),
        }
    }

    /// Appends zeros up to a multiple of `alignment`.
    pub fn align(&mut self, alignment: usize) -> &mut Self {
        let len = self.out.len() - self.start;
        self.out.resize(self.start + len.next_multiple_of(alignment), 0);
        self
    }
}
