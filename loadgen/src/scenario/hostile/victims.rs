//! Well-behaved clients and their latencies.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use xenstored::host::sim::SimGuest;
use xenstored::protocol::Operation;

use super::domains::{BESIDE, DATA, ELSEWHERE, NAME, VALUE, small_domain};
use super::kernel::{BACKENDS, Created};
use crate::client::{Client, Link, Stage, histogram, record, words};
use crate::trouble::Result;
use crate::wrong;

/// Interval of requests of guests and toolstacks.
const INTERVAL: Duration = Duration::from_millis(2);
/// Interval at which backends are created, and domains introduced or released, on a busy host.
const RARE_INTERVAL: Duration = Duration::from_millis(20);

/// The kinds of victims, in the order of a table's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// A guest on another thread than the hostile ones.
    Elsewhere,
    /// A guest on the same thread as the hostile ones.
    Beside,
    /// Two clients of the socket, one on each thread, which send READ, WRITE, and transactions.
    Toolstack,
    /// A toolstack that sends INTRODUCE and RELEASE of a small domain, and RM of its nodes.
    Introduce,
    /// Domain 0's kernel: from a backend's creation to its event.
    Kernel,
}

impl Victim {
    /// All kinds, in the order of a table's rows.
    pub const ALL: [Victim; 5] =
        [Victim::Elsewhere, Victim::Beside, Victim::Toolstack, Victim::Introduce, Victim::Kernel];

    /// Returns the name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Victim::Elsewhere => "guest on another thread",
            Victim::Beside => "guest on the same thread",
            Victim::Toolstack => "toolstack",
            Victim::Introduce => "INTRODUCE, RELEASE, RM",
            Victim::Kernel => "domain 0's kernel",
        }
    }
}

/// A victim's latencies.
pub struct Noticed {
    /// Latencies in nanoseconds, from the intended time of sending to the reply.
    pub latency: Histogram<u64>,
    /// Expected number of requests.
    pub whole: u64,
}

/// The clients that send requests; the kernel only reads and is not one of them.
pub struct Victims {
    stage: Stage,
    guests: [Client; 2],
    toolstacks: [Client; 2],
    introducer: Client,
    /// The payload of INTRODUCE for each small domain.
    introductions: [Vec<u8>; 2],
    /// Whether domains are released; oxenstored forgets the port at RELEASE, so there they are introduced again
    /// without one.
    releases: bool,
    /// Number of requests about small domains so far: each phase continues where the previous one ended.
    introduced: Rc<Cell<usize>>,
    creator: Client,
    /// Backends created so far.
    created: Rc<RefCell<Vec<Created>>>,
}

impl Victims {
    /// Connects the victims.
    pub fn connect(
        socket: &Path,
        [elsewhere, beside]: [SimGuest; 2],
        small: &[SimGuest; 2],
        releases: bool,
    ) -> Result<Victims> {
        let stage = Stage::new()?;
        let ring = |guest| stage.client(Link::Ring(Box::new(guest)));
        let guests = [ring(elsewhere)?, ring(beside)?];
        let introductions = [0, 1].map(|number| {
            let (domid, port) = (small[number].domid.to_string(), small[number].port.to_string());
            words(&[&domid, "1", &port])
        });
        // New connections are assigned to the threads in turn.
        let toolstacks = [stage.connect(socket)?, stage.connect(socket)?];
        let (introducer, creator) = (stage.connect(socket)?, stage.connect(socket)?);
        let (introduced, created) = (Rc::default(), Rc::default());
        Ok(Victims {
            stage,
            guests,
            toolstacks,
            introducer,
            introductions,
            releases,
            introduced,
            creator,
            created,
        })
    }

