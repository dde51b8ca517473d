//! A shell and a daemon, in which the commands of a document are run.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use tempfile::TempDir;

use crate::common::stock::program;
use crate::common::{Control, HANG, World};

/// A shell whose commands find this project's programs and Debian's clients.
pub struct Session {
    pub world: World,
    shell: Child,
    input: ChildStdin,
    output: Receiver<String>,
    /// The working directory, with a folder of programs.
    pub folder: TempDir,
}

impl Session {
    pub fn start() -> Session {
        let mut world = World::new(Control::Socket, 2);
        // The document's host has no such node.
        world.admin.rm("/barrier").unwrap();
        let folder = TempDir::new().unwrap();
        let programs = folder.path().join("programs");
        std::fs::create_dir(&programs).unwrap();
        symlink(env!("CARGO_BIN_EXE_xenstored"), programs.join("xenstored")).unwrap();
        symlink(env!("CARGO_BIN_EXE_xsctl"), programs.join("xsctl")).unwrap();
        symlink(program("control"), programs.join("xenstore-control")).unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash")
            .current_dir(&folder)
            .env("PATH", path)
            .env("XENSTORED_PATH", world.daemon.path("socket"))
            .env_remove("XENSTORED_RUNDIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = shell.stdin.take().unwrap();
        input.write_all(b"exec 2>&1\n").unwrap();
        let (lines, output) = channel();
        let stdout = BufReader::new(shell.stdout.take().unwrap());
        std::thread::spawn(move || {
            // The thread ends with the session, which drops the receiver.
            stdout.lines().map_while(Result::ok).all(|line| lines.send(line).is_ok())
        });
        Session { world, shell, input, output, folder }
    }

    /// Replaces the names in a document's commands by those of this run.
    fn of_this(&self, text: &str) -> String {
        let socket = self.world.daemon.path("socket");
        let folder = socket.parent().unwrap().to_str().unwrap();
        let text = text.replace("/tmp/xenstore", folder).replace("/tmp/xs", folder);
        text.replace("target/release/", "")
    }

    fn type_in(&mut self, command: &str) {
        self.input.write_all(command.as_bytes()).unwrap();
        self.input.write_all(b"\n").unwrap();
    }

    fn expect(&mut self, line: &str, of: &str) {
        match self.output.recv_timeout(HANG) {
            Ok(found) => assert_eq!(found, line, "printed by {of}"),
            Err(RecvTimeoutError::Timeout) => panic!("{of} does not print {line:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the shell exited at {of}"),
        }
    }

    /// Runs the commands marked with `$ `; each must print exactly the lines that follow it.
    pub fn console(&mut self, text: &str) {
        let text = self.of_this(text);
        let mut lines = text.lines().peekable();
        let mut command = String::new();
        while let Some(line) = lines.next() {
            if let Some(begins) = line.strip_prefix("$ ") {
                begins.clone_into(&mut command);
                while command.ends_with(['|', '\\']) {
                    command = command + "\n" + lines.next().unwrap();
                }
                self.type_in(&command);
            } else {
                self.expect(line, &command);
            }
        }
        self.is_done(&command);
    }

    /// Runs commands that all succeed and together print these lines.
    pub fn script(&mut self, text: &str, prints: &[&str]) {
        let text = self.of_this(text);
        self.type_in(&format!("( set -e\n{text}\n)\necho status $?"));
        for line in prints.iter().chain(&["status 0"]) {
            self.expect(line, &text);
        }
        self.is_done(&text);
    }

    /// Checks that nothing else was printed.
    fn is_done(&mut self, of: &str) {
        self.type_in("echo done");
        self.expect("done", of);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.input.write_all(b"kill $(jobs -p) 2>/dev/null; exit\n");
        let _ = self.shell.wait();
    }
}
