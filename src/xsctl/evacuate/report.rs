//! The report of an evacuation: progress, a table of the hosts, or the same in JSON.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::types::Domid;
use crate::xsctl::error::{Done, ToolError};
use crate::xsctl::report::{Form, Line, Pause, counted, domains, pause, say};

/// The domains of a host before anything is moved.
pub struct Expected {
    pub to: String,
    /// All of them.
    pub total: usize,
    /// Those that an earlier command has moved.
    pub before: BTreeSet<Domid>,
    /// Why there is none.
    pub reason: Option<String>,
}

/// The outcome of a host, a JSON object.
#[derive(Serialize)]
struct Host {
    to: String,
    #[serde(flatten)]
    counts: Counts,
    /// Why domains stayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip)]
    before: BTreeSet<Domid>,
    #[serde(skip)]
    line: Option<ProgressBar>,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Counts {
    domains: usize,
    /// Domains that are at their host, those of earlier commands included.
    done: usize,
    /// Those that an earlier command has moved.
    before: usize,
    failed: usize,
    /// Domains that were not started.
    left: usize,
}

/// The summary, a JSON object.
#[derive(Serialize)]
struct Summary<'s> {
    command: &'static str,
    #[serde(flatten)]
    counts: Counts,
    nodes: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<Pause>,
    hosts: &'s [Host],
}

#[derive(Serialize)]
struct Last<'s> {
    summary: Summary<'s>,
}

/// Writer of the report. If the output cannot be written, the command continues, because domains are under way; the
/// error is returned at the end.
pub struct Report {
    form: Form,
    begun: Instant,
    /// The verb of the summary.
    verb: &'static str,
    hosts: Vec<Host>,
    nodes: u64,
    pauses: Vec<f64>,
    /// The lines on a terminal: one for all hosts, and one for each that is under way.
    lines: MultiProgress,
    whole: ProgressBar,
    output: io::Result<()>,
}

impl Report {
    pub fn new(form: Form, begun: Instant, verb: &'static str, hosts: Vec<Expected>) -> Report {
        let target = match form.quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let lines = MultiProgress::with_draw_target(target);
        let whole = line(&lines);
        let host = |Expected { to, total, before, reason }| Host {
            to,
            counts: Counts { domains: total, left: total, ..Counts::default() },
            reason,
            before,
            line: None,
        };
        let hosts = hosts.into_iter().map(host).collect();
        let (nodes, pauses) = (0, Vec::new());
        Report { form, begun, verb, hosts, nodes, pauses, lines, whole, output: Ok(()) }
    }

    /// Reports a finished domain of the host with this index.
    pub fn domain(&mut self, at: usize, domain: Line) {
        let Some(host) = self.hosts.get_mut(at) else { return };
        host.note(&domain);
        self.nodes += domain.nodes.filter(|_| domain.done).unwrap_or(0);
        self.pauses.extend(domain.pause_ms);
        if self.form.json {
            let domain = Line { to: Some(host.to.clone()), ..domain };
            self.json(&domain);
        } else {
            let left_out = (!domain.left_out.is_empty())
                .then(|| format!("left out: {}", domain.left_out.join(", ")));
            for text in domain.error.iter().cloned().chain(left_out) {
                let domid = domain.domid.unwrap_or_default();
                self.lines.suspend(|| say(&format!("{}: domain {domid}: {text}", host.to)));
            }
        }
        self.progress(at);
    }

    /// Reports the error that ends the moves to a host.
    pub fn trouble(&mut self, at: usize, error: &ToolError) {
        let Some(host) = self.hosts.get_mut(at) else { return };
        host.reason = Some(error.to_string());
        let text = format!("{}: {error}; no further domain was moved there", host.to);
        self.lines.suspend(|| say(&text));
    }

    /// Updates the lines on a terminal. Costs nothing if there is none.
    fn progress(&mut self, at: usize) {
        if self.whole.is_hidden() {
            return;
        }
        let (all, count) = (self.counts(), self.hosts.len());
        self.whole.set_message(format!("{}, to {}", all.text(self.verb), hosts(count)));
        let host = &mut self.hosts[at];
        let text = format!("  {}: {}", host.to, host.counts.text(self.verb));
        host.line.get_or_insert_with(|| line(&self.lines)).set_message(text);
        if host.counts.left == 0
            && let Some(line) = host.line.take()
        {
            line.finish_and_clear();
            self.lines.remove(&line);
        }
    }

