//! The marks of exported domains in `marks.json`, with the state of their files, and `xsctl release`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::client::{Client, ClientError};
use super::container::Container;
use super::domids::Domids;
use super::error::{Done, ToolError};
use super::places::command;
use super::report::{Form, Line, Report};
use super::target::private;
use crate::migration::stream::digest::Digest;
use crate::types::Domid;

/// The file in an export's directory: a JSON object from domid to [`Exported`].
pub const FILE: &str = "marks.json";

/// An exported domain.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Exported {
    /// The mark alone, as versions of `xsctl` without digests wrote it.
    Mark(String),
    Whole {
        /// Identifies the state that the daemon exported.
        mark: String,
        #[serde(flatten)]
        file: FileState,
    },
}

impl Exported {
    fn mark(&self) -> &str {
        let (Exported::Mark(mark) | Exported::Whole { mark, .. }) = self;
        mark
    }

    fn file(&self) -> Option<&FileState> {
        match self {
            Exported::Mark(_) => None,
            Exported::Whole { file, .. } => Some(file),
        }
    }
}

/// A file of an export: its name in the directory, its length and its digest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FileState {
    #[serde(rename = "file")]
    pub name: String,
    pub bytes: u64,
    digest: String,
}

impl FileState {
    /// Returns the state of a file with these contents. Cost: reads them.
    ///
    /// # Errors
    /// Those of the file.
    pub fn of(name: String, contents: impl Read) -> io::Result<FileState> {
        let (digest, bytes) = Digest::of_file(contents)?;
        Ok(FileState { name, bytes, digest: digest.to_string() })
    }

    fn has_contents_of(&self, other: &FileState) -> bool {
        (self.bytes, &self.digest) == (other.bytes, &other.digest)
    }
}

/// The marks of exported domains.
pub struct Marks {
    path: PathBuf,
    marks: BTreeMap<u16, Exported>,
}

impl Marks {
    /// Makes marks without a domain.
    pub fn none(path: PathBuf) -> Marks {
        Marks { path, marks: BTreeMap::new() }
    }

    /// Parses the contents of `path`.
    ///
    /// # Errors
    /// They are malformed.
    pub fn parse(path: PathBuf, contents: &[u8]) -> Result<Marks, ToolError> {
        match serde_json::from_slice(contents) {
            Ok(marks) => Ok(Marks { path, marks }),
            Err(error) => Err(ToolError::Contents { path, why: error.to_string() }),
        }
    }

    /// Returns the contents of the file.
    ///
    /// # Errors
    /// Never, since the marks are plain values.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        serde_json::to_vec_pretty(&self.marks).map_err(io::Error::other)
    }

    /// Reads the marks in a directory; empty if it has none.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn open(directory: &Path) -> Result<Marks, ToolError> {
        let path = directory.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            read => read.map_err(ToolError::file(&path))?,
        };
        Marks::parse(path, &bytes)
    }

    /// Sets the mark and the file of an exported domain.
    pub fn set(&mut self, domid: Domid, mark: String, file: FileState) {
        self.marks.insert(domid.0, Exported::Whole { mark, file });
    }

    /// Whether the state of a file is unknown: an older `xsctl` wrote its mark.
    pub fn are_old(&self) -> bool {
        self.marks.values().any(|exported| exported.file().is_none())
    }

    /// Iterates over the files whose state is known.
    pub fn files(&self) -> impl Iterator<Item = &FileState> {
        self.marks.values().filter_map(Exported::file)
    }

    /// Compares a file with the one that was exported under its name; returns a sentence on their difference.
    pub fn difference(&self, found: &FileState) -> Option<String> {
        let expected = self.files().find(|file| file.name == found.name)?;
        if expected.has_contents_of(found) {
            return None;
        }
        let (has, had) = (found.bytes, expected.bytes);
        Some(match self.files().find(|file| file.has_contents_of(found)) {
            Some(other) => format!("it has the contents of {}, by {FILE}", other.name),
            None if has < had => format!("it is truncated: it has {has} of {had} bytes, by {FILE}"),
            None if has > had => format!("it has {has} bytes, but {had} were exported, by {FILE}"),
            None => format!("its contents are not those that were exported, by {FILE}"),
        })
    }

    /// Replaces the file atomically.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&self) -> Result<(), ToolError> {
        let part = self.path.with_extension("json.part");
        self.text()
            .and_then(|bytes| {
                let mut file = private(&part)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                fs::rename(&part, &self.path)
            })
            .map_err(ToolError::file(&self.path))
    }

    /// Returns the warning that an older `xsctl` wrote marks.
    pub fn warning(&self) -> String {
        let path = self.path.display();
        format!("{path}: an older xsctl wrote it, without digests: damage to files is not noticed")
    }

    /// Returns a sentence on the difference of a file from the exported one. Cost: reads it.
    fn damage(&self, opened: io::Result<Box<dyn Read + '_>>, file: &FileState) -> Option<String> {
        let why = match opened.and_then(|contents| FileState::of(file.name.clone(), contents)) {
            Ok(found) => self.difference(&found)?,
            Err(error) => error.to_string(),
        };
        Some(format!("its file {}: {why}; it is not released", file.name))
    }
}

