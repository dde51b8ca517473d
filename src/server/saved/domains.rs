//! Known domains as data, and from it: their settings and their migration states.

use serde_bytes::ByteBuf;

use super::data::{
    SavedBefore, SavedClient, SavedDomain, SavedLimits, SavedMark, SavedNote, SavedRemainder,
    SavedSeen, SavedSettings, SavedState,
};
use crate::domain::{Domain, Limits, OwnSettings, Quota, Registry};
use crate::migration::stream::state::Client;
use crate::server::author::Author;
use crate::server::session::output::Output;
use crate::server::standing::{DomainStates, Note};
use crate::server::state::kept::{Before, Elsewhere, Mark, SavedConnection, StreamRemainder};
use crate::server::state::{DomainState, Imported};
use crate::store::{DomainSnapshot, Store, Tree};
use crate::sync::Arc;
use crate::types::{Domid, Path, PathBuf};

/// Returns quota values as data.
pub fn save_limits(limits: &Limits) -> SavedLimits {
    let hard = Quota::all().map(|quota| (quota.name().to_owned(), limits.get(quota))).collect();
    SavedLimits(hard, limits.soft_memory())
}

/// Sets quota values from data. Quotas that this version does not know are skipped.
pub fn restore_limits(limits: &Limits, SavedLimits(hard, soft): &SavedLimits) {
    for (name, value) in hard {
        if let Some(quota) = Quota::from_name(name) {
            limits.set(quota, *value);
        }
    }
    limits.set_soft_memory(*soft);
}

/// Returns a known domain as data. Cost: linear in the partitions that its state keeps.
pub fn save(store: &Store, domain: &Domain, states: &DomainStates) -> SavedDomain {
    let (shutdown, silent) = domain.reported();
    let (state, note) = states.of(domain);
    let note = note.map(|Note { since, by, to }| SavedNote {
        since: *since,
        domid: by.domid.0,
        pid: by.pid,
        command: by.command.clone(),
        to: to.as_deref().map(str::to_owned),
    });
    SavedDomain {
        domid: domain.domid.0,
        unique_id: domain.unique_id,
        own: save_settings(store.registry(), &domain.own_settings()),
        settings: domain.settings(),
        origin: domain.origin(),
        shutdown,
        silent,
        state: state.map_or(SavedState::Absent, |state| save_state(store, state)),
        note,
    }
}

fn save_settings(registry: &Registry, own: &OwnSettings) -> SavedSettings {
    // A target that has died gives no rights, and the next process does not know its birth.
    let lives = |(domid, birth): &(Domid, u64)| registry.births().of(*domid) == *birth;
    let target = own.target().filter(lives).map(|(domid, _)| domid.0);
    SavedSettings { limits: save_limits(&own.limits), features: own.features, target }
}

fn save_state(store: &Store, state: &DomainState) -> SavedState {
    let seen = |seen| save_seen(store, seen);
    let before = |before: &Before| SavedBefore {
        own: save_settings(store.registry(), &before.settings),
        remainder: before.remainder.as_deref().map(save_remainder),
    };
    match state {
        DomainState::Absent(None) => SavedState::Absent,
        DomainState::Absent(Some(remainder)) => SavedState::Released(save_remainder(remainder)),
        DomainState::Arrived(moved, former) => {
            SavedState::Arrived(save_client(&moved.client), seen(&moved.seen), before(former))
        }
        // The last two last no longer than a request or an import, which a pause waits for.
        DomainState::Running | DomainState::Connecting | DomainState::Arriving(_) => {
            SavedState::Running
        }
        DomainState::Quiescing(_) => SavedState::Quiesced(Elsewhere::No),
        DomainState::Quiesced(elsewhere) => SavedState::Quiesced(*elsewhere),
        DomainState::Exported(mark, elsewhere) => match save_mark(store, mark) {
            Some(mark) => SavedState::Exported(mark, *elsewhere),
            None => SavedState::Quiesced(*elsewhere),
        },
        DomainState::ArrivedIntroduced(imported, mark, elsewhere) => {
            let mark = mark.as_ref().and_then(|mark| save_mark(store, mark));
            let (seen, before) = (seen(&imported.seen), before(&imported.before));
            SavedState::ArrivedIntroduced(seen, before, mark, *elsewhere)
        }
        DomainState::Left(moved) => SavedState::Left(save_client(&moved.client), seen(&moved.seen)),
    }
}

fn save_remainder(remainder: &StreamRemainder) -> SavedRemainder {
    let (begun, output) = remainder.output.clone_unsent();
    SavedRemainder {
        position: remainder.position,
        partial: ByteBuf::from(remainder.partial.clone()),
        output: ByteBuf::from(output),
        begun,
    }
}

fn save_client(client: &Client) -> SavedClient {
    SavedClient {
        connection: client.connection.clone(),
        watches: client.watches.clone(),
        transactions: client.transactions.keys().copied().collect(),
    }
}

