//! Reports: a line per domain, and the summary.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::{Done, ToolError};
use super::progress::Progress;
use crate::types::Domid;

/// The outcome of a domain, a JSON object. Fields that are unknown or do not apply to the command are omitted.
#[derive(Debug, Default, Serialize)]
pub struct Line {
    /// The domain; `None` for a file whose domain is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domid: Option<u16>,
    /// The destination of one of several hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whether the command succeeded for the domain.
    pub done: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of nodes in the domain's stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u64>,
    /// The line of input that is no domid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// The file to which the domain was written, or that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Contents that the format cannot represent, or that the daemon left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Number of transfers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
    /// Milliseconds from the batch's first EXPORT to its UNQUIESCE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<f64>,
    /// The domain's state at the source of a move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    /// The domain's state at the destination of a move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<&'static str>,
    /// The commands that resolve the domain's state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

impl Line {
    /// Makes the line of a domain: success without an error.
    pub fn new(domid: Domid, error: Option<String>) -> Line {
        Line { domid: Some(domid.0), done: error.is_none(), error, ..Line::default() }
    }

    /// Makes the line of a file that failed.
    pub fn of_file(path: &Path, error: String) -> Line {
        let file = Some(path.display().to_string());
        Line { file, error: Some(error), ..Line::default() }
    }

    /// Makes the line of an input line that is no domid.
    pub fn of_input(line: &str, error: String) -> Line {
        Line { line: Some(line.to_owned()), error: Some(error), ..Line::default() }
    }

    /// Returns the outcome as one line, the reply to a line of input.
    fn reply(&self, verb: &str) -> String {
        let subject = self.domid.map(|domid| domid.to_string()).or_else(|| self.line.clone());
        let mut text = format!("{} ", subject.unwrap_or_default());
        match &self.error {
            Some(error) => text += &format!("failed: {error}"),
            None => {
                text += verb;
                let nodes = self.nodes.filter(|nodes| *nodes > 0);
                text += &nodes.map_or(String::new(), |n| format!(", {}", counted(n, "node")));
                text += &self.pause_ms.map_or(String::new(), |ms| format!(", pause {ms:.1} ms"));
            }
        }
        if !self.left_out.is_empty() {
            text += &format!("; left out: {}", self.left_out.join(", "));
        }
        text
    }

    /// Returns the subject of the line's messages.
    fn subject(&self) -> String {
        match (self.domid, &self.file) {
            (Some(domid), _) => format!("domain {domid}"),
            (None, file) => file.clone().unwrap_or_default(),
        }
    }
}

/// The summary of a command, a JSON object.
#[derive(Debug, Serialize)]
struct Summary<'s> {
    command: &'static str,
    domains: usize,
    done: usize,
    failed: usize,
    /// Domains that were not started.
    left: usize,
    nodes: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<Pause>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    notes: &'s [String],
}

/// The summary's line.
#[derive(Serialize)]
struct Last<'s> {
    summary: Summary<'s>,
}

/// Percentiles of the domains' pauses.
#[derive(Debug, Serialize)]
pub struct Pause {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Pause {
    /// Formats the pauses as a part of a summary.
    pub fn text(&self) -> String {
        let Pause { p50_ms, p99_ms, max_ms } = self;
        format!("; pause p50 {p50_ms:.1} p99 {p99_ms:.1} max {max_ms:.1} ms")
    }
}

/// The verbosity and form of the output.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Whether to print JSON.
    pub json: bool,
    /// Whether to print only errors.
    pub quiet: bool,
    /// Whether standard output is taken, so that the report goes to standard error.
    pub aside: bool,
}

/// Writer of the report. If the output cannot be written, the command continues, because domains are under way; the
/// error is returned at the end.
pub struct Report {
    form: Form,
    command: &'static str,
    /// The past participle of the command's verb, for messages.
    verb: &'static str,
    /// Whether each domain has a line on standard output, the reply to a line of input.
    has_replies: bool,
    progress: Progress,
    begun: Instant,
    total: usize,
    done: usize,
    failed: usize,
    nodes: u64,
    pauses: Vec<f64>,
    notes: Vec<String>,
    troubles: Vec<String>,
    output: io::Result<()>,
}

impl Report {
    /// Makes the report of a command for `total` domains.
    pub fn new(form: Form, command: &'static str, verb: &'static str, total: usize) -> Report {
        Report {
            form,
            command,
            verb,
            has_replies: false,
            progress: Progress::new(total, form.quiet),
            begun: Instant::now(),
            total,
            done: 0,
            failed: 0,
            nodes: 0,
            pauses: Vec::new(),
            notes: Vec::new(),
            troubles: Vec::new(),
            output: Ok(()),
        }
    }

    /// Makes the report of a command that replies to each line of its input with a line of output.
    pub fn of_lines(form: Form, command: &'static str, verb: &'static str) -> Report {
        let progress = Progress::new(0, true);
        Report { has_replies: true, progress, ..Report::new(form, command, verb, 0) }
    }

