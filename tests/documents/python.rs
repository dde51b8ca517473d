//! Guests in Python: that of docs/SIM.md and examples/xenstore_guest.py.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use xenstored::host::RingPage;

use super::blocks::Block;
use super::session::Session;
use crate::common::ring::at;
use crate::common::{Control, HANG, World, op, stock};

/// Starts a program with this argument; it can import the module. A hang becomes a failure.
fn start(program: &str, argument: &Path) -> Child {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut python = Command::new("timeout");
    python.args(["60", "python3", "-c", program]).arg(argument).env("PYTHONPATH", examples);
    python.env("PYTHONDONTWRITEBYTECODE", "1").stdout(Stdio::piped()).spawn().unwrap()
}

/// Runs a program to its end; returns its output.
fn run(program: &str, argument: &Path) -> String {
    let output = start(program, argument).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}\n{program}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn with_the_module(session: &mut Session, block: &Block) {
    let folder = session.world.daemon.path("");
    let printed = run(&block.text, &folder);
    let lines: Vec<_> = printed.lines().collect();
    let [events, "b'hello'", "refused: EACCES"] = lines[..] else { panic!("{printed}") };
    let root = events.strip_prefix("('").unwrap().split("/data").next().unwrap();
    let expected = format!("('{root}/data', 'toolstack') ('{root}/data/greeting', 'toolstack')");
    assert_eq!(events, expected);
}

pub fn by_hand(session: &mut Session, block: &Block) {
    let world = &mut session.world;
    let mut python = start(&block.text, &world.daemon.path("sim"));
    let mut output = BufReader::new(python.stdout.take().unwrap());
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    let words: Vec<_> = first.split_whitespace().collect();
    let ["introduce", "domain", domid, "with", "port", port] = words[..] else { panic!("{first}") };
    let root = format!("/local/domain/{domid}");
    world.admin.mkdir(&root).unwrap();
    world.admin.set_perms(&root, &format!("n{domid}")).unwrap();
    world.admin.request(op::INTRODUCE, 0, format!("{domid}\x001\0{port}\0")).unwrap();
    let mut reply = String::new();
    output.read_to_string(&mut reply).unwrap();
    assert!(
        reply.starts_with(r"b'\x10\x00\x00\x00\x01") && reply.ends_with("ENOENT\\x00'\n"),
        "{reply}"
    );
    assert!(python.wait().unwrap().success());
}

#[test]
fn python_module_serves_a_toolstack_and_a_guest() {
    if stock::present() {
        let world = World::new(Control::Socket, 2);
        run(include_str!("module.py"), &world.daemon.path(""));
    }
}

/// Returns a program that writes to the page in a file, which is its argument.
fn writer(define: &str, write: &str, times: &str) -> String {
    format!(
        "import mmap, struct, sys\nimport xenstore_guest as xs\n\
         file = open(sys.argv[1], 'r+b')\npage = mmap.mmap(file.fileno(), 4096)\n{define}\n\
         i = 0\nwhile {times}:\n    i += 1\n    {write}\n"
    )
}

/// Reads an index while a program increments it; returns whether it was ever less than before.
fn is_seen_to_fall(program: &str) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let page = RingPage::map(file.as_file().as_fd(), 0).unwrap();
    let mut python = start(program, file.path());
    let (started, mut last) = (Instant::now(), 0);
    loop {
        for _ in 0..100_000 {
            let index = page.load(at::REQ_PROD);
            if index < last {
                // SIGTERM, because `timeout` would leave the program behind if it were killed.
                let pid = rustix::process::Pid::from_child(&python);
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
                python.wait().unwrap();
                return true;
            }
            last = index;
        }
        if let Some(ended) = python.try_wait().unwrap() {
            assert!(ended.success() && last > 0, "{ended}, {last}");
            return false;
        }
        assert!(started.elapsed() < HANG, "the Python program does not exit");
    }
}

#[test]
fn ring_index_is_written_with_a_single_store() {
    if !stock::present() {
        return;
    }
    let manual = include_str!("../../docs/SIM.md");
    let (_, word) = manual.split_once("\ndef word(").unwrap();
    let (word, _) = word.split_once("\n\n").unwrap();
    let word = format!("def word({word}");
    let module = "guest = object.__new__(xs.Guest)\nguest._words = memoryview(page).cast('I')";
    let times = "i < 1_000_000";
    assert!(!is_seen_to_fall(&writer(&word, "word(2052, i)", times)));
    assert!(!is_seen_to_fall(&writer(module, "guest.set_index(xs.REQ_PROD, i)", times)));
    // A decrease would be seen: struct.pack_into clears the bytes first.
    assert!(is_seen_to_fall(&writer(
        "",
        "struct.pack_into('=I', page, 2052, i)",
        "i < 50_000_000"
    )));
}
