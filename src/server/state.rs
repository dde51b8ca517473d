//! The lifecycle of a domain on its owner thread (docs/MIGRATION.md, "What a domain is, and where"): its states, and
//! the one function that makes all transitions.

pub mod kept;

use self::kept::{Before, Elsewhere, Mark, SavedConnection, StreamRemainder};
use super::migration::scatter_gather::Part;
use crate::domain::OwnSettings;
use crate::migration::stream::state::Client;
use crate::store::DomainSnapshot;
use crate::types::{Errno, Presence};

/// The state of a domain on its owner thread, with the data that later states need.
pub enum DomainState {
    /// Not introduced. RELEASE without a mark may have left the remainder of its stream for an INTRODUCE of the same
    /// ring.
    Absent(Option<Box<StreamRemainder>>),
    /// Not introduced, with an import in progress; holds the domain's settings from before the import.
    Arriving(Box<Before>),
    /// Imported; the imported connection is kept for INTRODUCE.
    Arrived(Box<SavedConnection>, Box<Before>),
    /// The domain's ring is being mapped: the state exists only within the function that maps the ring.
    Connecting,
    /// Introduced and served.
    Running,
    /// Introduced, with its last request in progress and no other taken. The parts are replied to after it.
    Quiescing(Vec<Part>),
    /// Introduced, with no request in progress and none taken.
    Quiesced(Elsewhere),
    /// Quiesced, and exported with this mark.
    Exported(Mark, Elsewhere),
    /// Imported, introduced and quiesced, since it was not served yet. It may have been exported again.
    ArrivedIntroduced(Imported, Option<Mark>, Elsewhere),
    /// Released with a mark: INTRODUCE restores the exported connection.
    Left(Box<SavedConnection>),
}

/// An event that may change a domain's state.
pub enum Event {
    /// The request INTRODUCE.
    Introduce,
    /// The domain's ring is mapped, and served or restored in quiesced state.
    Connected(Connected),
    /// The domain's ring cannot be mapped; the data is unchanged.
    ConnectFailed(Connect),
    /// The request QUIESCE, with the domain's part of it.
    Quiesce(Part),
    /// The last request of a quiescing domain is done.
    Drained,
    /// The request UNQUIESCE, forced or not.
    Unquiesce { forced: bool },
    /// The export for which the domain was quiesced has failed.
    ExportFailed,
    /// An export has succeeded with this mark.
    Exported(Mark, Elsewhere),
    /// The state that the mark stands for has changed.
    Outdated,
    /// RELEASE without a mark; its connection has ended with this remainder.
    Release(Option<Box<StreamRemainder>>),
    /// RELEASE with a valid mark; its connection has ended and is saved here.
    ReleaseWithMark(Box<Client>),
    /// An import begins; the domain has these settings.
    ImportBegins(OwnSettings),
    /// The import has ended, with this connection if it succeeded.
    ImportEnds(Option<Box<SavedConnection>>),
    /// The request DISCARD_DOMAINS.
    Discard,
    /// The domain is gone from the host.
    Died,
}

/// The connection with which a ring is mapped.
pub enum Connect {
    /// A new connection, with the stream remainder if RELEASE left one.
    New(Option<Box<StreamRemainder>>),
    /// The connection of a domain released with a mark.
    Left(Box<SavedConnection>),
    /// The connection of an import.
    Arrived(Box<SavedConnection>, Box<Before>),
}

/// The kind of connection that a mapped ring has.
pub enum Connected {
    /// A new connection, which is served.
    New,
    /// The connection of a domain released with a mark.
    Left,
    /// The connection of an import.
    Arrived(Imported),
}

/// The partitions that an import brought, and the domain's data from before.
pub struct Imported {
    /// The domain's partitions in their state after the import.
    pub seen: DomainSnapshot,
    /// The data to be restored if the import is discarded.
    pub before: Box<Before>,
}

/// The effects of an event in addition to the next state. The caller executes these effects, so that [`next`] needs no
/// worker.
#[derive(Default)]
pub struct Effects {
    /// Map the ring.
    pub connect: Option<Connect>,
    /// The change in the service of the connection, if any.
    pub service: Option<Service>,
    /// The domain is served for the first time since its import.
    pub ends_import: bool,
    /// Parts of QUIESCE that have succeeded.
    pub quiesced: Vec<Part>,
    /// Parts of QUIESCE that have failed, as UNQUIESCE overtook them.
    pub overtaken: Vec<Part>,
    /// Undo this import.
    pub taken_back: Option<Imported>,
}

/// A change of a connection's service.
pub enum Service {
    /// Take requests again.
    Begins,
    /// Take no request after the one in progress.
    Ends,
}

/// The next state and the effects of an event; or the error of an event that is refused, with the unchanged state.
type Next = (DomainState, Result<Effects, Errno>);

