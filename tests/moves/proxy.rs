//! A proxy between `xsctl` and a daemon's socket for clients.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use super::common::Daemon;
use super::common::wire::{HEADER_BYTES, Message, op};

/// The proxy's action on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Passes the request and its reply on.
    Pass,
    /// Replies with an error.
    Refuse(&'static str),
    /// Ends the connection before the daemon sees the request.
    Cut,
    /// Ends the connection after the daemon executed the request.
    CutAfter,
    /// Like `Cut`, but also accepts no further connection.
    Gone,
    /// Like `CutAfter`, but also accepts no further connection.
    GoneAfter,
}

/// Chooses the action for a request of this type and payload.
type Decide = Arc<Mutex<dyn FnMut(u32, &[u8]) -> Action + Send>>;

pub struct Proxy {
    path: PathBuf,
}

impl Proxy {
    /// Listens at `path` for a daemon. The proxy's threads end with the test.
    pub fn start(
        daemon: &Daemon,
        path: &Path,
        decide: impl FnMut(u32, &[u8]) -> Action + Send + 'static,
    ) -> Proxy {
        let (listener, real) = (UnixListener::bind(path).unwrap(), daemon.path("socket"));
        let decide: Decide = Arc::new(Mutex::new(decide));
        let own = path.to_path_buf();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (decide, real, own) = (Arc::clone(&decide), real.clone(), own.clone());
                thread::spawn(move || pass(client.unwrap(), &real, &own, &decide));
            }
        });
        Proxy { path: path.to_path_buf() }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Handles one request after the other; returns `None` at the end.
fn pass(mut client: UnixStream, real: &Path, own: &Path, decide: &Decide) -> Option<()> {
    let mut daemon = UnixStream::connect(real).ok()?;
    loop {
        let request = receive(&mut client)?;
        let action = decide.lock().unwrap()(request.kind, &request.payload);
        if let Action::Gone | Action::GoneAfter = action {
            fs::remove_file(own).unwrap();
        }
        let reply = match action {
            Action::Cut | Action::Gone => return None,
            Action::Refuse(error) => {
                let payload = [error.as_bytes(), b"\0"].concat();
                Message { kind: op::ERROR, payload, ..request }
            }
            Action::Pass | Action::CutAfter | Action::GoneAfter => {
                daemon.write_all(&request.encode()).ok()?;
                receive(&mut daemon)?
            }
        };
        if let Action::CutAfter | Action::GoneAfter = action {
            return None;
        }
        client.write_all(&reply.encode()).ok()?;
    }
}

fn receive(stream: &mut UnixStream) -> Option<Message> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).ok()?;
    let mut bytes = header.to_vec();
    let len = u32::from_le_bytes(header[12..].try_into().unwrap());
    bytes.resize(HEADER_BYTES + usize::try_from(len).unwrap(), 0);
    stream.read_exact(&mut bytes[HEADER_BYTES..]).ok()?;
    Message::take(&mut bytes)
}
