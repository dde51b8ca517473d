//! The two processes of a daemon: the keeper, which others know, and the one that serves.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use xenstored::host::sim::SimClient;

use super::kit::{Background, Place, Serving, assert_fails, serves, wait_for};

fn number(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

fn read(pid: Pid, name: &str) -> String {
    let bytes = fs::read(format!("/proc/{}/{name}", number(pid))).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Returns the processes with this parent.
fn children(parent: Pid) -> Vec<Pid> {
    let of = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        (line.trim().parse() == Ok(number(parent))).then_some(pid)
    };
    fs::read_dir("/proc").unwrap().filter_map(|entry| of(entry.unwrap())).collect()
}

/// Returns the child that serves.
fn serving(keeper: Pid) -> Pid {
    let [serving] = children(keeper)[..] else { panic!("one child of the keeper") };
    serving
}

/// Returns whether a process exists and has not ended: what reaps orphans may be slow.
fn is_running(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", number(pid)));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

fn host(place: &Place) -> SimClient {
    SimClient::connect(place.path("sim")).unwrap()
}

#[test]
fn keeper_is_a_small_process_beside_the_one_that_serves() {
    let place = Place::new();
    let daemon = place.serve("--pid-file @pid --shards 2");
    let keeper = daemon.pid();
    let child = serving(keeper);
    let name = |pid| read(pid, "cmdline").split('\0').next().unwrap().to_owned();
    assert_eq!(name(keeper), env!("CARGO_BIN_EXE_xenstored"));
    assert_eq!(name(child), concat!(env!("CARGO_BIN_EXE_xenstored"), ": serving"));
    for pid in [keeper, child] {
        // What `start-stop-daemon --exec` and `--name` compare.
        assert_eq!(read(pid, "comm"), "xenstored\n");
        let exe = fs::read_link(format!("/proc/{}/exe", number(pid))).unwrap();
        assert_eq!(exe, Path::new(env!("CARGO_BIN_EXE_xenstored")));
    }
    for file in ["pid", "socket.lock"] {
        let text = fs::read_to_string(place.path(file)).unwrap();
        assert_eq!(text.lines().next(), Some(number(keeper).to_string().as_str()), "{file}");
    }

    let files = fs::read_dir(format!("/proc/{}/fd", number(keeper))).unwrap();
    for file in files {
        let link = fs::read_link(file.unwrap().path()).unwrap().display().to_string();
        assert!(!link.contains("memfd") && !link.contains("anon_inode"), "a guest's {link}");
    }
    let memory = || -> Vec<String> {
        let status = read(keeper, "status");
        let sizes = ["VmSize:", "VmData:", "Threads:"];
        let is_size = |line: &&str| sizes.iter().any(|size| line.starts_with(size));
        status.lines().filter(is_size).map(str::to_owned).collect()
    };
    let before = memory();
    assert_eq!((before.len(), before[2].as_str()), (3, "Threads:\t1"));
    for _ in 0..100 {
        kill_process(keeper, Signal::HUP).unwrap();
        assert!(serves(&place.path("socket")));
    }
    assert_eq!(memory(), before);
    assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
    assert!(!is_running(child));
}

#[test]
fn signal_to_both_processes_counts_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let daemon = place.serve("");
        kill_process(serving(daemon.pid()), signal).unwrap();
        let (status, text) = daemon.end(signal);
        assert_eq!(status.code(), Some(0), "{text}");
        assert!(text.ends_with("info stopped\n"), "{text}");
        assert!(!place.path("sim").exists() && !place.path("socket").exists());
    }
}

#[test]
fn second_signal_to_the_keeper_ends_both_processes() {
    let place = Place::new();
    let daemon = place.serve("-T @log");
    let child = serving(daemon.pid());
    let host = Pid::from_raw(host(&place).status().unwrap().pid.cast_signed()).unwrap();
    kill_process(host, Signal::STOP).unwrap(); // The stop waits for the host.
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    let log = || fs::read_to_string(place.path("log")).unwrap();
    wait_for("the stop", || log().contains("info store discarded").then_some(()));
    let (status, text) = daemon.end(Signal::TERM);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(log().contains("warning second stop signal, exiting immediately\n"), "{}", log());
    assert!(!is_running(child));
    kill_process(host, Signal::KILL).unwrap();
}

