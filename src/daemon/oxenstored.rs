//! Reads oxenstored.conf, so that a host can change daemons and keep its file.
//!
//! Lines are `name = value`; those that begin with `#` are comments. What has a meaning here is
//! applied, what is only oxenstored's is noted, and what oxenstored does not know is an error.

use tracing::level_filters::LevelFilter;

use super::config::Wrong;
use super::given::Given;
use crate::domain::Quota;

/// What the value of a key looks like.
#[derive(Clone, Copy)]
enum Form {
    Flag,
    Integer,
    Decimal,
    Text,
}

/// The keys of oxenstored that mean nothing here, and why; with the form that oxenstored demands.
const WITHOUT_EFFECT: &[(&str, Form, &str)] = &[
    ("merge-activate", Form::Flag, MERGE),
    ("conflict-burst-limit", Form::Decimal, CONFLICTS),
    ("conflict-max-history-seconds", Form::Decimal, CONFLICTS),
    ("conflict-rate-limit-is-aggregate", Form::Flag, CONFLICTS),
    ("perms-activate", Form::Flag, PERMISSIONS),
    ("perms-watch-activate", Form::Flag, PERMISSIONS),
    ("quota-maxwatchevents", Form::Integer, "events are bounded by the quota memory"),
    ("gc-max-overhead", Form::Integer, "there is no garbage collector"),
    ("test-eagain", Form::Flag, "no transaction fails without a reason"),
    ("persistent", Form::Flag, "the store is kept in memory only"),
    ("xenstored-log-nb-files", Form::Integer, ROTATION),
    ("xenstored-log-nb-lines", Form::Integer, ROTATION),
    ("xenstored-log-nb-chars", Form::Integer, ROTATION),
    ("access-log-file", Form::Text, ACCESS),
    ("access-log-nb-files", Form::Integer, ACCESS),
    ("access-log-nb-lines", Form::Integer, ACCESS),
    ("access-log-nb-chars", Form::Integer, ACCESS),
    ("access-log-read-ops", Form::Flag, ACCESS),
    ("access-log-transactions-ops", Form::Flag, ACCESS),
    ("access-log-special-ops", Form::Flag, ACCESS),
    ("allow-debug", Form::Flag, "only the control domain may ask for CONTROL"),
    ("ring-scan-interval", Form::Integer, "rings are served when they are notified"),
    ("xenstored-kva", Form::Text, HOST),
    ("xenstored-port", Form::Text, HOST),
];
const MERGE: &str = "transactions that do not conflict are always merged";
const CONFLICTS: &str = "a control domain's transaction that keeps failing is protected instead";
const PERMISSIONS: &str = "permissions are always checked";
const ROTATION: &str = "rotate the log with logrotate and SIGHUP";
const ACCESS: &str = "requests are traced with --trace-file and the switch io";
const HOST: &str = "the host says where it is";

/// Reads a file's text.
pub(super) fn parse(text: &str) -> Result<Given, Wrong> {
    let mut given = Given::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let applied = match line.split_once('=') {
            Some((name, value)) => apply(name.trim_end(), value.trim_start(), &mut given),
            None => Err("expected name = value".into()),
        };
        applied.map_err(|what| Wrong { line: index + 1, what })?;
    }
    Ok(given)
}

fn apply(name: &str, value: &str, given: &mut Given) -> Result<(), String> {
    match name {
        "pid-file" => given.pid_file = Some(value.into()),
        "xenstored-log-level" => given.log_level = Some(level(value)?),
        "xenstored-log-file" => log_file(value, given),
        "quota-activate" => {
            if !flag(value)? {
                // It governs only these two checks in oxenstored.
                given.limits.extend([(Quota::Nodes, 0), (Quota::NodeSize, 0)]);
            }
        }
        _ => match (Quota::from_name(name), ignored(name)) {
            (Some(quota), _) if name.starts_with("quota-") => {
                given.limits.push((quota, number(value)?));
            }
            (_, Some((form, why))) => {
                check(form, value)?;
                given.notes.push(format!("{name} = {value} is ignored: {why}"));
            }
            _ => return Err(format!("unknown key {name:?}")),
        },
    }
    Ok(())
}

fn ignored(name: &str) -> Option<(Form, &'static str)> {
    let found = WITHOUT_EFFECT.iter().find(|(key, ..)| *key == name)?;
    Some((found.1, found.2))
}

fn check(form: Form, value: &str) -> Result<(), String> {
    match form {
        Form::Flag => flag(value).map(|_| ()),
        Form::Integer => value.parse::<i64>().map(|_| ()).map_err(|_| expected("a number", value)),
        Form::Decimal => value.parse::<f64>().map(|_| ()).map_err(|_| expected("a number", value)),
        Form::Text => Ok(()),
    }
}

fn flag(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| expected("true or false", value))
}

fn number(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| expected("a number from 0", value))
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

fn log_file(value: &str, given: &mut Given) {
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
    fn keys_with_a_meaning_are_applied() {
        let text = "# comment\n\n  pid-file = /run/x.pid\t\nquota-maxentity = 11\n\
                    quota-maxsize=12\nquota-maxwatch = 13\nquota-transaction = 14\n\
                    quota-maxrequests = 15\nquota-path-max = 16\nquota-maxoutstanding = 17\n\
                    xenstored-log-file = /var/log/x\nxenstored-log-level = warn\n\
                    quota-activate = true\n";
        let expected = Given {
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
            ..Given::default()
        };
        assert_eq!(parse(text), Ok(expected));
        let unlimited = vec![(Quota::Nodes, 0), (Quota::NodeSize, 0)];
        assert_eq!(parse("quota-activate = false").unwrap().limits, unlimited);
    }

    #[test]
    fn keys_without_a_meaning_are_noted() {
        for (name, form, _) in WITHOUT_EFFECT {
            let value = match form {
                Form::Flag => "true",
                Form::Integer => "-1",
                Form::Decimal => "5.0",
                Form::Text => "/proc/xen/xsd_kva",
            };
            let given = parse(&format!("{name} = {value}")).unwrap();
            assert_eq!(given.notes.len(), 1, "{name}");
            assert!(given.notes[0].starts_with(&format!("{name} = {value} is ignored: ")));
            assert_eq!(Given { notes: vec![], ..given }, Given::default(), "{name}");
        }
        assert_eq!(parse("xenstored-log-file = syslog:local1").unwrap().notes.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, what) in [
            ("persistent = false\n\nquota-maxnodes = 1\n", 3, "unknown key \"quota-maxnodes\""),
            ("nodes = 1", 1, "unknown key \"nodes\""),
            ("# a\nquota-maxentity\n", 2, "expected name = value"),
            ("quota-maxentity = many", 1, "expected a number from 0, not \"many\""),
            ("quota-maxentity = -1", 1, "expected a number from 0"),
            ("merge-activate = yes", 1, "expected true or false"),
            ("quota-activate = 1", 1, "expected true or false"),
            ("conflict-burst-limit = x", 1, "expected a number"),
            ("xenstored-log-level = loud", 1, "expected debug, info, warn, error or null"),
        ] {
            let wrong = parse(text).unwrap_err();
            assert_eq!(wrong.line, line, "{text}: {wrong:?}");
            assert!(wrong.what.contains(what), "{text}: {wrong:?}");
        }
    }
}
