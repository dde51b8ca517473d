//! Tables: rows of requests with their expected replies and events, in the notation of xenstore.txt, where `|` is a
//! NUL.
//!
//! | row | meaning |
//! |---|---|
//! | `dom5 WRITE /a\|v -> OK` | dom5's request and its reply: `OK`, an error's name, or the payload |
//! | `dom5 READ /a\| -> EACCES or ENOENT` | one of these |
//! | `dom5 READ /a\| -> *` | any reply except an error; `""` is an empty one |
//! | `dom0.b START t1` | starts a transaction and calls it t1 |
//! | `dom0.b t1 READ /a\| -> v` | a request in it; `#7` instead of `t1` is transaction 7 |
//! | `event dom5 /a\|tok` | the next event of dom5 |
//! | `events dom5 /a\|tok /b\|tok` | the next events, in any order |
//! | `no events dom5` | the rows so far caused dom5 no event except those above |
//! | `host create 7` | also `introduce`, `shutdown`, `resume`, `destroy` |
//! | `close dom0.b` | the connection ends |
//!
//! `{a*100}` is a hundred times `a`, `{port7}` is the event channel of domain 7, `\x01` a byte. A client that a row
//! names exists from the beginning, unless the table creates it. At the end of a table no client may have an event
//! left, and the daemon's own check of its store must pass.

use std::collections::BTreeMap;

use xenstored::host::sim::Reason;
use xenstored::types::Domid;

use super::client::Reply;
use super::daemon::updates_every;
use super::wire::{ERRORS, op, show, type_named};
use super::world::{Control, World};

/// Runs a table over both transports of the control domain, with 1 and with 4 shards.
pub fn check(table: &str) {
    check_with(|_world| {}, table);
}

/// Runs a table after `prepare`, which sets up state that a table cannot express well.
pub fn check_with(prepare: impl Fn(&mut World), table: &str) {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            prepare(&mut world);
            run(&mut world, table, &format!("control by {control:?}, {shards} shards"));
        }
    }
}

/// Runs a table in a world; `place` names the configuration in failures.
pub fn run(world: &mut World, table: &str, place: &str) {
    let rows: Vec<&str> = table
        .lines()
        .map(str::trim)
        .filter(|row| !row.is_empty() && !row.starts_with('#'))
        .collect();
    for name in names_in(&rows) {
        world.client(&name);
    }
    let mut transactions = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        let _here = Here { place, row };
        if updates_every().is_some_and(|rows| at % rows == rows - 1) {
            world.update();
        }
        let result = run_row(world, &mut transactions, row);
        result.unwrap_or_else(|got| panic!("{place}:\n  {row}\n  got: {got}"));
    }
    for name in world.names() {
        let left = world.events_until_now(&name);
        assert!(left.is_empty(), "{place}: {name} has unexpected events {left:?}");
    }
    world.check_store();
}

/// Prints the current row on a panic: in that row, a reply or an event never came.
struct Here<'a> {
    place: &'a str,
    row: &'a str,
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: in the row\n  {}", self.place, self.row);
        }
    }
}

