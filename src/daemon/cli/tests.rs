//! The command line, option by option.

use super::*;
use clap::CommandFactory;

fn given(line: &str) -> Result<ConfigLayer, String> {
    let words = ["xenstored"].into_iter().chain(line.split_whitespace()).map(OsString::from);
    let options = Options::read(words).map_err(|e| e.to_string())?;
    options.given().map_err(|e| e.to_string())
}

#[test]
fn command_line_definition_is_valid() {
    Options::command().debug_assert();
}

#[test]
fn options_of_c_xenstored_keep_their_meaning() {
    let limit =
        |quota, value| ConfigLayer { limits: vec![(quota, value)], ..ConfigLayer::default() };
    let path = |text: &str| Some(PathBuf::from(text));
    let traced = |file| ConfigLayer {
        foreground: Some(true),
        log_file: path(file),
        switches: SwitchChange::of_a_trace_file().collect(),
        ..ConfigLayer::default()
    };
    for (line, expected) in [
        ("", ConfigLayer::default()),
        ("-N", ConfigLayer { foreground: Some(true), ..ConfigLayer::default() }),
        ("-N -T /a --no-fork -T /b -N", traced("/b")),
        ("--no-fork", ConfigLayer { foreground: Some(true), ..ConfigLayer::default() }),
        ("-F /a", ConfigLayer { pid_file: path("/a"), ..ConfigLayer::default() }),
        ("--pid-file /a", ConfigLayer { pid_file: path("/a"), ..ConfigLayer::default() }),
        ("--pid-file=/a", ConfigLayer { pid_file: path("/a"), ..ConfigLayer::default() }),
        ("-E 5", limit(Quota::Nodes, 5)),
        ("--entry-nb=5", limit(Quota::Nodes, 5)),
        ("-S 5", limit(Quota::NodeSize, 5)),
        ("--entry-size=5", limit(Quota::NodeSize, 5)),
        ("-W 5", limit(Quota::Watches, 5)),
        ("--watch-nb=5", limit(Quota::Watches, 5)),
        ("-t 5", limit(Quota::Transactions, 5)),
        ("--transaction=5", limit(Quota::Transactions, 5)),
        ("--trans=5", limit(Quota::Transactions, 5)), // As getopt_long abbreviates.
        ("-A 5", limit(Quota::NodePermissions, 5)),
        ("--perm-nb 5", limit(Quota::NodePermissions, 5)),
        ("-M 5", limit(Quota::PathMax, 5)),
        ("--path-max=5", limit(Quota::PathMax, 5)),
        ("-Q memory=5", limit(Quota::Memory, 5)),
        ("--quota transaction-nodes=5", limit(Quota::TransactionNodes, 5)),
        ("-Qoutstanding=0", limit(Quota::Outstanding, 0)),
        ("--quota=path-length=5", limit(Quota::PathMax, 5)),
        ("-q memory=5", ConfigLayer { soft_memory: Some(5), ..ConfigLayer::default() }),
        ("--quota-soft=memory=5", ConfigLayer { soft_memory: Some(5), ..ConfigLayer::default() }),
        (
            "-w watch-event=5",
            ConfigLayer { watch_event_timeout: Some(5), ..ConfigLayer::default() },
        ),
        (
            "--timeout=watch-event=0",
            ConfigLayer { watch_event_timeout: Some(0), ..ConfigLayer::default() },
        ),
        ("-m 3", ConfigLayer { master_domid: Some(3), ..ConfigLayer::default() }),
        ("--master-domid=3", ConfigLayer { master_domid: Some(3), ..ConfigLayer::default() }),
        ("-p 3", ConfigLayer { priv_domid: Some(3), ..ConfigLayer::default() }),
        ("--priv-domid 3", ConfigLayer { priv_domid: Some(3), ..ConfigLayer::default() }),
        ("--host sim", ConfigLayer { host: Some(HostKind::Sim), ..ConfigLayer::default() }),
        ("--host=xen", ConfigLayer { host: Some(HostKind::Xen), ..ConfigLayer::default() }),
        ("--shards 3", ConfigLayer { shards: Some(3), ..ConfigLayer::default() }),
        ("-P", ConfigLayer { print_pid: true, ..ConfigLayer::default() }),
        ("--output-pid", ConfigLayer { print_pid: true, ..ConfigLayer::default() }),
        ("--socket /a", ConfigLayer { socket: path("/a"), ..ConfigLayer::default() }),
        ("--sim-socket /a", ConfigLayer { sim_socket: path("/a"), ..ConfigLayer::default() }),
    ] {
        assert_eq!(given(line).unwrap(), expected, "{line}");
    }
}

#[test]
fn trace_switches_keep_their_order() {
    let parse = |text| SwitchChange::parse(text).unwrap();
    let free = given("--trace-control=+io --trace-control=-io --trace-control -obj").unwrap();
    assert_eq!(free.switches, [parse("+io"), parse("-io"), parse("-obj")]);
    for line in ["-T /a --trace-control=+acc", "--trace-control=+acc --trace-file=/a"] {
        let traced = given(line).unwrap();
        assert_eq!(traced.log_file, Some("/a".into()));
        assert_eq!(traced.switches, [parse("+obj"), parse("+io"), parse("+acc")]);
    }
}

