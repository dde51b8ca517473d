//! Time to export 120,000 nodes, and its serial part.
//!
//! `cargo bench --bench export` writes the stream of 4,000 domains with 30 nodes and 10 watches each into memory, with
//! two workers. It prints the median time; the time before the workers start, for the snapshot and the walk over the
//! domains' partitions, which is inherently serial; and the serial fraction, that is, the work that the second thread
//! could not share: `2 wall / cpu - 1` (Amdahl), on an otherwise idle machine.

#[allow(dead_code)] // Each benchmark uses a part of it.
#[path = "support/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use world::{NODES, World};
use xenstored::migration::store::write_domains::{ExportedDomain, snapshot_domains, write_domains};
use xenstored::migration::stream::fields::Order;
use xenstored::migration::stream::state::Client;
use xenstored::migration::stream::{Connection, Transport, VERSION, Watch};
use xenstored::sync::workers::Workers;
use xenstored::types::Domid;

const DOMAINS: u16 = 4000;
const WATCHES: usize = 10;
const ROUNDS: usize = 50;
const THREADS: usize = 2;
/// More than the stream's size. The memory is touched beforehand, as a pipe's is.
const STREAM_BYTES_MAX: usize = 32 << 20;

fn main() {
    let world = World::of(DOMAINS);
    Workers::start(THREADS);
    let (mut times, mut before) = (Vec::new(), Vec::new());
    let mut stream = vec![0; STREAM_BYTES_MAX];
    let domids: Vec<Domid> = (1..=DOMAINS).map(Domid).collect();
    let mut processor = processor_time();
    for _ in 0..ROUNDS {
        // The clients come from the owner threads.
        let apart = processor_time();
        let clients = domids.iter().map(|&domid| client(domid)).collect();
        processor += processor_time() - apart;
        let began = Instant::now();
        let seen = export_all(&world, &domids, clients, &mut stream);
        times.push(began.elapsed());
        before.push(seen);
    }
    let (processor, wall) = (processor_time() - processor, times.iter().sum::<Duration>());
    let serial = 2.0 * wall.as_secs_f64() / processor.as_secs_f64() - 1.0;
    println!("{} nodes, {} bytes", usize::from(DOMAINS) * NODES, stream.len());
    println!(
        "{THREADS} threads: {:.1} ms, of which before {:.1} ms",
        median(times),
        median(before)
    );
    println!("serial share: {:.0} %", serial * 100.0);
}

/// Returns the CPU time of all threads of this process, in steps of 10 ms (proc(5), stat: utime and stime).
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc is readable");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u64 =
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("CPU time in ticks")).sum();
    Duration::from_millis(10 * ticks)
}

/// Returns the median in milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

/// Writes the stream. Returns the time until all partitions were collected.
fn export_all(
    world: &World,
    domids: &[Domid],
    clients: Vec<Client>,
    stream: &mut Vec<u8>,
) -> Duration {
    stream.clear();
    let began = Instant::now();
    let seen = snapshot_domains(&world.store, &world.store.snapshot_all(), domids);
    let leaving = seen.into_iter().zip(clients).map(|(seen, client)| {
        let domain = world.store.registry().get(seen.domid).expect("the domain exists");
        ExportedDomain { domain, client: Some(client), seen }
    });
    let leaving: Vec<_> = leaving.collect();
    let alone = began.elapsed();
    write_domains(&world.store, &leaving, (VERSION, Order::Little), stream).expect("memory");
    alone
}

fn client(domid: Domid) -> Client {
    let id = u32::from(domid.0);
    let watch = |number: usize| Watch {
        connection: id,
        path: format!("device/vif/{number}/state").into_bytes(),
        token: format!("token{number}").into_bytes(),
        depth: None,
    };
    let connection = Connection {
        id,
        transport: Transport::Ring(domid, None, 1),
        input: Vec::new(),
        output_begun: 0,
        output: Vec::new(),
        unique_id: None,
    };
    Client { connection, watches: (0..WATCHES).map(watch).collect(), transactions: BTreeMap::new() }
}
