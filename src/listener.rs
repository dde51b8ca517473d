//! The thread that accepts clients of the daemon's socket.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};

use crate::log::Unaccepted;
use crate::sync::Arc;

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);
/// The pause before accepting is tried again when no descriptors are left, as some may be closed in between. Clients
/// that connect wait in the socket's queue.
const PAUSE: Duration = Duration::from_millis(200);

/// An accept loop that runs until its waker is woken.
pub struct Listener {
    poll: Poll,
    listener: mio::net::UnixListener,
    waker: Arc<Waker>,
    unaccepted: Unaccepted,
}

impl Listener {
    /// Takes over a listening socket.
    ///
    /// # Errors
    /// The system's, if it refuses a poll handle.
    pub fn new(listener: UnixListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), STOP)?);
        let listener = mio::net::UnixListener::from_std(listener);
        Ok(Listener { poll, listener, waker, unaccepted: Unaccepted::of("store") })
    }

    /// Returns the waker that ends [`Listener::run`].
    pub fn stopper(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Passes each client that connects to `serve`, until the waker is woken.
    ///
    /// # Errors
    /// Those of the poll, except an interruption.
    pub fn run(&mut self, mut serve: impl FnMut(UnixStream)) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        self.listen(true)?;
        let mut timeout = None;
        loop {
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            if events.iter().any(|event| event.token() == STOP) {
                // Clients wait in the socket's queue until the next call.
                return if timeout.is_none() { self.listen(false) } else { Ok(()) };
            }
            if timeout.take().is_some()
                && let Err(error) = self.listen(true)
            {
                // The kernel has no memory or epoll watches left now; clients wait in the socket's queue.
                tracing::warn!(%error, "cannot accept clients, trying again soon");
                timeout = Some(PAUSE);
                continue;
            }
            if let Err(error) = self.accept_all(&mut serve) {
                self.unaccepted.warn(&error);
                // The socket is deregistered during the pause, or the poll would spin: the client that cannot be
                // accepted stays in the queue.
                self.listen(false)?;
                timeout = Some(PAUSE);
            }
        }
    }

    fn accept_all(&self, serve: &mut impl FnMut(UnixStream)) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((client, _)) => serve(client.into()),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn listen(&mut self, listen: bool) -> io::Result<()> {
        if listen {
            self.poll.registry().register(&mut self.listener, LISTENER, Interest::READABLE)
        } else {
            self.poll.registry().deregister(&mut self.listener)
        }
    }
}
