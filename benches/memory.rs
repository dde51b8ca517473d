//! Memory per node: the growth of the real daemon's resident set.
//!
//! `cargo bench --bench memory` builds 1,000 domains on a simulated host, then 1,000 nodes in the partition of each,
//! over the wire: depth 4 to 6, names of 4 to 12 bytes, values of 64 bytes, owned by the domain. It fails if a node
//! takes more than [`NODE_BYTES_MAX`].

#[path = "support/daemon.rs"]
#[allow(dead_code)] // Each benchmark uses a part of it.
mod daemon;

use std::process::ExitCode;

use daemon::{Client, Daemon, WRITE};
use fastrand::Rng;
use xenstored::types::Domid;

/// Number of domains; the environment variable `XENSTORED_DOMAINS` overrides it.
const DOMAINS: u16 = 1000;
/// Directories of depth 4 in a partition: `/local/domain/<d>/<name>`.
const TOPS: usize = 10;
/// Directories of depth 5 in each of those.
const MIDDLES: usize = 9;
/// Leaves of depth 6 in each of those.
const LEAVES: usize = 10;
const NODES: usize = TOPS * (1 + MIDDLES * (1 + LEAVES));
const VALUE_BYTES: usize = 64;
/// The target: the memory of C xenstored 4.17, which keeps its store in an image of a file.
const NODE_BYTES_MAX: f64 = 170.0;

fn main() -> ExitCode {
    let domains = std::env::var("XENSTORED_DOMAINS")
        .map_or(DOMAINS, |number| number.parse().expect("XENSTORED_DOMAINS is a number"));
    let daemon = Daemon::start(&["-Q", "nodes=0", "-Q", "memory=0"]);
    let (mut host, mut client) = (daemon.host(), daemon.client());
    let empty = daemon.resident_bytes();
    let _guests: Vec<_> =
        (1..=domains).map(|domid| client.build_domain(&mut host, Domid(domid))).collect();
    client.flush().expect("replies");
    let built = daemon.resident_bytes();
    let mut names = Rng::with_seed(1);
    for domid in 1..=domains {
        fill(&mut client, &mut names, Domid(domid));
    }
    client.flush().expect("replies");
    let full = daemon.resident_bytes();

    let nodes = usize::from(domains) * NODES;
    let per = |bytes: u64, count: usize| bytes as f64 / count as f64;
    let node_bytes = per(full - built, nodes);
    println!("{domains} domains of {NODES} nodes, values of {VALUE_BYTES} bytes");
    println!("an empty daemon: {} KiB", empty / 1024);
    println!("a domain without nodes: {:.0} bytes", per(built - empty, usize::from(domains)));
    println!("a node: {node_bytes:.1} bytes, at most {NODE_BYTES_MAX}");
    println!("a node with its share of the domain: {:.1} bytes", per(full - empty, nodes));
    if node_bytes > NODE_BYTES_MAX { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn fill(client: &mut Client, names: &mut Rng, domid: Domid) {
    let mut write = |path: &str| {
        let mut payload = path.as_bytes().to_vec();
        payload.push(0);
        payload.extend([b'v'; VALUE_BYTES]);
        client.ask(WRITE, &payload);
    };
    for top in 0..TOPS {
        let top = format!("/local/domain/{domid}/{}", name(names, top));
        write(&top);
        for middle in 0..MIDDLES {
            let middle = format!("{top}/{}", name(names, middle));
            write(&middle);
            for leaf in 0..LEAVES {
                write(&format!("{middle}/{}", name(names, leaf)));
            }
        }
    }
}

/// Returns a name of 4 to 12 bytes; `number` distinguishes siblings.
fn name(names: &mut Rng, number: usize) -> String {
    let (len, first, letters) = (names.usize(4..13), names.lowercase(), names.u64(..));
    format!("{first}{number:x}{letters:020}")[..len].into()
}
