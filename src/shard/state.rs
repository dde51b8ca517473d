//! A domain's life at its home thread (docs/MIGRATION.md, "What a domain is, and where"): its state, and the one
//! function that leads from a state to the next.

pub mod kept;

use self::kept::{Before, Carried, Mark, SavedConnection};
use super::migration::scatter_gather::Share;
use crate::domain::OwnSettings;
use crate::migration::stream::state::Client;
use crate::store::DomainSnapshot;
use crate::words::{Errno, Presence};

/// The state of a domain at its home thread, with what is kept for the states that can follow.
pub enum DomainState {
    /// Not introduced. A RELEASE without a mark may have left what its stream had in hand, for an INTRODUCE of the
    /// same ring.
    Absent(Option<Box<Carried>>),
    /// Not introduced; an import of it is under way, before which it had these settings.
    Arriving(Box<Before>),
    /// Imported; what the import brought waits for INTRODUCE.
    Arrived(Box<SavedConnection>, Box<Before>),
    /// Its ring is being mapped: the state lasts as long as the function that maps it.
    Connecting,
    /// Introduced and served.
    Running,
    /// Introduced; its last request is under way, and no other is taken. The shares are replied to after it.
    Quiescing(Vec<Share>),
    /// Introduced; nothing of it is under way, and no request is taken.
    Quiesced,
    /// Quiesced, and the export with this mark was replied to.
    Exported(Mark),
    /// Imported and introduced, not served since: quiesced. It may have been exported again.
    ArrivedIntroduced(Imported, Option<Mark>),
    /// Released with a mark: an INTRODUCE takes up what the export saw.
    Left(Box<SavedConnection>),
}

/// What happens to a domain.
pub enum Event {
    /// INTRODUCE.
    Introduce,
    /// Its ring is mapped and served, or quiesced with what it had before.
    Connected(Connected),
    /// Its ring cannot be mapped; nothing of this was used.
    ConnectFailed(Connect),
    /// QUIESCE.
    Quiesce(Share),
    /// The last request of a quiescing domain is done.
    Drained,
    /// UNQUIESCE.
    Unquiesce,
    /// An export that quiesced the domain failed.
    ExportFailed,
    /// An export is replied to with this mark.
    Exported(Mark),
    /// Something that the mark stands for has changed.
    Outdated,
    /// RELEASE without a mark; its connection has ended and left this.
    Release(Option<Box<Carried>>),
    /// RELEASE with the mark of its state; its connection has ended and was this.
    ReleaseWithMark(Box<Client>),
    /// An import begins; the domain has these settings.
    ImportBegins(OwnSettings),
    /// The import has ended, and has brought this or nothing.
    ImportEnds(Option<Box<SavedConnection>>),
    /// DISCARD_DOMAINS.
    Discard,
    /// The domain is gone from the host.
    Died,
}

/// What a ring that is being mapped takes up.
pub enum Connect {
    /// A new stream, or the one that RELEASE left.
    New(Option<Box<Carried>>),
    /// The connection of a domain that left.
    Left(Box<SavedConnection>),
    /// The connection that an import brought.
    Arrived(Box<SavedConnection>, Box<Before>),
}

/// What a mapped ring has taken up.
pub enum Connected {
    /// A stream that is served.
    New,
    /// The connection of a domain that left.
    Left,
    /// The connection that an import brought.
    Arrived(Imported),
}

/// What an import brought beside a connection, and what it changed.
pub struct Imported {
    /// The domain's homes as they were then.
    pub seen: DomainSnapshot,
    /// What was set before.
    pub before: Box<Before>,
}

/// What follows an event beside the next state.
#[derive(Default)]
pub struct Effects {
    /// The ring is to be mapped.
    pub connect: Option<Connect>,
    /// The service of its connection begins or ends.
    pub service: Option<Service>,
    /// The domain is served for the first time since an import brought it.
    pub ends_import: bool,
    /// QUIESCE is replied to for these shares.
    pub quiesced: Vec<Share>,
    /// QUIESCE has failed for these shares, since UNQUIESCE overtook it.
    pub overtaken: Vec<Share>,
    /// What an import changed is to be as it was.
    pub taken_back: Option<Imported>,
}

