//! Moves to another host's daemon: through a command (`exec:`), and through a real sshd on loopback.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use super::common::random::seeds;
use super::common::{HANG, Random};
use super::*;

const DOMAINS: u16 = 12;
/// A move that is given again after its tunnel was lost: one command may still find requests of the lost one at work.
const RERUNS_MAX: usize = 2;

fn xsctl_path() -> &'static str {
    env!("CARGO_BIN_EXE_xsctl")
}

/// Returns the destination as a command of this host, of whose input only the first bytes arrive.
fn cut_after(to: &World, bytes: usize) -> String {
    let first = format!("dd bs=1 count={bytes} status=none");
    format!("exec:{first} | {} receive --socket {}", xsctl_path(), socket(to))
}

pub fn through_command(to: &World) -> String {
    format!("exec:{} receive --socket {}", xsctl_path(), socket(to))
}

fn move_to(from: &World, to: &str, how: &[&str]) -> Run {
    let domains = format!("1-{DOMAINS}");
    let from = socket(from);
    let line = ["move", "--socket", &from, "--to", to, "--domains", &domains, "--json"];
    xsctl(&[&line[..], how].concat())
}

#[test]
fn domains_move_through_a_command() {
    for how in [&["--batch", "1"][..], &["--batch", "5", "--jobs", "4"]] {
        let (mut a, mut b) = worlds(1..=DOMAINS);
        let run = move_to(&a, &through_command(&b), how);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
        assert_eq!(run.json().1["done"], DOMAINS);
        for domid in 1..=DOMAINS {
            is_released(&mut a, domid);
            is_served(&mut b, domid);
        }
        let again = move_to(&a, &through_command(&b), how);
        assert_eq!(again.code, 0, "{again:?}");
        b.check_store();
    }
}

#[test]
fn each_command_takes_a_url_for_its_socket() {
    let (a, mut b) = worlds([5]);
    let there = through_command(&b);
    let directory = tempfile::tempdir().unwrap();
    let files = text(&directory.path().join("streams"));
    well(&["export", "--socket", &socket(&a), "--domains", "5", "-o", &files]);
    well(&["import", "--socket", &there, "--introduce", &files]);
    is_quiesced(&mut b, 5);
    well(&["discard", "--socket", &there, "--domains", "5"]);
    is_absent(&mut b, 5);
    well(&["import", "--socket", &there, "--introduce", &files]);
    well(&["unquiesce", "--socket", &there, "--domains", "5"]);
    is_served(&mut b, 5);
    let run = well(&["control", "--socket", &there, "check"]);
    assert_eq!(run.out, "OK\n");
}

#[test]
fn a_long_stream_passes_the_window() {
    let (mut a, mut b) = worlds([5]);
    let value = "v".repeat(2000);
    for number in 0..600 {
        a.admin.write(&format!("/local/domain/5/big/{number}"), &value).unwrap();
    }
    let to = through_command(&b);
    let run = xsctl(&["move", "--socket", &socket(&a), "--to", &to, "--domains", "5"]);
    assert_eq!(run.code, 0, "{run:?}");
    is_served(&mut b, 5);
    assert_eq!(b.admin.read("/local/domain/5/big/599"), Ok(value.into_bytes()));
    is_released(&mut a, 5);
}

#[test]
fn a_lost_tunnel_leaves_each_domain_in_one_place() {
    for seed in seeds(12) {
        let (mut a, mut b) = worlds(1..=DOMAINS);
        let bytes = Random::new(seed).below(12_000);
        let context = format!("XENSTORED_SEED={seed}, {bytes} bytes");
        let first = move_to(&a, &cut_after(&b, bytes), &["--batch", "3"]);
        let mut runs = vec![first];
        while runs[runs.len() - 1].code != 0 {
            assert!(runs.len() <= RERUNS_MAX, "{context}: {runs:#?}");
            runs.push(move_to(&a, &through_command(&b), &["--batch", "3"]));
        }
        for domid in 1..=DOMAINS {
            is_released(&mut a, domid);
            is_served(&mut b, domid);
        }
        b.check_store();
    }
}

#[test]
fn a_wrong_destination_is_refused_before_anything_is_quiesced() {
    let (mut a, _) = worlds([5]);
    for (to, said) in [
        ("exec:exit 3", "the command of the other host ended (exit status: 3) before it spoke"),
        ("exec:echo welcome to this host", "the other end is no xsctl receive"),
        (
            &format!("exec:{} receive --socket /nonexistent", xsctl_path()),
            "the other host: the daemon at /nonexistent: cannot connect",
        ),
        ("ssh://host:port", "has no valid port"),
        (&through_command(&a), "--to names the source daemon"),
    ] {
        let run = xsctl(&["move", "--socket", &socket(&a), "--to", to, "--domains", "5"]);
        assert!(run.err.contains(said) && [2, 5].contains(&run.code), "{to}: {run:?}");
    }
    is_served(&mut a, 5);
}

