//! Prints what a Xen host offers to a xenstored, step by step: for a host on which the daemon does not start, and to
//! try the interface of a new release of Xen.
//!
//! `host_probe` alone examines domain 0; some of its steps need that no xenstored runs.
//! `host_probe DOMID [PORT [GFN]]` maps the ring of a domain, by its page's number too, and binds to its unbound port
//! (0: none), then prints the domain's states until it is gone; the page is unmapped when the domain is dying.

use std::io;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use xenstored::host::page::{REQ_CONS, REQ_PROD};
use xenstored::host::xen::XenHost;
use xenstored::host::{Channels, Host, Port, RingPage};
use xenstored::types::Domid;

/// The time-out for an event.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a page is mapped, to see that unmapping works: Xen counts the mappings of a grant in eight bits and
/// refuses the 256th.
const MAPPINGS: u32 = 1_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let domid = arguments.next().map(|domid| Domid(domid.try_into().expect("a domid")));
    let port: Option<Port> = arguments.next().map(|port| port.try_into().expect("a port"));
    let gfn = arguments.next();

    let host = XenHost::open()?;
    println!("host: {}", host.describe()?);
    println!("domain 0: {:?}", host.domain(Domid::CONTROL)?);
    let unused = Domid(Domid::FIRST_RESERVED - 1);
    println!("domain {unused}: {:?}", host.domain(unused)?);
    println!("ring of domain {unused}: {:?}", host.map_ring(unused, None).map(drop));
    let mut events = Events::new(host.open_channels()?)?;
    println!("port 1 of domain {unused}: {:?}", events.channels.bind_interdomain(unused, 1));
    let virq = report("VIRQ_DOM_EXC", events.channels.bind_changes());
    println!("a second time: {:?}", host.open_channels()?.bind_changes().map_err(|e| e.kind()));
    let control = host.control_port()?;
    println!("xsd_port: {control:?}");
    let domid = domid.unwrap_or(Domid::CONTROL);
    let remote = port.filter(|&port| port != 0).or(control.filter(|_| domid == Domid::CONTROL));

    let page = host.map_ring(domid, None)?;
    print_indices(domid, &page);
    if let Some(gfn) = gfn {
        print!("by its number {gfn:#x}, ");
        print_indices(domid, &host.map_by_number(domid, gfn)?);
        println!("by number 0: {:?}", host.map_by_number(domid, 0).map(drop));
    }
    remap(&host, domid)?;
    if let Some(remote) = remote {
        let name = format!("port {remote} of domain {domid}");
        if let Some(local) = report(&name, events.channels.bind_interdomain(domid, remote)) {
            converse(&mut events, local, domid, &page)?;
        }
    }
    if domid != Domid::CONTROL {
        follow(&host, &mut events, virq, domid, page)?;
    }
    Ok(())
}

fn report(name: &str, port: io::Result<Port>) -> Option<Port> {
    println!("{name}: {port:?}");
    port.ok()
}

/// Prints the fields that follow the two buffers, and how many bytes the domain wrote that are not read yet.
fn print_indices(domid: Domid, page: &RingPage) {
    let names = ["req_cons", "req_prod", "rsp_cons", "rsp_prod", "features", "connection", "error"];
    let field = |(i, name)| format!("{name} {}", page.load(REQ_CONS + i * 4));
    let fields: Vec<_> = names.iter().enumerate().map(field).collect();
    let unread = page.load(REQ_PROD).wrapping_sub(page.load(REQ_CONS));
    println!("ring of domain {domid}: {}; {unread} bytes unread", fields.join(", "));
}

/// Maps and unmaps repeatedly: if grants were not released, the hypervisor or the kernel would run out.
fn remap(host: &XenHost, domid: Domid) -> io::Result<()> {
    let start = Instant::now();
    for _ in 0..MAPPINGS {
        drop(host.map_ring(domid, None)?);
    }
    let each = start.elapsed() / MAPPINGS;
    println!("mapped and unmapped {MAPPINGS} times, {} us each", each.as_micros());
    Ok(())
}

/// Notifies, and takes two events: that of binding, and the first of the other side.
fn converse(events: &mut Events, port: Port, domid: Domid, page: &RingPage) -> io::Result<()> {
    events.channels.notify(port)?;
    println!("notified through port {port}");
    for _ in 0..2 {
        let pending = events.wait(TIMEOUT)?;
        println!("pending: {pending:?}");
        print_indices(domid, page);
        for port in pending {
            events.channels.unmask(port)?;
        }
    }
    events.channels.unbind(port)?;
    println!("unbound port {port}");
    Ok(())
}

/// Prints each state of the domain until it is gone.
fn follow(
    host: &XenHost,
    events: &mut Events,
    virq: Option<Port>,
    domid: Domid,
    page: RingPage,
) -> io::Result<()> {
    let mut page = Some(page);
    let deadline = Instant::now() + TIMEOUT;
    // Without the VIRQ, which a running daemon has bound, nothing reports a change, so it polls.
    let pause = if virq.is_some() { TIMEOUT } else { Duration::from_millis(100) };
    let mut last = None;
    while Instant::now() < deadline {
        // Xen reports each change once. Beside a daemon this does not ask, or the daemon would miss it.
        let mut changed = Vec::new();
        match virq {
            Some(_) => host.changed(&mut [Domid::CONTROL, domid].into_iter(), &mut changed)?,
            None => changed.push(domid),
        }
        let state = host.domain(domid)?;
        if changed.contains(&domid) && last != Some(state) {
            last = Some(state);
            println!("changed: {changed:?}, domain {domid}: {state:?}");
            match state {
                None => return Ok(()),
                Some(state) if state.dying => drop(page.take()),
                Some(_) => (),
            }
        }
        for port in events.wait(pause)? {
            println!("pending: {port}, the VIRQ: {}", Some(port) == virq);
            events.channels.unmask(port)?;
        }
    }
    println!("in the end: {:?}", host.domain(domid)?);
    Ok(())
}

/// Event channels with the poll handle that wakes their thread, as in the daemon.
struct Events {
    channels: Box<dyn Channels>,
    poll: Poll,
}

impl Events {
    fn new(channels: Box<dyn Channels>) -> io::Result<Events> {
        let poll = Poll::new()?;
        let fd = channels.raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(0), Interest::READABLE)?;
        Ok(Events { channels, poll })
    }

    /// Waits until ports are pending and takes all; returns none after `pause`.
    fn wait(&mut self, pause: Duration) -> io::Result<Vec<Port>> {
        self.poll.poll(&mut mio::Events::with_capacity(1), Some(pause))?;
        let (mut all, mut ports) = (Vec::new(), [0; 64]);
        loop {
            match self.channels.pending(&mut ports).all()? {
                0 => return Ok(all),
                taken => all.extend(&ports[..taken]),
            }
        }
    }
}
