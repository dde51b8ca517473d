//! A proxy between `xsctl` and either socket of a daemon: holds one request of a type, or its reply, until the test
//! releases it; or takes the digest out of exported streams. Only for a tool that sends one request at a time on a
//! connection.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use xenstored::migration::stream::digest::TAIL_BYTES;

use super::common::bulk::EXPORT;
use super::common::wire::{HEADER_BYTES, Message, op};

/// Length of a stream's last record.
const END_BYTES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The daemon has not seen the request.
    Before,
    /// The daemon has executed the request, and the tool has no reply.
    After,
}

/// A hold on the first request of a type. Dropping the hold ends that request's connection.
pub struct Hold {
    pub reached: mpsc::Receiver<()>,
    _held: mpsc::Sender<()>,
}

/// The request to hold, the sender that reports it, and the receiver that waits for its end.
type Held = Arc<Mutex<Option<(u32, Moment, mpsc::Sender<()>, mpsc::Receiver<()>)>>>;

impl Hold {
    /// Listens at `path` for the daemon's socket `real`. The proxy's threads end with the test.
    pub fn start(path: &Path, real: PathBuf, kind: u32, moment: Moment) -> Hold {
        let ((notify, reached), (held, waits)) = (mpsc::channel(), mpsc::channel());
        let listener = UnixListener::bind(path).unwrap();
        let hold: Held = Arc::new(Mutex::new(Some((kind, moment, notify, waits))));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (hold, real) = (Arc::clone(&hold), real.clone());
                thread::spawn(move || pass(client.unwrap(), &real, &hold));
            }
        });
        Hold { reached, _held: held }
    }
}

/// Listens at `path` for the migration socket `real`, and takes the digest out of each exported stream, as a daemon
/// exports it that writes none. Its threads end with the test.
pub fn without_digests(path: &Path, real: PathBuf) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let real = real.clone();
            thread::spawn(move || pass_without_digests(client.unwrap(), &real));
        }
    });
}

fn pass_without_digests(mut client: UnixStream, real: &Path) -> Option<()> {
    let mut daemon = UnixStream::connect(real).ok()?;
    loop {
        let (request, mut descriptors) = receive_with(&client)?;
        let kind = u32::from_le_bytes(request[..4].try_into().unwrap());
        let stream = (kind == EXPORT).then(|| tempfile::tempfile().unwrap());
        let output = stream.as_ref().and_then(|stream| {
            let output = descriptors.pop();
            descriptors.push(stream.try_clone().unwrap().into());
            output
        });
        send_with(&daemon, &request, &descriptors);
        drop(descriptors);
        let replies = replies(&mut daemon, kind)?;
        if let (Some(mut stream), Some(output)) = (stream, output) {
            let mut bytes = Vec::new();
            stream.rewind().unwrap();
            stream.read_to_end(&mut bytes).unwrap();
            bytes.drain(bytes.len() - TAIL_BYTES..bytes.len() - END_BYTES);
            File::from(output).write_all(&bytes).ok()?;
        }
        client.write_all(&replies).ok()?;
    }
}

fn pass(mut client: UnixStream, real: &Path, hold: &Held) -> Option<()> {
    let mut daemon = UnixStream::connect(real).ok()?;
    loop {
        let (request, descriptors) = receive_with(&client)?;
        let kind = u32::from_le_bytes(request[..4].try_into().unwrap());
        let held = hold.lock().unwrap().take_if(|(held, ..)| *held == kind);
        if let Some((_, Moment::Before, notify, waits)) = &held {
            let _ = notify.send(());
            let _ = waits.recv();
            return None;
        }
        send_with(&daemon, &request, &descriptors);
        // Only the daemons may hold the ends of pipes, so the proxy closes its copies.
        drop(descriptors);
        let replies = replies(&mut daemon, kind)?;
        if let Some((_, _, notify, waits)) = held {
            let _ = notify.send(());
            let _ = waits.recv();
            return None;
        }
        client.write_all(&replies).ok()?;
    }
}

/// Returns all replies to a request.
fn replies(daemon: &mut UnixStream, kind: u32) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut header = [0; HEADER_BYTES];
        daemon.read_exact(&mut header).ok()?;
        let len = usize::try_from(u32::from_le_bytes(header[12..].try_into().unwrap())).unwrap();
        let mut bytes = header.to_vec();
        bytes.resize(HEADER_BYTES + len, 0);
        daemon.read_exact(&mut bytes[HEADER_BYTES..]).ok()?;
        all.extend_from_slice(&bytes);
        let message = Message::take(&mut bytes)?;
        if kind < EXPORT || message.kind == op::ERROR || message.payload == b"OK\0" {
            return Some(all);
        }
    }
}

fn receive_with(socket: &UnixStream) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; HEADER_BYTES + 4096];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(those) = message {
            descriptors.extend(those);
        }
    }
    bytes.truncate(received.bytes);
    (!bytes.is_empty()).then_some((bytes, descriptors))
}

fn send_with(socket: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    if !borrowed.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    }
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}
