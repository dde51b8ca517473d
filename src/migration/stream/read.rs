//! Stream parser, robust against any input.

use std::io::{self, Read};

use thiserror::Error;

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

/// A stream parser that holds one record at a time.
pub struct Reader<R> {
    input: R,
    version: u32,
    order: Order,
    /// Bytes that were read as part of a record but belong to the next one.
    returned: Vec<u8>,
    body: Vec<u8>,
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
            body: Vec::new(),
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
        let [numbers] = reader.words()?;
        let [v0, v1, v2, v3, f0, f1, f2, f3] = numbers;
        reader.version = u32::from_be_bytes([v0, v1, v2, v3]);
        let flags = u32::from_be_bytes([f0, f1, f2, f3]);
        match (reader.version, flags & !FLAG_BIG_ENDIAN) {
            (1..=VERSION, 0) => {}
            (1..=VERSION, _) => return Err(reader.error(StreamError::Flags(flags))),
            (version, _) => return Err(reader.error(StreamError::Version(version))),
        }
        if flags & FLAG_BIG_ENDIAN != 0 {
            reader.order = Order::Big;
        }
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

    /// Returns the next record; `None` after END. Cost: linear in the record's length, at most [`RECORD_BYTES_MAX`].
    ///
    /// # Errors
    /// With the record's number and offset. The rest of the stream cannot be read after an error.
    pub fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        self.record += 1;
        self.offset = self.next;
        let [head] = self.words()?;
        let mut numbers = Body::new(&head, self.order);
        let (kind, len) = (numbers.u32("type"), numbers.u32("len"));
        let (Ok(kind), Ok(len)) = (kind, len) else {
            return Err(self.error(StreamError::Truncated));
        };
        self.kind = kind;
        if len > RECORD_BYTES_MAX {
            return Err(self.error(StreamError::TooLong(len)));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.fill(len.next_multiple_of(8))?;
        let mut body = std::mem::take(&mut self.body);
        body.truncate(len);
        let record = self.parse(kind, &body);
        self.body = body;
        let record = record.map_err(|fault| self.error(fault))?;
        self.ended = record == Record::End;
        Ok(Some(record))
    }

    /// Returns an error about the last record, for callers that find it inconsistent with earlier ones.
    pub fn error(&self, fault: StreamError) -> ReadError {
        ReadError::Stream { record: self.record, offset: self.offset, fault }
    }

    /// Reads words of eight bytes.
    fn words<const COUNT: usize>(&mut self) -> Result<[[u8; 8]; COUNT], ReadError> {
        self.fill(8 * COUNT)?;
        let mut words = [[0; 8]; COUNT];
        for (word, bytes) in words.iter_mut().zip(self.body.chunks_exact(8)) {
            word.copy_from_slice(bytes);
        }
        Ok(words)
    }

    /// Reads `len` bytes into `body`, which grows only as they arrive.
    fn fill(&mut self, len: usize) -> Result<(), ReadError> {
        self.body.clear();
        if !self.returned.is_empty() {
            let returned = self.returned.len().min(len);
            self.body.extend(self.returned.drain(..returned));
        }
        while self.body.len() < len {
            let filled = self.body.len();
            self.body.resize(len.min(filled + GROWTH_BYTES), 0);
            self.input.read_exact(&mut self.body[filled..]).map_err(|error| {
                let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
                if is_end { self.error(StreamError::Truncated) } else { ReadError::Io(error) }
            })?;
        }
        self.next += len as u64;
        Ok(())
    }

    /// C xenstored includes padding in the length, so up to seven extra bytes are accepted. C xenstored (August 2026)
    /// also writes WATCH_DATA_EXTENDED four bytes shorter than the record's length says: depending on the padding, the
    /// body then includes the next record's first word of eight bytes or not.
    fn parse(&mut self, kind: u32, bytes: &[u8]) -> Result<Record, StreamError> {
        let mut body = Body::new(bytes, self.order);
        let record = Record::read(kind, self.version, &mut body)?;
        match body.left() {
            0..8 => Ok(record),
            8..12 if kind == kind::WATCH_DATA_EXTENDED => {
                self.returned = bytes[bytes.len() - 8..].to_vec();
                self.next -= 8;
                Ok(record)
            }
            left => Err(StreamError::Surplus(left)),
        }
    }
}
