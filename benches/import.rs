//! Cost of importing domains, in batches of eight.
//!
//! `cargo bench --bench import` reads the streams of 1,000 domains with 30 nodes and 10 watches each from memory and
//! imports them into an empty store, on one thread. It prints the median time per domain in a batch: reading and
//! validating the stream, splitting it by domain, inserting the nodes.

#[allow(dead_code)] // Each benchmark uses a part of it.
#[path = "support/world.rs"]
mod world;

use std::time::{Duration, Instant};

use world::{NODES, World};
use xenstored::migration::store::place_domain::{place_domain, split_by_domain};
use xenstored::migration::store::write_domains::{ExportedDomain, snapshot_domains, write_domains};
use xenstored::migration::stream::fields::Order;
use xenstored::migration::stream::state::{Client, State};
use xenstored::migration::stream::{Reader, VERSION};
use xenstored::store::Generations;
use xenstored::types::Domid;

const DOMAINS: u16 = 1000;
const BATCH: u16 = 8;

fn main() {
    let (from, to) = (World::of(DOMAINS), World::of(0));
    let mut generations = Generations::default();
    let mut times: [Vec<Duration>; 3] = Default::default();
    for first in (1..=DOMAINS).step_by(BATCH.into()) {
        let domids: Vec<Domid> = (first..first + BATCH).map(Domid).collect();
        let stream = stream_of(&from, &domids);
        for domid in domids {
            to.store.registry().admit(domid, u64::from(domid.0));
        }
        let began = Instant::now();
        let mut reader = Reader::new(&*stream).expect("a header");
        let state = State::read(&mut reader).expect("a stream");
        let read = began.elapsed();
        let (arrivals, left) = split_by_domain(state);
        assert_eq!(left, 0);
        let apart = began.elapsed();
        for arrival in &arrivals {
            place_domain(&to.store, arrival, &to.control, &mut generations)
                .expect("the import succeeds");
        }
        drop(arrivals);
        let placed = began.elapsed();
        for (times, time) in times.iter_mut().zip([read, apart - read, placed - apart]) {
            times.push(time / BATCH.into());
        }
    }
    println!("{NODES} nodes a domain, {BATCH} domains in a batch");
    for (what, mut times) in ["read", "taken apart", "put in place"].into_iter().zip(times) {
        times.sort();
        let median = times[times.len() / 2];
        println!("{what}: {:.1} us a domain", median.as_secs_f64() * 1e6);
    }
}

fn stream_of(world: &World, domids: &[Domid]) -> Vec<u8> {
    let seen = snapshot_domains(&world.store, &world.store.snapshot_all(), domids);
    let leaving = seen.into_iter().map(|seen| {
        let domain = world.store.registry().get(seen.domid).expect("the domain exists");
        ExportedDomain { domain, client: Some(Client::new(seen.domid)), seen }
    });
    let mut stream = Vec::new();
    let leaving: Vec<_> = leaving.collect();
    write_domains(&world.store, &leaving, (VERSION, Order::Little), &mut stream).expect("memory");
    stream
}
