//! Parser of oxenstored.conf, so that a host can switch daemons and keep its file.
//!
//! Lines are `name = value` or comments that start with `#`. Keys that apply to this daemon take effect. Keys that only
//! apply to oxenstored are noted if they differ from its default. oxenstored skips lines that it does not understand,
//! except when asked to test the file. Files with such lines exist (its own sample has a misspelt key, NixOS writes
//! booleans as 1 and 0), so this parser skips them too.

use tracing::level_filters::LevelFilter;

use super::config::ConfigError;
use super::config_layer::ConfigLayer;
use crate::domain::Quota;

/// The type of a key's value.
#[derive(Clone, Copy)]
enum Form {
    Flag,
    Integer,
    Decimal,
    Text,
}

/// Keys of oxenstored without effect here: name, type, oxenstored's default, and why it has no effect.
const WITHOUT_EFFECT: &[(&str, Form, &str, &str)] = &[
    ("merge-activate", Form::Flag, "true", MERGE),
    ("conflict-burst-limit", Form::Decimal, "5.0", CONFLICTS),
    ("conflict-max-history-seconds", Form::Decimal, "0.05", CONFLICTS),
    ("conflict-rate-limit-is-aggregate", Form::Flag, "true", CONFLICTS),
    ("perms-activate", Form::Flag, "true", PERMISSIONS),
    ("perms-watch-activate", Form::Flag, "true", PERMISSIONS),
    ("quota-maxwatchevents", Form::Integer, "1024", "the quota memory bounds events"),
    ("gc-max-overhead", Form::Integer, "120", "there is no garbage collector"),
    ("test-eagain", Form::Flag, "false", "transactions fail only on conflicts"),
    ("persistent", Form::Flag, "false", "the store is kept in memory only"),
    ("xenstored-log-nb-files", Form::Integer, "10", ROTATION),
    ("xenstored-log-nb-lines", Form::Integer, "13215", ROTATION),
    ("xenstored-log-nb-chars", Form::Integer, "-1", ROTATION),
    ("access-log-file", Form::Text, "/var/log/xen/xenstored-access.log", ACCESS),
    ("access-log-nb-files", Form::Integer, "20", ACCESS),
    ("access-log-nb-lines", Form::Integer, "13215", ACCESS),
    ("access-log-nb-chars", Form::Integer, "180", ACCESS),
    ("access-log-read-ops", Form::Flag, "false", ACCESS),
    ("access-log-transactions-ops", Form::Flag, "false", ACCESS),
    ("access-log-special-ops", Form::Flag, "false", ACCESS),
    ("allow-debug", Form::Flag, "false", "only the control domain may send CONTROL"),
    ("xenstored-kva", Form::Text, "/proc/xen/xsd_kva", HOST),
    ("xenstored-port", Form::Text, "/proc/xen/xsd_port", HOST),
];
const MERGE: &str = "transactions that do not conflict are always merged";
const CONFLICTS: &str = "a transaction of the control domain that keeps failing gets a reservation \
                         instead";
const PERMISSIONS: &str = "permissions are always checked";
const ROTATION: &str = "rotate the log with logrotate and SIGHUP";
const ACCESS: &str = "requests are traced with --trace-file and the switch io";
const HOST: &str = "the host provides it";

