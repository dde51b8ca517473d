//! `xsctl diff`: compares the states of two streams.
//!
//! A state is represented as *facts*: a subject with named values. Two states differ in the facts that only one of them
//! has, and in the values of facts that both have. Values without meaning elsewhere are left out: connection ids, event
//! channels, descriptors, unique ids.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use super::error::{Done, ToolError};
use super::input::Input;
use super::line::{Fields, Json, Plain, Value};
use super::show;
use crate::migration::stream::state::{Client, State};
use crate::migration::stream::{Node, Transport};

/// The subject of a fact. Facts are listed in this order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct About {
    what: &'static str,
    of: Option<(&'static str, u32)>,
    tx_id: Option<u32>,
    path: Vec<u8>,
    token: Option<Vec<u8>>,
}

type Facts = BTreeMap<About, Fields>;

/// Writes a line for each difference; JSON with `json`. Cost in time and memory: the lengths of the streams.
///
/// # Errors
/// Those of the streams and of the output.
pub fn diff(
    a: &mut Input,
    b: &mut Input,
    json: bool,
    out: &mut impl Write,
) -> Result<Done, ToolError> {
    let [a, b] = [a.read(State::read)?, b.read(State::read)?].map(|state| facts(&state));
    let mut done = Done::Well;
    for about in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        let (before, after) = (a.get(about), b.get(about));
        if before == after || is_order_of_others(about, &a, &b) {
            continue;
        }
        done = Done::Differs;
        write(about, before, after, json, out)?;
    }
    Ok(done)
}

/// Returns whether the fact is an order of watches that differ themselves: their order is then not comparable.
fn is_order_of_others(about: &About, a: &Facts, b: &Facts) -> bool {
    let watches = |facts: &Facts| {
        let of_it = facts.keys().filter(|other| other.what == WATCH && other.of == about.of);
        of_it.map(|other| (other.path.clone(), other.token.clone())).collect::<Vec<_>>()
    };
    about.what == WATCH_ORDER && watches(a) != watches(b)
}

const WATCH: &str = "watch";
const WATCH_ORDER: &str = "watch-order";

fn facts(state: &State) -> Facts {
    let mut facts = Facts::new();
    let about = |what, of| About { what, of, tx_id: None, path: Vec::new(), token: None };
    if let Some((per_domain, global)) = &state.global_quota {
        for (what, quotas) in [("default-quota", per_domain), ("global-quota", global)] {
            for (name, value) in quotas {
                let about = About { path: name.clone(), ..about(what, None) };
                facts.insert(about, vec![("value", Value::Number((*value).into()))]);
            }
        }
    }
    for (domid, domain) in &state.domains {
        let of = Some(("domid", u32::from(domid.0)));
        facts.insert(about("domain", of), show::of_domain(domain));
    }
    for (path, node) in &state.nodes {
        let about = About { path: path.as_path().bytes().to_vec(), ..about("node", None) };
        facts.insert(about, show::of_node(node));
    }
    for client in state.clients.values() {
        of_client(client, &mut facts);
    }
    facts
}

fn of_client(client: &Client, facts: &mut Facts) {
    let of = Some(match client.connection.transport {
        Transport::Ring(domid, ..) => ("domid", domid.0.into()),
        Transport::Socket(_) => ("conn-id", client.connection.id),
    });
    let about = |what| About { what, of, tx_id: None, path: Vec::new(), token: None };
    facts.insert(about("client"), show::on_the_way(&client.connection));
    for watch in &client.watches {
        let depth = watch.depth.map(|depth| ("depth", Value::Number(depth.into())));
        let (path, token) = (watch.path.clone(), Some(watch.token.clone()));
        facts.insert(About { path, token, ..about(WATCH) }, depth.into_iter().collect());
    }
    let order = client.watches.iter().map(|watch| Plain(&show::of_watch(watch)).to_string());
    if order.len() > 0 {
        facts.insert(about(WATCH_ORDER), vec![("order", Value::Words(order.collect()))]);
    }
    for (tx_id, nodes) in &client.transactions {
        let about = |what| About { tx_id: Some(*tx_id), ..about(what) };
        facts.insert(about("transaction"), Vec::new());
        for (path, node) in nodes {
            let path = path.as_path().bytes().to_vec();
            facts.insert(About { path, ..about("transaction-node") }, pending(node));
        }
    }
}

fn pending(node: &Node) -> Fields {
    let access = node.pending.map(|(.., access)| ("access", Value::Number(access.into())));
    access.into_iter().chain(show::of_node(node)).collect()
}

fn write(
    about: &About,
    before: Option<&Fields>,
    after: Option<&Fields>,
    json: bool,
    out: &mut impl Write,
) -> Result<(), ToolError> {
    let mut names: Fields =
        about.of.iter().map(|(name, of)| (*name, Value::Number((*of).into()))).collect();
    names.extend(about.tx_id.map(|id| ("tx-id", Value::Number(id.into()))));
    if !about.path.is_empty() {
        names.push(("path", Value::Bytes(about.path.clone())));
    }
    names.extend(about.token.clone().map(|token| ("token", Value::Bytes(token))));
    let (sign, change) = match (before, after) {
        (Some(_), None) => ('-', "removed"),
        (None, Some(_)) => ('+', "added"),
        _ => ('~', "changed"),
    };
    // Of facts in both states, only the values that differ.
    let values = |these: Option<&Fields>, others: Option<&Fields>| -> Fields {
        let these = these.into_iter().flatten();
        let differs = |field: &&(_, _)| !others.is_some_and(|others| others.contains(field));
        these.filter(differs).cloned().collect()
    };
    let (old, new) = (values(before, after), values(after, before));
    if json {
        let mut all =
            vec![("change", Value::Word(change.into())), ("what", Value::Word(about.what.into()))];
        all.append(&mut names);
        all.extend(before.map(|_| ("before", Value::Fields(old))));
        all.extend(after.map(|_| ("after", Value::Fields(new))));
        writeln!(out, "{}", Json(&all))?;
    } else {
        let arrow = if sign == '~' { "->" } else { "" };
        let parts = [Plain(&names).to_string(), Plain(&old).to_string()];
        let parts = parts.into_iter().chain([arrow.to_owned(), Plain(&new).to_string()]);
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        writeln!(out, "{sign} {} {}", about.what, parts.join(" "))?;
    }
    Ok(())
}
