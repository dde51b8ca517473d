//! The sockets that a service manager passes to the daemon, and the daemon's notifications, as with systemd.

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};

use super::kit::{Background, Place, Serving, TIMEOUT, assert_fails, serves, wait_for};

/// Returns a command for `daemon` with `listeners`, two at most, as its descriptors from 3 on.
fn handed_over(daemon: &Command, listeners: &[&UnixListener]) -> Command {
    let descriptors = ["3<&0 0</dev/null", "3<&0 4<&1 0</dev/null 1>&2"][listeners.len() - 1];
    let count = listeners.len();
    let script = format!("LISTEN_PID=$$ LISTEN_FDS={count} exec \"$0\" \"$@\" {descriptors}");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(daemon.get_program()).args(daemon.get_args());
    for (name, value) in daemon.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let stdio = |listener: &UnixListener| Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
    command.stdin(stdio(listeners[0])).stderr(Stdio::piped());
    if let Some(second) = listeners.get(1) {
        command.stdout(stdio(second));
    }
    command
}

#[test]
fn inherited_socket_is_served_and_not_removed() {
    let place = Place::new();
    let path = place.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
    let before = fs::metadata(&path).unwrap();
    let daemon = Serving(handed_over(&place.daemon(""), &[&listener]).spawn().unwrap());
    assert!(serves(&path));
    let (status, text) = daemon.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{text}");
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()));
    assert!(!place.path("socket.migration").exists());

    // The service manager starts the next daemon for the waiting client.
    let client = std::thread::spawn({
        let path = path.clone();
        move || serves(&path)
    });
    let daemon = Serving(handed_over(&place.daemon(""), &[&listener]).spawn().unwrap());
    assert!(client.join().unwrap());
    assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
}

#[test]
fn inherited_socket_is_served_in_the_background() {
    let place = Place::new();
    fs::write(place.path("conf.toml"), "foreground = false\n").unwrap();
    let listener = UnixListener::bind(place.path("socket")).unwrap();
    let daemon = place.daemon("--config @conf.toml --pid-file @pid");
    let output = handed_over(&daemon, &[&listener]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let daemon = Background::find(&place.path("pid"));
    assert!(serves(&place.path("socket")));
    kill_process(daemon.0, Signal::TERM).unwrap();
    wait_for("the end", || (!place.path("pid").exists()).then_some(()));
    assert!(place.path("socket").exists());
}

/// Xen's own units had a second, read-only socket; systemd writes /run for /var/run.
#[test]
fn client_socket_is_found_among_several_inherited_ones() {
    let place = Place::new();
    std::os::unix::fs::symlink(place.path(""), place.path("link")).unwrap();
    let read_only = UnixListener::bind(place.path("socket_ro")).unwrap();
    let listener = UnixListener::bind(place.path("socket")).unwrap();
    let daemon = place.daemon("--socket @link/socket");
    let daemon = Serving(handed_over(&daemon, &[&read_only, &listener]).spawn().unwrap());
    assert!(serves(&place.path("socket")));
    let (_, text) = daemon.end(Signal::TERM);
    assert!(text.contains("socket of the service manager ignored: "), "{text}");
    assert!(text.contains("socket_ro"), "{text}");
}

#[test]
fn unusable_inherited_socket_is_refused_with_the_reason() {
    let place = Place::new();
    let elsewhere = UnixListener::bind(place.path("other")).unwrap();
    let nameless = UnixListener::bind_addr(
        &SocketAddr::from_abstract_name(format!("xenstored-test-{}", std::process::id())).unwrap(),
    )
    .unwrap();
    let open_to_all = UnixListener::bind(place.path("socket")).unwrap();
    fs::set_permissions(place.path("socket"), Permissions::from_mode(0o666)).unwrap();
    for (listener, why) in [
        (&elsewhere, "and clients connect to"),
        (&nameless, "it has no path in the file system"),
        (&open_to_all, "set SocketMode=0600 in its unit"),
    ] {
        let output = handed_over(&place.daemon(""), &[listener]).output().unwrap();
        assert_fails(&output, 2, why);
    }
    let connected = std::os::unix::net::UnixStream::pair().unwrap().0;
    let connected = UnixListener::from(OwnedFd::from(connected));
    let output = handed_over(&place.daemon(""), &[&connected]).output().unwrap();
    assert_fails(&output, 2, "it is not listening");
}

/// Starts a daemon; returns it and its message to the notification socket `name`.
fn said(socket: &UnixDatagram, daemon: &mut Command, name: &str) -> (Serving, String) {
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let child = daemon.env("NOTIFY_SOCKET", name).stderr(Stdio::piped()).spawn().unwrap();
    let daemon = Serving(child);
    let mut message = [0; 256];
    let len = socket.recv(&mut message).expect("the daemon reports that it is ready");
    (daemon, String::from_utf8_lossy(&message[..len]).into_owned())
}

#[test]
fn service_manager_is_notified_at_a_path_or_an_abstract_name() {
    let place = Place::new();
    let path = place.path("notify");
    let by_path = UnixDatagram::bind(&path).unwrap();
    let name = format!("xenstored-test-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let by_name = UnixDatagram::bind_addr(&address).unwrap();
    for (socket, name) in [(&by_path, path.to_str().unwrap()), (&by_name, &format!("@{name}"))] {
        let (daemon, message) = said(socket, &mut place.daemon(""), name);
        let pid = daemon.pid().as_raw_nonzero();
        assert_eq!(message, format!("READY=1\nMAINPID={pid}\n"), "{name}");
        assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
    }
}

#[test]
fn failure_to_notify_the_service_manager_is_logged() {
    let place = Place::new();
    let mut daemon = place.daemon("");
    daemon.env("NOTIFY_SOCKET", place.path("nothing")).stderr(Stdio::piped());
    let daemon = Serving(daemon.spawn().unwrap());
    wait_for("a daemon", || serves(&place.path("socket")).then_some(()));
    let (status, text) = daemon.end(Signal::TERM);
    assert_eq!(status.code(), Some(0));
    assert!(text.contains("warning cannot notify the service manager"), "{text}");
}

/// The units of dist/, with the daemon's program replaced by one that exists.
#[test]
fn systemd_accepts_the_units() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("systemd-analyze is not installed: nothing is tested");
        return;
    }
    let place = Place::new();
    let mut units = Vec::new();
    for entry in fs::read_dir(dist).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "service" || it == "mount") {
            let unit = fs::read_to_string(&path).unwrap();
            let copy = place.path(path.file_name().unwrap().to_str().unwrap());
            fs::write(&copy, unit.replace("/usr/sbin/xenstored", "/bin/true")).unwrap();
            units.push(copy);
        }
    }
    assert_eq!(units.len(), 4, "{units:?}");
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).args(&units);
    let output = command.env("SYSTEMD_UNIT_PATH", format!("{}:", place.path("").display()));
    let output = output.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> = text.lines().filter(|line| line.contains("xen")).collect();
    assert!(output.status.success() && ours.is_empty(), "{text}");
}