/// Parses a file's text. Returns the configuration layer, and the lines that are invalid.
pub(super) fn parse(text: &str) -> (ConfigLayer, Vec<ConfigError>) {
    let (mut given, mut wrong) = (ConfigLayer::default(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let applied = match line.split_once('=') {
            Some((name, value)) => apply(name.trim_end(), value.trim_start(), &mut given),
            None => Err("expected name = value".into()),
        };
        wrong.extend(applied.err().map(|what| ConfigError { line: index + 1, what }));
    }
    (given, wrong)
}

fn apply(name: &str, value: &str, given: &mut ConfigLayer) -> Result<(), String> {
    match name {
        "pid-file" => given.pid_file = Some(value.into()),
        "xenstored-log-level" => given.log_level = Some(level(value)?),
        "xenstored-log-file" => log_file(value, given),
        "ring-scan-interval" => given.ring_scan_interval = Some(scan_interval(value)?),
        "quota-activate" => {
            if !flag(value)? {
                // In oxenstored this switch governs only these two checks.
                given.limits.extend([(Quota::Nodes, 0), (Quota::NodeSize, 0)]);
            }
        }
        _ => match (Quota::from_name(name), ignored(name)) {
            // Without the prefix, `from_name` would accept this daemon's own names.
            (Some(quota), _) if name.starts_with("quota-") => {
                given.limits.push((quota, number(value)?));
            }
            (_, Some((form, default, why))) => {
                // Files spell out default values, which need no note.
                if !is_same(form, value, default)? {
                    given.notes.push(format!("{name} = {value} is ignored: {why}"));
                }
            }
            _ => return Err(format!("unknown key {name:?}")),
        },
    }
    Ok(())
}

fn ignored(name: &str) -> Option<(Form, &'static str, &'static str)> {
    let found = WITHOUT_EFFECT.iter().find(|(key, ..)| *key == name)?;
    Some((found.1, found.2, found.3))
}

fn is_same(form: Form, value: &str, default: &str) -> Result<bool, String> {
    let no_number = || expected("a number", value);
    // By value, not by text: a file may write the default `5.0` as `5`.
    Ok(match form {
        Form::Flag => flag(value)? == flag(default)?,
        Form::Integer => value.parse::<i64>().map_err(|_| no_number())?.to_string() == default,
        Form::Decimal => Ok(value.parse::<f64>().map_err(|_| no_number())?) == default.parse(),
        Form::Text => value == default,
    })
}

fn flag(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| expected("true or false", value))
}

fn number(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| expected("a number from 0", value))
}

/// Parses oxenstored's interval: a negative one disables the scan, and 0 scans at each wakeup (here: every second).
fn scan_interval(value: &str) -> Result<u32, String> {
    match value.parse::<i32>() {
        Ok(..0) => Ok(0),
        Ok(seconds) => Ok(seconds.max(1).unsigned_abs()),
        Err(_) => Err(expected("a number", value)),
    }
}

fn level(value: &str) -> Result<LevelFilter, String> {
    match value {
        "debug" => Ok(LevelFilter::DEBUG),
        "info" => Ok(LevelFilter::INFO),
        "warn" => Ok(LevelFilter::WARN),
        "error" => Ok(LevelFilter::ERROR),
        "null" => Ok(LevelFilter::OFF),
        _ => Err(expected("debug, info, warn, error or null", value)),
    }
}

fn log_file(value: &str, given: &mut ConfigLayer) {
    match value.strip_prefix("syslog:") {
        Some(_) => given.notes.push(format!(
            "xenstored-log-file = {value} is ignored: in the background the log goes to syslog, \
             facility daemon, unless a file is named"
        )),
        None => given.log_file = Some(value.into()),
    }
}

