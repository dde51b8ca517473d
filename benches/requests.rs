//! Instructions per request in the whole daemon, from bytes in to bytes out, counted by valgrind. They must not grow
//! with unrelated connections and watches, nor with the number of shards.
//!
//! `cargo bench --bench requests` runs the real daemon under callgrind, sends the same requests with no load beside
//! them and with much, and fails if the cost grows beyond its limit. It counts the daemon's own instructions on all
//! threads, without the kernel's.

#[path = "support/counted.rs"]
mod counted;
#[path = "support/daemon.rs"]
#[allow(dead_code)] // Each benchmark uses a part of it.
mod daemon;

use std::process::ExitCode;

use counted::Counted;
use daemon::{Client, READ, WATCH, WRITE};

/// Counted requests, and the requests before them that warm up caches and tables.
const REQUESTS: usize = 32_000;
const WARM_UP: usize = 3_200;
/// Requests in flight per connection, as in the load generator's busiest cases.
const DEPTH: usize = 16;
/// Nodes that are read and written in rotation.
const NODES: usize = 100;
/// Idle connections, and other clients' watches on other nodes.
const IDLE: usize = 4_096;
const WATCHES: usize = 100_000;
const WATCHES_EACH: usize = 1_000;
/// Connections that send requests to a daemon of one shard and of two.
const BUSY: usize = 64;
/// Maximum ratio of instructions with much load beside the requests to those with none.
const GROWTH_MAX: f64 = 1.1;
/// Maximum ratio of instructions with two shards to those with one.
const SHARDS_MAX: f64 = 1.05;

fn main() -> ExitCode {
    let ratios = [idle(), watches(), shards()];
    if ratios.into_iter().all(|within| within) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// READ with idle connections.
fn idle() -> bool {
    let daemon = Counted::start(&[]);
    let mut busy = [daemon.client()];
    fill(&mut busy[0]);
    let none = instructions(&daemon, &mut busy, READ);
    let idle: Vec<Client> = (0..IDLE).map(|_| daemon.client()).collect();
    let many = instructions(&daemon, &mut busy, READ);
    drop(idle);
    compare("READ beside 4,096 idle connections", none, many, GROWTH_MAX)
}

/// WRITE with watches on other nodes.
fn watches() -> bool {
    let daemon = Counted::start(&[]);
    let mut busy = [daemon.client()];
    fill(&mut busy[0]);
    let none = instructions(&daemon, &mut busy, WRITE);
    let mut others = Vec::new();
    for number in 0..WATCHES / WATCHES_EACH {
        let mut client = daemon.client();
        for watch in 0..WATCHES_EACH {
            client.ask(WATCH, format!("/tool/others/{number}/node{watch}\0token\0").as_bytes());
        }
        client.flush().expect("replies");
        others.push(client);
    }
    let many = instructions(&daemon, &mut busy, WRITE);
    compare("WRITE beside 100,000 unrelated watches", none, many, GROWTH_MAX)
}

/// READ on many connections, with one shard and with two.
fn shards() -> bool {
    let [one, two] = ["1", "2"].map(|shards| {
        let daemon = Counted::start(&["--shards", shards]);
        let mut busy: Vec<Client> = (0..BUSY).map(|_| daemon.client()).collect();
        fill(&mut busy[0]);
        instructions(&daemon, &mut busy, READ)
    });
    compare("READ with two shards, one", one, two, SHARDS_MAX)
}

fn compare(what: &str, few: f64, many: f64, most: f64) -> bool {
    let ratio = many / few;
    let within = ratio <= most;
    let verdict = if within { "" } else { ": OVER" };
    println!("{what}: {few:.0}, {many:.0} instructions, {ratio:.3} times, at most {most}{verdict}");
    within
}

fn path(node: usize) -> String {
    format!("/tool/busy/node{node}")
}

fn fill(client: &mut Client) {
    for node in 0..NODES {
        client.ask(WRITE, format!("{}\0abc", path(node)).as_bytes());
    }
    client.flush().expect("replies");
}

/// Returns the instructions per request, when all connections send requests in rotation.
fn instructions(daemon: &Counted, busy: &mut [Client], kind: u32) -> f64 {
    ask(busy, kind, WARM_UP);
    daemon.reset();
    ask(busy, kind, REQUESTS);
    daemon.instructions() as f64 / REQUESTS as f64
}

fn ask(busy: &mut [Client], kind: u32, requests: usize) {
    let value = if kind == WRITE { "xyz" } else { "" };
    let laps = requests / (busy.len() * DEPTH).min(requests);
    for lap in 0..laps {
        for client in &mut *busy {
            for request in 0..DEPTH {
                let path = path((lap * DEPTH + request) % NODES);
                client.ask(kind, format!("{path}\0{value}").as_bytes());
            }
            client.send().expect("the daemon reads");
        }
        for client in &mut *busy {
            client.flush().expect("replies");
        }
    }
}
