//! Debian's C daemon writes the stream of its live update, which is read here completely: by `xsctl`, and into a
//! store. docs/STREAM.md says how to make it write one. And it reads one of ours.

#[path = "../../tests/world/mod.rs"]
mod world;
#[path = "../../tests/live_update/written.rs"]
mod written;

use std::fs::File;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use loadgen::client::{Arrived, Blocking, payload, words};
use loadgen::target::{Options, Running, Target, peers};
use written::{DEVICE_MODEL, DOMIDS, DRIVER, GUEST, LAST, LONG, LONG_BYTES, NODES, WATCHES};
use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::migration::stream::state::State;
use xenstored::migration::stream::{Reader, Record, Writer};
use xenstored::protocol::{Frame, HEADER_BYTES, Operation, WATCH_EVENT, append_request, frame};
use xenstored::types::Domid;

/// Timeout, longer than any operation here takes.
const LOST: Duration = Duration::from_secs(20);

/// Debian's client that requests a live update.
const CONTROL: &str = "/usr/lib/xen-4.17/bin/xenstore-control";

/// The program that the daemon executes after writing its stream: it exits at once.
const SUCCESSOR: &str = "/bin/true";

/// A WRITE, and how many of its bytes the guest sends: the header and a part of the payload.
const BEGUN: (&str, &[u8], usize) = ("data/later", b"half of a request", 30);

/// A domain's end of its ring.
struct Guest {
    ring: SimGuest,
    input: Vec<u8>,
}

impl Guest {
    fn send(&self, kind: Operation, payload: &[u8]) {
        let mut request = Vec::new();
        append_request(&mut request, kind, 7, 0, payload);
        assert_eq!(self.ring.try_send(&request).unwrap(), request.len());
    }

    /// Sends a request and returns its reply's payload; drops events before it.
    fn ask(&mut self, kind: Operation, payload: &[u8]) -> Vec<u8> {
        self.send(kind, payload);
        loop {
            let message = self.next();
            if message.kind != WATCH_EVENT {
                assert_eq!(message.kind, kind as u32, "{:?}", message.payload);
                return message.payload;
            }
        }
    }

    fn next(&mut self) -> Arrived {
        loop {
            if let Some(message) = take(&mut self.input) {
                return message;
            }
            if self.pull() == 0 {
                assert!(self.ring.wait(Some(LOST)).unwrap(), "no reply");
            }
        }
    }

    fn pull(&mut self) -> usize {
        let mut bytes = [0; 1024];
        let count = self.ring.try_recv(&mut bytes).unwrap();
        self.input.extend_from_slice(&bytes[..count]);
        count
    }
}

/// Removes the first message from these bytes, if it is complete.
fn take(bytes: &mut Vec<u8>) -> Option<Arrived> {
    let Frame::Message { header, payload, .. } = frame(bytes) else { return None };
    let (kind, req_id, tx_id) = (header.kind.get(), header.req_id.get(), header.tx_id.get());
    let message = Arrived { kind, req_id, tx_id, payload: payload.to_vec() };
    bytes.drain(..HEADER_BYTES + message.payload.len());
    Some(message)
}

/// Returns whether C xenstored is installed; in CI it must be.
fn are_installed() -> bool {
    let installed = peers::are_installed();
    if !installed {
        assert!(std::env::var_os("CI").is_none(), "run loadgen/install-peers.sh first");
        eprintln!("skipped: loadgen/install-peers.sh has not been run");
    }
    installed
}

/// The daemon with three domains that have nodes, watches, transactions and bytes in transit.
struct Full {
    running: Running,
    toolstack: Blocking,
    guests: [Guest; 3],
    /// The domains end with this connection.
    _host: SimClient,
}