fn expected(what: &str, value: &str) -> String {
    format!("expected {what}, not {value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_oxenstored_keys_are_applied() {
        let text = "# comment\n\n  pid-file = /run/x.pid\t\nquota-maxentity = 11\n\
                    quota-maxsize=12\nquota-maxwatch = 13\nquota-transaction = 14\n\
                    quota-maxrequests = 15\nquota-path-max = 16\nquota-maxoutstanding = 17\n\
                    xenstored-log-file = /var/log/x\nxenstored-log-level = warn\n\
                    quota-activate = true\n";
        let expected = ConfigLayer {
            pid_file: Some("/run/x.pid".into()),
            limits: vec![
                (Quota::Nodes, 11),
                (Quota::NodeSize, 12),
                (Quota::Watches, 13),
                (Quota::Transactions, 14),
                (Quota::TransactionNodes, 15),
                (Quota::PathMax, 16),
                (Quota::Outstanding, 17),
            ],
            log_file: Some("/var/log/x".into()),
            log_level: Some(LevelFilter::WARN),
            ..ConfigLayer::default()
        };
        assert_eq!(parse(text), (expected, vec![]));
        let unlimited = vec![(Quota::Nodes, 0), (Quota::NodeSize, 0)];
        assert_eq!(parse("quota-activate = false").0.limits, unlimited);
    }

    #[test]
    fn negative_scan_interval_disables_the_scan_and_0_is_shortest() {
        for (value, interval) in [("20", 20), ("0", 1), ("-1", 0)] {
            let (given, wrong) = parse(&format!("ring-scan-interval = {value}"));
            let expected =
                ConfigLayer { ring_scan_interval: Some(interval), ..ConfigLayer::default() };
            assert_eq!((given, wrong), (expected, vec![]), "{value}");
        }
    }

    #[test]
    fn unsupported_keys_are_noted_unless_at_their_default() {
        for (name, form, default, _) in WITHOUT_EFFECT {
            let value = match form {
                Form::Flag if *default == "true" => "false",
                Form::Flag => "true",
                Form::Integer => "-2",
                Form::Decimal => "6.5",
                Form::Text => "/other",
            };
            let (given, wrong) = parse(&format!("{name} = {value}"));
            assert_eq!((given.notes.len(), wrong), (1, vec![]), "{name}");
            assert!(given.notes[0].starts_with(&format!("{name} = {value} is ignored: ")));
            assert_eq!(ConfigLayer { notes: vec![], ..given }, ConfigLayer::default(), "{name}");
            assert_eq!(
                parse(&format!("{name}={default}")),
                (ConfigLayer::default(), vec![]),
                "{name}"
            );
        }
        assert_eq!(parse("conflict-burst-limit=5.000000"), (ConfigLayer::default(), vec![]));
        assert_eq!(parse("xenstored-log-file = syslog:local1").0.notes.len(), 1);
    }

    /// The file of Debian's package xen-utils-common, without the comments.
    #[test]
    fn default_file_of_debian_is_read_without_notes() {
        let text = "pid-file = /var/run/xen/xenstored.pid\ntest-eagain = false\n\
                    merge-activate = true\nconflict-burst-limit = 5.0\n\
                    conflict-max-history-seconds = 0.05\nconflict-rate-limit-is-aggregate = true\n\
                    perms-activate = true\nperms-watch-activate = true\nquota-activate = true\n\
                    quota-maxentity = 1000\nquota-maxsize = 2048\nquota-maxwatch = 100\n\
                    quota-transaction = 10\nquota-maxrequests = 1024\nquota-path-max = 1024\n\
                    quota-maxoutstanding = 1024\nquota-maxwatchevents = 1024\npersistent = false\n\
                    xenstored-kva = /proc/xen/xsd_kva\nxenstored-port = /proc/xen/xsd_port\n";
        let (given, wrong) = parse(text);
        assert_eq!((given.notes, wrong), (vec![], vec![]));
        assert_eq!(given.limits.len(), 7);
    }

    #[test]
    fn config_errors_name_their_line() {
        for (text, line, what) in [
            ("persistent = false\n\nquota-maxnodes = 1\n", 3, "unknown key \"quota-maxnodes\""),
            ("nodes = 1", 1, "unknown key \"nodes\""),
            ("# a\nquota-maxentity\n", 2, "expected name = value"),
            ("quota-maxentity = many", 1, "expected a number from 0, not \"many\""),
            ("ring-scan-interval = often", 1, "expected a number, not \"often\""),
            ("quota-maxentity = -1", 1, "expected a number from 0"),
            ("merge-activate = yes", 1, "expected true or false"),
            ("quota-activate = 0", 1, "expected true or false, not \"0\""),
            ("acesss-log-nb-chars = 180", 1, "unknown key \"acesss-log-nb-chars\""),
            ("conflict-burst-limit = x", 1, "expected a number"),
            ("xenstored-log-level = loud", 1, "expected debug, info, warn, error or null"),
        ] {
            let (_, wrong) = parse(text);
            assert_eq!((wrong.len(), wrong[0].line), (1, line), "{text}: {wrong:?}");
            assert!(wrong[0].what.contains(what), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn invalid_line_leaves_the_other_lines_in_effect() {
        let (given, wrong) =
            parse("quota-activate = 0\nquota-maxentity = 5\nfoo\nquota-maxwatch = x\n");
        assert_eq!(
            given,
            ConfigLayer { limits: vec![(Quota::Nodes, 5)], ..ConfigLayer::default() }
        );
        assert_eq!(wrong.iter().map(|wrong| wrong.line).collect::<Vec<_>>(), [1, 3, 4]);
    }
}