/// Returns the next state and the effects of an event. Takes the state by value: its data moves into the next one, so
/// it is neither lost nor used twice.
pub fn next(state: DomainState, event: Event) -> Next {
    match event {
        Event::Introduce => introduce(state),
        Event::Connected(connected) => match connected {
            Connected::New => (DomainState::Running, done()),
            // Another host may run it, so only a forced UNQUIESCE serves it here.
            Connected::Left => (DomainState::Quiesced(Elsewhere::Left), done()),
            Connected::Arrived(imported) => {
                // Not served before UNQUIESCE: until RELEASE the source may serve the domain again.
                (DomainState::ArrivedIntroduced(imported, None, Elsewhere::No), done())
            }
        },
        Event::ConnectFailed(connect) => match connect {
            Connect::New(remainder) => (DomainState::Absent(remainder), done()),
            Connect::Left(moved) => (DomainState::Left(moved), done()),
            Connect::Arrived(moved, before) => (DomainState::Arrived(moved, before), done()),
        },
        Event::Quiesce(part) => quiesce(state, part),
        Event::Drained => drained(state),
        Event::Unquiesce { forced } => unquiesce(state, forced),
        Event::ExportFailed => export_failed(state),
        Event::Exported(mark, to) => exported(state, mark, to),
        Event::Outdated => outdated(state),
        Event::Release(remainder) => release(state, remainder),
        Event::ReleaseWithMark(client) => release_with_mark(state, *client),
        Event::ImportBegins(settings) => import_begins(state, settings),
        Event::ImportEnds(moved) => import_ends(state, moved),
        Event::Discard => discard(state),
        // Parts of a QUIESCE are dropped with the state, and so fail with ENOENT.
        Event::Died => (DomainState::Absent(None), done()),
    }
}

fn done() -> Result<Effects, Errno> {
    Ok(Effects::default())
}

fn introduce(state: DomainState) -> Next {
    let connect = |connect| {
        (DomainState::Connecting, Ok(Effects { connect: Some(connect), ..Effects::default() }))
    };
    match state {
        DomainState::Absent(remainder) => connect(Connect::New(remainder)),
        DomainState::Left(moved) => connect(Connect::Left(moved)),
        DomainState::Arrived(moved, before) => connect(Connect::Arrived(moved, before)),
        // A repeated INTRODUCE resets the event channel and the connection.
        DomainState::Running => (DomainState::Running, done()),
        // A quiesced domain may have been exported already: only its end or UNQUIESCE may change it.
        state @ (DomainState::Arriving(_)
        | DomainState::Connecting
        | DomainState::Quiescing(_)
        | DomainState::Quiesced(_)
        | DomainState::Exported(..)
        | DomainState::ArrivedIntroduced(..)) => (state, Err(Errno::EBUSY)),
    }
}

fn quiesce(state: DomainState, part: Part) -> Next {
    match state {
        DomainState::Running => {
            let effects = Effects { service: Some(Service::Ends), ..Effects::default() };
            (DomainState::Quiescing(vec![part]), Ok(effects))
        }
        // It waits for the same last request.
        DomainState::Quiescing(mut parts) => {
            parts.push(part);
            (DomainState::Quiescing(parts), done())
        }
        state @ (DomainState::Quiesced(_)
        | DomainState::Exported(..)
        | DomainState::ArrivedIntroduced(..)) => {
            (state, Ok(Effects { quiesced: vec![part], ..Effects::default() }))
        }
        // Not connected, so there is no ring whose requests could be stopped.
        state => (state, Err(Errno::ENOENT)),
    }
}

fn drained(state: DomainState) -> Next {
    match state {
        DomainState::Quiescing(parts) => {
            let effects = Effects { quiesced: parts, ..Effects::default() };
            // Quiescing begins only from Running, and as far as is known no other host has such a domain.
            (DomainState::Quiesced(Elsewhere::No), Ok(effects))
        }
        state => (state, done()),
    }
}

/// Each reason why a domain is not served has an error of its own.
fn unquiesce(state: DomainState, forced: bool) -> Next {
    let serve = Effects { service: Some(Service::Begins), ..Effects::default() };
    if let Some(errno) = state.elsewhere().refusal().filter(|_| !forced) {
        return (state, Err(errno));
    }
    match state {
        DomainState::Running => (DomainState::Running, done()),
        // Their QUIESCE ends without having quiesced anything, so it fails with EAGAIN.
        DomainState::Quiescing(overtaken) => {
            (DomainState::Running, Ok(Effects { overtaken, ..serve }))
        }
        DomainState::Quiesced(_) | DomainState::Exported(..) => (DomainState::Running, Ok(serve)),
        DomainState::ArrivedIntroduced(..) => {
            (DomainState::Running, Ok(Effects { ends_import: true, ..serve }))
        }
        state @ DomainState::Left(_) => (state, Err(Errno::EEXIST)),
        state @ (DomainState::Arriving(_) | DomainState::Arrived(..)) => {
            (state, Err(Errno::EAGAIN))
        }
        state @ (DomainState::Absent(_) | DomainState::Connecting) => (state, Err(Errno::ENOENT)),
    }
}