/// Returns the connections that exist from the beginning.
fn names_in(rows: &[&str]) -> Vec<String> {
    let words = |row: &str| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let created: Vec<String> = rows
        .iter()
        .map(|row| words(row))
        .filter(|words| words[0] == "host" && words[1] == "create")
        .map(|words| format!("dom{}", words[2]))
        .collect();
    let mut names = Vec::new();
    for name in rows.iter().flat_map(|row| words(row).into_iter().take(3)) {
        let is_name =
            name.strip_prefix("dom").is_some_and(|rest| rest.starts_with(char::is_numeric));
        if is_name && !created.contains(&name) && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

type Transactions = BTreeMap<(String, String), u32>;

/// Runs a row; the error describes the unexpected reply or event.
fn run_row(world: &mut World, transactions: &mut Transactions, row: &str) -> Result<(), String> {
    let words: Vec<&str> = row.split_whitespace().collect();
    match words[..] {
        ["event", name, event] => {
            let got = world.next_event(name);
            if got == expand(world, event) { Ok(()) } else { Err(got) }
        }
        ["events", name, ref events @ ..] => {
            let mut wanted: Vec<String> = events.iter().map(|event| expand(world, event)).collect();
            let mut got: Vec<String> = wanted.iter().map(|_| world.next_event(name)).collect();
            wanted.sort();
            got.sort();
            if got == wanted { Ok(()) } else { Err(format!("{got:?}")) }
        }
        ["no", "events", name] => {
            let events = world.events_until_now(name);
            if events.is_empty() { Ok(()) } else { Err(format!("{events:?}")) }
        }
        ["host", action, domid] => {
            host(world, action, domid.parse().unwrap());
            Ok(())
        }
        ["close", name] => {
            world.close(name);
            Ok(())
        }
        [name, "START", label] if !label.contains('|') => {
            let id = world.client(name).start()?;
            let before = transactions.insert((name.to_owned(), label.to_owned()), id);
            if id == 0 || before == Some(id) { Err(format!("transaction id {id}")) } else { Ok(()) }
        }
        _ => request(world, transactions, row),
    }
}

fn host(world: &mut World, action: &str, domid: u16) {
    match action {
        "create" => world.create(domid),
        "introduce" => world.introduce(domid),
        "shutdown" => world.host.shutdown(Domid(domid), Reason::Poweroff).unwrap(),
        "resume" => world.host.resume(Domid(domid)).unwrap(),
        "destroy" => world.destroy(domid),
        _ => panic!("unknown host action {action}"),
    }
}

/// Runs a row that is a request with its reply.
fn request(world: &mut World, transactions: &Transactions, row: &str) -> Result<(), String> {
    let (left, wanted) = row.split_once(" -> ").unwrap_or_else(|| panic!("no -> in {row:?}"));
    let (name, mut rest) = left.split_once(' ').unwrap_or_else(|| panic!("no request in {row:?}"));
    let mut tx = 0;
    let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
    if let Some(&id) = transactions.get(&(name.to_owned(), first.to_owned())) {
        (tx, rest) = (id, after);
    } else if let Some(number) = first.strip_prefix('#') {
        // The label of another connection's transaction, or a number.
        let other = transactions.iter().find(|((_, label), _)| label == number);
        tx = other.map_or_else(|| number.parse().unwrap(), |(_, id)| *id);
        rest = after;
    }
    let (kind, payload) = rest.split_once(' ').unwrap_or((rest, ""));
    let kind = type_named(kind);
    let payload = bytes(&expand(world, payload));
    let reply = world.client(name).request(kind, tx, payload);
    if kind == op::RESET_WATCHES && reply.is_ok() {
        world.watches_were_reset(name);
    }
    if kind == op::INTRODUCE && reply.is_ok() {
        let domid = rest.split([' ', '|']).nth(1).expect("INTRODUCE names a domain");
        world.connect_guest(domid.parse().unwrap());
        world.watches_were_reset(&format!("dom{domid}"));
    }
    let wanted = expand(world, wanted);
    if wanted.split(" or ").any(|wanted| matches(&reply, wanted)) {
        Ok(())
    } else {
        Err(match reply {
            Ok(payload) if payload.is_empty() => "\"\"".to_owned(),
            Ok(payload) => show(&payload),
            Err(error) => error,
        })
    }
}

fn matches(reply: &Reply, wanted: &str) -> bool {
    match (reply, wanted) {
        (Err(error), wanted) => error == wanted,
        (Ok(_), wanted) if ERRORS.contains(&wanted) => false,
        (Ok(_), "*") => true,
        (Ok(payload), "OK") => payload == b"OK\0",
        (Ok(payload), "\"\"") => payload.is_empty(),
        (Ok(payload), wanted) => *payload == bytes(wanted),
    }
}

/// Expands `{a*100}` and `{port7}`.
fn expand(world: &World, text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}').expect("unclosed placeholder");
        out.push_str(before);
        if let Some((what, times)) = inside.split_once('*') {
            out.push_str(&what.repeat(times.parse().unwrap()));
        } else if let Some(domid) = inside.strip_prefix("port") {
            out.push_str(&world.ports[&domid.parse().unwrap()].to_string());
        } else {
            panic!("unknown placeholder {{{inside}}}");
        }
        rest = after;
    }
    out + rest
}

/// Converts `|` and `\xHH` to bytes.
fn bytes(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut out = parts.next().unwrap().replace('|', "\0").into_bytes();
    for part in parts {
        out.push(u8::from_str_radix(&part[..2], 16).unwrap());
        out.extend(part[2..].replace('|', "\0").into_bytes());
    }
    out
}
