//! Debian's daemons run unmodified: through the socket, through a ring, to a domain's death.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use loadgen::target::{Options, Running, Target, peers};
use xenstored::host::sim::{SimClient, SimGuest};

/// Timeout, longer than any operation here takes.
const LOST: Duration = Duration::from_secs(20);

/// Runs Debian's client `xenstore-<name>` with these arguments; returns its output.
fn client(running: &Running, name: &str, words: &[&str]) -> String {
    let mut command = Command::new(format!("xenstore-{name}"));
    let output = command.args(words).env("XENSTORED_PATH", &running.socket).output().unwrap();
    assert!(output.status.success(), "xenstore-{name} {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Encodes a message of xs_wire.h: type, request, transaction, length, payload.
fn message(kind: u32, request: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let words = [kind, request, 0, length].map(u32::to_le_bytes);
    [words.as_flattened(), payload].concat()
}

/// Sends a request over the ring and reads `len` bytes of the reply.
fn ask(guest: &SimGuest, request: &[u8], len: usize) -> Vec<u8> {
    assert_eq!(guest.try_send(request).unwrap(), request.len());
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match guest.try_recv(&mut bytes[filled..]).unwrap() {
            0 => assert!(guest.wait(Some(LOST)).unwrap(), "no reply"),
            count => filled += count,
        }
    }
    bytes
}

/// Introduces a domain like a toolstack, over the socket: Debian has no client for that.
fn introduce(socket: &Path, guest: &SimGuest) {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LOST)).unwrap();
    let words = format!("{}\x001\0{}\0", guest.domid, guest.port);
    stream.write_all(&message(8, 1, words.as_bytes())).unwrap();
    let mut reply = [0; 19];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..], message(8, 1, b"OK\0"));
}

/// Returns whether the peers are installed; in CI they must be.
fn installed() -> bool {
    let installed = peers::are_installed();
    assert!(installed || std::env::var_os("CI").is_none(), "run loadgen/install-peers.sh first");
    if !installed {
        eprintln!("skipped: loadgen/install-peers.sh has not been run");
    }
    installed
}

fn serves(peer: &Target) {
    if !installed() {
        return;
    }
    let mut running = peer.start(&Options::default()).unwrap();
    client(&running, "write", &["/local/domain/7/name", "seven"]);

    let mut host = SimClient::connect(running.sim.as_ref().unwrap()).unwrap();
    let guest = host.create(Some(xenstored::types::Domid(7))).unwrap();
    introduce(&running.socket, &guest);
    // The permissions are set only now: an entry for a domain that is not known yet has no effect.
    client(&running, "chmod", &["/local/domain/7/name", "n0", "r7"]);
    let reply = ask(&guest, &message(2, 5, b"name\0"), 21);
    assert_eq!(reply, message(2, 5, b"seven"), "READ over the ring");
    let kernel = host.attach_control().unwrap();
    let reply = ask(&kernel, &message(2, 9, b"/local/domain/7/name\0"), 21);
    assert_eq!(reply, message(2, 9, b"seven"), "READ over the control domain's ring");

    let mut watch = Command::new("xenstore-watch");
    watch.args(["-n", "2", "@releaseDomain"]).env("XENSTORED_PATH", &running.socket);
    let mut watch = watch.stdout(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300)); // The first event is the watch's own.
    assert!(watch.try_wait().unwrap().is_none(), "exited after a single event");
    host.destroy(guest.domid).unwrap();
    let destroyed = Instant::now();
    while watch.try_wait().unwrap().is_none() {
        assert!(destroyed.elapsed() < LOST, "timed out waiting for @releaseDomain");
        std::thread::sleep(Duration::from_millis(5));
    }

    let used = running.cpu().unwrap();
    assert!(used.total > Duration::ZERO && used.total < LOST, "{used:?}");
    assert!(running.is_alive(), "{}", running.log());
}

#[test]
fn c_xenstored_serves_unmodified() {
    serves(&Target::C);
}

#[test]
fn oxenstored_serves_unmodified() {
    serves(&Target::OCaml);
}

#[test]
fn several_peers_run_at_once() {
    if installed() {
        let both = [Target::C, Target::OCaml, Target::C, Target::OCaml];
        let running = both.map(|peer| peer.start(&Options::default()).unwrap());
        for (number, one) in running.iter().enumerate() {
            client(one, "write", &["/which", &number.to_string()]);
        }
        for (number, one) in running.iter().enumerate() {
            assert_eq!(client(one, "read", &["/which"]), number.to_string());
        }
    }
}
