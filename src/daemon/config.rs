//! Configuration files in TOML, and the choice between TOML and oxenstored's syntax.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use tracing::level_filters::LevelFilter;

use super::cli;
use super::config_layer::ConfigLayer;
use super::error::DaemonError;
use super::oxenstored;
use super::settings::HostKind;
use crate::domain::Quota;
use crate::log::SwitchChange;

/// The file that is read, if it exists, when no option names one.
const DEFAULT_FILE: &str = "/etc/xen/xenstored.toml";
/// Maximum size of a file in bytes. The administrator is trusted, but `--config /dev/zero` should be an error rather
/// than exhaust memory.
const FILE_MAX: u64 = 1 << 20;

/// An error on a line of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConfigError {
    /// Counted from 1; 0 for the file as a whole.
    pub line: usize,
    pub what: String,
}

/// Reads the named file, or the default one if it exists, and returns its path and contents. Errors that oxenstored
/// tolerates are errors if `strict`, else notes.
pub(super) fn read(
    named: Option<&Path>,
    strict: bool,
) -> Result<(Option<PathBuf>, ConfigLayer), DaemonError> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let bytes = match read_bytes(path) {
        Ok(bytes) => bytes,
        // A named file must exist; only the default one is optional.
        Err(e) if named.is_none() && e.kind() == io::ErrorKind::NotFound => {
            return Ok((None, ConfigLayer::default()));
        }
        Err(e) => return Err(DaemonError::Usage(format!("{}: {e}", path.display()))),
    };
    let named = |ConfigError { line, what }| format!("{}:{line}: {what}", path.display());
    let given = if path.extension().is_some_and(|it| it == "conf") {
        // oxenstored does not decode the file: a comment may have any encoding.
        let (mut given, wrong) = oxenstored::parse(&String::from_utf8_lossy(&bytes));
        let wrong: Vec<_> = wrong.into_iter().map(named).collect();
        if strict && !wrong.is_empty() {
            return Err(DaemonError::Usage(wrong.join("\n")));
        }
        given.notes.extend(wrong.into_iter().map(|wrong| format!("{wrong}; the line is ignored")));
        given
    } else {
        let text = String::from_utf8(bytes);
        let text = text.map_err(|e| DaemonError::Usage(format!("{}: {e}", path.display())))?;
        parse_toml(&text).map_err(|wrong| DaemonError::Usage(named(wrong)))?
    };
    Ok((Some(path.to_path_buf()), given))
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    // One byte more than the limit, to tell a longer file from one of exactly this size.
    let read = std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(read).is_ok_and(|read| read > FILE_MAX) {
        return Err(io::Error::other("too large for a configuration file"));
    }
    Ok(bytes)
}

/// The keys of dist/xenstored.toml, which documents them. Unknown keys are errors: a misspelt quota would silently keep
/// its default.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    host: Option<HostKind>,
    shards: Option<u16>,
    socket: Option<PathBuf>,
    sim_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    foreground: Option<bool>,
    keeper: Option<bool>,
    master_domid: Option<u16>,
    priv_domid: Option<u16>,
    log: Log,
    quotas: Quotas,
    soft_quotas: SoftQuotas,
    timeouts: Timeouts,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Log {
    file: Option<PathBuf>,
    level: Option<Level>,
    switches: Option<Vec<Switch>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct SoftQuotas {
    memory: Option<u32>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Timeouts {
    watch_event: Option<u32>,
    ring_scan_interval: Option<u32>,
}

/// Log levels, most severe first.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Level {
    Error,
    Warning,
    Info,
    Debug,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> LevelFilter {
        match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warning => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        }
    }
}

/// A trace switch and its new state: `+io` or `-io`.
#[derive(Debug)]
struct Switch(SwitchChange);

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Switch, D::Error> {
        let text = String::deserialize(deserializer)?;
        SwitchChange::parse(&text).map(Switch).map_err(D::Error::custom)
    }
}

