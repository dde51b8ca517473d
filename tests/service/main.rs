//! The real binary, as seen by init, an administrator and a second daemon.
//!
//! - `background`: starts in the background, the second one included.
//! - `keeper`: the known process and the serving one, and the end of either.
//! - `fleet`: two daemons with guests that are moved between them.
//! - `simulated_host`: the process of the simulated host, across the daemon's starts and stops.
//! - `service_manager`: the sockets that systemd passes to the daemon, and the daemon's notifications.
//! - `stuck_log`: a standard error that accepts nothing.
//! - `kit`: a daemon in a directory of its own.

mod background;
mod fleet;
mod keeper;
mod kit;
mod service_manager;
mod simulated_host;
mod stuck_log;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};
use xenstored::log;
use xenstored::types::Domid;

use kit::{Place, Serving, assert_fails, bare, serves, wait_for};

#[test]
fn daemon_serves_until_a_signal_and_removes_its_files() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let daemon = place.serve("--pid-file @pid");
        let about = fs::metadata(place.path("socket")).unwrap();
        assert!(about.file_type().is_socket());
        assert_eq!(about.permissions().mode() & 0o777, 0o600);
        UnixStream::connect(place.path("socket")).unwrap();
        let pid = fs::read_to_string(place.path("pid")).unwrap();
        assert_eq!(pid, format!("{}\n", daemon.pid().as_raw_nonzero()));
        let mode = fs::metadata(place.path("pid")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);

        let (status, text) = daemon.end(signal);
        assert_eq!(status.code(), Some(0), "{text}");
        assert!(text.contains("info stopping on signal"), "{text}");
        assert!(text.ends_with("info stopped\n"), "{text}");
        for left in ["socket", "socket.migration", "sim", "pid"] {
            assert!(!place.path(left).exists(), "{left}");
        }
    }
}

#[test]
fn second_instance_fails_and_disturbs_nothing() {
    let place = Place::new();
    let daemon = place.serve("--pid-file @pid");
    let before = fs::metadata(place.path("socket")).unwrap().ino();
    let pid = daemon.pid().as_raw_nonzero();
    let sentence = format!("another xenstored (process {pid}) holds");
    assert_fails(&place.daemon("").output().unwrap(), 3, &sentence);
    // The second daemon has another socket but the same pid file.
    let other =
        place.daemon("--pid-file @pid --socket @other --sim-socket @other-sim").output().unwrap();
    assert_fails(&other, 3, &sentence);
    assert!(!place.path("other").exists());

    assert_eq!(fs::metadata(place.path("socket")).unwrap().ino(), before);
    assert_eq!(fs::read_to_string(place.path("pid")).unwrap(), format!("{pid}\n"));
    UnixStream::connect(place.path("socket")).unwrap();
    assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
}

#[test]
fn files_of_a_killed_daemon_do_not_prevent_a_start() {
    let place = Place::new();
    let (status, _) = place.serve("--no-keeper --pid-file @pid").end(Signal::KILL);
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    assert!(place.path("socket").exists() && place.path("pid").exists());

    let daemon = place.serve("--pid-file @pid");
    UnixStream::connect(place.path("socket")).unwrap();
    assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
}

#[test]
fn served_socket_or_other_file_is_left_alone() {
    let place = Place::new();
    let other = UnixListener::bind(place.path("socket")).unwrap();
    fs::write(place.path("pid"), "1\n").unwrap();
    let output = place.daemon("--pid-file @pid").output().unwrap();
    assert_fails(&output, 7, "is served by another daemon; stop it");
    assert_eq!(
        fs::read_to_string(place.path("pid")).unwrap(),
        "1\n",
        "the other daemon's pid file was changed"
    );
    other.set_nonblocking(true).unwrap();
    other.accept().expect("the daemon probes the socket");
    drop(other);
    assert_eq!(place.serve("").end(Signal::TERM).0.code(), Some(0));

    fs::write(place.path("socket"), "precious").unwrap();
    assert_fails(&place.daemon("").output().unwrap(), 7, "is not a socket; remove it");
    assert_eq!(fs::read(place.path("socket")).unwrap(), b"precious");
}

