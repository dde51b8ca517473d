//! The step of `xsctl move` for a domain, decided by its states at both daemons.

use std::path::Path;

use super::places::command;
use super::standing::{Kinship, Standing};
use crate::types::Domid;
use crate::types::Presence;

/// The step for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Move the domain in a batch.
    Carry,
    /// An earlier move ended before RELEASE: serve the domain at the source, discard it at the destination, and move it
    /// in a batch.
    TakeBack,
    /// An earlier move ended after RELEASE: serve the domain at the destination.
    Finish,
    /// An earlier move completed.
    Done,
    /// Do nothing: the reason and how to proceed, and the commands that need no decision.
    Leave(String, Vec<String>),
}

/// The client sockets of the two daemons.
#[derive(Clone, Copy)]
pub struct Sockets<'s> {
    pub source: &'s Path,
    pub destination: &'s Path,
}

/// Returns whether a range of domids includes this domain: it is at the source in any state, or was imported at the
/// destination.
pub fn is_meant(here: &Standing, there: &Standing) -> bool {
    let has_come = there.presence == Presence::Arriving
        || there.presence.has_arrived()
        || there.presence.is_introduced() && there.origin != 0;
    here.presence != Presence::Absent || has_come
}

/// Decides the step for a domain.
pub fn step(domid: Domid, here: &Standing, there: &Standing, sockets: Sockets<'_>) -> Step {
    use Presence::{Absent, Arrived, ArrivedIntroduced, Arriving, Exported, Left};
    use Presence::{Quiesced, Running};
    let kinship = here.kinship(there);
    let came_from_here = kinship == Kinship::Same;
    match (here.presence, there.presence) {
        (Running | Quiesced | Exported, Absent) => Step::Carry,
        (Running | Quiesced | Exported, Arrived | ArrivedIntroduced) if came_from_here => {
            Step::TakeBack
        }
        (Left, Arrived | ArrivedIntroduced) if came_from_here => Step::Finish,
        (Left, Running) if came_from_here => Step::Done,
        // The source no longer knows the domain: the toolstack has destroyed it there.
        (Absent, Running) if there.origin != 0 => Step::Done,
        (Arriving | Arrived | ArrivedIntroduced, _) => unfinished_here(domid, here, sockets),
        (Absent, Absent) => {
            leave(format!("there is no domain {domid} at the source or the destination"))
        }
        (_, Arriving) => leave(
            "an import of it is in progress at the destination; repeat this command when it has \
             ended"
                .into(),
        ),
        (Left, Absent) => leave(format!(
            "it was released at the source, and is not at the destination; only if no other host \
             serves it: {}",
            take_up(domid, sockets.source)
        )),
        (here, there) => leave_both(domid, (here, there), kinship, sockets),
    }
}

fn leave(why: String) -> Step {
    Step::Leave(why, Vec::new())
}

fn take_up(domid: Domid, socket: &Path) -> String {
    let of = |name| command(name, socket, &domid.to_string());
    format!("{}; {}", of("introduce"), of("unquiesce"))
}

/// Decides for a domain that was imported at the source and is not served there yet: the daemon from which it came may
/// still serve it.
fn unfinished_here(domid: Domid, here: &Standing, sockets: Sockets<'_>) -> Step {
    let of = |name| command(name, sockets.source, &domid.to_string());
    let serve = match here.presence {
        Presence::Arriving => {
            return leave(
                "an import of it is in progress at the source; repeat this command when it has \
                 ended"
                    .into(),
            );
        }
        Presence::Arrived => take_up(domid, sockets.source),
        _ => of("unquiesce"),
    };
    leave(format!(
        "it was imported at the source and is not served yet; if its own source has released it: \
         {serve}; else: {}",
        of("discard")
    ))
}

