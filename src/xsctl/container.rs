//! An export in one file or pipe: the streams of several domains, and their marks at the end (docs/MIGRATION.md,
//! Pipes).
//!
//! ```text
//!     xsctl-export 1\n
//!     domain <domid> <bytes>\n     and the stream; for each domain
//!     marks <bytes>\n              and the contents of marks.json: the end
//! ```
//!
//! The marks end it, so a container that was cut off is recognized as a whole, wherever it was cut.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use super::error::ToolError;
use super::export_files::Format;
use super::marks::{FILE, Marks};
use crate::protocol::decimal;
use crate::types::Domid;

const FIRST_LINE: &[u8] = b"xsctl-export 1\n";
/// The first bytes of the stream of a single domain, which a pipe may have instead of a container.
const STREAM: &[u8] = b"xenstore";
/// The most bytes of a container or a stream that is read from a pipe: all of it is in memory before any of it is
/// imported.
const BYTES_MAX: u64 = 1 << 30;
/// The most bytes of a line: `domain 32751 1073741824`.
const LINE_BYTES_MAX: u64 = 32;

/// The contents of a container.
pub struct Container {
    pub marks: Marks,
    /// The streams by the names that the marks give them.
    pub streams: BTreeMap<String, Vec<u8>>,
}

/// Whether a name on the command line stands for standard input or output.
pub fn is_pipe(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Returns the name of a domain's stream in a container.
pub fn name(domid: Domid) -> String {
    format!("{domid}.{}", Format::Stream.suffix())
}

/// Writes the beginning of a container.
///
/// # Errors
/// Those of the output, as of all functions that write.
pub fn write_start(out: &mut impl Write) -> io::Result<()> {
    out.write_all(FIRST_LINE)
}

/// Writes a domain's stream, of that many bytes.
///
/// # Errors
/// Those of both files.
pub fn write_stream(
    out: &mut impl Write,
    domid: Domid,
    bytes: u64,
    mut stream: impl Read,
) -> io::Result<()> {
    writeln!(out, "domain {domid} {bytes}")?;
    io::copy(&mut stream, out).map(drop)
}

/// Writes the end of a container.
///
/// # Errors
/// Those of the output.
pub fn write_end(out: &mut impl Write, marks: &Marks) -> io::Result<()> {
    let text = marks.text()?;
    writeln!(out, "marks {}", text.len())?;
    out.write_all(&text)?;
    out.flush()
}

impl Container {
    /// Reads the container at a path, `-` for standard input; `None` for a directory and for another file. A pipe with
    /// a single stream is a container without marks. Cost: its length, in time and memory.
    ///
    /// # Errors
    /// It is truncated or malformed; those of the file.
    pub fn at(path: &Path) -> Result<Option<Container>, ToolError> {
        if is_pipe(path) {
            let mut input = BufReader::new(io::stdin().lock());
            let is_stream = input.fill_buf().is_ok_and(|bytes| bytes.starts_with(STREAM));
            let read = if is_stream { single(&mut input, path) } else { read(&mut input, path) };
            return read.map(Some).map_err(|why| wrong(path, why));
        }
        // A named pipe must be opened only once. The caller reports a file that cannot be opened.
        if !path.is_file() {
            return Ok(None);
        }
        let Ok(file) = File::open(path) else { return Ok(None) };
        let mut input = BufReader::new(file);
        if !input.fill_buf().is_ok_and(|bytes| bytes.starts_with(FIRST_LINE)) {
            return Ok(None);
        }
        read(&mut input, path).map(Some).map_err(|why| wrong(path, why))
    }
}

fn wrong(path: &Path, why: String) -> ToolError {
    ToolError::Contents { path: path.to_path_buf(), why: format!("{why}; none of it was used") }
}

/// Reads a single stream. Only the daemon finds whether it is complete.
fn single(input: &mut impl BufRead, path: &Path) -> Result<Container, String> {
    let bytes = exactly(input, None, "the stream")?;
    let streams = BTreeMap::from([(String::from("stream"), bytes)]);
    Ok(Container { marks: Marks::none(path.join(FILE)), streams })
}

fn read(input: &mut impl BufRead, path: &Path) -> Result<Container, String> {
    let mut first = Vec::new();
    let max = FIRST_LINE.len() as u64;
    input.take(max).read_to_end(&mut first).map_err(|error| error.to_string())?;
    match &first[..] {
        b"" => return Err("it is empty: the command that writes it may have failed".into()),
        FIRST_LINE => {}
        some if FIRST_LINE.starts_with(some) => {
            return Err("it is truncated: it ends in its first line".into());
        }
        _ => return Err("it is not the output of xsctl export -o -".into()),
    }
    let (mut streams, mut total) = (BTreeMap::new(), 0_u64);
    loop {
        let header = line(input, &format!("{} and before its marks", domains(streams.len())))?;
        let words: Vec<_> = header.trim_ascii_end().split(|byte| *byte == b' ').collect();
        let number = |digits: &[u8]| decimal::<u64>(digits).map_err(|_| strange(&header));
        match words[..] {
            [b"domain", domid, bytes] => {
                let domid = Domid::parse_canonical(domid).ok_or_else(|| strange(&header))?;
                let bytes = number(bytes)?;
                total = total.saturating_add(bytes);
                if total > BYTES_MAX {
                    return Err(too_long());
                }
                let stream = exactly(input, Some(bytes), &format!("the stream of domain {domid}"))?;
                if streams.insert(name(domid), stream).is_some() {
                    return Err(format!("it has domain {domid} twice"));
                }
            }
            [b"marks", bytes] => {
                let text = exactly(input, Some(number(bytes)?), "its marks")?;
                let marks = Marks::parse(path.join(FILE), &text).map_err(|e| e.to_string())?;
                return match input.fill_buf() {
                    Ok([]) => Ok(Container { marks, streams }),
                    Ok(_) => Err("something follows its end".into()),
                    Err(error) => Err(error.to_string()),
                };
            }
            _ => return Err(strange(&header)),
        }
    }
}

fn domains(count: usize) -> String {
    format!("after {}", super::report::domains(count))
}

fn too_long() -> String {
    format!("it has more than {BYTES_MAX} bytes; use a directory")
}

fn strange(line: &[u8]) -> String {
    format!("it has the line \"{}\", which is none of a container", line.escape_ascii())
}

/// Reads a line with its end.
fn line(input: &mut impl BufRead, place: &str) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    let read = input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
    read.map_err(|error| error.to_string())?;
    match line.last() {
        Some(b'\n') => Ok(line),
        Some(_) if line.len() as u64 == LINE_BYTES_MAX => Err(strange(&line)),
        _ => Err(format!("it is truncated: it ends {place}")),
    }
}