    fn counts(&self) -> Counts {
        self.hosts.iter().fold(Counts::default(), |all, Host { counts, .. }| Counts {
            domains: all.domains + counts.domains,
            done: all.done + counts.done,
            before: all.before + counts.before,
            failed: all.failed + counts.failed,
            left: all.left + counts.left,
        })
    }

    /// Prints the table and the summary.
    ///
    /// # Errors
    /// The output could not be written.
    pub fn end(mut self) -> Result<Done, ToolError> {
        // The lines disappear with the last one.
        let _ = self.lines.clear();
        for host in self.hosts.iter_mut().filter(|host| host.counts.left > 0) {
            host.reason.get_or_insert_with(|| "a signal ended the command".into());
        }
        let counts = self.counts();
        let pause = pause(&mut self.pauses);
        let seconds = self.begun.elapsed().as_secs_f64();
        if self.form.json {
            let hosts = std::mem::take(&mut self.hosts);
            let nodes = self.nodes;
            let command = "evacuate";
            let summary = Summary { command, counts, nodes, seconds, pause, hosts: &hosts };
            self.json(&Last { summary });
            self.hosts = hosts;
        } else if !self.form.quiet {
            let text = self.table() + &self.summary(counts, seconds, pause.as_ref());
            self.output = io::stdout().write_all(text.as_bytes()).and(self.output);
        }
        self.output?;
        let is_done =
            counts.done == counts.domains && self.hosts.iter().all(|host| host.reason.is_none());
        Ok(if is_done { Done::Well } else { Done::Partly })
    }

    /// Formats a line for each host, with its name last: a command may be long.
    fn table(&self) -> String {
        let columns = [self.verb, "before", "failed", "stayed"].map(|name| format!("{name:>8}"));
        let mut text = format!("{}  host\n", columns.concat());
        for Host { to, counts: Counts { done, before, failed, left, .. }, reason, .. } in
            &self.hosts
        {
            let numbers = [done - before, *before, *failed, *left];
            let columns = numbers.map(|number| format!("{number:>8}")).concat();
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            text += &format!("{columns}  {to}{reason}\n");
        }
        text
    }

    fn summary(&self, counts: Counts, seconds: f64, pause: Option<&Pause>) -> String {
        let Counts { domains: total, done, before, failed, left } = counts;
        if before == total {
            return format!("nothing to do: {} had moved before\n", domains(total));
        }
        let count = hosts(self.hosts.len());
        let mut text = format!("{} {done} of {} to {count}", self.verb, domains(total));
        if before > 0 {
            text += &format!(", {before} of them before");
        }
        if self.nodes > 0 {
            text += &format!(", {}", counted(self.nodes, "node"));
        }
        text += &format!(", in {seconds:.3} s");
        if let Some(pause) = pause {
            text += &pause.text();
        }
        if failed + left > 0 {
            text += "; the same plan again goes on";
        }
        text + "\n"
    }

    fn json(&mut self, object: &impl Serialize) {
        if self.output.is_ok() {
            let line = serde_json::to_string(object).map_err(io::Error::other);
            self.output = line.and_then(|line| writeln!(io::stdout(), "{line}"));
        }
    }
}

impl Host {
    fn note(&mut self, domain: &Line) {
        let counts = &mut self.counts;
        let is_known = domain.domid.is_some_and(|domid| self.before.contains(&Domid(domid)));
        counts.left = counts.left.saturating_sub(1);
        counts.done += usize::from(domain.done);
        counts.before += usize::from(domain.done && is_known);
        counts.failed += usize::from(!domain.done);
    }
}

impl Counts {
    fn text(self, verb: &str) -> String {
        format!("{verb} {} of {}, {} failed", self.done, domains(self.domains), self.failed)
    }
}

/// Formats a number of hosts.
fn hosts(count: usize) -> String {
    counted(count as u64, "host")
}

/// Adds a line, truncated to the terminal's width.
fn line(lines: &MultiProgress) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_msg}");
    let style = style.unwrap_or_else(|_| unreachable!("the template is valid"));
    lines.add(ProgressBar::no_length().with_style(style))
}
