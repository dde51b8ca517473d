//! `xsctl import`: imports files of domains into a daemon.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::client::{Client, Connecting};
use super::daemon::Daemon;
use super::error::{Done, ToolError};
use super::export_files::Format;
use super::libxl_file;
use super::places::command;
use super::replies::Replies;
use super::report::{Form, Line, Report, domains};
use super::stream_files::{StreamFiles, missing};
use crate::migration::stream::Reader;
use crate::migration::stream::state::State;
use crate::protocol::Operation;
use crate::types::{Domid, ranges};

/// The options of an import.
pub struct Mode {
    /// Stream files, directories of them, and containers, `-` for standard input.
    pub paths: Vec<PathBuf>,
    /// The domain of the single file in libxl's format, which does not name it.
    pub libxl: Option<Domid>,
    /// Whether to only check the streams.
    pub dry_run: bool,
    /// Whether to introduce the domains.
    pub introduce: bool,
    /// Files per request.
    pub batch: usize,
    pub form: Form,
}

/// Imports domains, which stay quiesced. Cost: the IMPORT of each batch.
///
/// # Errors
/// Those of a directory and the output; there is no daemon. Domains that are not imported are reported.
pub fn run(daemon: &Daemon, mode: &Mode, stop: &AtomicBool) -> Result<Done, ToolError> {
    let files = StreamFiles::find(&mode.paths)?;
    let verb = if mode.dry_run { "checked" } else { "imported" };
    let mut report =
        Report::new(mode.form, "import", verb, files.paths.len() + files.missing.len());
    files.warnings().into_iter().for_each(|warning| report.trouble(warning));
    for path in &files.missing {
        report.domain(&Line::of_file(path, missing()));
    }
    let client = daemon.connect()?;
    let mut importing = Importing { daemon, mode, files: &files, client, done: Vec::new() };
    for some in files.paths.chunks(mode.batch) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        importing.batch(some, &mut report);
    }
    let done = importing.done;
    if !done.is_empty() && !mode.dry_run {
        let is_one = done.len() == 1;
        let state = match (mode.introduce, is_one) {
            (true, true) => "is quiesced",
            (true, false) => "are quiesced",
            (false, true) => "waits for INTRODUCE",
            (false, false) => "wait for INTRODUCE",
        };
        let (them, are) = if is_one { ("it", "it is") } else { ("them", "they are") };
        let (count, domids) = (domains(done.len()), ranges(done));
        let unquiesce = command("unquiesce", &daemon.socket, &domids);
        let discard = command("discard", &daemon.socket, &domids);
        report.note(format!(
            "{count} {state}; to serve {them} once {are} released at the source: {unquiesce}; to \
             undo the import: {discard}"
        ));
    }
    report.end()
}

/// Returns the stream for the daemon: the file, or a stream converted from it.
fn converted(path: &Path, mut file: File, libxl: Option<Domid>) -> Result<File, ToolError> {
    let Some(domid) = libxl else { return Ok(file) };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(ToolError::file(path))?;
    let stream = libxl_file::read(&bytes, domid)
        .map_err(|why| ToolError::Contents { path: path.to_path_buf(), why })?;
    libxl_file::filled(&stream).map_err(ToolError::file(path))
}

struct Importing<'d> {
    daemon: &'d Daemon,
    mode: &'d Mode,
    files: &'d StreamFiles,
    client: Client,
    /// Domains imported so far.
    done: Vec<Domid>,
}

