//! `xsctl inspect`: prints a stream record by record.

use std::io::Write;

use super::error::ToolError;
use super::input::Input;
use super::line::{Fields, Json, Plain, Value};
use super::show;
use crate::migration::stream::fields::Order;
use crate::migration::stream::{Reader, kind};

/// Writes a line for the header and for each record; JSON with `json`. Cost: the stream's length; memory for one record
/// at a time.
///
/// # Errors
/// Those of the stream, after the lines of everything before the error; those of the output.
pub fn inspect(input: &mut Input, json: bool, out: &mut impl Write) -> Result<(), ToolError> {
    let header = input.read(|reader| Ok(header(reader)))?;
    write(0, "HEADER", &header, json, out)?;
    while let Some((offset, kind, fields)) = input.read(|reader| {
        let record = reader.next_record()?;
        Ok(record.map(|record| (reader.offset(), reader.kind(), show::fields(&record))))
    })? {
        write(offset, kind::name(kind).unwrap_or("UNKNOWN"), &fields, json, out)?;
    }
    Ok(())
}

fn header<R: std::io::Read>(reader: &Reader<R>) -> Fields {
    let order = match reader.order() {
        Order::Little => "little",
        Order::Big => "big",
    };
    vec![
        ("version", Value::Number(reader.version().into())),
        ("byte-order", Value::Word(order.into())),
    ]
}

fn write(
    offset: u64,
    name: &str,
    fields: &Fields,
    json: bool,
    out: &mut impl Write,
) -> Result<(), ToolError> {
    if json {
        let mut all =
            vec![("offset", Value::Number(offset)), ("type", Value::Word(name.to_owned()))];
        all.extend_from_slice(fields);
        writeln!(out, "{}", Json(&all))?;
    } else {
        let line = format!("{offset:>8}  {name:<20} {}", Plain(fields));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
