//! `xenstored sim fleet`: two daemons, each with a simulated host, and guests that work and check themselves while they
//! are moved between the two.
//!
//! Hosts and guests are threads of this process, the daemons are processes. Each guest is a domain of both hosts and
//! cannot tell them apart; it knows where it is by a node that only one of them has.

mod census;
mod place;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::client::{Client, Toolstack};
use super::worker::{NAME_OF_HOST, PERIOD, Step, Worker};
use super::{adopt, introduce, of_host};
use crate::daemon::{DaemonError, Fleet as Settings, allow_many_files};
use crate::host::sim::SimClient;
use crate::protocol::Operation;
use crate::types::Domid;
use census::Census;
use place::{HOSTS, Place, Serving};

/// How often daemons and signals are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Steps per second of all guests, which leave most of a small machine to the daemons and to the moves.
const STEPS_PER_SECOND: u32 = 400;

/// Open files of a guest: two at each host and its end of the channel; and room for one that is just made anew.
const FILES_OF_GUEST: u64 = 6;
const FILES_BESIDES: u64 = 2048;

/// What a guest's thread reports: after each step, or when its connection ended.
type Report = (Domid, io::Result<Step>);

/// Runs a fleet until a signal. Returns the exit code: 1 if a guest saw a loss or a repetition.
///
/// # Errors
/// A fleet runs in this directory already; the directory is not this user's; a daemon does not start, or ends.
pub fn run(settings: &Settings) -> Result<u8, DaemonError> {
    let other =
        |error| DaemonError::Other { what: "cannot register the signal handlers".into(), error };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(other)?;
    }
    allow_many_files(FILES_OF_GUEST * u64::from(settings.guests) + FILES_BESIDES);
    let place = Place::claim(settings)?;
    let commands = place.commands(settings.guests);
    place.describe(&commands)?;
    let mut daemons = place.start(&stop)?;
    let period = PERIOD.max(Duration::from_secs(settings.guests.into()) / STEPS_PER_SECOND);
    let (mut hosts, reports) = populate(&place, settings.guests, period)?;
    print(&format!(
        "process {}: two hosts, {} guests that work and check themselves; Ctrl-C ends all\n\n{commands}\n",
        std::process::id(),
        settings.guests
    ));
    let mut census = Census::new(settings.guests, period);
    let ended = watch(&mut census, (&mut hosts, &reports), &mut daemons, &stop);
    // The reports of what follows are of the end itself.
    drop(reports);
    daemons.stop();
    print(&format!("{}\n", census.summary()));
    if ended.is_err() {
        place.keep_logs();
    }
    ended?;
    Ok(u8::from(census.faults() > 0))
}

/// Prints the guests' reports until a signal or the end of a daemon.
fn watch(
    census: &mut Census,
    (hosts, reports): (&mut [SimClient; 2], &Receiver<Report>),
    daemons: &mut Serving,
    stop: &AtomicBool,
) -> Result<(), DaemonError> {
    loop {
        // Looked at first, so that what guests saw before a signal is reported.
        let is_over = stop.load(Ordering::Relaxed);
        daemons.check()?;
        // A busy fleet's reports must not delay the look at signals.
        for (domid, report) in reports.try_iter().take(10_000) {
            let step = report
                .map_err(|error| DaemonError::Host(format!("domain {domid} has ended: {error}")))?;
            step.faults.iter().for_each(|fault| eprintln!("domain {domid}: {fault}"));
            if let Some(left) = census.note(domid, &step) {
                make_anew(hosts, left, domid).map_err(|error| {
                    let name = HOSTS[left];
                    DaemonError::Host(format!("domain {domid}, moved from host {name}: {error}"))
                })?;
            }
        }
        if let Some(line) = census.line() {
            print(&format!("{line}\n"));
        }
        if is_over {
            return Ok(());
        }
        thread::sleep(TICK);
    }
}

/// Creates the guests as domains of both hosts, introduces them at the first, and starts their threads. They live as
/// long as the connections returned.
fn populate(
    place: &Place,
    guests: u16,
    period: Duration,
) -> Result<([SimClient; 2], Receiver<Report>), DaemonError> {
    let refused = |error| DaemonError::Host(format!("cannot prepare a daemon: {error}"));
    let mut toolstacks = Vec::new();
    for name in HOSTS {
        let mut toolstack = Toolstack::connect(&place.socket(name)).map_err(refused)?;
        let node = format!("{NAME_OF_HOST}\0{name}");
        toolstack.request(Operation::Write, node.as_bytes()).map_err(refused)?;
        let readable = format!("{NAME_OF_HOST}\0r0\0");
        toolstack.request(Operation::SetPerms, readable.as_bytes()).map_err(refused)?;
        toolstacks.push(toolstack);
    }
    let connect = |name| {
        let socket = place.sim_socket(name);
        SimClient::connect(&socket).map_err(|error| of_host(&socket, error))
    };
    let [mut first, mut second] = [connect(HOSTS[0])?, connect(HOSTS[1])?];
    let (sender, reports) = channel();
    for domid in (1..=guests).map(Domid) {
        let failed = |error| DaemonError::Host(format!("cannot create domain {domid}: {error}"));
        let guest = first.create(Some(domid)).map_err(failed)?;
        adopt(&mut first, &mut second, domid).map_err(failed)?;
        introduce(&mut toolstacks[0], &guest).map_err(failed)?;
        let sender = sender.clone();
        thread::Builder::new()
            .name(format!("guest {domid}"))
            .spawn(move || work(domid, Client::new(guest), period, &sender))
            .map_err(failed)?;
    }
    Ok(([first, second], reports))
}

/// Does the toolstack's part after a move: destroys the domain on the host that it left, where its domid stays taken
/// until then, and makes it anew there, so that it can be moved back.
fn make_anew(hosts: &mut [SimClient; 2], left: usize, domid: Domid) -> io::Result<()> {
    let [first, second] = hosts;
    let (from, to) = if left == 0 { (second, first) } else { (first, second) };
    to.destroy(domid)?;
    adopt(from, to, domid)
}

/// Works until the fleet ends.
fn work(domid: Domid, client: Client, period: Duration, sender: &Sender<Report>) {
    let mut worker = match Worker::start(client) {
        Ok(worker) => worker,
        // The receiver is dropped when the fleet ends.
        Err(error) => return drop(sender.send((domid, Err(error)))),
    };
    loop {
        let step = worker.step();
        let is_over = step.is_err();
        if sender.send((domid, step)).is_err() || is_over {
            return;
        }
        thread::sleep(period);
    }
}

/// Prints at once, also into a pipe. A reader that has gone does not end the fleet.
fn print(text: &str) {
    let mut output = io::stdout();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
