//! Starts in the background, as init scripts make them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Output, Stdio};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, getsid, kill_process};

use super::kit::{Background, Place, Serving, assert_fails, serves, wait_for};

#[test]
fn background_start_returns_once_the_daemon_serves() {
    let place = Place::new();
    fs::write(place.path("conf.toml"), "foreground = false\n").unwrap();
    // Starts the daemon like Debian's start script; waiting for `output` also checks that no process keeps our standard
    // error open.
    let output = place.daemon("--config @conf.toml --pid-file @pid -T @log").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((output.stdout, output.stderr), (vec![], vec![]));
    let daemon = Background::find(&place.path("pid"));
    UnixStream::connect(place.path("socket")).unwrap();

    assert_eq!(fs::read_to_string(daemon.proc("comm")).unwrap(), "xenstored\n");
    assert_eq!(getsid(Some(daemon.0)).unwrap(), daemon.0);
    assert_eq!(fs::read_link(daemon.proc("cwd")).unwrap(), Path::new("/"));
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(fs::read_link(daemon.proc(fd)).unwrap(), Path::new("/dev/null"));
    }
    kill_process(daemon.0, Signal::TERM).unwrap();
    wait_for("the end", || (!place.path("pid").exists()).then_some(()));
    assert!(!place.path("socket").exists());
    wait_for("the last line", || {
        fs::read_to_string(place.path("log")).unwrap().contains("info stopped\n").then_some(())
    });
}

#[test]
fn failed_background_start_is_reported_in_the_foreground() {
    let place = Place::new();
    fs::write(place.path("conf.toml"), "foreground = false\n").unwrap();
    let output = place.daemon("--config @conf.toml --socket @a/socket").output().unwrap();
    assert_fails(&output, 5, "mkdir -p");
}

/// Returns a place whose configuration asks for the background.
fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("conf.toml"), "foreground = false\n").unwrap();
    place
}

const START: &str = "--config @conf.toml --pid-file @pid";

#[track_caller]
fn assert_accepts(output: &Output, sentence: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let said: Vec<_> = text.lines().filter(|line| line.starts_with("xenstored: ")).collect();
    assert_eq!(said, [format!("xenstored: {sentence}")]);
}

/// Debian's start script starts the daemon again at each update of its package.
#[test]
fn second_start_finds_the_first_and_names_differing_options() {
    let place = place();
    let first = place.daemon(START).output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let daemon = Background::find(&place.path("pid"));
    let (pid, socket) = (daemon.0.as_raw_nonzero(), place.path("socket"));
    let version = env!("CARGO_PKG_VERSION");
    let serves_already =
        format!("process {pid}, version {version}, already serves {}", socket.display());
    assert_accepts(&place.daemon(START).output().unwrap(), &serves_already);

    let other = format!("{START} --shards 17 --quota nodes=7 -T @log -w watch-event=3");
    let trace = place.path("log");
    let differing = format!(
        "{serves_already}; it keeps its own options: --shards {}, not 17, --trace-file none, not \
         {}, --trace-control none, not obj,io, --timeout watch-event 20, not 3, --quota nodes \
         1000, not 7",
        std::thread::available_parallelism().unwrap(),
        trace.display(),
    );
    assert_accepts(&place.daemon(&other).output().unwrap(), &differing);
    let without = place.daemon("--config @conf.toml").output().unwrap();
    let pid_file = format!("--pid-file {}, not none", place.path("pid").display());
    assert_accepts(&without, &format!("{serves_already}; it keeps its own options: {pid_file}"));
    assert!(serves(&socket));
    assert_eq!(fs::read_to_string(place.path("pid")).unwrap(), format!("{pid}\n"));

    // In the foreground, the started process itself must be the daemon.
    assert_fails(
        &place.daemon("--pid-file @pid").output().unwrap(),
        3,
        "another xenstored (process",
    );
    // A caller would wait for this pid file in vain.
    let other = place.daemon("--config @conf.toml --pid-file @other").output().unwrap();
    assert_fails(&other, 3, &format!("another xenstored (process {pid}) holds"));
    assert!(!place.path("other").exists());
}

/// The lock file of an older version contains only the process id.
#[test]
fn second_start_accepts_a_daemon_of_an_older_version() {
    let place = place();
    place.daemon(START).output().unwrap();
    let daemon = Background::find(&place.path("pid"));
    let (pid, socket) = (daemon.0.as_raw_nonzero(), place.path("socket"));
    fs::write(place.path("socket.lock"), format!("{pid}\n")).unwrap();
    let sentence = format!(
        "process {pid}, of an unknown older version, already serves {}; options are not compared",
        socket.display()
    );
    assert_accepts(&place.daemon(&format!("{START} --shards 17")).output().unwrap(), &sentence);
}

/// If the lock is held but another kind of daemon serves the socket, the start fails, whatever the lock file says.
#[test]
fn second_start_fails_if_another_kind_of_daemon_serves() {
    let place = place();
    let lock = fs::File::create(place.path("socket.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let listener = UnixListener::bind(place.path("socket")).unwrap();
    std::thread::spawn(move || {
        // ENOENT, which another xenstored replies to a request for a node that it does not have.
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut request = [0; 16];
            std::io::Read::read_exact(&mut client, &mut request).unwrap();
            let reply = [16u32, 1, 0, 7].map(u32::to_le_bytes).concat();
            std::io::Write::write_all(&mut client, &[&reply[..], b"ENOENT\0"].concat()).unwrap();
        }
    });
    fs::write(place.path("socket.lock"), "1\nversion 0.1.0\n").unwrap();
    fs::write(place.path("pid"), "1\n").unwrap();
    assert_fails(&place.daemon(START).output().unwrap(), 3, "another xenstored (process 1) holds");
    drop(lock);
    assert_fails(&place.daemon(START).output().unwrap(), 7, "is served by another daemon; stop it");
}

#[test]
fn concurrent_starts_leave_one_daemon_and_all_succeed() {
    let place = place();
    let starts: Vec<_> = (0..4)
        .map(|_| place.daemon(START).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let outputs: Vec<_> =
        starts.into_iter().map(|start| start.wait_with_output().unwrap()).collect();
    let _daemon = Background::find(&place.path("pid"));
    let content = |output: &&Output| String::from_utf8_lossy(&output.stderr).contains("serves");
    assert_eq!(outputs.iter().filter(content).count(), 3, "{outputs:?}");
    for output in &outputs {
        assert_eq!(output.status.code(), Some(0), "{outputs:?}");
    }
    assert!(serves(&place.path("socket")));
}

#[test]
fn process_id_is_printed_once_the_daemon_serves() {
    let place = place();
    let output = place.daemon(&format!("{START} --output-pid")).output().unwrap();
    let daemon = Background::find(&place.path("pid"));
    let pid = format!("{}\n", daemon.0.as_raw_nonzero());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), pid);
    let again = place.daemon(&format!("{START} -P")).output().unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), pid);

    let place = Place::new();
    let mut daemon = Serving(place.daemon("-P").stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(daemon.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("{}\n", daemon.pid().as_raw_nonzero()));
}
