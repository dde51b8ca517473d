//! Stream parser, robust against any input.

use std::io::{self, Read};

use thiserror::Error;

use super::digest::Digester;
use super::fields::{Body, Order, StreamError};
use super::{FLAG_BIG_ENDIAN, IDENT, RECORD_BYTES_MAX, Record, VERSION, kind};

/// Chunk size of reads: memory for a record grows with the bytes received, not with its stated length.
const GROWTH_BYTES: usize = 1 << 16;

/// The reason why a stream could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The content of the stream is invalid.
    #[error("record {record} at byte {offset}: {fault}")]
    Stream {
        /// Number of the record, from 1; 0 is the header.
        record: u64,
        /// Offset of the record in the stream, in bytes.
        offset: u64,
        /// The error in the record.
        fault: StreamError,
    },
    /// Reading the input failed.
    #[error("cannot read the stream: {0}")]
    Io(#[from] io::Error),
}

/// Size of a record's `type` and `len`.
const HEAD_BYTES: usize = 8;

/// A stream parser that holds one record at a time. It checks the digest of a stream that has one.
pub struct Reader<R> {
    input: R,
    version: u32,
    order: Order,
    /// Bytes that were read as part of a record but belong to the next one.
    returned: Vec<u8>,
    /// The record, or the part of the header, read last.
    bytes: Vec<u8>,
    /// Of all bytes before the record read last. Kept up with every record, as the stream cannot be read again.
    digester: Digester,
    has_digest: bool,
    record: u64,
    kind: u32,
    offset: u64,
    next: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// The input is not a "xenstore" stream, or has an unknown version or unknown flags.
    pub fn new(input: R) -> Result<Reader<R>, ReadError> {
        let mut reader = Reader {
            input,
            version: 0,
            order: Order::Little,
            returned: Vec::new(),
            bytes: Vec::new(),
            digester: Digester::default(),
            has_digest: false,
            record: 0,
            kind: kind::END,
            offset: 0,
            next: 0,
            ended: false,
        };
        // All available bytes are read, even if they are fewer than those of the identifier, because the error shows
        // them.
        let mut ident = Vec::new();
        reader.input.by_ref().take(IDENT.len() as u64).read_to_end(&mut ident)?;
        if ident != IDENT {
            return Err(reader.error(StreamError::NotAStream("\"xenstore\" stream", ident)));
        }
        reader.next += IDENT.len() as u64;
        let numbers = reader.fill(2 * size_of::<u32>());
        // The header is big-endian whatever the records are.
        let (version, flags) = numbers.and_then(|()| reader.numbers(Order::Big))?;
        reader.version = version;
        match (reader.version, flags & !FLAG_BIG_ENDIAN) {
            (1..=VERSION, 0) => {}
            // An unknown flag may change the layout of all records.
            (1..=VERSION, _) => return Err(reader.error(StreamError::Flags(flags))),
            (version, _) => return Err(reader.error(StreamError::Version(version))),
        }
        if flags & FLAG_BIG_ENDIAN != 0 {
            reader.order = Order::Big;
        }
        reader.digester.add(&IDENT);
        // The digest covers the header, so that a changed version or byte order shows.
        reader.digester.add(&reader.bytes);
        Ok(reader)
    }

    /// Returns the version of the stream.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the byte order of the stream's records.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Returns the type of the last record.
    pub fn kind(&self) -> u32 {
        self.kind
    }

    /// Returns the offset of the last record, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns whether the stream has a digest so far; a wrong one is an error of [`Reader::next_record`].
    pub fn has_digest(&self) -> bool {
        self.has_digest
    }

