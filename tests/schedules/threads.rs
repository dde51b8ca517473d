//! Messages between threads: QUIESCE, and the wake-up of a mailbox's thread.

use super::*;

/// A message to a domain's owner thread.
enum Notice {
    Request,
    Settled,
    Quiesce(Part),
    Unquiesce,
    Death,
    Stop,
}

/// A queue with a blocking reader.
struct Queue<T>(Mutex<VecDeque<T>>, Condvar);

impl<T> Queue<T> {
    fn new() -> Queue<T> {
        Queue(Mutex::new(VecDeque::new()), Condvar::new())
    }

    fn push(&self, item: T) {
        self.0.lock().unwrap().push_back(item);
        self.1.notify_one();
    }

    fn pop(&self) -> T {
        let mut items = self.0.lock().unwrap();
        loop {
            match items.pop_front() {
                Some(item) => return item,
                None => items = self.1.wait(items).unwrap(),
            }
        }
    }
}

/// Runs a domain's owner thread like src/server/migration/quiesce.rs: each request removes a node, and is complete when
/// the reaper has settled the removal; QUIESCE waits for the running request, and for no other.
fn owner_thread(
    world: &World,
    guest: &xenstored::sync::Arc<Domain>,
    notices: &Queue<Notice>,
    reaper: &Queue<Option<Vec<Removed>>>,
) {
    let mut client = world.client(guest);
    let (mut unread, mut parked, mut quiesce) = (0, false, None::<Vec<Part>>);
    let mut connected = true;
    loop {
        match notices.pop() {
            Notice::Request => unread += 1,
            Notice::Settled => {
                parked = false;
                let waiting = quiesce.as_mut().map(std::mem::take).unwrap_or_default();
                waiting.into_iter().for_each(Part::done);
            }
            Notice::Quiesce(part) if !connected => drop(part),
            Notice::Quiesce(part) => {
                let waiting = quiesce.get_or_insert_default();
                if parked { waiting.push(part) } else { part.done() }
            }
            Notice::Unquiesce => quiesce = None,
            Notice::Death => {
                // The domain's connection ends first, and with it the waiters.
                (connected, quiesce) = (false, None);
                world.die(guest);
            }
            Notice::Stop => break,
        }
        if unread > 0 && !parked && quiesce.is_none() && connected {
            (unread, parked) = (unread - 1, true);
            reaper.push(Some(client.begin_rm("/local/domain/5/a").unwrap()));
        }
    }
    reaper.push(None);
}

/// Runs a domain with a node, its owner thread and a reaper; `others` send messages, and get a function that requests
/// QUIESCE and returns its outcome.
fn with_owner_thread(
    others: impl Fn(&World, &Queue<Notice>, &(dyn Fn() -> Joined + Sync)) + Send + Sync + 'static,
) {
    explore(move || {
        let world = World::new();
        let guest = world.admit(5);
        world.control().write("/local/domain/5", "").unwrap();
        world.control().set_perms("/local/domain/5", "n5").unwrap();
        world.client(&guest).write("/local/domain/5/a/b", "").unwrap();
        let (notices, removals) = (Queue::new(), Queue::new());
        let quiesce = || {
            let replies = Arc::new(Queue::new());
            let reply = Arc::clone(&replies);
            for part in parts(&[Domid(5)], move |joined| reply.push(joined)) {
                notices.push(Notice::Quiesce(part));
            }
            let reply = replies.pop();
            assert!(replies.0.lock().unwrap().is_empty(), "more than one reply");
            reply
        };
        at_once!(
            || owner_thread(&world, &guest, &notices, &removals),
            || while let Some(removed) = removals.pop() {
                assert!(world.store.settle(removed).is_none());
                notices.push(Notice::Settled);
            },
            || notices.push(Notice::Request),
            || others(&world, &notices, &quiesce),
        );
        world.check();
    });
}

/// When QUIESCE succeeds, the domain's requests are complete, accounts included, and none is executed before UNQUIESCE.
#[test]
fn quiesce_waits_for_the_domains_running_request() {
    with_owner_thread(|world, notices, quiesce| {
        assert_eq!(quiesce(), Ok(vec![]));
        world.check();
        let there = world.has("/local/domain/5/a");
        shuttle::thread::yield_now();
        assert_eq!(world.has("/local/domain/5/a"), there);
        notices.push(Notice::Unquiesce);
        notices.push(Notice::Stop);
    });
}

/// However QUIESCE and a death interleave, there is exactly one reply.
#[test]
fn quiesce_racing_with_a_death_gets_one_reply() {
    with_owner_thread(|_, notices, quiesce| {
        scope(|scope| {
            scope.spawn(|| {
                let reply = quiesce();
                assert!(reply == Ok(vec![]) || reply == Err(Errno::ENOENT), "{reply:?}");
            });
            scope.spawn(|| notices.push(Notice::Death));
        });
        notices.push(Notice::Stop);
    });
}

/// Two threads complete the last two parts: one of them replies, for both.
#[test]
fn two_owner_threads_give_one_reply() {
    explore(|| {
        let replies = Arc::new(Queue::new());
        let reply = Arc::clone(&replies);
        let both = parts(&[Domid(4), Domid(5)], move |joined| reply.push(joined));
        let [four, five] = <[Part; 2]>::try_from(both).ok().unwrap();
        at_once!(move || four.failed(Errno::EAGAIN), move || five.done());
        assert_eq!(replies.pop(), Ok(vec![(Domid(4), Errno::EAGAIN)]));
        assert!(replies.0.lock().unwrap().is_empty());
    });
}

/// A mailbox's thread sleeps only if the mailbox is empty: shuttle reports a lost wake-up as a deadlock.
#[test]
fn mailbox_loses_no_wake_up() {
    explore(|| {
        let signal = Signal::default();
        let queue = std::sync::Mutex::new(Vec::new());
        let (asleep, woken) = (Mutex::new(false), Condvar::new());
        let wake = || {
            if signal.take() {
                *asleep.lock().unwrap() = true;
                woken.notify_one();
            }
        };
        let produce = |first: u32| {
            for message in [first, first + 1] {
                queue.lock().unwrap().push(message);
                signal.raise();
                shuttle::thread::yield_now();
            }
            wake();
        };
        at_once!(|| produce(0), || produce(2), || produce(4), || {
            let mut taken = 0;
            while taken < 6 {
                if signal.may_sleep(|| queue.lock().unwrap().is_empty()) {
                    // Behaves like mio's waker: a wake-up before the poll ends the poll at once.
                    let mut said = asleep.lock().unwrap();
                    while !*said {
                        said = woken.wait(said).unwrap();
                    }
                    *said = false;
                }
                taken += std::mem::take(&mut *queue.lock().unwrap()).len();
            }
        },);
    });
}