/// Releases all or some of the domains exported into a directory or a container, provided that they and their files are
/// unchanged: the commit point (docs/MIGRATION.md). A damaged file may be the only copy of what this host then gives up.
///
/// # Errors
/// There are no marks; the daemon cannot be reached; the output cannot be written.
pub fn release(
    socket: &Path,
    directory: &Path,
    only: Option<&Domids>,
    form: Form,
) -> Result<Done, ToolError> {
    let (all, streams) = match Container::at(directory)? {
        Some(Container { marks, streams }) => (marks, Some(streams)),
        None => (Marks::open(directory)?, None),
    };
    let opened = |name: &str| -> io::Result<Box<dyn Read + '_>> {
        match &streams {
            Some(streams) => match streams.get(name) {
                Some(bytes) => Ok(Box::new(bytes.as_slice())),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            None => Ok(Box::new(File::open(directory.join(name))?)),
        }
    };
    let numbers = only.map(Domids::numbers);
    let is_meant =
        |number: u16| numbers.as_ref().is_none_or(|all| all.contains_key(&Domid(number)));
    let meant: Vec<_> = all.marks.iter().filter(|&(&number, _)| is_meant(number)).collect();
    if meant.is_empty() {
        let why = "it has no mark of these domains".into();
        return Err(ToolError::Contents { path: all.path, why });
    }
    let mut client = Client::connect(socket)?;
    let mut report = Report::new(form, "release", "released", meant.len());
    if meant.iter().any(|(_, exported)| exported.file().is_none()) {
        report.trouble(all.warning());
    }
    let mut marks = Vec::new();
    for (&number, exported) in meant {
        match exported.file().and_then(|file| all.damage(opened(&file.name), file)) {
            Some(why) => report.domain(&Line::new(Domid(number), Some(why))),
            None => marks.push((Domid(number), exported.mark())),
        }
    }
    let mut changed = false;
    for (&(domid, _), outcome) in marks.iter().zip(client.release(&marks)) {
        changed |= outcome.as_ref().is_err_and(|trouble| trouble.is("EAGAIN"));
        let error = outcome.err().map(|trouble| explain(&trouble, socket, domid));
        report.domain(&Line::new(domid, error));
    }
    let done = report.end()?;
    Ok(if changed { Done::Changed } else { done })
}

fn explain(trouble: &ClientError, socket: &Path, domid: Domid) -> String {
    let unquiesce = command("unquiesce", socket, &domid.to_string());
    match trouble {
        trouble if trouble.is("EAGAIN") => format!(
            "it was changed since its export and is quiesced; discard it elsewhere and export it \
             again (--force), or serve it again: {unquiesce}"
        ),
        trouble if trouble.is_lost() => {
            format!("{trouble}; if it still exists here, it is quiesced: release it again")
        }
        trouble => format!("RELEASE: {trouble}"),
    }
}