/// The last of repeated options wins, as with getopt: a start script appends its options to those of an administrator.
#[test]
fn last_of_repeated_options_wins() {
    for (twice, once) in [
        ("--pid-file /a -F /b", "-F /b"),
        ("-w watch-event=1 --timeout watch-event=2", "-w watch-event=2"),
        ("-q memory=1 -q memory=2", "-q memory=2"),
        ("-m 1 -m 0", "-m 0"),
        ("-p 1 --priv-domid=2", "-p 2"),
        ("--host xen --host sim", "--host sim"),
        ("--shards 1 --shards 2", "--shards 2"),
        ("--socket /a --socket /b --sim-socket /c --sim-socket /d", "--socket /b --sim-socket /d"),
        ("-E 1 --entry-nb=2", "-E 2"),
        ("-P -P -K -K -D -D -V --verbose", "-P -K -D -V"),
        ("-I -I off --internal-db=on", "-I"),
    ] {
        assert_eq!(given(twice), given(once), "{twice}");
    }
    let limits = |line| given(line).unwrap().limits;
    assert_eq!(limits("-E 1 -Q nodes=2"), [(Quota::Nodes, 1), (Quota::Nodes, 2)]);
    assert_eq!(limits("-Q nodes=2 -E 1"), [(Quota::Nodes, 2), (Quota::Nodes, 1)]);
    assert_eq!(limits("-Q nodes=1 -Q watches=2"), [(Quota::Nodes, 1), (Quota::Watches, 2)]);
    assert_eq!(limits("-E 1 -Q nodes=2 -E 3"), [(Quota::Nodes, 2), (Quota::Nodes, 3)]);
    let config = |line: &str| Options::read(line.split(' ').map(OsString::from)).unwrap().config;
    for line in ["x --config /a --config-file /b", "x --config-file=/a --conf /b"] {
        assert_eq!(config(line), Some("/b".into()), "{line}");
    }
}

/// The options include those of C xenstored 4.17, of its older releases and of oxenstored.
#[test]
fn options_without_effect_are_noted() {
    for line in [
        "-e 5",
        "--event=5",
        "-D",
        "--no-domain-init",
        "-I",
        "-I off",
        "-Ion",
        "--internal-db",
        "--internal-db=off",
        "--internal-db off",
        "-L",
        "--preserve-local",
        "-R",
        "--no-recovery",
        "-V",
        "--verbose",
        "--no-access-log",
    ] {
        let given = given(line).unwrap();
        assert_eq!(given.notes.len(), 1, "{line}");
        assert_eq!(ConfigLayer { notes: vec![], ..given }, ConfigLayer::default(), "{line}");
    }
    assert_eq!(given("--internal-db --no-fork").unwrap().foreground, Some(true));
}

#[test]
fn keep_orphans_option_is_parsed() {
    for (line, keeps) in [("", false), ("-K", true), ("--keep-orphans", true)] {
        let given = given(line).unwrap();
        assert_eq!((given.keep_orphans, given.notes.len()), (keeps, 0), "{line}");
    }
}

#[test]
fn invalid_options_are_refused_with_a_reason() {
    for (line, reason) in [
        ("--no-such-option", "unexpected argument"),
        ("-I disk", "possible values: on, off"),
        ("--disable-socket", "unexpected argument"),
        ("argument", "unrecognized subcommand"),
        ("-E many", "invalid digit"),
        ("-E -1", "unexpected argument"),
        ("-E 2147483648", "not in 0..=2147483647"),
        ("-Q nodes", "expected <what>=<number>"),
        ("-Q nodes=", "is not a number"),
        ("-Q nodes=2147483648", "is not a number"),
        ("-Q bytes=1", "unknown quota \"bytes\"; expected one of nodes, watches"),
        ("-q nodes=1", "unknown soft quota"),
        ("-w reply=1", "unknown timeout"),
        ("--trace-control=io", "expected + or -"),
        ("--host qemu", "possible values: xen, sim"),
        ("--shards many", "invalid digit"),
        ("-p 65536", "65536 is not in 0..=65535"),
        ("-U", "to serve an empty store"),
    ] {
        let error = given(line).unwrap_err();
        assert!(error.contains(reason), "{line}: {error}");
    }
}

/// Every option is described, and every described option exists.
#[test]
fn manual_and_guide_document_every_option() {
    let manual = include_str!("../../../dist/man/xenstored.8");
    let guide = include_str!("../../../docs/OPERATING.md");
    let command = Options::command();
    let longs: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
    for long in &longs {
        assert!(manual.contains(&format!("Fl -{long}")), "xenstored.8: {long}");
        assert!(guide.contains(&format!("`--{long}")), "OPERATING.md: {long}");
    }
    for line in manual.lines().filter(|line| line.starts_with(".It Fl")) {
        let long = line.split("Fl -").nth(1).and_then(|rest| rest.split(' ').next());
        assert!(longs.contains(&long.unwrap()), "no option: {line}");
    }
}

#[test]
fn sim_guest_command_has_its_own_options() {
    let line = ["xenstored", "sim", "guest", "--domid", "7"].map(OsString::from);
    let Some(Command::Sim(SimCommand::Guest(guest))) = Options::read(line).unwrap().command else {
        panic!("not a guest");
    };
    assert_eq!((guest.domid, guest.sim_socket), (Some(7), None));
}