/// What happens to the service of a connection.
pub enum Service {
    /// Requests are taken again.
    Begins,
    /// No request is taken after the one that is under way.
    Ends,
}

/// A state, and what else follows an event; or why the state refuses the event, which leaves it as it is.
type Next = (DomainState, Result<Effects, Errno>);

/// Returns what follows an event in a state.
pub fn next(state: DomainState, event: Event) -> Next {
    match event {
        Event::Introduce => introduce(state),
        Event::Connected(connected) => match connected {
            Connected::New => (DomainState::Running, done()),
            Connected::Left => (DomainState::Quiesced, done()),
            Connected::Arrived(imported) => {
                (DomainState::ArrivedIntroduced(imported, None), done())
            }
        },
        Event::ConnectFailed(connect) => match connect {
            Connect::New(carried) => (DomainState::Absent(carried), done()),
            Connect::Left(moved) => (DomainState::Left(moved), done()),
            Connect::Arrived(moved, before) => (DomainState::Arrived(moved, before), done()),
        },
        Event::Quiesce(share) => quiesce(state, share),
        Event::Drained => drained(state),
        Event::Unquiesce => unquiesce(state),
        Event::ExportFailed => export_failed(state),
        Event::Exported(mark) => exported(state, mark),
        Event::Outdated => outdated(state),
        Event::Release(carried) => release(state, carried),
        Event::ReleaseWithMark(client) => release_with_mark(state, *client),
        Event::ImportBegins(settings) => import_begins(state, settings),
        Event::ImportEnds(moved) => import_ends(state, moved),
        Event::Discard => discard(state),
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
        DomainState::Absent(carried) => connect(Connect::New(carried)),
        DomainState::Left(moved) => connect(Connect::Left(moved)),
        DomainState::Arrived(moved, before) => connect(Connect::Arrived(moved, before)),
        // Its event channel and its connection become new.
        DomainState::Running => (DomainState::Running, done()),
        // What is quiesced may be exported already: only its end or UNQUIESCE may change it.
        state @ (DomainState::Arriving(_)
        | DomainState::Connecting
        | DomainState::Quiescing(_)
        | DomainState::Quiesced
        | DomainState::Exported(_)
        | DomainState::ArrivedIntroduced(..)) => (state, Err(Errno::EBUSY)),
    }
}

fn quiesce(state: DomainState, share: Share) -> Next {
    match state {
        DomainState::Running => {
            let effects = Effects { service: Some(Service::Ends), ..Effects::default() };
            (DomainState::Quiescing(vec![share]), Ok(effects))
        }
        DomainState::Quiescing(mut shares) => {
            shares.push(share);
            (DomainState::Quiescing(shares), done())
        }
        state @ (DomainState::Quiesced
        | DomainState::Exported(_)
        | DomainState::ArrivedIntroduced(..)) => {
            (state, Ok(Effects { quiesced: vec![share], ..Effects::default() }))
        }
        state => (state, Err(Errno::ENOENT)),
    }
}

fn drained(state: DomainState) -> Next {
    match state {
        DomainState::Quiescing(shares) => {
            (DomainState::Quiesced, Ok(Effects { quiesced: shares, ..Effects::default() }))
        }
        state => (state, done()),
    }
}

fn unquiesce(state: DomainState) -> Next {
    let serve = Effects { service: Some(Service::Begins), ..Effects::default() };
    match state {
        DomainState::Running => (DomainState::Running, done()),
        DomainState::Quiescing(overtaken) => {
            (DomainState::Running, Ok(Effects { overtaken, ..serve }))
        }
        DomainState::Quiesced | DomainState::Exported(_) => (DomainState::Running, Ok(serve)),
        DomainState::ArrivedIntroduced(..) => {
            (DomainState::Running, Ok(Effects { ends_import: true, ..serve }))
        }
        state => (state, Err(Errno::ENOENT)),
    }
}

