//! A simulated host that is started by hand, for one test.

// Some test binaries compile this module alone.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process of `xenstored sim host`, killed on drop.
pub struct HostProcess {
    child: Child,
    path: PathBuf,
}

impl HostProcess {
    /// Starts a host at the socket `path` and waits until it serves.
    pub fn start(path: &Path, options: &[&str]) -> HostProcess {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xenstored"));
        command.args(["sim", "host", "--sim-socket"]).arg(path).args(options);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let host = HostProcess { child, path: path.to_path_buf() };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the host does not serve");
        host
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the host to end by itself, without an error.
    pub fn ends(mut self) {
        assert!(self.child.wait().unwrap().success());
        assert!(!self.path.exists(), "the host left its socket behind");
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