/// Decides for a domid that both daemons use, or only the destination does.
fn leave_both(
    domid: Domid,
    (here, there): (Presence, Presence),
    kinship: Kinship,
    sockets: Sockets<'_>,
) -> Step {
    let of = |name| command(name, sockets.destination, &domid.to_string());
    let at_source = match here {
        Presence::Absent => "there is no such domain at the source",
        Presence::Running => "it is served at the source",
        Presence::Left => "it was released at the source",
        _ => "it is quiesced at the source",
    };
    let came_from_here = kinship == Kinship::Same;
    let which = match (kinship, here) {
        (Kinship::Same, _) => "it",
        (Kinship::Incarnation, _) => {
            "another incarnation of its virtual machine (a host was rebooted, or it was made anew)"
        }
        (Kinship::Other, Presence::Absent) => "a domain with this domid",
        (Kinship::Other, _) => "another domain with this domid",
    };
    match there {
        Presence::Running if came_from_here => leave(format!(
            "{at_source}, and it is served at the destination too; destroy it at one of them with \
             the toolstack"
        )),
        Presence::Running => {
            leave(format!("{at_source}, and {which} is served at the destination"))
        }
        Presence::Quiesced | Presence::Exported if came_from_here && here == Presence::Left => {
            let why = format!("{at_source}, and it is quiesced at the destination");
            Step::Leave(why, vec![of("unquiesce")])
        }
        Presence::Quiesced | Presence::Exported => leave(format!(
            "{at_source}, and {which} is quiesced at the destination, but was not imported; to \
             serve it there: {}",
            of("unquiesce")
        )),
        Presence::Left => leave(format!(
            "{at_source}, and {which} was released at the destination and has not been destroyed \
             there; destroy it there with the toolstack"
        )),
        // It is imported.
        _ => {
            let is_arrived = there == Presence::Arrived;
            let serve = match is_arrived {
                true => take_up(domid, sockets.destination),
                false => of("unquiesce"),
            };
            let how = if is_arrived { "is not introduced" } else { "is introduced and quiesced" };
            leave(format!(
                "{at_source}; {which} was imported at the destination from another source or \
                 incarnation and {how}; if its own source has released it: {serve}; else: {}",
                of("discard")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SOCKETS: fn() -> Sockets<'static> =
        || Sockets { source: Path::new("/a"), destination: Path::new("/b") };

    fn standing(presence: Presence, unique_id: u64, origin: u64) -> Standing {
        Standing { presence, unique_id, origin, port: "3".into(), ..Standing::absent() }
    }

    fn said(here: Presence, there: Presence, origin: u64) -> Step {
        let known = if here == Presence::Absent { 0 } else { 7 };
        step(Domid(5), &standing(here, known, 0), &standing(there, 9, origin), SOCKETS())
    }

    #[test]
    fn only_domains_of_this_source_are_discarded_or_finished() {
        use Presence::{Absent, Arrived, ArrivedIntroduced, Exported, Left, Quiesced, Running};
        for here in [Running, Quiesced, Exported] {
            assert_eq!(said(here, Absent, 0), Step::Carry);
            for there in [Arrived, ArrivedIntroduced] {
                assert_eq!(said(here, there, 7), Step::TakeBack);
                for origin in [0, 8] {
                    assert!(matches!(said(here, there, origin), Step::Leave(..)));
                }
            }
        }
        for (there, expected) in
            [(Arrived, Step::Finish), (ArrivedIntroduced, Step::Finish), (Running, Step::Done)]
        {
            assert_eq!(said(Left, there, 7), expected);
            assert!(matches!(said(Left, there, 8), Step::Leave(..)));
            assert!(matches!(said(Left, there, 0), Step::Leave(..)));
        }
        assert_eq!(said(Absent, Running, 7), Step::Done);
        assert!(matches!(said(Absent, Running, 0), Step::Leave(..)));
    }

    #[test]
    fn each_state_of_an_occupied_destination_has_its_own_sentence() {
        use Presence::{Arrived, ArrivedIntroduced, Arriving, Left, Quiesced, Running};
        let all = [Arriving, Arrived, ArrivedIntroduced, Running, Quiesced, Left];
        let sentences: BTreeSet<_> = all
            .into_iter()
            .map(|there| match said(Running, there, 0) {
                Step::Leave(why, _) => why,
                other => panic!("{there:?}: {other:?}"),
            })
            .collect();
        assert_eq!(sentences.len(), all.len());
    }

    #[test]
    fn range_selects_all_but_the_destinations_own_domains() {
        let is = |here, there, origin| is_meant(&standing(here, 0, 0), &standing(there, 1, origin));
        use Presence::{Absent, Arrived, Left, Running};
        assert!(!is(Absent, Absent, 0) && !is(Absent, Running, 0) && !is(Absent, Left, 7));
        assert!(is(Left, Absent, 0) && is(Running, Absent, 0));
        assert!(is(Absent, Arrived, 0) && is(Absent, Running, 7));
    }
}
