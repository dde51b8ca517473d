//! What goes on with a domain that is not simply running: a clause, and the commands.

use std::path::Path;

use super::daemon::Daemon;
use super::other_end::{by_force, is_end, resume};
use super::places::command;
use super::standing::Standing;
use super::step::{Sockets, Step, step};
use crate::types::{Domid, Presence};

/// What goes on with a domain.
pub struct Next {
    /// A clause: what the user has to know or decide.
    pub why: String,
    /// The commands, in order.
    pub commands: Vec<String>,
}

fn next(why: &str, commands: Vec<String>) -> Next {
    Next { why: why.into(), commands }
}

/// Returns what goes on with a domain whose states at both daemons are known.
pub fn at_both(
    domid: Domid,
    (here, source): (&Standing, &Daemon),
    (there, destination): (&Standing, &Daemon),
) -> Next {
    let sockets = Sockets { source: &source.socket, destination: &destination.socket };
    let resume = || vec![resume(domid, sockets.source, sockets.destination)];
    match step(domid, here, there, sockets) {
        Step::Carry if here.presence == Presence::Running => next("it runs here", Vec::new()),
        Step::Carry if here.elsewhere.is_empty() => here_only(domid, here, sockets.source),
        Step::Carry => {
            let noted = Path::new(&here.to);
            // The destination that it was exported to is another one, unless it is known by another name.
            match noted == sockets.destination || here.to == destination.name() {
                true => next("it did not arrive; to serve it here again", resume()),
                false => here_only(domid, here, sockets.source),
            }
        }
        Step::TakeBack => next("it was not released here; to serve it here again", resume()),
        Step::Finish => next("it was released here; to serve it there", resume()),
        Step::Done => next("it was moved; destroy it here with the toolstack", Vec::new()),
        Step::Leave(why, commands) => Next { why, commands },
    }
}

/// Returns what goes on with a domain of which only the state at one daemon is known.
pub fn here_only(domid: Domid, here: &Standing, socket: &Path) -> Next {
    let of = |name| command(name, socket, &domid.to_string());
    let has_end = is_end(&here.to);
    match here.presence {
        Presence::Absent => next("it is not here", Vec::new()),
        Presence::Running => next("it runs here", Vec::new()),
        Presence::Arriving => {
            next("an import of it is in progress; wait until it ends", Vec::new())
        }
        Presence::Arrived => next(
            "if its source has released it, introduce and unquiesce it, else discard it",
            vec![format!("{} && {}", of("introduce"), of("unquiesce")), of("discard")],
        ),
        Presence::ArrivedIntroduced if here.elsewhere.is_empty() => next(
            "if its source has released it, unquiesce it, else discard it",
            vec![of("unquiesce"), of("discard")],
        ),
        Presence::Quiesced | Presence::Quiescing if here.elsewhere.is_empty() => {
            next("to serve it", vec![of("unquiesce")])
        }
        Presence::Exported if here.elsewhere.is_empty() => next(
            "it was exported, to files for example: to end it here xsctl release, to serve it",
            vec![of("unquiesce")],
        ),
        _ if has_end => next(
            "to finish its move or take it back",
            vec![resume(domid, socket, Path::new(&here.to))],
        ),
        Presence::Left => next(
            "destroy it with the toolstack; only if no other daemon serves it or ever will",
            vec![format!("{} && {}", of("introduce"), by_force(domid, socket))],
        ),
        _ => next(
            "another daemon may have it; only if that does not serve it and never will",
            vec![by_force(domid, socket)],
        ),
    }
}
