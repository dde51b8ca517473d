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
const EVENTS: [&str; 9] = [
    "INTRODUCE",
    "QUIESCE",
    "UNQUIESCE",
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
    match name {
        "absent" => DomainState::Absent(None),
        "running" => DomainState::Running,
        "quiescing" => DomainState::Quiescing(vec![part()]),
        "quiesced" => DomainState::Quiesced,
        "exported" => DomainState::Exported(mark()),
        "left" => DomainState::Left(moved()),
        "arriving" => DomainState::Arriving(before()),
        "arrived" => DomainState::Arrived(moved(), before()),
        "arrived-introduced" => DomainState::ArrivedIntroduced(imported(), Some(mark())),
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
    let event = match event {
        "INTRODUCE" => Event::Introduce,
        "QUIESCE" => Event::Quiesce(part()),
        "UNQUIESCE" => Event::Unquiesce,
        "EXPORT" => Event::Exported(mark()),
        "RELEASE" => Event::Release(None),
        "with mark" => Event::ReleaseWithMark(Box::new(Client::new(Domid(5)))),
        "IMPORT" => Event::ImportBegins(settings()),
        "DISCARD" => Event::Discard,
        _ => Event::Died,
    };
    let (state, effects) = next(state(from), event);
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
    let (running, effects) = next(state("quiescing"), Event::Unquiesce);
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