/// Quotas by name, each at most once. A map would not do: quotas have aliases, so TOML's own check for equal keys
/// misses one that is set twice.
#[derive(Debug, Default)]
struct Quotas(Vec<(Quota, u32)>);

struct Name(Quota);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let name = String::deserialize(deserializer)?;
        let quota = Quota::from_name(&name).map(Name);
        quota.ok_or_else(|| {
            D::Error::custom(format!("unknown quota {name:?}; expected one of {}", cli::names()))
        })
    }
}

impl<'de> Deserialize<'de> for Quotas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Quotas, D::Error> {
        deserializer.deserialize_map(QuotaVisitor)
    }
}

struct QuotaVisitor;

impl<'de> Visitor<'de> for QuotaVisitor {
    type Value = Quotas;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of quotas")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Quotas, M::Error> {
        let mut limits = Vec::new();
        while let Some(Name(quota)) = map.next_key()? {
            if limits.iter().any(|(other, _)| *other == quota) {
                return Err(M::Error::custom(format!("quota {} is set twice", quota.name())));
            }
            limits.push((quota, map.next_value()?));
        }
        Ok(Quotas(limits))
    }
}

fn parse_toml(text: &str) -> Result<ConfigLayer, ConfigError> {
    toml::from_str(text).map(File::given).map_err(|e| {
        // A position is in bytes, and an operator looks for a line.
        let start = e.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or(text);
        let line = 1 + before.bytes().filter(|&byte| byte == b'\n').count();
        // A single line, as the file's name and the line's number precede it.
        ConfigError { line, what: e.message().replace('\n', " ") }
    })
}

