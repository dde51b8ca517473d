//! `xsctl` as a process between two real daemons (docs/MIGRATION.md, xsctl(8)).
//!
//! - `moved`: whole moves, and the reports on domains that fail.
//! - `files`: export, import, release, and the commands that undo them.
//! - `digests`: damaged files, and streams without a digest.
//! - `hostile_tunnel`: random frames to and from `xsctl receive`.
//! - `kills`: the processes of moves through sshd are killed at random moments, while guests check themselves.
//! - `libxl`: the other format.
//! - `lines`: domids on standard input.
//! - `pipes`: export and import through a pipe.
//! - `plan`: what a move would do, its pauses, and its rate.
//! - `hold`: a proxy that holds a request or its reply.
//! - `lost`: a participant is lost in between, by way of a proxy.
//! - `rerun`: the same command after the tool was killed.
//! - `tunnel`: moves to another host, through a command and through sshd.
//! - `twice`: two tools at the same time.
//! - `evacuate`: one daemon's domains go to several others.
//! - `unsettled`: what an interrupted move left, as `status`, `unquiesce` and `move --resume` treat it.

#[path = "../common/mod.rs"]
mod common;
mod concurrent;
mod digests;
mod evacuate;
mod failures;
mod files;
mod hold;
mod hostile_tunnel;
mod kills;
mod libxl;
mod lines;
mod moved;
mod pipes;
mod plan;
mod proxy;
mod rerun;
mod tunnel;
mod unsettled;

use std::path::Path;
use std::process::{Command, Output};

use common::{Client, Control, World, op};
use serde_json::Value;

/// The outcome of a run of `xsctl`.
#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    fn of(output: Output) -> Run {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().expect("xsctl exits without a signal");
        Run { code, out: text(output.stdout), err: text(output.stderr) }
    }

    /// Parses the objects of `--json`: those of domains, and the summary.
    fn json(&self) -> (Vec<Value>, Value) {
        let lines = self.out.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut lines: Vec<Value> = lines.collect();
        let summary = lines.pop().expect("a summary")["summary"].take();
        lines.sort_by_key(|line| line["domid"].as_u64());
        (lines, summary)
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xsctl"));
    command.args(arguments);
    command
}

fn xsctl(arguments: &[&str]) -> Run {
    Run::of(command(arguments).output().unwrap())
}

/// Runs `xsctl`, which must succeed.
fn well(arguments: &[&str]) -> Run {
    let run = xsctl(arguments);
    assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
    run
}

fn socket(world: &World) -> String {
    text(&world.daemon.path("socket"))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Returns two daemons: the first with guests of these numbers, each with nodes, a watch and a value of its own; the
/// second with the same numbers, not introduced.
fn worlds(domids: impl IntoIterator<Item = u16> + Clone) -> (World, World) {
    let [mut a, mut b] = [2, 1].map(|shards| World::new(Control::Socket, shards));
    for domid in domids.clone() {
        let guest = a.guest(domid);
        guest.write("data/own", &format!("of {domid}")).unwrap();
        guest.watch("data", "t").unwrap();
        assert_eq!(guest.next_event(), "data|t");
        a.admin.write(&format!("/libxl/{domid}/dm"), "x").unwrap();
    }
    domids.into_iter().for_each(|domid| b.create(domid));
    (a, b)
}

/// Makes a daemon look like an older one, whose IMPORT_DOMAINS does not introduce.
fn introduces_no_imports(world: &mut World) {
    world.admin.request(op::RM, 0, "/tool/xenstored/operations/import-introduces\0").unwrap();
}

fn is_introduced(client: &mut Client, domid: u16) -> bool {
    client.request(op::IS_DOMAIN_INTRODUCED, 0, format!("{domid}\0")).unwrap() == b"T\0"
}

/// Checks that the domain is served: its guest gets replies and events.
fn is_served(world: &mut World, domid: u16) {
    world.connect_guest(domid);
    let value = world.guest(domid).read("data/own");
    assert_eq!(value, Ok(format!("of {domid}").into_bytes()));
    world.admin.write(&format!("/local/domain/{domid}/data/other"), "").unwrap();
    assert_eq!(world.guest(domid).next_event(), "data/other|t");
    assert_eq!(world.admin.read(&format!("/libxl/{domid}/dm")).as_deref(), Ok(&b"x"[..]));
}

/// Checks that the domain is not here: not introduced, and without nodes.
fn is_absent(world: &mut World, domid: u16) {
    assert!(!is_introduced(&mut world.admin, domid));
    let home = format!("/local/domain/{domid}");
    assert_eq!(world.admin.read(&home).err().as_deref(), Some("ENOENT"));
    assert_eq!(world.admin.read(&format!("/libxl/{domid}")).err().as_deref(), Some("ENOENT"));
}

/// Checks that the domain is released here: not introduced, though its nodes may remain.
fn is_released(world: &mut World, domid: u16) {
    assert!(!is_introduced(&mut world.admin, domid));
}

/// Checks that the domain is quiesced: its requests wait for UNQUIESCE.
fn is_quiesced(world: &mut World, domid: u16) {
    assert!(is_introduced(&mut world.admin, domid));
    let file = world.daemon.path("memory");
    world.admin.control(&format!("memreport {}", file.display())).unwrap();
    let report = std::fs::read_to_string(file).unwrap();
    let line = report.lines().find(|line| line.starts_with("quiesced domains:")).unwrap();
    let mut words = line.split(|c: char| !c.is_ascii_digit()).skip_while(|word| word.is_empty());
    // The first number is the count of the domains.
    words.next();
    assert!(words.any(|word| word == domid.to_string()), "domain {domid} is not quiesced: {line}");
}
