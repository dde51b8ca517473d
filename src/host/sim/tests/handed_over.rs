//! Tests of a host and its handles with which another process goes on: this test program, started again with inherited
//! descriptors.

use std::os::fd::IntoRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::event::epoll::CreateFlags;

use super::*;
use crate::host::inherited::set_inheritable;
use crate::host::{SavedBinding, SavedChannels, SavedHost};

/// The variable with the saved host and handles.
const SAVED: &str = "HANDED_OVER";
const ADOPTED: &str = "adopted";

/// The other process: adopts the host and its handles and does what the lines of its input ask, one reply line each.
#[test]
#[ignore = "child process of the other tests"]
fn child_process_goes_on() {
    let saved = std::env::var(SAVED).unwrap();
    let (host, handles): (SavedHost, Vec<SavedChannels>) = serde_json::from_str(&saved).unwrap();
    let host = SimHost::adopt(host).unwrap();
    let adopt = |saved| host.adopt_channels(saved).unwrap();
    let mut handles: Vec<Box<dyn Channels>> = handles.into_iter().map(adopt).collect();
    println!("\n{ADOPTED}");
    for line in io::stdin().lines().map(Result::unwrap) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u32>().unwrap();
        let handle = words.get(1).map_or(0, |word| word.parse().unwrap());
        match words[0] {
            "pending" => println!("{:?}", pending(&mut *handles[handle])),
            "wait" => {
                wait_for(&*handles[handle]);
                println!("{:?}", pending(&mut *handles[handle]));
            }
            "unmask" => println!("{:?}", handles[handle].unmask(number(2)).is_ok()),
            "notify" => println!("{:?}", handles[handle].notify(number(2)).is_ok()),
            "unbind" => println!("{:?}", handles[handle].unbind(number(2)).is_ok()),
            "bind" => {
                let bound = handles[handle].bind_interdomain(domid_of(&words), XENSTORE_PORT);
                println!("{:?}", bound.map_err(|error| error.kind()));
            }
            "changed" => println!("{:?}", changed(&host, &[domid_of(&words)])),
            "leave" => println!("{:?}", host.leave().is_ok()),
            "drop" => {
                handles.clear();
                println!("true");
            }
            _ => panic!("{line}"),
        }
    }
}

fn domid_of(words: &[&str]) -> Domid {
    Domid::parse(words[2].as_bytes()).unwrap()
}

/// The process that goes on. It is killed on drop.
struct Successor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Successor {
    /// Starts the process; it has adopted everything when its first reply arrives.
    fn start(host: &SimHost, handles: &[&dyn Channels]) -> Successor {
        let host = host.save().unwrap();
        let handles: Vec<SavedChannels> = handles.iter().map(|h| h.save().unwrap()).collect();
        let mut numbers = host.descriptors();
        numbers.extend(handles.iter().flat_map(SavedChannels::descriptors));
        set_inheritable(&numbers, true).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "host::sim::tests::handed_over::child_process_goes_on"])
            .args(["--ignored", "--nocapture"])
            .env(SAVED, serde_json::to_string(&(host, handles)).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        set_inheritable(&numbers, false).unwrap();
        let mut child = child.unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Successor { child, input, output: BufReader::new(output) }
    }

    /// Waits until everything is adopted.
    fn adopted(mut self) -> Successor {
        while self.line() != ADOPTED {}
        self
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the successor ended");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.line()
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn notifications_before_during_and_after_a_hand_over_are_seen() {
    let mut world = World::new();
    let (early, mut handle, port) = world.bound();
    let (masked, mut other, second) = world.bound();
    early.notify().unwrap();
    masked.notify().unwrap();
    assert_eq!(pending(&mut *other), [second], "taken, and so masked at the hand-over");
    masked.notify().unwrap();

    let successor = Successor::start(&world.host, &[&*handle, &*other]);
    let third = world.client.create(None).unwrap(); // While the other process starts.
    let late = handle.bind_interdomain(third.domid, third.port).unwrap();
    handle.unbind(late).unwrap();
    let mut successor = successor.adopted();
    assert_eq!(successor.ask("wait 0"), format!("[{port}]"), "notified before");
    assert_eq!(successor.ask("pending 1"), "[]", "masked");
    assert_eq!(successor.ask(&format!("unmask 1 {second}")), "true");
    assert_eq!(successor.ask("wait 1"), format!("[{second}]"), "notified before, while masked");

    world.host.let_go();
    world.host.leave().unwrap();
    let World { host, client, dir } = world;
    drop((host, handle, other)); // As if this process ended: the bindings live on.
    assert_eq!(successor.ask(&format!("unmask 0 {port}")), "true");
    assert_eq!(successor.ask(&format!("unmask 1 {second}")), "true");
    early.notify().unwrap();
    assert_eq!(successor.ask("wait 0"), format!("[{port}]"), "notified after");
    masked.notify().unwrap();
    assert_eq!(successor.ask("wait 1"), format!("[{second}]"));
    assert_eq!(successor.ask(&format!("notify 0 {port}")), "true");
    assert!(early.wait(Some(LOST)).unwrap());
    assert_eq!(successor.ask(&format!("bind 0 {}", early.domid)), "Err(ResourceBusy)");
    assert!(successor.ask(&format!("bind 0 {}", third.domid)).starts_with("Ok("));
    assert_eq!(successor.ask(&format!("unbind 0 {port}")), "true");
    assert_eq!(successor.ask(&format!("unmask 0 {port}")), "false");
    drop((client, dir));
}

#[test]
fn domain_deaths_before_during_and_after_a_hand_over_are_seen() {
    let mut world = World::new();
    let mut handle = world.host.open_channels().unwrap();
    let port = handle.bind_changes().unwrap();
    let guests: Vec<SimGuest> = (0..4).map(|_| world.client.create(None).unwrap()).collect();
    let domids: Vec<Domid> = guests.iter().map(|guest| guest.domid).collect();
    assert_eq!(changed(&world.host, &domids), domids, "reported for the first time");
    let [before, during, after, quiet] = domids[..] else { panic!() };
    let is_changed = |domid| format!("changed 0 {domid}");

    world.client.destroy(before).unwrap();
    let successor = Successor::start(&world.host, &[&*handle]);
    world.client.destroy(during).unwrap();
    let mut successor = successor.adopted();
    assert_eq!(successor.ask("wait 0"), format!("[{port}]"));
    for domid in [before, during] {
        assert_eq!(successor.ask(&is_changed(domid)), format!("[{domid:?}]"));
    }
    assert_eq!(successor.ask(&is_changed(quiet)), "[]", "what was reported is carried");
    world.host.let_go();
    drop((world.host, handle));
    assert_eq!(successor.ask(&format!("unmask 0 {port}")), "true");
    world.client.destroy(after).unwrap();
    assert_eq!(successor.ask("wait 0"), format!("[{port}]"));
    assert_eq!(successor.ask(&is_changed(after)), format!("[{after:?}]"));
    assert!(world.client.status().unwrap().is_served);
}

#[test]
fn handle_goes_on_after_a_failed_hand_over() {
    for ends_in_order in [false, true] {
        let mut world = World::new();
        let (guest, mut handle, port) = world.bound();
        let changes = handle.bind_changes().unwrap();
        let mut successor = Successor::start(&world.host, &[&*handle]).adopted();
        guest.notify().unwrap();
        assert_eq!(successor.ask("wait 0"), format!("[{port}]"), "lost with the successor");
        if ends_in_order {
            assert_eq!(successor.ask("drop"), "true");
        }
        drop(successor);
        assert!(!world.host.has_ended());
        assert!(pending(&mut *handle).is_empty(), "masked");
        handle.unmask(port).unwrap();
        handle.unmask(changes).unwrap();
        guest.notify().unwrap();
        wait_for(&*handle);
        assert_eq!(pending(&mut *handle), [port]);
        handle.notify(port).unwrap();
        assert!(guest.wait(Some(LOST)).unwrap());
        world.client.destroy(guest.domid).unwrap();
        let reported = pending(&mut *handle);
        assert!(reported.contains(&changes), "{reported:?}");
        handle.unbind(port).unwrap();
    }
}

#[test]
fn successor_ends_a_host_that_a_daemon_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host");
    let (server, _stop) = SimServer::new(&path, Lifetime::UntilUnused(LOST)).unwrap();
    let thread = thread::spawn(|| server.run());
    let host = SimHost::connect(&path).unwrap();
    let mut successor = Successor::start(&host, &[]).adopted();
    host.let_go();
    host.leave().unwrap();
    assert!(!host.has_ended());
    drop(host);
    assert!(path.exists());
    assert_eq!(successor.ask("leave"), "true");
    assert!(!path.exists());
    thread.join().unwrap();
}

