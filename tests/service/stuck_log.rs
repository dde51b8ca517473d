//! A blocked standard error: requests are served, and the daemon ends on SIGTERM.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Signal, kill_process};

use super::kit::{Place, TIMEOUT, wait_for};

/// Returns a pipe without room for a byte, like a stopped terminal or a stuck log collector.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    for size in [4096, 1] {
        while (&writer).write(&vec![b'\n'; size]).is_ok() {}
    }
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// Sends a request of `kind` over the socket; returns the reply's payload.
fn request(socket: &mut UnixStream, kind: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    let header = [kind, 1, 0, len].map(u32::to_le_bytes).concat();
    socket.write_all(&[&header, payload].concat()).unwrap();
    let mut head = [0; 16];
    socket.read_exact(&mut head).expect("the daemon replies");
    let mut reply = vec![0; u32::from_le_bytes(head[12..].try_into().unwrap()).try_into().unwrap()];
    socket.read_exact(&mut reply).unwrap();
    reply
}

/// Operations of xs_wire.h.
const CONTROL: u32 = 0;
const READ: u32 = 2;

#[test]
fn stuck_standard_error_stops_neither_requests_nor_sigterm() {
    let place = Place::new();
    let (mut reader, writer) = full_pipe();
    let daemon = place.serve_with("--shards 2", writer.into());
    let client = || {
        let socket = UnixStream::connect(place.path("socket")).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket
    };
    // These are more lines than the queue holds; the daemon drops the rest and counts them.
    let text = "x".repeat(4000);
    let lines = 1500;
    let mut logs = client();
    for _ in 0..lines {
        let payload = format!("print\0{text}\0");
        assert_eq!(request(&mut logs, CONTROL, payload.as_bytes()), b"OK\0");
    }
    // Both workers keep serving, and a long command completes.
    for mut socket in [client(), client()] {
        assert_eq!(request(&mut socket, READ, b"/tool\0"), b"");
        assert_eq!(request(&mut socket, CONTROL, b"check\0"), b"OK\0");
    }
    let elsewhere = format!("logfile\0{}\0", place.path("log").display());
    assert_eq!(request(&mut logs, CONTROL, elsewhere.as_bytes()), b"EAGAIN\0");

    // Once standard error is writable, the daemon logs how many lines are missing.
    let mut written = String::new();
    let mut part = [0; 1 << 16];
    while !written.contains("log lines dropped") {
        let len = reader.read(&mut part).unwrap();
        assert_ne!(len, 0, "the daemon exited");
        written.push_str(std::str::from_utf8(&part[..len]).unwrap());
    }
    let dropped = written.split_once("warning log lines dropped count=").unwrap().1;
    let dropped: usize = dropped.lines().next().unwrap().parse().unwrap();
    let kept = written.matches("info control: xxx").count();
    assert!(dropped > 0 && kept + dropped >= lines, "{kept} kept, {dropped} dropped");
    assert!(kept + dropped < lines + 10, "{kept} kept, {dropped} dropped");

    // The pipe is full again.
    for _ in 0..100 {
        request(&mut logs, CONTROL, format!("print\0{text}\0").as_bytes());
    }
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    let started = Instant::now();
    let mut daemon = daemon;
    let status = wait_for("the end", || daemon.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    // The daemon waits at most two seconds for its threads and one for the log.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn panic_with_stuck_standard_error_ends_the_process() {
    let (_reader, writer) = full_pipe();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process_panics_in_a_worker", "--ignored", "--nocapture"])
        .stderr(writer)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = wait_for("the end", || child.try_wait().unwrap());
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
}
