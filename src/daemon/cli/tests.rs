//! The command line, option by option.

use super::*;
use clap::CommandFactory;

fn given(line: &str) -> Result<Given, String> {
    let words = ["xenstored"].into_iter().chain(line.split_whitespace()).map(OsString::from);
    let options = Options::read(words).map_err(|e| e.to_string())?;
    options.given().map_err(|e| e.to_string())
}

#[test]
fn the_definition_is_sound() {
    Options::command().debug_assert();
}

#[test]
fn options_of_c_mean_what_they_mean_there() {
    let limit = |quota, value| Given { limits: vec![(quota, value)], ..Given::default() };
    let path = |text: &str| Some(PathBuf::from(text));
    for (line, expected) in [
        ("", Given::default()),
        ("-N", Given { foreground: Some(true), ..Given::default() }),
        ("--no-fork", Given { foreground: Some(true), ..Given::default() }),
        ("-F /a", Given { pid_file: path("/a"), ..Given::default() }),
        ("--pid-file /a", Given { pid_file: path("/a"), ..Given::default() }),
        ("--pid-file=/a", Given { pid_file: path("/a"), ..Given::default() }),
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
        ("-q memory=5", Given { soft_memory: Some(5), ..Given::default() }),
        ("--quota-soft=memory=5", Given { soft_memory: Some(5), ..Given::default() }),
        ("-w watch-event=5", Given { watch_event_timeout: Some(5), ..Given::default() }),
        ("--timeout=watch-event=0", Given { watch_event_timeout: Some(0), ..Given::default() }),
        ("-m 3", Given { master_domid: Some(3), ..Given::default() }),
        ("--master-domid=3", Given { master_domid: Some(3), ..Given::default() }),
        ("-p 3", Given { priv_domid: Some(3), ..Given::default() }),
        ("--priv-domid 3", Given { priv_domid: Some(3), ..Given::default() }),
        ("--host sim", Given { host: Some(HostKind::Sim), ..Given::default() }),
        ("--host=xen", Given { host: Some(HostKind::Xen), ..Given::default() }),
        ("--shards 3", Given { shards: Some(3), ..Given::default() }),
        ("--socket /a", Given { socket: path("/a"), ..Given::default() }),
        ("--sim-socket /a", Given { sim_socket: path("/a"), ..Given::default() }),
    ] {
        assert_eq!(given(line).unwrap(), expected, "{line}");
    }
}

#[test]
fn switches_keep_their_order() {
    let parse = |text| SwitchChange::parse(text).unwrap();
    let free = given("--trace-control=+io --trace-control=-io --trace-control -obj").unwrap();
    assert_eq!(free.switches, [parse("+io"), parse("-io"), parse("-obj")]);
    for line in ["-T /a --trace-control=+acc", "--trace-control=+acc --trace-file=/a"] {
        let traced = given(line).unwrap();
        assert_eq!(traced.log_file, Some("/a".into()));
        assert_eq!(traced.switches, [parse("+obj"), parse("+io"), parse("+acc")]);
    }
}

#[test]
fn options_without_effect_say_so() {
    for line in ["-K", "--keep-orphans", "-e 5", "--event=5"] {
        assert_eq!(given(line).unwrap().notes.len(), 1, "{line}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_a_reason() {
    for (line, reason) in [
        ("--no-such-option", "unexpected argument"),
        ("-I off", "unexpected argument"),
        ("-V", "unexpected argument"),
        ("argument", "unrecognized subcommand"),
        ("-E many", "invalid digit"),
        ("-E -1", "unexpected argument"),
        ("-E 2147483648", "not in 0..=2147483647"),
        ("-Q nodes", "expected <what>=<number>"),
        ("-Q nodes=", "is not a number"),
        ("-Q nodes=2147483648", "is not a number"),
        ("-Q bytes=1", "no quota is called \"bytes\"; there are nodes, watches"),
        ("-q nodes=1", "no soft quota"),
        ("-w reply=1", "no timeout"),
        ("--trace-control=io", "expected + or -"),
        ("--host qemu", "possible values: xen, sim"),
        ("--shards many", "invalid digit"),
        ("-p 65536", "65536 is not in 0..=65535"),
        ("-U", "live update is not supported yet"),
    ] {
        let error = given(line).unwrap_err();
        assert!(error.contains(reason), "{line}: {error}");
    }
}

/// No option without a description, and none described that is not there.
#[test]
fn the_manual_and_the_guide_name_every_option() {
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
fn a_guest_has_options_of_its_own() {
    let line = ["xenstored", "sim", "guest", "--domid", "7"].map(OsString::from);
    let Some(Command::Sim(SimCommand::Guest(guest))) = Options::read(line).unwrap().command else {
        panic!("not a guest");
    };
    assert_eq!((guest.domid, guest.sim_socket), (Some(7), None));
}