    /// Whether all of the report so far could be written.
    pub fn is_written(&self) -> bool {
        self.output.is_ok()
    }

    /// Counts lines of input that were not started.
    pub fn left_unstarted(&mut self, lines: usize) {
        self.total += lines;
    }

    /// Sets the time at which the command began.
    pub fn since(self, begun: Instant) -> Report {
        Report { begun, ..self }
    }

    /// Corrects the total when `files` files turn out to hold `domains` domains.
    pub fn found(&mut self, files: usize, domains: usize) {
        self.total = (self.total + domains).saturating_sub(files);
    }

    /// Reports a finished domain.
    pub fn domain(&mut self, line: &Line) {
        self.done += usize::from(line.done);
        self.failed += usize::from(!line.done);
        self.nodes += line.nodes.filter(|_| line.done).unwrap_or(0);
        self.pauses.extend(line.pause_ms);
        self.total += usize::from(self.has_replies);
        if self.form.json {
            self.json(line);
        } else if self.has_replies {
            self.print(&line.reply(self.verb));
        } else {
            let said = line.error.iter().cloned();
            let left_out = (!line.left_out.is_empty())
                .then(|| format!("left out: {}", line.left_out.join(", ")));
            for text in said.chain(left_out) {
                self.progress.aside(|| say(&format!("{}: {text}", line.subject())));
            }
        }
        self.progress.at(self.verb, self.done, self.failed);
    }

    /// Adds a note that is printed at the end.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Reports an error that affects more than one domain, immediately and only once.
    pub fn trouble(&mut self, text: String) {
        if !self.troubles.contains(&text) {
            self.progress.aside(|| say(&text));
            self.troubles.push(text);
        }
    }

    /// Prints the summary.
    ///
    /// # Errors
    /// The output could not be written.
    pub fn end(mut self) -> Result<Done, ToolError> {
        self.progress.end();
        let left = self.total.saturating_sub(self.done + self.failed);
        let seconds = self.begun.elapsed().as_secs_f64();
        let pause = pause(&mut self.pauses);
        if self.form.json {
            let notes = std::mem::take(&mut self.notes);
            let summary = Summary {
                command: self.command,
                domains: self.total,
                done: self.done,
                failed: self.failed,
                left,
                nodes: self.nodes,
                seconds,
                pause,
                notes: &notes,
            };
            self.json(&Last { summary });
        } else if !self.form.quiet {
            let mut text = format!("{} {} of {}", self.verb, self.done, domains(self.total));
            if self.nodes > 0 {
                text += &format!(", {}", counted(self.nodes, "node"));
            }
            text += &format!(", in {seconds:.3} s");
            if let Some(pause) = pause {
                text += &pause.text();
            }
            self.print(&text);
            self.notes.iter().for_each(|note| say(note));
        }
        self.output?;
        Ok(if self.failed + left > 0 { Done::Partly } else { Done::Well })
    }

    fn json(&mut self, object: &impl Serialize) {
        match serde_json::to_string(object) {
            Ok(line) => self.print(&line),
            Err(error) => self.output = Err(io::Error::other(error)),
        }
    }

    /// Writes a line to the output, which flushes at its end; nothing after an error.
    fn print(&mut self, line: &str) {
        if self.output.is_ok() {
            self.output = match self.form.aside {
                true => writeln!(io::stderr(), "{line}"),
                false => writeln!(io::stdout(), "{line}"),
            };
        }
    }
}

/// Prints a message to standard error. Errors are ignored, as there is no other way to report them.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "xsctl: {text}");
}

/// Formats a number of domains.
pub fn domains(count: usize) -> String {
    counted(count as u64, "domain")
}

/// Formats a count and its noun, singular or plural.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Formats a number of domains and `was` or `were`.
pub fn were(count: usize) -> String {
    format!("{} {}", domains(count), if count == 1 { "was" } else { "were" })
}

/// Converts to milliseconds, rounded to a microsecond.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Returns percentiles by nearest rank; `None` without values.
pub fn pause(all: &mut [f64]) -> Option<Pause> {
    all.sort_by(f64::total_cmp);
    let rank = |percent: usize| all.get((all.len() * percent).div_ceil(100).max(1) - 1).copied();
    Some(Pause { p50_ms: rank(50)?, p99_ms: rank(99)?, max_ms: rank(100)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_percentiles_are_values_by_rank() {
        assert!(pause(&mut []).is_none());
        let mut all: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let Pause { p50_ms, p99_ms, max_ms } = pause(&mut all).unwrap();
        assert_eq!((p50_ms, p99_ms, max_ms), (100.0, 198.0, 200.0));
        assert_eq!(pause(&mut [7.0]).unwrap().p50_ms, 7.0);
    }
}
