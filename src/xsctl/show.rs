//! Records as named values. Names are those of xenstore-migration.md where it has one.

use super::line::{Fields, Value};
use crate::migration::stream::digest::ALGORITHM;
use crate::migration::stream::{Connection, Domain, Node, QuotaValue, Record, Transport, Watch};
use crate::types::Entry;

/// Returns a record's values.
pub fn fields(record: &Record) -> Fields {
    match record {
        Record::End => Vec::new(),
        Record::Global { socket, evtchn } => vec![
            ("rw-socket-fd", Value::Word(socket.to_string())),
            ("evtchn-fd", Value::Word(evtchn.to_string())),
        ],
        Record::Connection(connection) => of_connection(connection),
        Record::Watch(watch) => {
            let mut fields = vec![conn(watch.connection)];
            fields.extend(of_watch(watch));
            fields
        }
        Record::Transaction { connection, tx_id } => {
            vec![conn(*connection), ("tx-id", Value::Number((*tx_id).into()))]
        }
        Record::Node(node) => of_node_record(node),
        Record::GlobalQuota(per_domain, global) => {
            vec![("per-domain", quotas(per_domain)), ("global", quotas(global))]
        }
        Record::Domain(domain) => {
            let mut fields = vec![("domid", Value::Number(domain.domid.0.into()))];
            fields.extend(of_domain(domain));
            fields
        }
        Record::Digest(digest) => vec![(ALGORITHM, Value::Word(digest.to_string()))],
        Record::Live(piece) => vec![("bytes", Value::Number(piece.len() as u64))],
        Record::Unknown(kind) => vec![("number", Value::Number((*kind).into()))],
    }
}

fn conn(id: u32) -> (&'static str, Value) {
    ("conn-id", Value::Number(id.into()))
}

fn of_connection(connection: &Connection) -> Fields {
    let mut fields = vec![conn(connection.id)];
    match connection.transport {
        Transport::Ring(domid, _, evtchn) => fields.extend([
            ("ring", Value::Number(domid.0.into())),
            ("evtchn", Value::Number(evtchn.into())),
        ]),
        Transport::Socket(fd) => fields.push(("socket-fd", Value::Number(fd.into()))),
    }
    fields.extend(connection.unique_id.map(|id| ("unique-id", Value::Number(id))));
    fields.extend(on_the_way(connection));
    fields
}

/// Returns the domain that a connection stands in for, and its partial request and pending output.
pub fn on_the_way(connection: &Connection) -> Fields {
    let mut fields = Vec::new();
    if let Transport::Ring(_, Some(target), _) = connection.transport {
        fields.push(("target", Value::Number(target.0.into())));
    }
    let Connection { input, output, output_begun, .. } = connection;
    if !input.is_empty() {
        fields.push(("in-data", Value::Bytes(input.clone())));
    }
    if *output_begun > 0 {
        fields.push(("out-resp-len", Value::Number((*output_begun).into())));
    }
    if !output.is_empty() {
        fields.push(("out-data", Value::Bytes(output.clone())));
    }
    fields
}

/// Returns a watch's values without its owner.
pub fn of_watch(watch: &Watch) -> Fields {
    let mut fields = vec![
        ("wpath", Value::Bytes(watch.path.clone())),
        ("token", Value::Bytes(watch.token.clone())),
    ];
    fields.extend(watch.depth.map(|depth| ("depth", Value::Number(depth.into()))));
    fields
}

fn of_node_record(node: &Node) -> Fields {
    let mut fields = Vec::new();
    if let Some((connection, tx_id, access)) = node.pending {
        fields = vec![
            conn(connection),
            ("tx-id", Value::Number(tx_id.into())),
            ("access", Value::Word(accessed(access))),
        ];
    }
    fields.push(("path", Value::Bytes(node.path.clone())));
    fields.extend(of_node(node));
    fields
}

/// Formats a transaction's accesses to a node.
fn accessed(access: u16) -> String {
    match access {
        0 => "removed".into(),
        1 => "read".into(),
        2 => "written".into(),
        3 => "read+written".into(),
        other => other.to_string(),
    }
}

/// Returns a node's value and permissions.
pub fn of_node(node: &Node) -> Fields {
    let perms = node.perms.iter().map(perm).collect();
    vec![("value", Value::Bytes(node.value.clone())), ("perms", Value::Words(perms))]
}

/// Formats an entry as `r5`, or as `r5-stale` if it is listed but never applied.
fn perm(entry: &Entry) -> String {
    let stale = if entry.ignored { "-stale" } else { "" };
    format!("{}{}{stale}", char::from(entry.access.letter()), entry.domid)
}

/// Returns a domain's values without its domid.
pub fn of_domain(domain: &Domain) -> Fields {
    let features = domain.features.map(|bits| ("features", Value::Word(format!("{bits:#x}"))));
    features.into_iter().chain([("quotas", quotas(&domain.quotas))]).collect()
}

fn quotas(quotas: &[QuotaValue]) -> Value {
    let word = |(name, value): &QuotaValue| format!("{}={value}", name.escape_ascii());
    Value::Words(quotas.iter().map(word).collect())
}