#[test]
fn saved_descriptors_that_are_not_the_saved_ones_are_refused() {
    let mut world = World::new();
    let (_guest, handle, _port) = world.bound();
    let kind = |result: io::Result<Box<dyn Channels>>| result.err().unwrap().kind();
    let saved = handle.save().unwrap();
    assert_eq!(handle.save().unwrap(), saved, "saving changes nothing");
    // Not inherited: this process has them.
    assert_eq!(kind(world.host.adopt_channels(saved.clone())), ErrorKind::InvalidData);
    let host = world.host.save().unwrap();
    assert_eq!(SimHost::adopt(host).err().unwrap().kind(), ErrorKind::InvalidData);
    assert_eq!(SimHost::adopt(SavedHost::Xen).err().unwrap().kind(), ErrorKind::InvalidData);
    let xen = SavedChannels::Xen { device: 0, ports: Vec::new() };
    assert_eq!(kind(world.host.adopt_channels(xen)), ErrorKind::InvalidData);

    let SavedChannels::Sim { bindings, .. } = saved else { panic!() };
    let [SavedBinding::Guest { port, channel, inode, hung_up }] = bindings[..] else { panic!() };
    let adopt = |binding| {
        let epoll = rustix::event::epoll::create(CreateFlags::CLOEXEC).unwrap().into_raw_fd();
        set_inheritable(&[epoll], true).unwrap();
        kind(world.host.adopt_channels(SavedChannels::Sim { epoll, bindings: vec![binding] }))
    };
    let binding = |channel, inode| SavedBinding::Guest { port, channel, inode, hung_up };
    assert_eq!(adopt(binding(channel, inode)), ErrorKind::InvalidData, "not inherited");
    let copy = || {
        // SAFETY: the descriptor is open for as long as the handle, which is dropped last.
        let channel = unsafe { BorrowedFd::borrow_raw(channel) };
        let copy = channel.try_clone_to_owned().unwrap().into_raw_fd();
        set_inheritable(&[copy], true).unwrap();
        copy
    };
    assert_eq!(adopt(binding(copy(), inode + 1)), ErrorKind::InvalidData, "another channel");
    assert_eq!(adopt(binding(copy(), inode)), ErrorKind::ResourceBusy, "bound here");
    let last = copy();
    drop(handle);
    assert_eq!(adopt(binding(last, inode)), ErrorKind::InvalidData, "another port");
    assert!(world.bound().1.save().is_ok());
}