/// Reads that many bytes, or all that are left.
fn exactly(input: &mut impl Read, bytes: Option<u64>, what: &str) -> Result<Vec<u8>, String> {
    let mut read = Vec::new();
    let max = bytes.unwrap_or(BYTES_MAX + 1);
    input.take(max).read_to_end(&mut read).map_err(|error| error.to_string())?;
    match (read.len() as u64, bytes) {
        (len, Some(bytes)) if len < bytes => {
            Err(format!("it is truncated: it ends after {len} of the {bytes} bytes of {what}"))
        }
        (len, None) if len > BYTES_MAX => Err(too_long()),
        _ => Ok(read),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use proptest::prelude::*;

    fn parsed(bytes: &[u8]) -> Result<Container, String> {
        read(&mut &bytes[..], Path::new("-"))
    }

    fn container() -> Vec<u8> {
        let mut out = Vec::new();
        write_start(&mut out).unwrap();
        write_stream(&mut out, Domid(5), 3, &b"abc"[..]).unwrap();
        write_stream(&mut out, Domid(7), 0, &b""[..]).unwrap();
        write_end(&mut out, &Marks::none(PathBuf::new())).unwrap();
        out
    }

    #[test]
    fn container_is_read_as_a_whole_or_not_at_all() {
        let bytes = container();
        let streams = parsed(&bytes).unwrap().streams;
        assert_eq!((&*streams["5.xenstore"], &*streams["7.xenstore"]), (&b"abc"[..], &b""[..]));
        for len in 0..bytes.len() {
            let error = parsed(&bytes[..len]).err().expect("a part is an error");
            let starts = if len == 0 { "it is empty: " } else { "it is truncated: " };
            assert!(error.starts_with(starts), "{len}: {error}");
        }
        assert!(parsed(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn wrong_lines_are_refused_before_anything_is_allocated() {
        for (line, said) in [
            ("domain 5 99999999999\n", "it has more than"),
            ("domain 5 18446744073709551615\n", "it has more than"),
            ("domain 5 99999999999999999999999\n", "none of a container"),
            ("domain 05 3\nabc", "none of a container"),
            ("domain 5\n", "none of a container"),
            ("marks 3\nabc", "expected"),
            ("domain 5 1\nadomain 5 1\na", "twice"),
            ("domain 5 1073741824\nabc", "3 of the 1073741824 bytes of the stream of domain 5"),
        ] {
            let error = parsed(&[FIRST_LINE, line.as_bytes()].concat()).err().unwrap();
            assert!(error.contains(said), "{line:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parsed(&[FIRST_LINE, &bytes].concat());
            let _ = parsed(&bytes);
        }
    }
}