impl Importing<'_> {
    fn batch(&mut self, paths: &[PathBuf], report: &mut Report) {
        let mut good = Vec::new();
        for path in paths {
            match self.open(path, report) {
                Ok(file) => good.push((path, file)),
                Err(failure) => of_file(path, &failure, report),
            }
        }
        if good.is_empty() {
            return;
        }
        let replies = self.ask(&good);
        if let Some(trouble) = replies.failed() {
            report.trouble(format!("IMPORT_DOMAINS: {trouble}; {}", self.after(trouble.is_lost())));
            return;
        }
        let (found, unread) = (replies.all().collect::<Vec<_>>(), replies.streams());
        report.found(good.len() - unread.len().min(good.len()), found.len());
        // The daemon does not report which streams had no readable domid, so they are parsed here.
        let known = if unread.is_empty() { 0 } else { self.faults(&good, report) };
        for trouble in unread.iter().skip(known) {
            report.domain(&Line::of_file(Path::new("a stream"), trouble.to_string()));
        }
        let arrived: Vec<Connecting> = (found.iter())
            .filter_map(|(domid, outcome)| {
                Some(Connecting::with_port(*domid, outcome.as_ref().ok()?.first()?))
            })
            .collect();
        let mut introduced = Vec::new();
        if self.mode.introduce {
            introduced = self.client.introduce(&arrived);
        }
        let mut introduced = introduced.into_iter();
        for (domid, outcome) in &found {
            let line = match outcome {
                Err(trouble) => Line::new(*domid, Some(format!("IMPORT_DOMAINS: {trouble}"))),
                Ok(strings) => {
                    self.done.push(*domid);
                    let error = introduced.next().and_then(Result::err);
                    let error = error.map(|trouble| {
                        format!(
                            "INTRODUCE: {trouble}; its nodes are imported, but it is not introduced"
                        )
                    });
                    let nodes = strings.get(1).and_then(|nodes| nodes.parse().ok());
                    Line { nodes, ..Line::new(*domid, error) }
                }
            };
            report.domain(&line);
        }
    }

    /// Opens a stream that is not known to be another than the exported one.
    fn open(&self, path: &Path, report: &mut Report) -> Result<File, ToolError> {
        let mut file = self.files.open(path).map_err(ToolError::file(path))?;
        let format = if self.mode.libxl.is_some() { Format::Libxl } else { Format::Stream };
        for warning in self.files.check(path, &mut file, format)? {
            report.trouble(format!("{}: {warning}", path.display()));
        }
        converted(path, file, self.mode.libxl)
    }

    /// Reports the errors found by parsing the streams. Returns their number.
    fn faults(&self, files: &[(&PathBuf, File)], report: &mut Report) -> usize {
        let faults = files.iter().filter_map(|(path, _)| {
            let opened = self.files.open(path).map_err(ToolError::file(path));
            let failure = opened.and_then(|file| check(path, file, self.mode.libxl)).err()?;
            Some((path, failure))
        });
        faults.map(|(path, failure)| of_file(path, &failure, report)).count()
    }

    fn ask(&self, files: &[(&PathBuf, File)]) -> Replies {
        let descriptors: Vec<_> = files.iter().map(|(_, file)| file.as_fd()).collect();
        let payload: &[u8] = if self.mode.dry_run { b"check\0" } else { b"" };
        Replies::of_all(self.daemon.ask(Operation::ImportDomains, payload, &descriptors))
    }

    /// Returns the consequences of a request that failed.
    fn after(&self, is_lost: bool) -> &'static str {
        match is_lost && !self.mode.dry_run {
            true => {
                "domains imported before that are not served; xsctl discard undoes their import"
            }
            false => "none of these streams was imported",
        }
    }
}

fn of_file(path: &Path, failure: &ToolError, report: &mut Report) {
    let text = failure.to_string();
    let prefix = format!("{}: ", path.display());
    let why = text.strip_prefix(&prefix).unwrap_or(&text);
    report.domain(&Line::of_file(path, why.to_owned()));
}

/// Parses a stream as the daemon does.
fn check(path: &Path, file: File, libxl: Option<Domid>) -> Result<(), ToolError> {
    let read = Reader::new(BufReader::new(converted(path, file, libxl)?));
    let state = read.and_then(|mut reader| State::read(&mut reader));
    state.map(drop).map_err(|error| ToolError::of(path, error))
}