    /// Returns the next record; `None` after END. Cost: its length, at most [`RECORD_BYTES_MAX`].
    ///
    /// # Errors
    /// With the record's number and offset. The rest of the stream cannot be read after an error.
    pub fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        // END ends the stream, even if its pipe stays open.
        if self.ended {
            return Ok(None);
        }
        self.record += 1;
        self.offset = self.next;
        self.bytes.clear();
        self.fill(HEAD_BYTES)?;
        let (kind, len) = self.numbers(self.order)?;
        self.kind = kind;
        // Before the body is read, so that a damaged length does not wait for bytes that never come.
        if len > RECORD_BYTES_MAX {
            return Err(self.error(StreamError::TooLong(len)));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.fill(HEAD_BYTES + len.next_multiple_of(8))?;
        // Taken out for `parse`, which needs `self`, and put back to reuse its allocation.
        let bytes = std::mem::take(&mut self.bytes);
        let record = self.parse(kind, &bytes[HEAD_BYTES..][..len]);
        let record = record.and_then(|record| self.check_digest(record, &bytes));
        self.bytes = bytes;
        let record = record.map_err(|fault| self.error(fault))?;
        self.ended = record == Record::End;
        Ok(Some(record))
    }

    /// Returns an error about the last record, for callers that find it inconsistent with earlier ones.
    pub fn error(&self, fault: StreamError) -> ReadError {
        ReadError::Stream { record: self.record, offset: self.offset, fault }
    }

    /// Returns the two numbers at the start of `bytes`: those of the header or of a record's head.
    fn numbers(&self, order: Order) -> Result<(u32, u32), ReadError> {
        let mut head = Body::new(&self.bytes, order);
        let numbers = head.u32("type").and_then(|first| Ok((first, head.u32("len")?)));
        numbers.map_err(|fault| self.error(fault))
    }

    /// Reads until `bytes` has this length; it grows only as they arrive.
    fn fill(&mut self, len: usize) -> Result<(), ReadError> {
        let had = self.bytes.len();
        if !self.returned.is_empty() {
            let returned = self.returned.len().min(len - had);
            self.bytes.extend(self.returned.drain(..returned));
        }
        while self.bytes.len() < len {
            let filled = self.bytes.len();
            self.bytes.resize(len.min(filled + GROWTH_BYTES), 0);
            self.input.read_exact(&mut self.bytes[filled..]).map_err(|error| {
                let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
                if is_end { self.error(StreamError::Truncated) } else { ReadError::Io(error) }
            })?;
        }
        self.next += (len - had) as u64;
        Ok(())
    }

    /// Compares a digest with that of the bytes before it, and adds the record's bytes to them. Bytes that belong to
    /// the next record are not added twice.
    fn check_digest(&mut self, record: Record, bytes: &[u8]) -> Result<Record, StreamError> {
        match record {
            // Nothing else may follow, as no digest would cover it.
            _ if self.has_digest && record != Record::End => {
                return Err(StreamError::Contradicts("it follows the digest".into()));
            }
            Record::Digest(digest) if digest != self.digester.digest() => {
                return Err(StreamError::Digest(self.offset));
            }
            Record::Digest(_) => self.has_digest = true,
            _ => {}
        }
        self.digester.add(&bytes[..bytes.len() - self.returned.len()]);
        Ok(record)
    }

    /// C xenstored includes padding in the length, so up to seven extra bytes are accepted, but only in a length that
    /// is a multiple of 8: any other is damaged, and the next record would be sought too far on, where the first words
    /// of a node's body read as END. C also (August 2026) writes WATCH_DATA_EXTENDED four bytes shorter than its length
    /// says: depending on the padding, the body then includes the next record's first word of eight bytes or not.
    fn parse(&mut self, kind: u32, bytes: &[u8]) -> Result<Record, StreamError> {
        let mut body = Body::new(bytes, self.order);
        let record = Record::read(kind, self.version, &mut body)?;
        let is_padded = bytes.len().is_multiple_of(8);
        match body.left() {
            0 => Ok(record),
            1..8 if is_padded => Ok(record),
            8..12 if is_padded && kind == kind::WATCH_DATA_EXTENDED => {
                self.returned = bytes[bytes.len() - 8..].to_vec();
                // So the error of the next record names its true offset.
                self.next -= 8;
                Ok(record)
            }
            left => Err(StreamError::Surplus(left)),
        }
    }
}
