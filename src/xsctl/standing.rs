//! The state of a domain at one daemon, as DOMAIN_STATES reports it, and whether two daemons have the same domain.

use std::fs;

use jiff::Timestamp;

use crate::types::Presence;

/// The state of a domain at one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The migration state.
    pub presence: Presence,
    /// The host's unique id of the domain; 0 if the daemon does not know the domain.
    pub unique_id: u64,
    /// The unique id at the daemon from which the domain was imported; 0 if it was not imported.
    pub origin: u64,
    /// The event channel of an import that is not introduced yet.
    pub port: String,
    /// Since when it is in this state, in milliseconds since 1970; 0 if it is served or absent.
    pub since: u64,
    /// The client that brought it there.
    pub by: By,
    /// The destination that its last export named; empty if none.
    pub to: String,
    /// The `/vm/<uuid>` that it names; empty if none.
    pub vm: String,
    /// Why UNQUIESCE must be forced; empty if it need not be.
    pub elsewhere: String,
}

/// A client of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// Its domain.
    pub domid: u16,
    /// Its process; 0 if unknown.
    pub pid: u32,
    /// The name of the process.
    pub command: String,
}

impl By {
    /// Returns whether the process exists on this machine, as far as its name shows: the system may have given its
    /// number to another one of the same name. `None` if it is unknown.
    pub fn lives(&self) -> Option<bool> {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid));
        (self.pid != 0).then(|| name.is_ok_and(|name| name.trim_end() == self.command))
    }
}

/// The relation between the domains of one domid at two daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// The one at the destination came from the one at the source.
    Same,
    /// Both are of the same virtual machine, but of different incarnations.
    Incarnation,
    /// They have nothing in common, or nothing that is known.
    Other,
}

impl Standing {
    /// Returns the state of a domain unknown to a daemon.
    pub fn absent() -> Standing {
        Standing {
            presence: Presence::Absent,
            unique_id: 0,
            origin: 0,
            port: "0".into(),
            since: 0,
            by: By::default(),
            to: String::new(),
            vm: String::new(),
            elsewhere: String::new(),
        }
    }

    /// Parses a domain's result of DOMAIN_STATES. An older daemon sends the first four strings only.
    pub fn parse(strings: &[String]) -> Option<Standing> {
        let [presence, unique_id, origin, port, more @ ..] = strings else { return None };
        let text = |at: usize| more.get(at).cloned().unwrap_or_default();
        let by = By {
            domid: text(1).parse().unwrap_or(0),
            pid: text(2).parse().unwrap_or(0),
            command: text(3),
        };
        Some(Standing {
            presence: Presence::from_name(presence)?,
            unique_id: unique_id.parse().ok()?,
            origin: origin.parse().ok()?,
            port: port.clone(),
            since: text(0).parse().unwrap_or(0),
            by,
            to: text(4),
            vm: text(5),
            elsewhere: text(6),
        })
    }

    /// Whether the domain is neither absent nor simply served.
    pub fn is_unsettled(&self) -> bool {
        !matches!(self.presence, Presence::Absent | Presence::Running)
    }

    /// Compares the domain, at the source, with that at the destination. The host's unique ids repeat after a reboot,
    /// so names of virtual machines that differ outweigh them.
    pub fn kinship(&self, there: &Standing) -> Kinship {
        let are_named = !self.vm.is_empty() && !there.vm.is_empty();
        let came = there.origin != 0 && there.origin == self.unique_id;
        match (are_named && self.vm == there.vm, are_named && self.vm != there.vm) {
            (_, true) => Kinship::Other,
            _ if came => Kinship::Same,
            (true, _) => Kinship::Incarnation,
            _ => Kinship::Other,
        }
    }

    /// Describes in a clause since when the domain is in its state, and by whom; empty if it is unknown.
    pub fn history(&self) -> String {
        if self.since == 0 {
            return String::new();
        }
        let by = match (self.by.lives(), self.by.domid) {
            (Some(true), _) => format!("{}, process {}", self.by.command, self.by.pid),
            (Some(false), _) => {
                format!("{}, process {}, which has ended", self.by.command, self.by.pid)
            }
            (None, domid) => format!("domain {domid}"),
        };
        let to = if self.to.is_empty() { String::new() } else { format!(", to {}", self.to) };
        format!(" since {} by {by}{to}", time(self.since))
    }
}

/// Formats a time in milliseconds since 1970 as a date, and how long ago that is.
fn time(since: u64) -> String {
    let at = i64::try_from(since).ok().and_then(|since| Timestamp::from_millisecond(since).ok());
    let at = at.unwrap_or(Timestamp::MAX);
    let ago = Timestamp::now().duration_since(at).as_secs().max(0);
    format!("{} UTC ({ago} s ago)", at.strftime("%F %T"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(unique_id: u64, origin: u64, vm: &str) -> Standing {
        Standing { unique_id, origin, vm: vm.into(), ..Standing::absent() }
    }

    #[test]
    fn same_domain_has_the_origin_and_no_other_name() {
        for (here, there, expected) in [
            ((7, ""), (7, ""), Kinship::Same),
            ((7, "/vm/a"), (7, "/vm/a"), Kinship::Same),
            ((7, "/vm/a"), (7, ""), Kinship::Same),
            ((7, "/vm/a"), (7, "/vm/b"), Kinship::Other),
            ((7, "/vm/a"), (8, "/vm/a"), Kinship::Incarnation),
            ((7, "/vm/a"), (0, "/vm/a"), Kinship::Incarnation),
            ((7, ""), (8, ""), Kinship::Other),
            ((0, ""), (0, ""), Kinship::Other),
        ] {
            let kinship = standing(here.0, 0, here.1).kinship(&standing(9, there.0, there.1));
            assert_eq!(kinship, expected, "{here:?} {there:?}");
        }
    }

    #[test]
    fn state_of_an_older_daemon_is_read() {
        let strings = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
        let old = Standing::parse(&strings("running|7|3|0")).unwrap();
        assert_eq!((old.unique_id, old.origin, old.since), (7, 3, 0));
        let new = Standing::parse(&strings("left|7|3|0|12|0|99|xl|/b|/vm/u|left|more")).unwrap();
        assert_eq!((new.since, new.by.pid, &*new.by.command), (12, 99, "xl"));
        assert_eq!([&*new.to, &new.vm, &new.elsewhere], ["/b", "/vm/u", "left"]);
        assert!(Standing::parse(&strings("running|7|3")).is_none());
        assert!(Standing::parse(&strings("elsewhere|7|3|0")).is_none());
    }

    #[test]
    fn times_are_shown_as_dates() {
        for (days, expected) in [
            (0, "1970-01-01 00:00:00 UTC ("),
            (11_016, "2000-02-29 00:00:00 UTC ("),
            (11_017, "2000-03-01 00:00:00 UTC ("),
            (20_787, "2026-11-30 00:00:00 UTC ("),
        ] {
            let shown = time(days * 86_400_000);
            assert!(shown.starts_with(expected), "{shown}");
        }
        assert!(time(u64::MAX).ends_with("UTC (0 s ago)"), "a daemon may send anything");
    }
}
