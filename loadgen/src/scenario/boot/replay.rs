//! Replay of a recorded boot storm on an echo server: the same messages without their meaning.
//!
//! Each client sends a request when it has received as many replies and events as at the recording, so the echo
//! server has as many concurrent messages as the daemon had.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::protocol::{HEADER_BYTES, Operation, WATCH_EVENT};
use xenstored::types::Domid;

use super::{Machine, storm};
use crate::client::{Asked, Connection, Link, Recording};
use crate::scenario::{host_of, start};
use crate::target::echo::{NUMBER, RING, append_script};
use crate::target::{Running, Target};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Timeout, far above the actual duration.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Timeout without any message from the echo server.
const SILENCE: Duration = Duration::from_secs(20);

/// Records the requests and replies of all clients when `size` domains boot at once on our daemon.
pub(super) fn record(size: usize) -> Result<Recording> {
    let running = start(&Target::Ours, &[])?;
    let machine = Machine::new(&running, &Target::Ours)?;
    machine.stage.record();
    for number in 1..=size {
        machine.stage.spawn(Rc::clone(&machine).boot(storm::domid(number)?));
    }
    machine.stage.run(TIMEOUT)?;
    let recording = machine.stage.recorded();
    machine.stage.abandon();
    Ok(recording)
}

/// The recorded clients, connected to an echo server.
pub(super) struct Replay<'a> {
    recording: &'a Recording,
    running: &'a Running,
    poll: Poll,
    clients: Vec<Client>,
    /// Rings of domains that have not started.
    rings: HashMap<Domid, SimGuest>,
    /// The clients that start after each client.
    followers: HashMap<usize, Vec<usize>>,
    /// The number of the next socket, as counted by the echo server.
    next_socket: u32,
    /// Number of unfinished clients.
    open: usize,
    /// The domains end with this connection.
    _host: SimClient,
    /// Total numbers of requests and events.
    pub(super) requests: u64,
    pub(super) events: u64,
}

/// The progress of a client.
#[derive(Default)]
struct Client {
    /// `None` before the client starts, and after it closed.
    connection: Option<Connection>,
    /// The echo server's number of the client.
    number: u32,
    asked: usize,
    replies: u32,
    events: u32,
    done: bool,
}

