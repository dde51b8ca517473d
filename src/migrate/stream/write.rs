//! Writing the stream.

use std::io::{self, Write};

use super::{FLAG_BIG_ENDIAN, IDENT, RECORD_BYTES_MAX, Record};
use crate::migrate::bytes::{Fault, Order};

/// Writes a stream, a record after the other.
pub struct Writer<W> {
    output: W,
    version: u32,
    order: Order,
    body: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of `output`.
    pub fn new(mut output: W, version: u32, order: Order) -> io::Result<Writer<W>> {
        let flags = if order == Order::Big { FLAG_BIG_ENDIAN } else { 0 };
        output.write_all(&IDENT)?;
        output.write_all(&version.to_be_bytes())?;
        output.write_all(&flags.to_be_bytes())?;
        Ok(Writer { output, version, order, body: Vec::new() })
    }

    /// Writes a record. Cost: its length.
    ///
    /// # Errors
    /// Those of the output; `InvalidInput` for a record that cannot be written, with the reason.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        self.body.clear();
        let written = record.write(self.version, self.order, &mut self.body);
        let kind = written.map_err(|fault| io::Error::new(io::ErrorKind::InvalidInput, fault))?;
        let len = u32::try_from(self.body.len()).unwrap_or(u32::MAX);
        if len > RECORD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, Fault::TooLong(len)));
        }
        self.body.resize(self.body.len().next_multiple_of(8), 0);
        for number in [kind, len] {
            self.output.write_all(&self.order.u32(number))?;
        }
        self.output.write_all(&self.body)
    }

    /// Writes END and everything that waits, and gives the output back.
    ///
    /// # Errors
    /// Those of the output.
    pub fn end(mut self) -> io::Result<W> {
        self.write(&Record::End)?;
        self.output.flush()?;
        Ok(self.output)
    }
}
