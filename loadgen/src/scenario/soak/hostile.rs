//! Malicious or broken clients, whose effects must end with them.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use xenstored::host::sim::SimClient;
use xenstored::host::{ERROR, REQ_CONS, REQ_PROD};
use xenstored::protocol::{Operation, append_request};
use xenstored::types::Domid;

use crate::client::{Blocking, Client, words};
use crate::scenario::deaths::{destroy, wait_until_gone};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// The domain with invalid ring indices.
const BROKEN: Domid = Domid(3001);
/// Timeout after which the daemon counts as not having noticed.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A length above the maximum of a message.
const TOO_LONG: u32 = 4097;
/// A distance between two ring indices that exceeds the ring's size, in bytes.
const TOO_FAR: u32 = 2048;
/// More watches or transactions than any domain may have.
const TOO_MANY: usize = 10_000;

/// Runs all clients that need no task of their own.
pub(super) fn all(socket: &Path, host: &mut SimClient, toolstack: &mut Blocking) -> Result<()> {
    unframed(socket)?;
    halfway(socket)?;
    deaf(socket)?;
    nonsensical(host, toolstack)
}

fn connect(socket: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// A message above the maximum length ends its connection.
fn unframed(socket: &Path) -> Result<()> {
    let mut stream = connect(socket)?;
    let words = [Operation::Read as u32, 0, 0, TOO_LONG].map(u32::to_le_bytes);
    stream.write_all(words.as_flattened())?;
    match stream.read(&mut [0; 64]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => wrong!("the reply to a message of {TOO_LONG} bytes is {other:?}"),
    }
}

/// A client that disconnects in the middle of a request, with an open transaction and a watch.
fn halfway(socket: &Path) -> Result<()> {
    let mut requests = Vec::new();
    append_request(&mut requests, Operation::Watch, 1, 0, &words(&["/soak", "left"]));
    append_request(&mut requests, Operation::TransactionStart, 2, 0, b"\0");
    append_request(&mut requests, Operation::Write, 3, 0, &words(&["/soak/never"]));
    requests.truncate(requests.len() - 4);
    connect(socket)?.write_all(&requests)?;
    Ok(())
}

/// A client that sends requests as long as they are read, and reads nothing.
fn deaf(socket: &Path) -> Result<()> {
    let mut stream = connect(socket)?;
    let mut requests = Vec::new();
    for number in 0..100 {
        append_request(
            &mut requests,
            Operation::Directory,
            number,
            0,
            &words(&["/local/domain/1/device"]),
        );
    }
    stream.set_write_timeout(Some(Duration::from_millis(50)))?;
    let started = Instant::now();
    while stream.write_all(&requests).is_ok() {
        if started.elapsed() > TIMEOUT {
            wrong!("a client that reads nothing is never closed");
        }
    }
    Ok(())
}

/// A guest with a producer index beyond the ring's size: the daemon reports the error and stops serving it.
fn nonsensical(host: &mut SimClient, toolstack: &mut Blocking) -> Result<()> {
    let guest = toolstack.build_domain(host, BROKEN)?;
    toolstack.flush()?;
    let beyond = guest.page.load(REQ_CONS).wrapping_add(TOO_FAR);
    guest.page.store(REQ_PROD, beyond);
    guest.notify()?;
    let started = Instant::now();
    while guest.page.load(ERROR) == 0 {
        if started.elapsed() > TIMEOUT {
            wrong!("an invalid index of a ring is not detected");
        }
        thread::sleep(Duration::from_millis(1));
    }
    destroy(host, BROKEN)?;
    wait_until_gone(toolstack, BROKEN)
}

/// A guest that acquires watches and transactions until it is refused.
pub(super) async fn greedy(client: Client) -> Result<()> {
    for (kind, name) in
        [(Operation::Watch, "watches"), (Operation::TransactionStart, "transactions")]
    {
        let mut granted = 0;
        loop {
            let payload = match kind {
                Operation::Watch => words(&["data", &format!("token{granted}")]),
                _ => b"\0".to_vec(),
            };
            match client.request(kind, 0, &payload).await? {
                Ok(_) if granted == TOO_MANY => wrong!("a guest may have {granted} {name}"),
                Ok(_) => granted += 1,
                Err(errno) if errno == "ENOSPC" => break,
                Err(errno) => return Err(ClientError::Wrong(format!("too many {name}: {errno}"))),
            }
        }
        if granted == 0 {
            wrong!("a guest may have no {name} at all");
        }
    }
    Ok(())
}