#[test]
fn unusable_paths_are_named_with_a_remedy() {
    let place = Place::new();
    let long = "x".repeat(108);
    let fitting = "x".repeat(107 - place.path("").as_os_str().len());
    let missing = format!("does not exist; create it with: mkdir -p {}", place.path("a").display());
    for (options, code, sentence) in [
        (format!("--socket /{long}"), 6, "has 109 bytes, and the system allows 107"),
        (format!("--sim-socket @{fitting}x"), 6, "has 108 bytes, and the system allows 107"),
        ("--socket @a/socket".into(), 5, missing.as_str()),
        ("--pid-file @a/pid".into(), 5, missing.as_str()),
        ("--trace-file @a/log".into(), 5, missing.as_str()),
        // In `/sys` not even root may create files.
        ("--socket /sys/socket".into(), 4, "permission denied: /sys/socket.lock; run as root, or"),
        ("--pid-file /sys/pid".into(), 4, "permission denied: /sys/pid; run as root, or"),
    ] {
        assert_fails(&place.daemon(&options).output().unwrap(), code, sentence);
        assert!(!place.path("socket").exists(), "{options}");
    }
    let daemon = place.serve(&format!("--socket @{fitting}"));
    UnixStream::connect(place.path(&fitting)).unwrap();
    assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
}

#[test]
fn sighup_reopens_the_log() {
    let place = Place::new();
    let daemon = place.serve("--trace-file @log");
    fs::rename(place.path("log"), place.path("log.1")).unwrap();
    kill_process(daemon.pid(), Signal::HUP).unwrap();
    wait_for("the new log", || {
        let text = fs::read_to_string(place.path("log")).ok()?;
        text.contains("info log reopened\n").then_some(())
    });
    assert!(fs::read_to_string(place.path("log.1")).unwrap().contains("serving"));
    assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
}

/// oxenstored writes its tree to a file at this signal, so its operators send it to a running daemon.
#[test]
fn sigusr1_writes_a_report_to_the_log() {
    let place = Place::new();
    let daemon = place.serve("--trace-file @log");
    kill_process(daemon.pid(), Signal::USR1).unwrap();
    wait_for("the report", || {
        let text = fs::read_to_string(place.path("log")).ok()?;
        text.contains("info known domains: 1, died: 0\n").then_some(())
    });
    for _ in 0..100 {
        kill_process(daemon.pid(), Signal::USR1).unwrap();
    }
    assert!(serves(&place.path("socket")));
    assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
}

#[test]
fn sigpipe_is_ignored() {
    let place = Place::new();
    let daemon = place.serve("");
    let status = format!("/proc/{}/status", daemon.pid().as_raw_nonzero());
    let text = fs::read_to_string(status).unwrap();
    let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_ne!(ignored & (1 << (Signal::PIPE.as_raw() - 1)), 0);
}

#[test]
fn start_without_options_prints_how_to_connect() {
    if Path::new("/dev/xen").exists() {
        return; // On a Xen host the daemon serves Xen, and prints no hint.
    }
    let place = Place::new();
    let mut command = bare();
    command.env("XENSTORED_RUNDIR", place.path("")).stderr(Stdio::piped());
    let mut daemon = Serving(command.spawn().unwrap());
    let mut stderr = daemon.0.stderr.take().unwrap();
    let (mut text, mut part) = (String::new(), [0; 512]);
    while !text.contains("sim guest") {
        let len = stderr.read(&mut part).unwrap();
        assert_ne!(len, 0, "{text}");
        text.push_str(std::str::from_utf8(&part[..len]).unwrap());
    }
    let line = format!("export XENSTORED_PATH={}\n", place.path("socket").display());
    assert!(text.contains(&line), "{text}");
    UnixStream::connect(place.path("socket")).unwrap();
}