#[test]
fn killed_serving_process_ends_the_keeper_with_the_conventional_code() {
    let place = Place::new();
    let daemon = place.serve("--pid-file @pid");
    let keeper = daemon.pid();
    kill_process(serving(keeper), Signal::KILL).unwrap();
    let (status, text) = ended(daemon);
    assert_eq!(status.code(), Some(128 + 9), "{text}");
    assert!(text.ends_with("xenstored: the serving process was ended by signal 9\n"), "{text}");
    assert!(host(&place).list().is_ok(), "the host lives on");
    assert!(place.path("socket").exists() && place.path("pid").exists());

    let daemon = place.serve("--pid-file @pid");
    let (status, text) = daemon.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("simulated host found"), "{text}");
}

/// Waits for the end of a daemon.
fn ended(mut daemon: Serving) -> (std::process::ExitStatus, String) {
    let mut text = String::new();
    let mut stderr = daemon.0.stderr.take().unwrap();
    std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
    (daemon.0.wait().unwrap(), text)
}

#[test]
fn serving_process_stops_when_its_keeper_is_killed() {
    let place = Place::new();
    let daemon = place.serve("--pid-file @pid");
    let child = serving(daemon.pid());
    let (status, text) = daemon.end(Signal::KILL);
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    assert!(text.contains("error the keeper has ended, stopping pid="), "{text}");
    assert!(text.ends_with("info stopped\n"), "{text}");
    wait_for("the end of the serving process", || (!is_running(child)).then_some(()));
    assert!(!place.path("socket").exists() && !place.path("pid").exists());
    assert!(host(&place).list().is_ok(), "the host lives on, as after any crash");
    assert_eq!(place.serve("").end(Signal::TERM).0.code(), Some(0));
}

#[test]
fn both_processes_are_in_the_background() {
    let place = Place::new();
    fs::write(place.path("conf.toml"), "foreground = false\n").unwrap();
    let start = "--config @conf.toml --pid-file @pid -T @log";
    let output = place.daemon(start).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let daemon = Background::find(&place.path("pid"));
    let child = serving(daemon.0);
    for pid in [daemon.0, child] {
        assert_eq!(rustix::process::getsid(Some(pid)).unwrap(), daemon.0);
        let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", number(pid))).unwrap();
        assert_eq!(link("cwd"), Path::new("/"));
        for fd in ["fd/0", "fd/1", "fd/2"] {
            assert_eq!(link(fd), Path::new("/dev/null"));
        }
    }
    kill_process(child, Signal::ABORT).unwrap();
    wait_for("the end of the keeper", || (!is_running(daemon.0)).then_some(()));
    let log = fs::read_to_string(place.path("log")).unwrap();
    assert!(log.ends_with("error the serving process was ended by signal 6\n"), "{log}");
    host(&place).stop().unwrap();
}

#[test]
fn without_a_keeper_the_process_serves_itself() {
    for options in ["--no-keeper", "--config @conf.toml"] {
        let place = Place::new();
        fs::write(place.path("conf.toml"), "keeper = false\n").unwrap();
        let daemon = place.serve(options);
        let host = host(&place).status().unwrap().pid.cast_signed();
        assert_eq!(children(daemon.pid()), [Pid::from_raw(host).unwrap()], "{options}");
        assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
    }
}

#[test]
fn mark_of_a_keeper_that_is_none_is_refused() {
    let place = Place::new();
    for mark in ["", "3", "x 1", "0 1", "99999 1", "99999 x"] {
        let output = place.daemon("").env("XENSTORED_KEEPER", mark).output().unwrap();
        assert_fails(&output, 2, "XENSTORED_KEEPER is set, but no keeper started this process");
    }
}
