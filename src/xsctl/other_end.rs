//! The other end of a move, asked for a domain before this end serves it: the destination of its export, or its source.

use std::collections::BTreeMap;
use std::path::Path;

use super::daemon::Daemon;
use super::domids::Domids;
use super::places::{command, quoted};
use super::standing::{Kinship, Standing};
use super::tunnel::{STDIO, is_url};
use crate::types::{Domid, Presence};

/// The daemons at the other ends, each asked once, by the text that names it.
pub struct OtherEnds<'d> {
    domids: &'d Domids,
    asked: BTreeMap<String, Result<OtherEnd, String>>,
}

/// A daemon at another end, with its states of the domains.
pub struct OtherEnd {
    pub daemon: Daemon,
    states: BTreeMap<Domid, Standing>,
}

/// Why a domain is left alone, and the commands that go on.
pub type Refusal = (String, Vec<String>);

impl<'d> OtherEnds<'d> {
    /// Makes the other ends for these domains.
    pub fn new(domids: &'d Domids) -> OtherEnds<'d> {
        OtherEnds { domids, asked: BTreeMap::new() }
    }

    /// Like [`OtherEnds::of`], for a destination that a daemon has noted: commands are run only if the user names them.
    ///
    /// # Errors
    /// As of [`OtherEnds::of`].
    pub fn of_noted(&mut self, to: &str) -> Result<&OtherEnd, String> {
        if to.starts_with("exec:") {
            return Err("a command that a daemon has noted is not run; name it with --to".into());
        }
        self.of(to)
    }

    /// Returns the daemon that a text names: the path of its socket, or the URL of its host.
    ///
    /// # Errors
    /// A clause: why it cannot be asked.
    pub fn of(&mut self, to: &str) -> Result<&OtherEnd, String> {
        let domids = self.domids;
        let asked = self.asked.entry(to.to_owned()).or_insert_with(|| ask(to, domids));
        asked.as_ref().map_err(String::clone)
    }
}

fn ask(to: &str, domids: &Domids) -> Result<OtherEnd, String> {
    if !is_end(to) {
        return Err("it is neither the path of a socket nor the URL of a host".into());
    }
    let daemon = Daemon::find(to.into()).map_err(|error| error.to_string())?;
    let states = daemon.states(domids).map_err(|error| format!("DOMAIN_STATES: {error}"))?;
    Ok(OtherEnd { daemon, states })
}

impl OtherEnd {
    /// Returns the domain's state there.
    pub fn standing(&self, domid: Domid) -> Standing {
        self.states.get(&domid).cloned().unwrap_or_else(Standing::absent)
    }
}

/// Whether a text names a daemon: the path of its socket, or the URL of its host. A destination without such a name is
/// noted as `-`.
pub fn is_end(to: &str) -> bool {
    to.starts_with('/') || is_url(Path::new(to)) && to != STDIO
}

/// Returns another end as a user names it with the absolute path, if it is one.
pub fn absolute(to: &str) -> String {
    let path = std::path::absolute(to).ok().filter(|_| !is_url(Path::new(to)));
    path.map_or_else(|| to.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// Returns why a daemon must not serve a domain, given its state there and at the other end; `None` if it may.
pub fn refusal(
    domid: Domid,
    (here, socket): (&Standing, &Path),
    (there, other): (&Standing, &Path),
) -> Option<Refusal> {
    use Presence::{Absent, Arriving, Left, Running};
    let end = other.display();
    let resume = |from, to| vec![resume(domid, from, to)];
    let name = there.presence.name();
    match (there.presence, here.kinship(there), there.kinship(here)) {
        (Arriving, ..) => Some((
            format!(
                "an import of it is in progress at {end}; repeat this command when it has ended"
            ),
            Vec::new(),
        )),
        (Running, Kinship::Same, _) => {
            Some((format!("{end} serves it; destroy it here with the toolstack"), Vec::new()))
        }
        (Left, Kinship::Same, _) => Some((
            format!(
                "it was moved on from {end}{}; destroy it here with the toolstack",
                there.history()
            ),
            Vec::new(),
        )),
        (Absent, Kinship::Same, _) => None,
        (_, Kinship::Same, _) => Some((
            format!(
                "{end} has it too ({name}{}); to finish or take back its move",
                there.history()
            ),
            resume(socket, other),
        )),
        (Left | Absent, _, Kinship::Same) => None,
        (_, _, Kinship::Same) => Some((
            format!(
                "its source {end} has not released it ({name}{}); to finish or take back its move",
                there.history()
            ),
            resume(other, socket),
        )),
        (Absent | Left, ..) => None,
        (_, Kinship::Incarnation, _) => Some((
            format!(
                "{end} has the same virtual machine, {}, as another incarnation ({name}): a host \
                 was rebooted, or one of them was made anew; destroy one of them with the toolstack",
                here.vm
            ),
            Vec::new(),
        )),
        (_, Kinship::Other, _) => None,
    }
}

/// Returns the command that finishes or takes back a domain's move.
pub fn resume(domid: Domid, from: &Path, to: &Path) -> String {
    format!("xsctl move --resume --socket {} --to {} --domains {domid}", quoted(from), quoted(to))
}

/// Returns the command that serves a domain here whatever the other end does.
pub fn by_force(domid: Domid, socket: &Path) -> String {
    command("unquiesce --force", socket, &domid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destination_without_a_name_is_no_end() {
        assert!(is_end("/run/socket") && is_end("ssh://host") && !is_end("-") && !is_end(""));
    }

    #[test]
    fn domain_is_served_only_if_the_other_end_cannot_serve_it() {
        use Presence::{
            Absent, Arrived, ArrivedIntroduced, Arriving, Exported, Left, Quiesced, Running,
        };
        let at = |presence, unique_id, origin| Standing {
            presence,
            unique_id,
            origin,
            ..Standing::absent()
        };
        let is_refused = |here: &Standing, there: &Standing| {
            refusal(Domid(5), (here, Path::new("/a")), (there, Path::new("/b"))).is_some()
        };
        // As the source of a move, whose destination is asked.
        let here = at(Exported, 7, 0);
        for there in [Arrived, ArrivedIntroduced, Running, Quiesced, Exported, Left] {
            assert!(is_refused(&here, &at(there, 9, 7)), "{there:?}");
            assert!(!is_refused(&here, &at(there, 9, 8)), "{there:?}: another domain");
        }
        assert!(is_refused(&here, &at(Arriving, 9, 0)));
        assert!(!is_refused(&here, &at(Absent, 9, 0)));
        // As the destination, whose source is asked.
        let here = at(ArrivedIntroduced, 7, 9);
        for there in [Running, Quiesced, Exported, ArrivedIntroduced] {
            assert!(is_refused(&here, &at(there, 9, 0)), "{there:?}");
        }
        assert!(!is_refused(&here, &at(Left, 9, 0)));
        assert!(!is_refused(&here, &at(Absent, 0, 0)));
        // Of another incarnation.
        let named = |standing: Standing| Standing { vm: "/vm/u".into(), ..standing };
        let (here, there) = (named(at(Exported, 7, 0)), named(at(Running, 9, 0)));
        assert!(is_refused(&here, &there));
    }
}