fn fill() -> Full {
    let running = Target::C.start(&Options::default()).unwrap();
    let mut toolstack = Blocking::connect(&running.socket).unwrap();
    let mut host = SimClient::connect(running.sim.as_ref().unwrap()).unwrap();
    let mut guests = DOMIDS.map(|domid| {
        let ring = toolstack.build_domain(&mut host, domid).unwrap();
        Guest { ring, input: Vec::new() }
    });
    toolstack.flush().unwrap();
    toolstack.must(Operation::SetTarget, &words(&["6", "5"])).unwrap();
    let long = "l".repeat(LONG_BYTES);
    let unowned = [("/tool/other", &b"of nobody"[..], "n0"), (LONG, long.as_bytes(), "n6")];
    for (path, value, perms) in NODES.into_iter().chain(unowned) {
        toolstack.must(Operation::Write, &payload(path, value)).unwrap();
        let perms: Vec<_> = perms.split([' ', '!']).filter(|text| !text.is_empty()).collect();
        toolstack.must(Operation::SetPerms, &words(&[&[path][..], &perms].concat())).unwrap();
    }
    for (domid, path, token) in WATCHES {
        let guest = guests.iter_mut().find(|guest| guest.ring.domid == domid).unwrap();
        guest.ask(Operation::Watch, &[path, b"\0", token, b"\0"].concat());
    }
    toolstack.must(Operation::Watch, &words(&["/local/domain/0", "the toolstack's"])).unwrap();
    Full { running, toolstack, guests, _host: host }
}

/// Leaves bytes in transit: half a request of the guest, replies and an event for the device model, which does not
/// read them.
fn leave_unfinished(full: &mut Full) {
    let [guest, device_model, _] = &mut full.guests;
    for guest in [&mut *guest, &mut *device_model] {
        guest.ask(Operation::GetDomainPath, b"5\0");
    }
    let mut request = Vec::new();
    append_request(&mut request, Operation::Write, 7, 0, &payload(BEGUN.0, BEGUN.1));
    assert_eq!(guest.ring.try_send(&request[..BEGUN.2]).unwrap(), BEGUN.2);
    device_model.send(Operation::Read, &words(&["long"]));
    device_model.send(Operation::Write, &payload("last", LAST.1));
    // When the node exists, the daemon has read that request and all earlier bytes of the guest.
    let sent = Instant::now();
    let toolstack = &mut full.toolstack;
    while toolstack.request(Operation::Read, 0, &words(&[LAST.0])).unwrap().is_err() {
        assert!(sent.elapsed() < LOST, "timed out waiting for the device model's write");
    }
}

fn live_update(running: &Running, options: &[&str]) -> Output {
    let mut command = Command::new(CONTROL);
    command.arg("live-update").args(options).arg(SUCCESSOR);
    command.env("XENSTORED_PATH", &running.socket).output().unwrap()
}

/// Returns the path of the daemon's stream; its successor would read and remove it.
fn stream(running: &Running) -> PathBuf {
    running.dir().unwrap().join("state_dump")
}