/// A domain with a mark stays quiesced: another export was replied to meanwhile.
fn export_failed(state: DomainState) -> Next {
    match state {
        state @ (DomainState::Quiescing(_) | DomainState::Quiesced) => unquiesce(state),
        state @ (DomainState::Running
        | DomainState::Exported(_)
        | DomainState::ArrivedIntroduced(..)) => (state, done()),
        state => (state, Err(Errno::ENOENT)),
    }
}

fn exported(state: DomainState, mark: Mark) -> Next {
    match state {
        DomainState::Quiesced | DomainState::Exported(_) => (DomainState::Exported(mark), done()),
        DomainState::ArrivedIntroduced(imported, _) => {
            (DomainState::ArrivedIntroduced(imported, Some(mark)), done())
        }
        state @ (DomainState::Running | DomainState::Quiescing(_)) => (state, Err(Errno::EAGAIN)),
        state => (state, Err(Errno::ENOENT)),
    }
}

fn outdated(state: DomainState) -> Next {
    match state {
        DomainState::Exported(_) => (DomainState::Quiesced, done()),
        DomainState::ArrivedIntroduced(imported, _) => {
            (DomainState::ArrivedIntroduced(imported, None), done())
        }
        state => (state, done()),
    }
}

fn release(state: DomainState, carried: Option<Box<Carried>>) -> Next {
    if state.presence().is_introduced() {
        (DomainState::Absent(carried), done())
    } else {
        (state, Err(Errno::ENOENT))
    }
}

fn release_with_mark(state: DomainState, client: Client) -> Next {
    match state {
        DomainState::Exported(mark) | DomainState::ArrivedIntroduced(_, Some(mark)) => {
            let moved = SavedConnection { client, seen: mark.seen };
            (DomainState::Left(Box::new(moved)), done())
        }
        state if state.presence().is_introduced() => (state, Err(Errno::EAGAIN)),
        state => (state, Err(Errno::ENOENT)),
    }
}

fn import_begins(state: DomainState, settings: OwnSettings) -> Next {
    match state {
        DomainState::Absent(carried) => {
            let before = Before { settings, carried };
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
        (DomainState::Arriving(before), None) => (DomainState::Absent(before.carried), done()),
        (state, Some(_)) => (state, Err(Errno::ENOENT)),
        (state, None) => (state, done()),
    }
}

fn discard(state: DomainState) -> Next {
    let take_back = |imported| Ok(Effects { taken_back: Some(imported), ..Effects::default() });
    match state {
        DomainState::Arrived(moved, mut before) => {
            let carried = before.carried.take();
            (DomainState::Absent(carried), take_back(Imported { seen: moved.seen, before }))
        }
        DomainState::ArrivedIntroduced(imported, _) => {
            (DomainState::Absent(None), take_back(imported))
        }
        state => (state, Err(Errno::EINVAL)),
    }
}

impl Default for DomainState {
    fn default() -> DomainState {
        DomainState::Absent(None)
    }
}

impl DomainState {
    /// Returns the state as others see it.
    pub fn presence(&self) -> Presence {
        match self {
            DomainState::Absent(_) | DomainState::Connecting => Presence::Absent,
            DomainState::Arriving(_) => Presence::Arriving,
            DomainState::Arrived(..) => Presence::Arrived,
            DomainState::Running => Presence::Running,
            DomainState::Quiescing(_) => Presence::Quiescing,
            DomainState::Quiesced => Presence::Quiesced,
            DomainState::Exported(_) => Presence::Exported,
            DomainState::ArrivedIntroduced(..) => Presence::ArrivedIntroduced,
            DomainState::Left(_) => Presence::Left,
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
