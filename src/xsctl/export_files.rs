//! `xsctl export`: writes a file for each domain, or all domains to a pipe, and the marks with which `xsctl release`
//! releases the domains.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::container;
use super::daemon::{Daemon, listed};
use super::error::{Done, ToolError};
use super::export_sink::Sink;
use super::marks::Marks;
use super::places::{command, quoted};
use super::replies::Replies;
use super::report::{Form, Line, Report, domains};
use super::target::Target;
use crate::protocol::Operation;
use crate::types::{Domid, ranges};
use clap::ValueEnum;

/// Maximum number of exports of a domain that changes during its export. Each export takes a few milliseconds, so a
/// domain that changes during all of them changes constantly.
const TRIES_MAX: u32 = 5;

/// The format of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The "xenstore" stream.
    Stream,
    /// Records of libxl's migration stream, which cannot hold the complete state
    Libxl,
}

impl Format {
    /// Returns the extension of the files' names.
    pub fn suffix(self) -> &'static str {
        match self {
            Format::Stream => "xenstore",
            Format::Libxl => "libxl",
        }
    }
}

/// The options of an export.
pub struct Mode {
    /// The directory, or `-` for standard output.
    pub output: PathBuf,
    pub format: Format,
    /// Domains that are quiesced together.
    pub batch: usize,
    /// Whether to export into a directory that already has streams.
    pub force: bool,
    pub form: Form,
}

/// Exports domains, which stay quiesced. Cost: the EXPORT of each batch, and its syncs to disk, three however many its
/// files are; or, on standard output, the memory of its streams.
///
/// # Errors
/// Those of the output. Domains that are not exported are reported.
pub fn run(
    daemon: &Daemon,
    domids: &[Domid],
    mode: &Mode,
    stop: &AtomicBool,
) -> Result<Done, ToolError> {
    let (sink, marks) = Sink::open(&mode.output, mode.force)?;
    let report = Report::new(mode.form, "export", "exported", domids.len());
    let mut exporting = Exporting { daemon, mode, sink, marks, report, still: BTreeSet::new() };
    let mut result = Ok(());
    for some in domids.chunks(mode.batch) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if let Err(failure) = exporting.batch(some) {
            result = Err(failure);
            break;
        }
    }
    let Exporting { sink, marks, still, mut report, .. } = exporting;
    if let Err(failure) = result.and_then(|()| sink.end(&marks)) {
        report.trouble(format!("{failure}; no further domain was exported"));
    }
    if !still.is_empty() {
        let count = domains(still.len());
        let (stand, them, are) = match still.len() {
            1 => ("is", "it", "it is"),
            _ => ("are", "them", "they are"),
        };
        let unquiesce = command("unquiesce", &daemon.socket, &ranges(still));
        let socket = quoted(&daemon.socket);
        let from = match container::is_pipe(&mode.output) {
            true => "FILE, a copy of the output".into(),
            false => quoted(&mode.output),
        };
        report.note(format!(
            "{count} {stand} quiesced; to serve {them} again: {unquiesce}; to end {them} here once \
             {are} imported elsewhere: xsctl release --socket {socket} {from}"
        ));
    }
    report.end()
}

/// Returns the message about a path that the daemon left out of a stream.
pub fn behind(path: &str) -> String {
    format!("{path}, named by its node vm, which the domain can write")
}

struct Exporting<'d> {
    daemon: &'d Daemon,
    mode: &'d Mode,
    sink: Sink,
    marks: Marks,
    report: Report,
    /// Domains that are quiesced now.
    still: BTreeSet<Domid>,
}

/// A domain whose file is complete, but not yet on disk.
struct Complete {
    domid: Domid,
    target: Target,
    /// The daemon's reply: the mark, the number of nodes, a path that it left out.
    strings: Vec<String>,
    /// What the format cannot represent.
    left_out: Vec<String>,
}

impl Exporting<'_> {
    /// Exports a batch, and again the domains that changed during their export.
    fn batch(&mut self, domids: &[Domid]) -> Result<(), ToolError> {
        let mut todo = domids.to_vec();
        let (mut complete, mut result) = (Vec::new(), Ok(()));
        for tries in 1..=TRIES_MAX {
            if todo.is_empty() {
                break;
            }
            match self.once(&todo, tries == TRIES_MAX, &mut complete) {
                Ok(again) => todo = again,
                // The marks of domains exported so far are still written, so that they can be released.
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            }
        }
        self.keep(complete);
        let written = self.sink.end_batch(&self.marks);
        result.and(written)
    }

    /// Exports domains once, and adds the complete ones. Returns those to export again.
    fn once(
        &mut self,
        domids: &[Domid],
        is_last: bool,
        complete: &mut Vec<Complete>,
    ) -> Result<Vec<Domid>, ToolError> {
        let mut targets = Vec::new();
        for &domid in domids {
            targets.push(self.sink.target(self.mode.format, domid)?);
        }
        let descriptors: Vec<_> = targets.iter().map(Target::descriptor).collect();
        let asked = self.daemon.ask(Operation::ExportDomains, &listed(domids), &descriptors);
        drop(descriptors);
        let replies = Replies::of_all(asked);
        let mut again = Vec::new();
        for (&domid, mut target) in domids.iter().zip(targets) {
            let outcome = replies.of(domid);
            let is_changed = outcome.as_ref().is_err_and(|trouble| trouble.is("EAGAIN"));
            if is_changed && !is_last {
                again.push(domid);
                continue;
            }
            let line = match outcome {
                Ok(strings) => match target.complete() {
                    Ok(left_out) => {
                        complete.push(Complete { domid, target, strings, left_out });
                        continue;
                    }
                    Err(failure) => {
                        self.still.insert(domid);
                        self.failed(domid, failure.to_string(), Some("is quiesced"))
                    }
                },
                Err(trouble) => {
                    target.remove();
                    let error = format!("EXPORT_DOMAINS: {trouble}");
                    self.failed(domid, error, trouble.is_lost().then_some("may be quiesced"))
                }
            };
            self.report.domain(&line);
        }
        Ok(again)
    }

    /// Makes the streams of a batch permanent, and reports their domains.
    fn keep(&mut self, complete: Vec<Complete>) {
        let synced = self.sink.sync();
        for Complete { domid, target, strings, left_out } in complete {
            self.still.insert(domid);
            let name = Some(target.name());
            let kept = match synced {
                Ok(()) => self.sink.keep(target),
                Err(errno) => Err(ToolError::file(&self.mode.output)(errno.into())),
            };
            let line = match kept {
                Ok(file) => {
                    let mut strings = strings.into_iter();
                    self.marks.set(domid, strings.next().unwrap_or_default(), file);
                    let nodes = strings.next().and_then(|nodes| nodes.parse().ok());
                    let left_out = strings.map(|path| behind(&path)).chain(left_out).collect();
                    Line { nodes, file: name, left_out, ..Line::new(domid, None) }
                }
                Err(failure) => self.failed(domid, failure.to_string(), Some("is quiesced")),
            };
            self.report.domain(&line);
        }
    }

    /// Returns the report of a domain that is not exported. `state` is the domain's state, if the domain may have
    /// stayed quiesced.
    fn failed(&self, domid: Domid, error: String, state: Option<&str>) -> Line {
        let Some(state) = state else { return Line::new(domid, Some(error)) };
        let unquiesce = command("unquiesce", &self.daemon.socket, &domid.to_string());
        let error = format!("{error}; it {state}; to serve it again: {unquiesce}");
        Line { commands: vec![unquiesce], ..Line::new(domid, Some(error)) }
    }
}
