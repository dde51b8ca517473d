//! Every pair of a state and an event, compared with the table in docs/MIGRATION.md.

use super::*;
use crate::domain::{Limits, OwnSettings, Registry};
use crate::server::migration::scatter_gather::parts;
use crate::server::session::output::Output;
use crate::types::Domid;

const STATES: [&str; 9] = [
    "absent",
    "running",
    "quiescing",
    "quiesced",
    "exported",
    "left",
    "arriving",
    "arrived",
    "arrived-introduced",
];

/// The columns of the document's table.
const EVENTS: [&str; 10] = [
    "INTRODUCE",
    "QUIESCE",
    "UNQUIESCE",
    "forced",
    "EXPORT",
    "RELEASE",
    "with mark",
    "IMPORT",
    "DISCARD",
    "death",
];

fn part() -> Part {
    parts(&[Domid(5)], |_| {}).pop().unwrap()
}

fn settings() -> OwnSettings {
    let registry = Registry::new(Limits::defaults(), None);
    registry.admit(Domid(5), 1).unwrap().own_settings()
}

fn before() -> Box<Before> {
    Box::new(Before { settings: settings(), remainder: None })
}

fn seen() -> DomainSnapshot {
    DomainSnapshot { domid: Domid(5), partitions: Vec::new(), absent: None }
}

fn mark() -> Mark {
    Mark { number: 1, version: 1, seen: seen() }
}

fn moved() -> Box<SavedConnection> {
    Box::new(SavedConnection { client: Client::new(Domid(5)), seen: seen() })
}

fn imported() -> Imported {
    Imported { seen: seen(), before: before() }
}

fn state(name: &str) -> DomainState {
    state_with(name, Elsewhere::No)
}

fn state_with(name: &str, elsewhere: Elsewhere) -> DomainState {
    match name {
        "absent" => DomainState::Absent(None),
        "running" => DomainState::Running,
        "quiescing" => DomainState::Quiescing(vec![part()]),
        "quiesced" => DomainState::Quiesced(elsewhere),
        "exported" => DomainState::Exported(mark(), elsewhere),
        "left" => DomainState::Left(moved()),
        "arriving" => DomainState::Arriving(before()),
        "arrived" => DomainState::Arrived(moved(), before()),
        "arrived-introduced" => DomainState::ArrivedIntroduced(imported(), Some(mark()), elsewhere),
        _ => panic!("{name}"),
    }
}

fn name(state: &DomainState) -> &'static str {
    match state {
        DomainState::Quiescing(_) => "quiescing",
        state => state.presence().name(),
    }
}

/// Returns the state after an event, and after the events that follow at once: the ring is mapped, the last request is
/// done.
fn after(from: &str, event: &str) -> String {
    after_state(state(from), from, event)
}

fn after_state(state: DomainState, from: &str, event: &str) -> String {
    let event = match event {
        "INTRODUCE" => Event::Introduce,
        "QUIESCE" => Event::Quiesce(part()),
        "UNQUIESCE" => Event::Unquiesce { forced: false },
        "forced" => Event::Unquiesce { forced: true },
        "EXPORT" => Event::Exported(mark(), Elsewhere::No),
        "RELEASE" => Event::Release(None),
        "with mark" => Event::ReleaseWithMark(Box::new(Client::new(Domid(5)))),
        "IMPORT" => Event::ImportBegins(settings()),
        "DISCARD" => Event::Discard,
        _ => Event::Died,
    };
    let (state, effects) = next(state, event);
    match effects {
        Err(errno) => {
            assert_eq!(name(&state), from, "a refusal changes nothing");
            errno.to_string()
        }
        Ok(Effects { connect: Some(connect), .. }) => {
            let connected = match connect {
                Connect::New(_) => Connected::New,
                Connect::Left(_) => Connected::Left,
                Connect::Arrived(..) => Connected::Arrived(imported()),
            };
            name(&next(state, Event::Connected(connected)).0).to_owned()
        }
        Ok(_) => name(&state).to_owned(),
    }
}

