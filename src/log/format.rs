//! The format of log lines.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::SWITCHES;

/// Prepends the current time to a line.
pub(super) fn stamped(text: &str) -> Vec<u8> {
    let mut line = String::new();
    let _ = write_time(&mut Writer::new(&mut line));
    line.push_str(text);
    line.into_bytes()
}

/// The format of a line: time, level or switch, text, fields.
pub(super) struct Format;

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write_time(&mut writer)?;
        let about = event.metadata();
        match about.target() {
            switch if SWITCHES.contains(&switch) => writer.write_str(switch)?,
            _ => writer.write_str(level_name(*about.level()))?,
        }
        writer.write_char(' ')?;
        context.format_fields(writer.by_ref(), event)?;
        writer.write_char('\n')
    }
}

fn write_time(writer: &mut Writer<'_>) -> fmt::Result {
    SystemTime.format_time(writer)?;
    writer.write_char(' ')
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}
