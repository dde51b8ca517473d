//! The marks of exported domains in `marks.json`, and `xsctl release`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::client::{Client, ClientError};
use super::domids::Domids;
use super::error::{Done, ToolError};
use super::places::command;
use super::report::{Form, Line, Report};
use super::target::private;
use crate::types::Domid;

/// The file in an export's directory: a JSON object from domid to mark.
const FILE: &str = "marks.json";

/// The marks of exported domains. A mark identifies the state that the daemon exported.
pub struct Marks {
    path: PathBuf,
    marks: BTreeMap<u16, String>,
}

impl Marks {
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
        match serde_json::from_slice(&bytes) {
            Ok(marks) => Ok(Marks { path, marks }),
            Err(error) => Err(ToolError::Contents { path, why: error.to_string() }),
        }
    }

    /// Sets the mark of an exported domain.
    pub fn set(&mut self, domid: Domid, mark: String) {
        self.marks.insert(domid.0, mark);
    }

    /// Replaces the file atomically.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&self) -> Result<(), ToolError> {
        let part = self.path.with_extension("json.part");
        let written = serde_json::to_vec_pretty(&self.marks).map_err(io::Error::other);
        written
            .and_then(|bytes| {
                let mut file = private(&part)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                fs::rename(&part, &self.path)
            })
            .map_err(ToolError::file(&self.path))
    }
}

/// Releases all or some of the domains exported into a directory, provided that they are unchanged: the commit point
/// (docs/MIGRATION.md).
///
/// # Errors
/// There are no marks; the daemon cannot be reached; the output cannot be written.
pub fn release(
    socket: &Path,
    directory: &Path,
    only: Option<&Domids>,
    form: Form,
) -> Result<Done, ToolError> {
    let Marks { path, mut marks } = Marks::open(directory)?;
    if let Some(only) = only {
        let numbers = only.numbers();
        marks.retain(|&number, _| numbers.contains_key(&Domid(number)));
    }
    if marks.is_empty() {
        return Err(ToolError::Contents { path, why: "it has no mark of these domains".into() });
    }
    let mut client = Client::connect(socket)?;
    let mut report = Report::new(form, "release", "released", marks.len());
    let marks: Vec<_> =
        marks.iter().map(|(&number, mark)| (Domid(number), mark.as_str())).collect();
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
