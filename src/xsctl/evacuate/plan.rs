//! A plan: which domains go to which hosts, a TOML or JSON file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::Domid;
use crate::xsctl::domids::Domids;
use crate::xsctl::error::ToolError;

/// Maximum size of a file in bytes: all domids, each by itself, take 200 kB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Maximum number of hosts. Each may have a process of ssh and its threads until the command ends.
pub const HOSTS_MAX: usize = 64;

/// A plan as its file has it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    #[serde(rename = "host")]
    pub hosts: Vec<Host>,
}

/// A host, and the domains that go there.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The path of its daemon's socket, or a URL.
    pub to: String,
    /// As those of `move --domains`.
    #[serde(deserialize_with = "parse", serialize_with = "show")]
    pub domains: Domids,
}

fn parse<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Domids, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn show<S: Serializer>(domids: &Domids, serializer: S) -> Result<S::Ok, S::Error> {
    let parts = domids.parts();
    let parts: Vec<_> = parts.iter().map(|part| part.trim_end_matches('\0')).collect();
    serializer.serialize_str(&parts.join(","))
}

impl Plan {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It cannot be read; it is no plan; it names a domain or a host twice.
    pub fn read(path: &Path) -> Result<Plan, ToolError> {
        let wrong = |why: String| ToolError::Contents { path: path.to_path_buf(), why };
        let text = text(path).map_err(ToolError::file(path))?;
        let plan = Plan::parse(&text, is_json(path, &text)).map_err(wrong)?;
        match plan.fault() {
            Some(why) => Err(wrong(why)),
            None => Ok(plan),
        }
    }

    fn parse(text: &str, is_json: bool) -> Result<Plan, String> {
        if is_json {
            return serde_json::from_str(text).map_err(|error| error.to_string());
        }
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or(text);
            let line = 1 + before.bytes().filter(|&byte| byte == b'\n').count();
            format!("{} at line {line}", error.message().replace('\n', " "))
        })
    }

    /// Returns a sentence on what the plan may not have.
    fn fault(&self) -> Option<String> {
        if self.hosts.is_empty() {
            return Some("it names no host".into());
        }
        if let Some(why) = fault(self.hosts.iter().map(|host| host.to.as_str())) {
            return Some(why);
        }
        let mut known: BTreeMap<Domid, &str> = BTreeMap::new();
        for host in &self.hosts {
            for domid in host.domains.each() {
                if let Some(other) = known.insert(domid, &host.to) {
                    let (other, to) = (other, &host.to);
                    return Some(format!("domain {domid} is named twice, for {other} and {to}"));
                }
            }
        }
        None
    }
}

/// Returns a sentence on what a list of hosts may not have.
pub fn fault<'h>(hosts: impl IntoIterator<Item = &'h str>) -> Option<String> {
    let mut known = Vec::new();
    for to in hosts {
        if to.is_empty() {
            return Some("a host has an empty name".into());
        }
        if known.contains(&to) {
            return Some(format!("the host {to} is named twice"));
        }
        known.push(to);
    }
    let many = known.len();
    (many > HOSTS_MAX).then(|| format!("it names {many} hosts, at most {HOSTS_MAX}"))
}

/// Whether a file has JSON: by its name, else by its first character.
fn is_json(path: &Path, text: &str) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("toml") => false,
        _ => text.trim_start().starts_with('{'),
    }
}

fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let len = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(len).is_ok_and(|len| len > FILE_BYTES_MAX) {
        return Err(io::Error::other("too large for a plan"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8, as a plan is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_is_the_same_in_both_formats() {
        let toml =
            "[[host]]\nto = '/b'\ndomains = '1-3,7'\n[[host]]\nto = 'ssh://c'\ndomains = '4'";
        let plan = Plan::parse(toml, false).unwrap();
        assert_eq!(plan.fault(), None);
        let json = serde_json::to_string(&plan).unwrap();
        let expected = r#"{"host":[{"to":"/b","domains":"1-3,7"},{"to":"ssh://c","domains":"4"}]}"#;
        assert_eq!(json, expected);
        assert!(is_json(Path::new("plan"), &json) && !is_json(Path::new("plan"), toml));
        let again = Plan::parse(&json, true).unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), toml::to_string(&plan).unwrap());
    }

    #[test]
    fn hosts_are_bounded() {
        let names: Vec<_> = (0..=HOSTS_MAX).map(|number| format!("/{number}")).collect();
        let all = || names.iter().map(String::as_str);
        assert_eq!(fault(all()).as_deref(), Some("it names 65 hosts, at most 64"));
        assert_eq!(fault(all().take(HOSTS_MAX)), None);
    }
}