impl File {
    fn given(self) -> ConfigLayer {
        let switches = self.log.switches.unwrap_or_default();
        ConfigLayer {
            host: self.host,
            shards: self.shards,
            socket: self.socket,
            sim_socket: self.sim_socket,
            limits: self.quotas.0,
            soft_memory: self.soft_quotas.memory,
            watch_event_timeout: self.timeouts.watch_event,
            ring_scan_interval: self.timeouts.ring_scan_interval,
            priv_domid: self.priv_domid,
            master_domid: self.master_domid,
            keep_orphans: false,
            pid_file: self.pid_file,
            foreground: self.foreground,
            keeper: self.keeper,
            print_pid: false,
            log_file: self.log.file,
            log_level: self.log.level.map(LevelFilter::from),
            switches: switches.into_iter().map(|switch| switch.0).collect(),
            notes: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config_layer::tests::bare;
    use super::*;

    const SAMPLE: &str = include_str!("../../dist/xenstored.toml");

    #[test]
    fn config_file_above_1_mib_is_refused() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let read = |len: usize| {
            std::fs::write(&path, vec![b'#'; len]).unwrap();
            read_bytes(&path).map(|bytes| bytes.len()).map_err(|error| error.to_string())
        };
        assert_eq!(read(1 << 20), Ok(1 << 20));
        assert_eq!(read((1 << 20) + 1), Err("too large for a configuration file".to_owned()));
        assert!(read_bytes(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn sample_config_has_the_default_values() {
        let settings = parse_toml(SAMPLE).unwrap().resolve(&bare()).unwrap();
        assert_eq!(settings, ConfigLayer::default().resolve(&bare()).unwrap());
        // Read from the file, because the settings drop default values: each value is present and is the default.
        let file: File = toml::from_str(SAMPLE).unwrap();
        for quota in Quota::all() {
            assert!(file.quotas.0.contains(&(quota, quota.default_value())), "{quota:?}");
        }
    }

    /// The pattern fails to compile if it misses a key; the test fails if the sample misses one.
    #[test]
    fn sample_config_mentions_every_key() {
        let is_key = |line: &str| line.contains(" = ") && !line.starts_with("# ");
        let uncommented: String = SAMPLE
            .lines()
            .map(|line| if is_key(line) { line.trim_start_matches('#') } else { line })
            .flat_map(|line| [line, "\n"])
            .collect();
        let file: File = toml::from_str(&uncommented).unwrap();
        let File {
            host: Some(_),
            shards: Some(_),
            socket: Some(_),
            sim_socket: Some(_),
            pid_file: Some(_),
            foreground: Some(_),
            keeper: Some(_),
            master_domid: Some(_),
            priv_domid: Some(_),
            log: Log { file: Some(_), level: Some(_), switches: Some(_) },
            quotas: Quotas(quotas),
            soft_quotas: SoftQuotas { memory: Some(_) },
            timeouts: Timeouts { watch_event: Some(_), ring_scan_interval: Some(_) },
        } = file
        else {
            panic!("a key is missing in dist/xenstored.toml: {file:?}");
        };
        assert_eq!(quotas.len(), Quota::COUNT);
    }

    #[test]
    fn config_errors_name_their_line() {
        for (text, line, what) in [
            ("shards = 2\nnode = 1\n", 2, "unknown field `node`"),
            ("\n\n[log]\nfile = \"/a\"\ncolour = true\n", 5, "unknown field `colour`"),
            ("[quotas]\nnodes = 1\n\nbytes = 2\n", 4, "unknown quota \"bytes\""),
            ("[quotas]\nnodes = 1\nentry-nb = 2\n", 1, "quota nodes is set twice"),
            ("[quotas]\nnodes = 1\nnodes = 2\n", 3, "duplicate key"),
            ("[quotas]\nnodes = -1\n", 2, "invalid value: integer `-1`"),
            ("[log]\nswitches = [\n  \"+io\",\n  \"io\",\n]\n", 2, "expected + or -"),
            ("[log]\nlevel = \"loud\"\n", 2, "unknown variant `loud`"),
            ("shards = 70000\n", 1, "invalid value: integer `70000`"),
            ("shards = \"two\"\n", 1, "invalid type: string \"two\""),
            ("host = \"xen\"\nshards == 2\n", 2, ""),
        ] {
            let wrong = parse_toml(text).unwrap_err();
            assert_eq!(wrong.line, line, "{text}: {wrong:?}");
            assert!(wrong.what.contains(what), "{text}: {wrong:?}");
            assert!(!wrong.what.contains('\n'));
        }
    }

    #[test]
    fn every_config_key_takes_effect() {
        let text = "host = \"sim\"\nshards = 3\nsocket = \"/s\"\nsim-socket = \"/t\"\n\
                    pid-file = \"/p\"\nforeground = true\nkeeper = false\nmaster-domid = 1\npriv-domid = 2\n\
                    [log]\nfile = \"/l\"\nlevel = \"warning\"\nswitches = [\"-io\", \"+tdb\"]\n\
                    [quotas]\nnodes = 5\nquota-maxwatch = 6\n[soft-quotas]\nmemory = 7\n\
                    [timeouts]\nwatch-event = 8\nring-scan-interval = 9\n";
        let parse = |text| SwitchChange::parse(text).unwrap();
        let expected = ConfigLayer {
            host: Some(HostKind::Sim),
            shards: Some(3),
            socket: Some("/s".into()),
            sim_socket: Some("/t".into()),
            pid_file: Some("/p".into()),
            foreground: Some(true),
            keeper: Some(false),
            print_pid: false,
            master_domid: Some(1),
            keep_orphans: false,
            priv_domid: Some(2),
            log_file: Some("/l".into()),
            log_level: Some(LevelFilter::WARN),
            switches: vec![parse("-io"), parse("+tdb")],
            limits: vec![(Quota::Nodes, 5), (Quota::Watches, 6)],
            soft_memory: Some(7),
            watch_event_timeout: Some(8),
            ring_scan_interval: Some(9),
            notes: vec![],
        };
        assert_eq!(parse_toml(text), Ok(expected));
    }
}