    /// Sends requests for `time`, and waits for replies for up to `timeout` more.
    pub fn measure(&self, time: Duration, timeout: Duration) -> Result<Vec<(Victim, Noticed)>> {
        let mut all = Vec::new();
        let mut add = |victim, pace: &Pace| all.push((victim, pace.clone()));
        for (victim, client) in [Victim::Elsewhere, Victim::Beside].into_iter().zip(&self.guests) {
            let (pace, client) = (Pace::new(time, INTERVAL), client.clone());
            add(victim, &pace);
            self.spawn(pace, async move |number| read_or_write(&client, number).await);
        }
        let toolstack = Pace::new(time, INTERVAL);
        add(Victim::Toolstack, &toolstack);
        for (number, client) in self.toolstacks.iter().enumerate() {
            let (client, node) = (client.clone(), format!("/tool/hostile/{number}"));
            self.spawn(toolstack.clone(), async move |number| {
                toolstack_request(&client, &node, number).await
            });
        }
        let pace = Pace::new(time, RARE_INTERVAL);
        add(Victim::Introduce, &pace);
        let (client, introductions) = (self.introducer.clone(), self.introductions.clone());
        let (introduced, releases) = (Rc::clone(&self.introduced), self.releases);
        self.spawn(pace, async move |_| {
            let number = introduced.replace(introduced.get() + 1);
            let place = number / 6 % 2;
            let step = if releases { number % 3 } else { 1 + number % 2 };
            small_domain_request(&client, place, step, &introductions[place]).await
        });
        let (client, created) = (self.creator.clone(), Rc::clone(&self.created));
        self.spawn(Pace::new(time, RARE_INTERVAL), async move |number| {
            let domid = [ELSEWHERE, BESIDE][number % 2];
            let path = format!("{BACKENDS}/vif/{domid}/{}", created.borrow().len());
            client.write(0, &path, "").await?;
            created.borrow_mut().push((path, Instant::now()));
            Ok(())
        });
        self.stage.run_for(time + timeout)?;
        self.stage.abandon();
        Ok(all.into_iter().map(|(victim, pace)| (victim, pace.noticed())).collect())
    }

    /// Returns the number of backends created so far.
    pub fn created(&self) -> usize {
        self.created.borrow().len()
    }

    /// Returns the backends created after the first `seen`.
    pub fn created_after(&self, seen: usize) -> Vec<Created> {
        self.created.borrow()[seen..].to_vec()
    }

    /// Sends requests at this pace. The latency of a request delayed by its predecessor is measured from its intended
    /// time, otherwise from the actual one, as a stage's timers are up to a millisecond late.
    fn spawn(&self, pace: Pace, request: impl AsyncFn(usize) -> Result<()> + 'static) {
        let stage = self.stage.handle();
        pace.whole.set(pace.whole.get() + pace.count as u64);
        self.stage.spawn(async move {
            let mut due = Instant::now();
            let mut is_behind = false;
            for number in 0..pace.count {
                stage.until(due).await;
                let began = if is_behind { due } else { Instant::now() };
                request(number).await?;
                record(&mut pace.latency.borrow_mut(), began.elapsed());
                due += pace.interval;
                is_behind = due < Instant::now();
            }
            Ok(())
        });
    }
}

/// A pace with its latencies, which clones share.
#[derive(Clone)]
struct Pace {
    interval: Duration,
    /// Number of requests of each client.
    count: usize,
    /// Number of requests of all clients.
    whole: Rc<Cell<u64>>,
    latency: Rc<RefCell<Histogram<u64>>>,
}

impl Pace {
    fn new(time: Duration, interval: Duration) -> Pace {
        let count = usize::try_from(time.as_nanos() / interval.as_nanos()).unwrap_or(1).max(1);
        Pace { interval, count, whole: Rc::default(), latency: Rc::new(RefCell::new(histogram())) }
    }

    fn noticed(&self) -> Noticed {
        Noticed { latency: self.latency.borrow().clone(), whole: self.whole.get() }
    }
}

async fn read_or_write(client: &Client, number: usize) -> Result<()> {
    if number % 2 == 1 {
        return client.write(0, DATA, number.to_string()).await;
    }
    match client.read(0, NAME).await? {
        value if value == VALUE => Ok(()),
        value => wrong!("a guest's {NAME} is {value:?}"),
    }
}

async fn toolstack_request(client: &Client, node: &str, number: usize) -> Result<()> {
    match number % 3 {
        0 => client.write(0, node, number.to_string()).await,
        1 => match client.read(0, node).await? {
            value if value == (number - 1).to_string() => Ok(()),
            value => wrong!("{node} is {value} after the toolstack wrote {}", number - 1),
        },
        _ => {
            let body = async |tx| {
                client.read(tx, node).await?;
                client.write(tx, node, number.to_string()).await
            };
            client.transact(body).await.map(drop)
        }
    }
}

async fn small_domain_request(
    client: &Client,
    place: usize,
    step: usize,
    introduction: &[u8],
) -> Result<()> {
    let (domid, home) = (small_domain(place), format!("/local/domain/{}", small_domain(place)));
    match step {
        0 => client.must(Operation::Release, 0, &words(&[&domid.to_string()])).await.map(drop),
        2 => client.must(Operation::Introduce, 0, introduction).await.map(drop),
        _ => {
            // C xenstored removes the domain's nodes with RELEASE.
            let _ = client.request(Operation::Rm, 0, &words(&[&home])).await?;
            client.write(0, &format!("{home}/{NAME}"), VALUE).await
        }
    }
}