impl<'a> Replay<'a> {
    /// Creates the domains, so that their clients can start.
    pub(super) fn new(running: &'a Running, recording: &'a Recording) -> Result<Replay<'a>> {
        let cannot = |error| ClientError::io("cannot prepare a replay", error);
        let mut host = host_of(running, &Target::Echo)?;
        let mut rings = HashMap::new();
        let mut followers: HashMap<usize, Vec<usize>> = HashMap::new();
        for (place, actor) in recording.actors.iter().enumerate() {
            match actor.ring {
                Some(Domid::CONTROL) => {
                    drop(rings.insert(Domid::CONTROL, host.attach_control().map_err(cannot)?))
                }
                Some(domid) => drop(rings.insert(domid, host.create(Some(domid)).map_err(cannot)?)),
                None => {}
            }
            if let Some((before, _)) = actor.after {
                followers.entry(before).or_default().push(place);
            }
        }
        let mut clients = Vec::new();
        clients.resize_with(recording.actors.len(), Client::default);
        let next_socket = next_socket(running)?;
        let (poll, open) = (Poll::new().map_err(cannot)?, clients.len());
        Ok(Replay {
            recording,
            running,
            poll,
            clients,
            rings,
            followers,
            next_socket,
            open,
            _host: host,
            requests: 0,
            events: 0,
        })
    }

    /// Replays the recording.
    pub(super) fn run(&mut self) -> Result<()> {
        for place in 0..self.clients.len() {
            if self.recording.actors[place].after.is_none() {
                self.begin(place)?;
            }
        }
        let deadline = Instant::now() + TIMEOUT;
        let mut events = Events::with_capacity(1024);
        while self.open > 0 {
            match self.poll.poll(&mut events, Some(SILENCE)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ if events.is_empty() || Instant::now() > deadline => return Err(self.stuck()),
                _ => {}
            }
            for event in &events {
                self.go_on(event.token().0)?;
            }
        }
        Ok(())
    }

    /// Returns an error with an example of a client that waits forever.
    fn stuck(&self) -> ClientError {
        let mut clients = self.clients.iter().zip(&self.recording.actors);
        let example = clients.find(|(client, _)| !client.done).map(|(client, actor)| {
            let Client { asked, replies, events, .. } = client;
            let (ring, all, after) = (actor.ring, actor.asked.len(), actor.after);
            format!(
                "the first (ring {ring:?}, after {after:?}) asked {asked} of {all}, has {replies} \
                 replies and {events} events of {}",
                actor.events
            )
        });
        ClientError::Wrong(format!(
            "timed out: {} clients wait; {}",
            self.open,
            example.unwrap_or_default()
        ))
    }

    /// Connects a client and starts its requests.
    fn begin(&mut self, place: usize) -> Result<()> {
        let mut link = match self.recording.actors[place].ring {
            Some(domid) => match self.rings.remove(&domid) {
                Some(guest) => Link::Ring(Box::new(guest)),
                None => wrong!("domain {domid} begins twice"),
            },
            None => Link::connect(&self.running.socket)?,
        };
        let client = &mut self.clients[place];
        client.number = match link.ring() {
            Some(domid) => RING | u32::from(domid.0),
            None => self.next_socket,
        };
        self.next_socket += u32::from(link.ring().is_none());
        link.register(self.poll.registry(), Token(place))?;
        client.connection = Some(Connection::new(link));
        self.go_on(place)
    }

    /// Reads a client's input, and sends the requests that are due.
    fn go_on(&mut self, place: usize) -> Result<()> {
        let client = &mut self.clients[place];
        let Some(mut connection) = client.connection.take() else { return Ok(()) };
        connection.receive()?;
        while let Some(message) = connection.message()? {
            match message.kind {
                WATCH_EVENT => client.events += 1,
                _ => client.replies += 1,
            }
        }
        let actor = &self.recording.actors[place];
        let mut asked = client.asked;
        let arrived = (client.replies, client.events);
        let is_due = |next: &&Asked| next.after.0 <= arrived.0 && next.after.1 <= arrived.1;
        while let Some(next) = actor.asked.get(asked).filter(is_due) {
            self.ask(&mut connection, asked, next);
            asked += 1;
        }
        connection.flush()?;
        let client = &mut self.clients[place];
        client.asked = asked;
        let (replies, events) = (actor.asked.len() as u64, u64::from(actor.events));
        let all = asked == actor.asked.len()
            && u64::from(client.replies) >= replies
            && u64::from(client.events) >= events;
        self.open -= usize::from(all && !std::mem::replace(&mut client.done, true));
        if !(all && actor.closes) {
            client.connection = Some(connection);
        }
        self.let_follow(place)
    }

    /// Starts the clients that were recorded to start after this client's present number of replies.
    fn let_follow(&mut self, place: usize) -> Result<()> {
        let Some(followers) = self.followers.get_mut(&place) else { return Ok(()) };
        let (recording, replies) = (self.recording, self.clients[place].replies);
        let is_due =
            |next: &mut usize| recording.actors[*next].after.is_none_or(|(_, n)| n <= replies);
        let due: Vec<usize> = followers.extract_if(.., is_due).collect();
        due.into_iter().try_for_each(|next| self.begin(next))
    }

    fn ask(&mut self, connection: &mut Connection, req_id: usize, asked: &Asked) {
        let events: Vec<(u32, u16)> =
            asked.events.iter().map(|&(to, len)| (self.clients[to].number, len)).collect();
        let req_id = u32::try_from(req_id).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + asked.len);
        match &asked.introduce {
            Some(payload) => {
                connection.queue(Operation::Introduce, req_id, 0, payload);
                append_script(&mut bytes, req_id, None, &events, 0);
            }
            None => append_script(&mut bytes, req_id, Some(asked.reply), &events, asked.len),
        }
        connection.queue_bytes(&bytes);
        self.requests += 1;
        self.events += asked.events.len() as u64;
    }
}

/// Returns the number that the echo server will give to the next socket.
fn next_socket(running: &Running) -> Result<u32> {
    let mut stream = UnixStream::connect(&running.socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all([NUMBER, 0, 0, 0].map(u32::to_le_bytes).as_flattened())?;
    let mut answer = [0; HEADER_BYTES + 4];
    stream.read_exact(&mut answer)?;
    let [.., a, b, c, d] = answer;
    Ok(u32::from_le_bytes([a, b, c, d]) + 1)
}