/// Returns a mark as data, unless a partition that it stands for has changed.
fn save_mark(store: &Store, mark: &Mark) -> Option<SavedMark> {
    let seen = save_seen(store, &mark.seen);
    let is_valid = mark.seen.changed_in(store).is_empty();
    is_valid.then_some(SavedMark { number: mark.number, version: mark.version, seen })
}

fn save_seen(store: &Store, seen: &DomainSnapshot) -> SavedSeen {
    let bytes = |root: &PathBuf| ByteBuf::from(root.as_path().bytes());
    let is_changed = seen.changed_in(store);
    let roots = || seen.partitions.iter().map(|(root, _)| root);
    let (changed, unchanged): (Vec<_>, Vec<_>) =
        roots().partition(|root| is_changed.contains(root));
    SavedSeen {
        unchanged: unchanged.into_iter().map(bytes).collect(),
        changed: changed.into_iter().map(bytes).collect(),
        absent: seen.absent.as_ref().map(bytes),
    }
}

/// The store in which the states of domains are restored.
pub struct Restored<'s> {
    /// The store, with all nodes and domains.
    pub store: &'s Store,
    /// A snapshot of it.
    pub trees: &'s [Tree],
}

impl Restored<'_> {
    /// Restores the settings and counters of a domain. The state follows once its connection is restored.
    pub fn settings(&self, domain: &Arc<Domain>, saved: &SavedDomain) {
        let registry = self.store.registry();
        registry.restore(domain, &self.own_settings(&saved.own));
        domain.set_origin(saved.origin);
        domain.continue_from(saved.settings, saved.shutdown, saved.silent);
    }

    fn own_settings(&self, saved: &SavedSettings) -> OwnSettings {
        let limits = Limits::defaults();
        restore_limits(&limits, &saved.limits);
        let target = saved.target.and_then(|target| self.store.registry().get(Domid(target)));
        OwnSettings::new(limits, saved.features, target.as_deref())
    }

    /// Returns the state of a domain, with its note. Cost: linear in the partitions that the state keeps.
    pub fn state(&self, saved: &SavedDomain) -> (DomainState, Option<Note>) {
        let domid = Domid(saved.domid);
        let seen = |saved: &SavedSeen| self.seen(domid, saved);
        let mark = |mark: &SavedMark| Mark {
            number: mark.number,
            version: mark.version,
            seen: seen(&mark.seen),
        };
        let before = |before: &SavedBefore| {
            let remainder = before.remainder.as_ref().map(|it| Box::new(remainder(it)));
            Box::new(Before { settings: self.own_settings(&before.own), remainder })
        };
        let connection = |client: &SavedClient, saved: &SavedSeen| {
            Box::new(SavedConnection { client: restored_client(client), seen: seen(saved) })
        };
        let state = match &saved.state {
            SavedState::Absent => DomainState::Absent(None),
            SavedState::Released(kept) => DomainState::Absent(Some(Box::new(remainder(kept)))),
            SavedState::Arrived(client, seen, former) => {
                DomainState::Arrived(connection(client, seen), before(former))
            }
            SavedState::Running => DomainState::Running,
            SavedState::Quiesced(it) => DomainState::Quiesced(*it),
            SavedState::Exported(kept, it) => DomainState::Exported(mark(kept), *it),
            SavedState::ArrivedIntroduced(imported, former, kept, it) => {
                let imported = Imported { seen: seen(imported), before: before(former) };
                let kept = kept.as_ref().map(mark);
                DomainState::ArrivedIntroduced(imported, kept, *it)
            }
            SavedState::Left(client, seen) => DomainState::Left(connection(client, seen)),
        };
        let note = saved.note.as_ref().map(|note| Note {
            since: note.since,
            by: Arc::new(Author {
                domid: Domid(note.domid),
                pid: note.pid,
                command: note.command.clone(),
            }),
            to: note.to.as_deref().map(Arc::from),
        });
        (state, note)
    }

    fn seen(&self, domid: Domid, saved: &SavedSeen) -> DomainSnapshot {
        let path = |bytes: &ByteBuf| Path::parse(bytes).ok().map(Path::to_buf);
        let paths = |all: &[ByteBuf]| all.iter().filter_map(path).collect();
        let partitions =
            (paths(&saved.unchanged), paths(&saved.changed), saved.absent.as_ref().and_then(path));
        DomainSnapshot::restored(self.store, self.trees, domid, partitions)
    }
}

fn remainder(saved: &SavedRemainder) -> StreamRemainder {
    StreamRemainder {
        position: saved.position,
        partial: saved.partial.to_vec(),
        output: Output::of(saved.output.to_vec(), saved.begun),
        waits: None,
    }
}

fn restored_client(saved: &SavedClient) -> Client {
    Client {
        connection: saved.connection.clone(),
        watches: saved.watches.clone(),
        transactions: saved.transactions.iter().map(|&id| (id, Default::default())).collect(),
    }
}