/// Makes the daemon write its stream and end.
fn dump(running: &mut Running, options: &[&str]) -> PathBuf {
    let asked = Instant::now();
    let control = live_update(running, options);
    assert!(!control.status.success(), "no daemon is left to reply: {control:?}");
    while running.is_alive() {
        assert!(asked.elapsed() < LOST, "{control:?} {}", running.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    stream(running)
}

fn xsctl(arguments: &[&str], files: &[&Path]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let output = command.arg("xsctl").args(arguments).args(files).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn live_update_stream_of_c_xenstored_is_read() {
    if !are_installed() {
        return;
    }
    let mut full = fill();
    leave_unfinished(&mut full);
    full.guests[2].ask(Operation::TransactionStart, b"\0");

    // An open transaction prevents the live update, unless it is old and the update is forced.
    let refused = live_update(&full.running, &["-t", "1"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains(&format!("Domain {DRIVER}: ")), "{refused:?}");
    assert!(full.running.is_alive() && !stream(&full.running).exists());
    let stream = dump(&mut full.running, &["-t", "1", "-F"]);
    let bytes = std::fs::read(&stream).unwrap();
    if let Some(kept) = std::env::var_os("XENSTORED_KEEP_STREAM") {
        std::fs::write(kept, &bytes).unwrap();
    }
    inspect(&stream);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/c-4.17.stream");
    assert_eq!(xsctl(&["diff"], &[&golden, &stream]), (Some(0), String::new()));
    written::arrive(&bytes);
    nothing_is_lost_on_the_way(&bytes, &mut full.guests);
}

/// `xsctl inspect` prints a line for each record, as text and as JSON.
fn inspect(stream: &Path) {
    let (code, shown) = xsctl(&["inspect"], &[stream]);
    let (json_code, json) = xsctl(&["inspect", "--json"], &[stream]);
    assert_eq!((code, json_code), (Some(0), Some(0)));
    assert!(shown.starts_with("       0  HEADER               version=1 byte-order=little\n"));
    assert_eq!(json.lines().count(), shown.lines().count());
    for (line, shown) in json.lines().zip(shown.lines()) {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        let mut words = shown.split_whitespace();
        assert_eq!(object["offset"].to_string(), words.next().unwrap());
        assert_eq!(object["type"], words.next().unwrap());
    }
}

/// Checks that a domain's unanswered requests are in the stream, that the daemon's output is in the ring or in the
/// stream, and that nothing is in both.
fn nothing_is_lost_on_the_way(stream: &[u8], guests: &mut [Guest; 3]) {
    let state = State::read(&mut Reader::new(stream).unwrap()).unwrap();
    let connection = |domid: Domid| &state.client_of(domid).unwrap().connection;
    let mut begun = Vec::new();
    append_request(&mut begun, Operation::Write, 7, 0, &payload(BEGUN.0, BEGUN.1));
    assert_eq!(connection(GUEST).input, begun[..BEGUN.2]);
    assert!(connection(GUEST).output.is_empty() && connection(DRIVER).output.is_empty());

    let waiting = connection(DEVICE_MODEL);
    assert!(waiting.input.is_empty() && waiting.output_begun > 0);
    let device_model = &mut guests[1];
    while device_model.pull() > 0 {}
    let rest = &mut device_model.input;
    assert!(take(rest).is_none(), "the rest of the first reply is in the stream");
    rest.extend_from_slice(&waiting.output);
    assert_eq!(take(rest).unwrap().payload, vec![b'l'; LONG_BYTES]);
    assert_eq!(waiting.output[usize::from(waiting.output_begun)..], rest[..]);
    let event = take(rest).unwrap();
    assert_eq!((event.kind, &event.payload[..]), (WATCH_EVENT, &b"last\0its own\0"[..]));
    let reply = take(rest).unwrap();
    assert_eq!((reply.kind, &reply.payload[..]), (Operation::Write as u32, &b"OK\0"[..]));
    assert!(rest.is_empty());
}

/// C xenstored keeps the output that clients of the control domain do not read, regardless of its size.
#[test]
fn client_that_reads_nothing_leaves_the_stream_valid() {
    const EVENTS: usize = 6000;
    let token = "t".repeat(900);
    if !are_installed() {
        return;
    }
    let mut full = fill();
    let mut deaf = UnixStream::connect(&full.running.socket).unwrap();
    let mut request = Vec::new();
    append_request(&mut request, Operation::Watch, 7, 0, &words(&["/tool", &token]));
    deaf.write_all(&request).unwrap();
    deaf.read_exact(&mut [0; HEADER_BYTES + b"OK\0".len()]).unwrap();
    for number in 0..EVENTS {
        full.toolstack.write(&format!("/tool/{number}"), "").unwrap();
    }
    full.toolstack.flush().unwrap();
    let stream = dump(&mut full.running, &[]);
    let (code, _) = xsctl(&["inspect"], &[&stream]);
    assert_eq!(code, Some(0));
    let state = State::read(&mut Reader::new(File::open(&stream).unwrap()).unwrap()).unwrap();
    let longest = state.clients.values().map(|client| client.connection.output.len()).max();
    assert!(longest > Some(4 << 20), "{longest:?}");
}

/// A successor that waits until the test has written the stream anew, and becomes C xenstored.
fn successor(running: &Running) -> PathBuf {
    let path = running.dir().unwrap().join("successor");
    let program = peers::program(&Target::C);
    let script = format!(
        "#!/bin/sh\n: >\"$XENSTORED_RUNDIR/waits\"\nwhile [ -e \"$XENSTORED_RUNDIR/waits\" ]; do sleep 0.01; \
         done\nexec {} \"$@\"\n",
        program.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    path
}

/// Reads a stream record by record, and writes it as this project does, with a digest before END, for C's reader.
fn written_anew(bytes: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(bytes).unwrap();
    let writer = Writer::new(Vec::new(), reader.version(), reader.order()).unwrap();
    let mut writer = writer.counting_padding();
    while let Some(record) = reader.next_record().unwrap() {
        if !matches!(record, Record::End) {
            writer.write(&record).unwrap();
        }
    }
    writer.end().unwrap()
}

/// Returns the values and permissions of all nodes of the domains.
fn nodes(toolstack: &mut Blocking) -> Vec<[Vec<u8>; 2]> {
    let paths = NODES.into_iter().map(|(path, ..)| path).chain([LONG, LAST.0]);
    let mut of = |path: &str| {
        [Operation::Read, Operation::GetPerms]
            .map(|kind| toolstack.must(kind, &words(&[path])).unwrap())
    };
    paths.map(&mut of).collect()
}

/// The whole daemon goes on with our stream: its clients keep their connections, its guests their rings, with half of a
/// request, unread replies and watches.
#[test]
fn c_xenstored_goes_on_with_a_stream_with_our_digest() {
    if !are_installed() {
        return;
    }
    let mut full = fill();
    leave_unfinished(&mut full);
    let before = nodes(&mut full.toolstack);
    let waits = full.running.dir().unwrap().join("waits");
    let mut command = Command::new(CONTROL);
    command.args(["live-update", "-t", "10"]).arg(successor(&full.running));
    command.env("XENSTORED_PATH", &full.running.socket).stderr(Stdio::piped());
    let control = command.spawn().unwrap();
    let asked = Instant::now();
    while !waits.exists() {
        assert!(asked.elapsed() < LOST, "no successor: {}", full.running.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    let dump = stream(&full.running);
    let theirs = std::fs::read(&dump).unwrap();
    let ours = written_anew(&theirs);
    assert!(ours.len() > theirs.len() && Reader::new(&theirs[..]).is_ok_and(|r| !r.has_digest()));
    std::fs::write(&dump, ours).unwrap();
    std::fs::remove_file(waits).unwrap();
    let control = control.wait_with_output().unwrap();
    assert!(control.status.success(), "{control:?} {}", full.running.log());
    assert!(full.running.is_alive() && !dump.exists(), "{}", full.running.log());

    assert_eq!(nodes(&mut full.toolstack), before);
    let mut other = Blocking::connect(&full.running.socket).unwrap();
    assert_eq!(nodes(&mut other), before);
    go_on(&mut full);
}

/// Completes what was unfinished, and checks that each guest is served and hears of changes.
fn go_on(full: &mut Full) {
    let [guest, device_model, driver] = &mut full.guests;
    let mut request = Vec::new();
    append_request(&mut request, Operation::Write, 7, 0, &payload(BEGUN.0, BEGUN.1));
    assert_eq!(guest.ring.try_send(&request[BEGUN.2..]).unwrap(), request.len() - BEGUN.2);
    let of_a_write = |reply: Arrived| (reply.kind, reply.payload);
    let written = (Operation::Write as u32, b"OK\0".to_vec());
    loop {
        // Its watch of `/` hears of the write, too.
        let message = guest.next();
        if message.kind != WATCH_EVENT {
            assert_eq!(of_a_write(message), written);
            break;
        }
    }
    let later = format!("/local/domain/5/{}", BEGUN.0);
    assert_eq!(full.toolstack.must(Operation::Read, &words(&[&later])).unwrap(), BEGUN.1);

    assert_eq!(device_model.next().payload, vec![b'l'; LONG_BYTES]);
    assert_eq!(device_model.next().payload, b"last\0its own\0");
    assert_eq!(of_a_write(device_model.next()), written);
    full.toolstack.write("/local/domain/5/device/vif/0/state", "5").unwrap();
    full.toolstack.flush().unwrap();
    assert_eq!(device_model.next().payload, b"/local/domain/5/device/vif/0/state\0its target's\0");
    let mut tokens: Vec<_> = (0..3).map(|_| guest.next().payload).collect();
    tokens.retain(|event| event.starts_with(b"device/vif/0/state\0"));
    tokens.sort();
    assert_eq!(
        tokens,
        [&b"device/vif/0/state\0\x01\xff\"\\\0"[..], b"device/vif/0/state\0relative\0"]
    );
    assert_eq!(driver.ask(Operation::Read, &words(&["backend/vbd/5/0/state"])), b"4");
}