/// An sshd on loopback with keys of its own, which runs commands as this user.
pub struct Sshd {
    pub child: Child,
    pub port: u16,
    directory: tempfile::TempDir,
}

impl Sshd {
    /// Starts Debian's sshd; `None` if this machine has none and the gate does not run.
    pub fn start() -> Option<Sshd> {
        let sshd = "/usr/sbin/sshd";
        if !Path::new(sshd).exists() && std::env::var_os("CI").is_none() {
            eprintln!("no {sshd}: .ci/run packages installs it");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| text(&directory.path().join(name));
        for key in ["host", "user"] {
            let key = path(key);
            let made = std::process::Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &key])
                .status();
            assert!(made.unwrap().success());
        }
        fs::copy(path("user.pub"), path("authorized")).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let bin = Path::new(xsctl_path()).parent().unwrap().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\n\
             StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n\
             SetEnv PATH={bin}:/usr/bin:/bin\n",
            path("host"),
            path("authorized"),
        );
        fs::write(path("sshd_config"), config).unwrap();
        // sshd separates privileges there; Debian's unit makes the directory.
        let _ = fs::create_dir("/run/sshd");
        let child = std::process::Command::new(sshd)
            .args(["-D", "-e", "-f", &path("sshd_config")])
            .stderr(fs::File::create(path("log")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let sshd = Sshd { child, port, directory };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < HANG, "{}", sshd.log());
            std::thread::yield_now();
        }
        Some(sshd)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Returns a directory for PATH whose `ssh` uses the keys of this sshd.
    pub fn client(&self) -> String {
        let bin = self.directory.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let key = text(&self.directory.path().join("user"));
        let script = format!(
            "#!/bin/sh\nexec /usr/bin/ssh -F /dev/null -i {key} -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \"$@\"\n"
        );
        fs::write(bin.join("ssh"), script).unwrap();
        fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn domains_move_through_a_real_sshd() {
    let Some(sshd) = Sshd::start() else { return };
    let (mut a, mut b) = worlds(1..=DOMAINS);
    let to = format!("ssh://127.0.0.1:{}{}", sshd.port, socket(&b));
    let domains = format!("1-{DOMAINS}");
    let mut command =
        command(&["move", "--socket", &socket(&a), "--to", &to, "--domains", &domains, "--json"]);
    let run = Run::of(command.env("PATH", sshd.client()).output().unwrap());
    assert_eq!(run.code, 0, "{run:?}\n{}", sshd.log());
    for domid in 1..=DOMAINS {
        is_released(&mut a, domid);
        is_served(&mut b, domid);
    }
}

/// Connects the standard input and output of `xsctl send` and of a receiver by pipes, as `socat` would.
fn send(from: &World, receiver: &mut std::process::Command, how: &[&str]) -> Run {
    let mut receiver = receiver.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let line = ["send", "--socket", &socket(from)];
    let mut sender = command(&[&line[..], how].concat());
    sender.stdin(receiver.stdout.take().unwrap()).stdout(receiver.stdin.take().unwrap());
    let child = sender.stderr(Stdio::piped()).spawn().unwrap();
    // The command has the descriptors of the pipes too, and the receiver ends with them.
    drop(sender);
    let run = Run::of(child.wait_with_output().unwrap());
    receiver.wait().unwrap();
    run
}

#[test]
fn send_and_receive_are_the_two_ends_of_any_pipes() {
    let (mut a, mut b) = worlds(1..=DOMAINS);
    let mut receiver = command(&["receive", "--socket", &socket(&b)]);
    let run = send(&a, &mut receiver, &["--domains", "1-4", "--json", "--batch", "3"]);
    // The report is on standard error, as the output has the frames.
    let summary: Value = serde_json::from_str(run.err.lines().last().unwrap()).unwrap();
    assert_eq!((run.code, &summary["summary"]["done"]), (0, &4.into()), "{run:?}");
    for domid in 1..=4 {
        is_released(&mut a, domid);
        is_served(&mut b, domid);
    }
    let bytes = "dd bs=1 count=300 status=none";
    let line = format!("{bytes} | {} receive --socket {}", xsctl_path(), socket(&b));
    let mut cut = std::process::Command::new("sh");
    let run = send(&a, cut.args(["-c", &line]), &["--domains", "5"]);
    assert!([5, 6].contains(&run.code) && !run.err.is_empty(), "{run:?}");
    let run = send(&a, &mut std::process::Command::new("true"), &["--domains", "5"]);
    let said = "the daemon at -: cannot connect: the other end closed the connection";
    assert!(run.code == 5 && run.err.contains(said), "{run:?}");
    let mut receiver = command(&["receive", "--socket", &socket(&b)]);
    let run = send(&a, &mut receiver, &["--domains", "5"]);
    assert!(run.code == 0 && run.err.contains("moved 1 of 1 domain"), "{run:?}");
    is_served(&mut b, 5);
    let run = xsctl(&["status", "--socket", "-"]);
    assert!(run.code == 5 && run.err.contains("only xsctl send speaks"), "{run:?}");
}
