//! Stream writer.

use std::io::{self, Write};

use super::digest::Digester;
use super::fields::{Order, StreamError};
use super::{FLAG_BIG_ENDIAN, IDENT, RECORD_BYTES_MAX, Record};

/// Size of a record's `type` and `len`.
const HEAD_BYTES: usize = 8;

/// A stream writer that writes one record at a time.
pub struct Writer<W> {
    output: W,
    version: u32,
    order: Order,
    /// Whether a record's length includes its padding.
    counts_padding: bool,
    bytes: Vec<u8>,
    digester: Digester,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of `output`.
    pub fn new(output: W, version: u32, order: Order) -> io::Result<Writer<W>> {
        let flags = if order == Order::Big { FLAG_BIG_ENDIAN } else { 0 };
        let (bytes, digester) = (Vec::new(), Digester::default());
        let mut writer = Writer { output, version, order, counts_padding: false, bytes, digester };
        let header = [&IDENT[..], &version.to_be_bytes(), &flags.to_be_bytes()].concat();
        // Like all bytes, so that the digest covers it.
        writer.write_appended(&header)?;
        Ok(writer)
    }

    /// Counts the padding of the records from now on in their lengths, as C xenstored does. Its reader, in a live update,
    /// seeks the next record at the end of that length.
    #[must_use]
    pub fn counting_padding(self) -> Writer<W> {
        Writer { counts_padding: true, ..self }
    }

    /// Writes a record. Cost: its length.
    ///
    /// # Errors
    /// Those of the output; `InvalidInput`, with the reason, for a record that cannot be represented.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        self.bytes.clear();
        let written = append(record, self.version, self.order, &mut self.bytes);
        written.map_err(|fault| io::Error::new(io::ErrorKind::InvalidInput, fault))?;
        if self.counts_padding {
            let len = u32::try_from(self.bytes.len() - HEAD_BYTES).unwrap_or(u32::MAX);
            self.bytes[HEAD_BYTES / 2..HEAD_BYTES].copy_from_slice(&self.order.u32(len));
        }
        self.digester.add(&self.bytes);
        self.output.write_all(&self.bytes)
    }

    /// Writes records made by [`append`] with the same version and byte order.
    ///
    /// # Errors
    /// Those of the output.
    pub fn write_appended(&mut self, records: &[u8]) -> io::Result<()> {
        self.digester.add(records);
        self.output.write_all(records)
    }

    /// Writes the digest and END, flushes, and returns the output. Takes the writer, so that nothing can follow END.
    ///
    /// # Errors
    /// Those of the output.
    pub fn end(mut self) -> io::Result<W> {
        self.write(&Record::Digest(self.digester.digest()))?;
        self.write(&Record::End)?;
        self.output.flush()?;
        Ok(self.output)
    }
}

/// Appends a record in stream format, so that parts of a stream can be made separately. Cost: its length.
///
/// # Errors
/// The record cannot be represented; `out` is unchanged.
pub fn append(
    record: &Record,
    version: u32,
    order: Order,
    out: &mut Vec<u8>,
) -> Result<(), StreamError> {
    let start = out.len();
    // The head is filled in below, once type and length are known.
    out.resize(start + HEAD_BYTES, 0);
    let kind = record.write(version, order, out);
    let len = u32::try_from(out.len() - start - HEAD_BYTES).unwrap_or(u32::MAX);
    let kind = match kind {
        Ok(kind) if len <= RECORD_BYTES_MAX => kind,
        // The head is removed, too: a caller may have written other records to `out` before.
        other => {
            out.truncate(start);
            return other.and(Err(StreamError::TooLong(len)));
        }
    };
    let (kind_bytes, len_bytes) = out[start..start + HEAD_BYTES].split_at_mut(HEAD_BYTES / 2);
    kind_bytes.copy_from_slice(&order.u32(kind));
    len_bytes.copy_from_slice(&order.u32(len));
    let padded = (out.len() - start).next_multiple_of(8);
    out.resize(start + padded, 0);
    Ok(())
}
