//! `xsctl export`: a file for each domain, and the marks with which `xsctl release` gives them up.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;

use super::client::{Answers, Daemon, EXPORT_DOMAINS, listed};
use super::domids::show;
use super::failure::{Done, Failure};
use super::libxl;
use super::marks::Marks;
use super::places::command;
use super::report::{Form, Line, Report};
use crate::migrate::state::State;
use crate::migrate::stream::Reader;
use crate::words::Domid;

/// In which form a domain is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The "xenstore" stream.
    Stream,
    /// Records of libxl's migration stream, which have no place for some of it
    Libxl,
}

impl Format {
    /// What the names of its files end with.
    pub fn suffix(self) -> &'static str {
        match self {
            Format::Stream => "xenstore",
            Format::Libxl => "libxl",
        }
    }
}

/// Where to, and how.
pub struct Manner {
    pub directory: PathBuf,
    pub format: Format,
    /// Domains that stand still together.
    pub batch: usize,
    /// Also into a directory with streams.
    pub force: bool,
    pub form: Form,
}

/// Exports domains, which stay quiesced. Cost: that of each batch's EXPORT, and of making its files
/// safe.
///
/// # Errors
/// The directory's, the output's. What was not exported is reported.
pub fn run(
    daemon: &Daemon,
    domids: &[Domid],
    manner: &Manner,
    stop: &AtomicBool,
) -> Result<Done, Failure> {
    let directory = &manner.directory;
    fs::create_dir_all(directory).map_err(Failure::file(directory))?;
    if !manner.force && has_streams(directory).map_err(Failure::file(directory))? {
        let why = "there are streams in it already; --force replaces those of the same domains";
        return Err(Failure::Contents { path: directory.clone(), why: why.into() });
    }
    let mut marks = Marks::open(directory)?;
    let mut report = Report::new(manner.form, "export", "exported", domids.len());
    let mut quiesced = BTreeSet::new();
    for some in domids.chunks(manner.batch) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let ended = batch(daemon, some, manner, &mut quiesced, &mut marks, &mut report);
        if let Err(failure) = ended.and_then(|()| marks.write()) {
            report.trouble(format!("{failure}; no further domain was exported"));
            break;
        }
    }
    if !quiesced.is_empty() {
        let count = quiesced.len();
        let unquiesce = command("unquiesce", &daemon.socket, &show(quiesced));
        let release =
            format!("xsctl release --socket {} {}", daemon.socket.display(), directory.display());
        report.note(format!(
            "{count} domains stand still; this serves them again: {unquiesce}; this ends them here \
             once they are elsewhere: {release}"
        ));
    }
    report.end()
}

/// Whether an export was here.
fn has_streams(directory: &Path) -> io::Result<bool> {
    let is_one = |entry: io::Result<fs::DirEntry>| {
        let path = PathBuf::from(entry?.file_name());
        let ends = [Format::Stream, Format::Libxl].map(Format::suffix);
        Ok(path.extension().is_some_and(|end| ends.iter().any(|known| end == *known)))
    };
    let found: io::Result<Vec<bool>> = fs::read_dir(directory)?.map(is_one).collect();
    Ok(found?.contains(&true))
}

fn batch(
    daemon: &Daemon,
    domids: &[Domid],
    manner: &Manner,
    quiesced: &mut BTreeSet<Domid>,
    marks: &mut Marks,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut targets = Vec::new();
    for &domid in domids {
        targets.push(Target::create(manner, domid)?);
    }
    let descriptors: Vec<_> = targets.iter().map(|target| target.file.as_fd()).collect();
    let asked = daemon.ask(EXPORT_DOMAINS, &listed(domids), &descriptors);
    drop(descriptors);
    let answers = Answers::of_all(asked);
    for (&domid, target) in domids.iter().zip(targets) {
        let unquiesce = || command("unquiesce", &daemon.socket, &domid.to_string());
        let line = match answers.of(domid) {
            Err(trouble) => {
                target.remove();
                let state = if trouble.is_lost() {
                    format!("; it may stand still, which this ends: {}", unquiesce())
                } else {
                    String::new()
                };
                Line::new(domid, Some(format!("EXPORT_DOMAINS: {trouble}{state}")))
            }
            Ok(strings) => {
                quiesced.insert(domid);
                let file = Some(target.path.display().to_string());
                match target.keep(manner.format, domid) {
                    Ok(left_out) => {
                        let mut strings = strings.into_iter();
                        marks.set(domid, strings.next().unwrap_or_default());
                        let nodes = strings.next().and_then(|nodes| nodes.parse().ok());
                        Line { nodes, file, left_out, ..Line::new(domid, None) }
                    }
                    Err(failure) => {
                        let state = format!("it stands still, which this ends: {}", unquiesce());
                        Line::new(domid, Some(format!("{failure}; {state}")))
                    }
                }
            }
        };
        report.domain(&line);
    }
    File::open(&manner.directory)
        .and_then(|directory| directory.sync_all())
        .map_err(Failure::file(&manner.directory))
}

/// A file that is to be.
struct Target {
    /// Its name in the end; until then it ends in `.part`.
    path: PathBuf,
    part: PathBuf,
    /// What the daemon writes into: the file, or memory if that is not the form to be kept.
    file: File,
}

impl Target {
    fn create(manner: &Manner, domid: Domid) -> Result<Target, Failure> {
        let path = manner.directory.join(format!("{domid}.{}", manner.format.suffix()));
        let part = path.with_extension(format!("{}.part", manner.format.suffix()));
        let file = match manner.format {
            Format::Stream => private(&part),
            Format::Libxl => libxl::memory(),
        };
        let file = file.map_err(Failure::file(&part))?;
        Ok(Target { path, part, file })
    }

    /// Makes the file safe, and gives it its name; answers what the form had no place for.
    fn keep(mut self, format: Format, domid: Domid) -> Result<Vec<String>, Failure> {
        let mut left_out = Vec::new();
        if format == Format::Libxl {
            self.file.rewind().map_err(Failure::file(&self.path))?;
            let state = Reader::new(BufReader::new(&self.file))
                .and_then(|mut reader| State::read(&mut reader))
                .map_err(|error| Failure::of(&self.path, error))?;
            let (bytes, missing) = libxl::write(&state, domid).map_err(|fault| {
                Failure::Contents { path: self.path.clone(), why: fault.to_string() }
            })?;
            left_out = missing;
            self.file = private(&self.part)
                .and_then(|mut file| file.write_all(&bytes).map(|()| file))
                .map_err(Failure::file(&self.part))?;
        }
        self.file.sync_all().map_err(Failure::file(&self.part))?;
        fs::rename(&self.part, &self.path).map_err(Failure::file(&self.path))?;
        Ok(left_out)
    }

    /// There is nothing to keep.
    fn remove(self) {
        // What remains is called `.part`, and nobody reads it.
        let _ = fs::remove_file(self.part);
    }
}

/// A new file, or an old one emptied, for our own eyes: guests write passwords into the store.
pub fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}