#[test]
fn state_table_matches_the_document() {
    let document = include_str!("../../../docs/MIGRATION.md");
    let cells = |line: &str| {
        let line = line.trim_matches('|').replace('*', "");
        line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    let mut rows = document.lines().skip_while(|line| !line.starts_with("| | INTRODUCE |"));
    assert_eq!(cells(rows.next().unwrap())[1..], EVENTS);
    for (from, row) in STATES.iter().zip(rows.skip(1)) {
        let computed = EVENTS.map(|event| after(from, event));
        let expected = cells(row);
        assert_eq!(expected[0], *from);
        assert_eq!(expected[1..], computed, "{from}: | {} |", computed.join(" | "));
    }
}

/// The document's second table. But for UNQUIESCE the first one holds for these domains too.
#[test]
fn unquiesce_of_a_domain_elsewhere_needs_force() {
    const QUIESCED: [&str; 3] = ["quiesced", "exported", "arrived-introduced"];
    let document = include_str!("../../../docs/MIGRATION.md");
    for elsewhere in [Elsewhere::No, Elsewhere::Exported, Elsewhere::Left] {
        for from in QUIESCED {
            let of = |event| after_state(state_with(from, elsewhere), from, event);
            let name = if elsewhere == Elsewhere::No { "empty" } else { elsewhere.name() };
            let row = format!("| `{name}` | {} | {} |", of("UNQUIESCE"), of("forced"));
            assert!(document.lines().any(|line| line.starts_with(&row)), "{row}");
            for event in EVENTS.into_iter().filter(|event| *event != "UNQUIESCE") {
                assert_eq!(of(event), after(from, event), "{from} {event}");
            }
        }
    }
}

#[test]
fn a_domain_stays_elsewhere_until_it_is_served_or_ends() {
    let after = |state, event| next(state, event).0;
    let (left, _) = next(state("left"), Event::Introduce);
    let returned = after(left, Event::Connected(Connected::Left));
    assert_eq!(returned.elsewhere(), Elsewhere::Left);
    let again = after(returned, Event::Exported(mark(), Elsewhere::Exported));
    assert_eq!(again.elsewhere(), Elsewhere::Left);
    for from in ["quiesced", "exported", "arrived-introduced"] {
        let exported = after(state(from), Event::Exported(mark(), Elsewhere::Exported));
        let again = after(exported, Event::Exported(mark(), Elsewhere::No));
        let outdated = after(again, Event::Outdated);
        assert_eq!(outdated.elsewhere(), Elsewhere::Exported, "{from}");
        let kept = after(outdated, Event::ExportFailed);
        assert_eq!(kept.elsewhere(), Elsewhere::Exported, "{from}");
        let served = after(kept, Event::Unquiesce { forced: true });
        assert_eq!(name(&served), "running", "{from}");
    }
}

#[test]
fn failed_ring_mapping_keeps_the_state() {
    for from in ["absent", "left", "arrived"] {
        let (connecting, effects) = next(state(from), Event::Introduce);
        let connect = effects.unwrap().connect.unwrap();
        assert_eq!(name(&next(connecting, Event::ConnectFailed(connect)).0), from);
    }
}

#[test]
fn failed_export_resumes_domains_without_a_mark() {
    let after = |from| name(&next(state(from), Event::ExportFailed).0);
    assert_eq!(["quiescing", "quiesced", "running"].map(after), ["running"; 3]);
    for from in ["exported", "arrived-introduced", "absent", "left", "arriving", "arrived"] {
        assert_eq!(after(from), from);
    }
}

#[test]
fn quiesce_succeeds_when_drained_and_fails_if_overtaken() {
    let (quiescing, _) = next(DomainState::Running, Event::Quiesce(part()));
    let (quiesced, effects) = next(quiescing, Event::Drained);
    assert_eq!((name(&quiesced), effects.unwrap().quiesced.len()), ("quiesced", 1));
    let (running, effects) = next(state("quiescing"), Event::Unquiesce { forced: false });
    assert_eq!((name(&running), effects.unwrap().overtaken.len()), ("running", 1));
}

#[test]
fn failed_import_keeps_the_stream_remainder_of_a_release() {
    let (position, partial) = ((0, 0), vec![1]);
    let remainder = StreamRemainder { position, partial, output: Output::default(), waits: None };
    let absent = DomainState::Absent(Some(Box::new(remainder)));
    let (arriving, _) = next(absent, Event::ImportBegins(settings()));
    let (absent, _) = next(arriving, Event::ImportEnds(None));
    assert!(matches!(absent, DomainState::Absent(Some(_))));
    let (gone, refused) = next(DomainState::Absent(None), Event::ImportEnds(Some(moved())));
    assert!(refused.is_err() && matches!(gone, DomainState::Absent(None)), "it died meanwhile");
}
