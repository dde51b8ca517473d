//! The test of each code block. A block is identified by its document and a text that the block contains.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use xenstored::host::sim::SimClient;
use xenstored::types::Domid;

use super::blocks::Block;
use super::python;
use super::session::Session;
use crate::common::op;

pub enum Decision {
    /// The block is run here.
    Run(fn(&mut Session, &Block)),
    /// The test of that name runs the block, or checks its statement.
    By(&'static str),
    /// The block is not run; the text is the reason.
    Not(&'static str),
}

use Decision::{By, Not, Run};

const PICTURE: &str = "a picture";
const BUILDS: &str = "builds the tree for minutes; .ci/run does the same";
const MEASURES: &str = "measures for minutes; .ci/run has `all --quick` and `differential`";
const TWO_HOSTS: &str = "names hosts and domains that are not there; tests/moves does these steps";

pub const DECISIONS: &[(&str, &str, Decision)] = &[
    ("README.md", ".ci/run packages peers tests", Not(BUILDS)),
    (
        "README.md",
        "mkdir /tmp/xenstore",
        Not("serves in the foreground; each test has such a daemon"),
    ),
    ("README.md", "xenstore-ls -fp", Run(console)),
    (
        "README.md",
        "$ target/release/xenstored sim guest",
        Not("reads the terminal; the next one a pipe"),
    ),
    ("README.md", "$ printf", Run(console)),
    ("README.md", "sim fleet", By("fleet_moves_by_the_commands_it_prints_and_leaves_nothing")),
    ("README.md", "F=/tmp/xenstore/fleet", Run(fleet)),
    (
        "dist/man/xenstored.8",
        "--host sim\n",
        Not("serves in the foreground; each test has such a daemon"),
    ),
    (
        "dist/man/xenstored.8",
        "--trace-control=+conflict",
        Not("serves in the foreground; tests/traces.rs gives the option to daemons"),
    ),
    ("dist/man/xenstored.toml.5", "nodes = 4000", Run(configuration)),
    ("dist/man/xsctl.8", "xsctl move --domains 1-32751 --to", Not(TWO_HOSTS)),
    (
        "dist/man/xsctl.8",
        "5 moved, 41 nodes",
        By("each_line_moves_a_domain_and_gets_a_reply_over_one_tunnel"),
    ),
    ("dist/man/xsctl.8", "tee copy", By("domains_move_through_a_pipe")),
    ("dist/man/xsctl.8", "coproc xsctl move", Not(TWO_HOSTS)),
    ("dist/man/xsctl.8", "xsctl status --to", Not(TWO_HOSTS)),
    ("dist/man/xsctl.8", "rsync -a state other:", Not(TWO_HOSTS)),
    ("dist/man/xsctl.8", "xsctl move ... --json", Not(TWO_HOSTS)),
    ("dist/man/xsctl.8", "xsctl introduce --domains", Not(TWO_HOSTS)),
    ("dist/man/xsctl.8", "xsctl inspect state/5.xenstore", Not(TWO_HOSTS)),
    ("dist/man/xsctl.8", "xsctl diff --json a b", Not(TWO_HOSTS)),
    ("docs/ARCHITECTURE.md", "| listener ", Not(PICTURE)),
    ("docs/ARCHITECTURE.md", "[first process", Not(PICTURE)),
    ("docs/ARCHITECTURE.md", "main -> {", By("imports_go_down_only")),
    ("docs/COMPATIBILITY.md", "loadgen/install-peers.sh", Not(MEASURES)),
    ("docs/MIGRATION.md", "(the domain is made", Not(PICTURE)),
    ("docs/MIGRATION.md", "xsctl-export 1", By("container_is_read_as_a_whole_or_not_at_all")),
    ("docs/MIGRATION.md", "tee copy", By("domains_move_through_a_pipe")),
    ("docs/MIGRATION.md", "[[host]]", By("spread_plan_moves_all_domains_once")),
    ("docs/MIGRATION.md", "\"digest\": ", By("files_without_digests_are_read_with_a_warning")),
    ("docs/OPERATING.md", "--check-config", Run(wrong_configuration)),
    (
        "docs/OPERATING.md",
        "xsctl upgrade --dry-run",
        By("upgrade_replaces_the_program_and_says_what_it_carried"),
    ),
    ("docs/PROTOCOL-EXTENSIONS.md", "quiesce <domid>...", By("control_quiesces_and_unquiesces")),
    ("docs/PROTOCOL-EXTENSIONS.md", "index=0", Run(list_of_watches)),
    ("docs/SIM.md", "printf", Run(guest_from_a_pipe)),
    ("docs/SIM.md", "makes a domain", Not(PICTURE)),
    ("docs/SIM.md", "> create", By("session_in_the_manual_is_reproduced")),
    ("docs/SIM.md", "xsctl introduce", Run(introduction)),
    ("docs/SIM.md", "import xenstore_guest", Run(python::with_the_module)),
    ("docs/SIM.md", "CMSG_SPACE", Run(python::by_hand)),
    ("docs/STREAM.md", "always big-endian", Not(PICTURE)),
    ("docs/STREAM.md", "CONNECTION_DATA", Not(PICTURE)),
    (
        "docs/STREAM.md",
        "its digest is not that",
        By("damaged_stream_is_an_error_of_inspect_and_diff"),
    ),
    ("docs/STREAM.md", "live-update", By("live_update_stream_of_c_xenstored_is_read")),
    ("docs/THREAT-MODEL.md", "page, channel", Not(PICTURE)),
    ("loadgen/README.md", "-- list", Not(MEASURES)),
    ("loadgen/README.md", "--rounds 3", Not(MEASURES)),
    ("tests/golden/README.md", "XENSTORED_KEEP_STREAM", Not("writes the golden files anew")),
    (
        "tests/xen/README.md",
        "tests/xen/run.sh",
        Not("boots Xen in an emulator, a stage of .ci/run"),
    ),
];

fn console(session: &mut Session, block: &Block) {
    session.console(&block.text);
}

/// Runs the commands with a fleet. Each is given until it succeeds: a reader gives the fleet time to destroy the domains
/// that have left.
fn fleet(session: &mut Session, block: &Block) {
    let directory = session.world.daemon.path("fleet");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenstored"));
    let command = command.args(["sim", "fleet", "--directory"]).arg(directory);
    let mut fleet = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(fleet.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.starts_with("guests on a: 20, ")).expect("guests that work");
    let until = |line| format!("until {line} >>moved 2>&1; do sleep 0.1; done\n");
    session.script(&block.text.lines().map(until).collect::<String>(), &[]);
    lines.find(|line| line.starts_with("guests on a: 20, ")).expect("guests that came back");
    kill_process(Pid::from_child(&fleet), Signal::TERM).unwrap();
    assert!(fleet.wait().unwrap().success());
}

fn guest_from_a_pipe(session: &mut Session, block: &Block) {
    // The guest creates the partition root of the document's new domain.
    session.script(&block.text, &["event door", "event door", "open"]);
}

fn configuration(session: &mut Session, block: &Block) {
    std::fs::write(session.folder.path().join("example.toml"), &block.text).unwrap();
    let prints = ["example.toml: no errors found"];
    session.script("xenstored --check-config --config example.toml", &prints);
}

fn wrong_configuration(session: &mut Session, block: &Block) {
    let text = "[log]\nlevel = \"info\"\ncolour = true\n";
    std::fs::write(session.folder.path().join("test.toml"), text).unwrap();
    session.console(&block.text);
}

fn introduction(session: &mut Session, block: &Block) {
    let mut host = SimClient::connect(session.world.daemon.path("sim")).unwrap();
    let guest = host.create(Some(Domid(7))).unwrap();
    assert_eq!((guest.domid, guest.port), (Domid(7), 1));
    session.world.guests.insert(7, guest);
    let block = format!("{} >introduced 2>&1", block.text.trim_end());
    session.script(&block, &[]);
    session.world.connect_guest(7);
    // The guest owns its partition root.
    let guest = session.world.guest(7);
    guest.write("data/x", "v").unwrap();
    assert_eq!(guest.read("/local/domain/7/data/x").as_deref(), Ok(&b"v"[..]));
}

fn list_of_watches(session: &mut Session, block: &Block) {
    let guest = session.world.guest(5);
    let prints = ["OK", "/a one", "/a two", "/b three"];
    for watch in &prints[1..] {
        let (path, token) = watch.split_once(' ').unwrap();
        guest.watch(path, token).unwrap();
    }
    session.script(&block.text, &prints);
    let introduced = session.world.admin.request(op::IS_DOMAIN_INTRODUCED, 0, "5\0");
    assert_eq!(introduced.as_deref(), Ok(&b"T\0"[..]));
}