/// Keeps a domain with a mark or a destination quiesced: another export has succeeded meanwhile.
fn export_failed(state: DomainState) -> Next {
    match state {
        state @ (DomainState::Quiescing(_) | DomainState::Quiesced(Elsewhere::No)) => {
            unquiesce(state, false)
        }
        state @ (DomainState::Running
        | DomainState::Quiesced(_)
        | DomainState::Exported(..)
        | DomainState::ArrivedIntroduced(..)) => (state, done()),
        state => (state, Err(Errno::ENOENT)),
    }
}

/// What an earlier export or RELEASE makes of a domain, another export does not undo.
fn exported(state: DomainState, mark: Mark, to: Elsewhere) -> Next {
    let to = to.max(state.elsewhere());
    match state {
        DomainState::Quiesced(_) | DomainState::Exported(..) => {
            (DomainState::Exported(mark, to), done())
        }
        DomainState::ArrivedIntroduced(imported, ..) => {
            (DomainState::ArrivedIntroduced(imported, Some(mark), to), done())
        }
        state @ (DomainState::Running | DomainState::Quiescing(_)) => (state, Err(Errno::EAGAIN)),
        state => (state, Err(Errno::ENOENT)),
    }
}

fn outdated(state: DomainState) -> Next {
    match state {
        // The mark is void, but the destination may still have the domain.
        DomainState::Exported(_, to) => (DomainState::Quiesced(to), done()),
        DomainState::ArrivedIntroduced(imported, _, to) => {
            (DomainState::ArrivedIntroduced(imported, None, to), done())
        }
        state => (state, done()),
    }
}

fn release(state: DomainState, remainder: Option<Box<StreamRemainder>>) -> Next {
    if state.presence().is_introduced() {
        (DomainState::Absent(remainder), done())
    } else {
        (state, Err(Errno::ENOENT))
    }
}

fn release_with_mark(state: DomainState, client: Client) -> Next {
    match state {
        DomainState::Exported(mark, _) | DomainState::ArrivedIntroduced(_, Some(mark), _) => {
            // The connection is saved anew but equal to the exported one, as the mark is valid.
            let moved = SavedConnection { client, seen: mark.seen };
            (DomainState::Left(Box::new(moved)), done())
        }
        // The mark is void, or that of an earlier export: the client has to export again.
        state if state.presence().is_introduced() => (state, Err(Errno::EAGAIN)),
        state => (state, Err(Errno::ENOENT)),
    }
}

fn import_begins(state: DomainState, settings: OwnSettings) -> Next {
    match state {
        // A domain in any other state has a connection here, or one kept for it, which the import would replace.
        DomainState::Absent(remainder) => {
            let before = Before { settings, remainder };
            (DomainState::Arriving(Box::new(before)), done())
        }
        state => (state, Err(Errno::EEXIST)),
    }
}

fn import_ends(state: DomainState, moved: Option<Box<SavedConnection>>) -> Next {
    match (state, moved) {
        (DomainState::Arriving(before), Some(moved)) => {
            (DomainState::Arrived(moved, before), done())
        }
        // The domid is as free as before the import.
        (DomainState::Arriving(before), None) => (DomainState::Absent(before.remainder), done()),
        // The incarnation that was expected has died.
        (state, Some(_)) => (state, Err(Errno::ENOENT)),
        (state, None) => (state, done()),
    }
}

fn discard(state: DomainState) -> Next {
    let take_back = |imported| Ok(Effects { taken_back: Some(imported), ..Effects::default() });
    match state {
        DomainState::Arrived(moved, mut before) => {
            let remainder = before.remainder.take();
            (DomainState::Absent(remainder), take_back(Imported { seen: moved.seen, before }))
        }
        DomainState::ArrivedIntroduced(imported, ..) => {
            (DomainState::Absent(None), take_back(imported))
        }
        // Served since its import, or never imported: its state here may be the only one.
        state => (state, Err(Errno::EINVAL)),
    }
}

impl Default for DomainState {
    fn default() -> DomainState {
        DomainState::Absent(None)
    }
}

impl DomainState {
    /// Returns whether another host may have the domain too.
    pub fn elsewhere(&self) -> Elsewhere {
        match self {
            DomainState::Quiesced(elsewhere)
            | DomainState::Exported(_, elsewhere)
            | DomainState::ArrivedIntroduced(_, _, elsewhere) => *elsewhere,
            DomainState::Absent(_)
            | DomainState::Arriving(_)
            | DomainState::Arrived(..)
            | DomainState::Connecting
            | DomainState::Running
            | DomainState::Quiescing(_)
            | DomainState::Left(_) => Elsewhere::No,
        }
    }

    /// Returns the state's name.
    pub fn presence(&self) -> Presence {
        match self {
            DomainState::Absent(_) | DomainState::Connecting => Presence::Absent,
            DomainState::Arriving(_) => Presence::Arriving,
            DomainState::Arrived(..) => Presence::Arrived,
            DomainState::Running => Presence::Running,
            DomainState::Quiescing(_) => Presence::Quiescing,
            DomainState::Quiesced(_) => Presence::Quiesced,
            DomainState::Exported(..) => Presence::Exported,
            DomainState::ArrivedIntroduced(..) => Presence::ArrivedIntroduced,
            DomainState::Left(_) => Presence::Left,
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
