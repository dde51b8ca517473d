//! `xsctl receive`: the end of a tunnel at the daemon, on standard input and output. `xsctl move --to ssh://...` starts
//! it; it ends with its input.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::channels::{End, Mux};
use super::frame::{Frame, LockStep, Port};
use super::{Hello, PROTOCOL, stdout};
use crate::xsctl::daemon::Daemon;
use crate::xsctl::error::{Done, ToolError};
use crate::xsctl::lock::Lock;

/// Serves a tunnel to the daemon at a socket.
///
/// # Errors
/// There is no such daemon, which is reported to the other end, too; the output cannot be written.
pub fn run(socket: PathBuf) -> Result<Done, ToolError> {
    let mut input = io::stdin().lock();
    let mux = Mux::new(stdout()?);
    let daemon = Daemon::find(socket);
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        daemon: daemon.as_ref().map(|daemon| daemon.identity().to_owned()).unwrap_or_default(),
        error: daemon.as_ref().err().map(ToString::to_string),
    };
    let hello = serde_json::to_vec(&hello).map_err(io::Error::from)?;
    mux.send(&Frame::Hello(hello))?;
    let daemon = daemon?;
    // The other end compares the versions, and ends the tunnel if they differ.
    match Frame::read(&mut input)? {
        Some(Frame::Hello(version)) if version == PROTOCOL.to_string().as_bytes() => {}
        _ => return Ok(Done::Well),
    }
    let lock = Lock::of([daemon.migration()]);
    mux.dispatch(&mut input, &mut Receiver { daemon, lock });
    Ok(Done::Well)
}

struct Receiver {
    daemon: Daemon,
    lock: Lock,
}

impl End for Receiver {
    fn takes_streams(&self) -> bool {
        true
    }

    fn open(&mut self, port: Port) -> io::Result<UnixStream> {
        match port {
            Port::Client => UnixStream::connect(&self.daemon.socket),
            Port::Migration => self.daemon.migration().connect(),
        }
    }

    fn lock(&mut self, step: LockStep) -> Option<LockStep> {
        match step {
            LockStep::Take if self.lock.take() => Some(LockStep::IsExclusive),
            LockStep::Share => {
                self.lock.share();
                Some(LockStep::IsShared)
            }
            LockStep::Release => {
                self.lock.release();
                None
            }
            _ => Some(LockStep::IsShared),
        }
    }
}