#[test]
fn check_config_names_file_and_line() {
    let place = Place::new();
    for (name, text, code, expected) in [
        ("good.toml", "shards = 2\n", 0, "good.toml: no errors found\n"),
        ("bad.toml", "shards = 2\n[log]\ncolour = 1\n", 2, "bad.toml:3: unknown field `colour`"),
        ("good.conf", "quota-maxentity = 5\n", 0, "good.conf: no errors found\n"),
        ("note.conf", "persistent = true\n", 0, "note: persistent = true is ignored: the store"),
        ("bad.conf", "# x\n\nquota-maxnodes = 5\n", 2, "bad.conf:3: unknown key"),
        ("flag.conf", "quota-activate = 1\n", 2, "flag.conf:1: expected true or false, not \"1\""),
        ("line.conf", "quota-maxentity\n", 2, "line.conf:1: expected name = value"),
        ("domid.toml", "priv-domid = 40000\n", 2, "priv-domid: 40000 is not a valid domid"),
    ] {
        fs::write(place.path(name), text).unwrap();
        let output = place.daemon(&format!("--check-config --config @{name}")).output().unwrap();
        if code == 0 {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains(expected), "{name}: {output:?}");
        } else {
            assert_fails(&output, code, expected);
        }
    }
    let output = place.daemon("--check-config --config @none.toml").output().unwrap();
    assert_fails(&output, 2, "none.toml: No such file");
    assert!(!place.path("socket").exists(), "--check-config must not serve");
}

/// oxenstored's own sample has the misspelt key, and NixOS writes the others.
#[test]
fn daemon_starts_with_a_faulty_file_that_oxenstored_accepts() {
    let place = Place::new();
    let text =
        b"# caf\xe9\nacesss-log-nb-chars=180\nmerge-activate=1\nquota-maxentity=7\nno value\n";
    fs::write(place.path("ox.conf"), text).unwrap();
    let (status, text) = place.serve("--config @ox.conf").end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{text}");
    for wrong in
        ["2: unknown key \"acesss-log-nb-chars\"", "3: expected true or false", "5: expected name"]
    {
        let line = text.lines().find(|line| line.contains(&format!("ox.conf:{wrong}")));
        assert!(line.is_some_and(|line| line.contains("warning ")), "{wrong}: {text}");
    }
    assert_eq!(text.matches("warning ").count(), 3, "{text}");
}

#[test]
fn help_and_version_need_no_daemon() {
    let version = bare().arg("--version").output().unwrap();
    assert!(version.status.success());
    let expected = concat!("xenstored ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
    for (line, word) in [
        ("-H", "--no-fork"),
        ("-h", "--no-fork"),
        ("--help", "--no-fork"),
        ("sim guest --help", "--domid"),
    ] {
        let help = bare().args(line.split(' ')).output().unwrap();
        assert!(help.status.success(), "{line}: {help:?}");
        assert!(String::from_utf8(help.stdout).unwrap().contains(word), "{line}");
    }
    assert_fails(&bare().arg("-U").output().unwrap(), 2, "live update is not supported yet");
    assert_fails(&bare().arg("--none").output().unwrap(), 2, "unexpected argument '--none'");
}

/// Panics in a worker; other tests run this in a child process.
#[test]
#[ignore = "other tests run it in a process of its own"]
fn child_process_panics_in_a_worker() {
    let settings = log::Settings {
        destination: match std::env::var_os("PANIC_LOG") {
            Some(file) => log::Destination::File(file.into()),
            None => log::Destination::Stderr,
        },
        level: tracing::level_filters::LevelFilter::INFO,
        switches: vec![],
    };
    log::init(&settings).unwrap();
    log::abort_on_panic();
    let work = || {
        let operation = "WRITE";
        log::set_context(log::Context { worker: Some(3), operation, domid: Some(Domid(7)) });
        panic!("no \x1b[1mgood");
    };
    let thread = std::thread::Builder::new().name("worker 3".into()).spawn(work).unwrap();
    let _ = thread.join();
    unreachable!("the panic ends the process");
}

#[test]
fn panic_is_logged_with_its_context_and_ends_the_process() {
    let place = Place::new();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process_panics_in_a_worker", "--ignored", "--nocapture"])
        .env("PANIC_LOG", place.path("log"))
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(Signal::ABORT.as_raw()), "{output:?}");
    let text = fs::read_to_string(place.path("log")).unwrap();
    let expected = "error panic of thread worker 3 (worker 3, operation WRITE, domid 7) at ";
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(expected) && text.contains("no \\x1b[1mgood"), "{text}");
}
