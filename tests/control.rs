//! CONTROL, as seen by `xenstore-control` and by scripts that parse its output.

mod common;

use std::process::Command;
use std::time::Instant;

use common::wire::show;
use common::{Control, HANG, Random, World, op};

/// Returns the reply to a command as text, without its NUL.
fn reply_to(world: &mut World, words: &str) -> String {
    let reply = world.admin.control(words).unwrap_or_else(|errno| panic!("{words}: {errno}"));
    let (nul, text) = reply.split_last().unwrap();
    assert_eq!(*nul, 0, "{words}");
    String::from_utf8(text.to_vec()).unwrap()
}

#[track_caller]
fn refused(world: &mut World, words: &str, errno: &str) {
    assert_eq!(world.admin.control(words), Err(errno.into()), "{words}");
}

/// Waits until the log contains `text`.
fn logged(world: &World, text: &str) {
    let start = Instant::now();
    while !world.daemon.log().contains(text) {
        assert!(start.elapsed() < HANG, "{text:?} is not in {}", world.daemon.log());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn help_names_each_command_and_others_are_einval() {
    let world = &mut World::new(Control::Socket, 2);
    let help = reply_to(world, "help");
    for name in ["check", "log", "live-update", "logfile", "memreport", "print", "quota"] {
        assert!(help.lines().any(|line| line.split(' ').next() == Some(name)), "{name}: {help}");
    }
    for words in ["", "nonsense", "help me", "check it", "print", "print a b", "logfile", "log a b"]
    {
        refused(world, words, "EINVAL");
    }
    assert_eq!(
        world.admin.request(op::CONTROL, 0, "help"),
        Err("EINVAL".into()),
        "payload without NUL"
    );
    assert_eq!(world.guest(5).control("help"), Err("EACCES".into()));
    assert_ne!(reply_to(world, "live-update -f /nonexistent"), "OK");
}

#[test]
fn quotas_are_listed_and_set_as_in_c_xenstored() {
    let world = &mut World::new(Control::Socket, 2);
    let text = reply_to(world, "quota");
    assert!(text.starts_with("Quota settings:\nnodes            :     1000 Nodes per domain\n"));
    assert_eq!(text.lines().count(), 10, "{text}");
    assert_eq!(reply_to(world, "quota set nodes 3"), "OK");
    assert!(reply_to(world, "quota").contains("nodes            :        3 Nodes per domain\n"));
    for words in [
        "quota set nodes 0",
        "quota set nodes -1",
        "quota set nodes 2147483648",
        "quota set nodes",
        "quota set rhubarb 1",
        "quota max -x",
        "quota five",
        "quota-soft set nodes 1",
        "quota-soft max",
    ] {
        refused(world, words, "EINVAL");
    }
    refused(world, "quota 77", "ENOENT");
    let text = reply_to(world, "quota-soft");
    let memory = "memory           :  2097152 Total Xenstore memory per domain\n";
    assert_eq!(text, format!("Quota settings:\n{memory}"));
    assert_eq!(reply_to(world, "quota-soft set memory 4096"), "OK");
    assert!(reply_to(world, "quota-soft").contains("    4096 "));
}

#[test]
fn quota_command_shows_usage_peak_and_refusals_of_a_domain() {
    let world = &mut World::new(Control::Socket, 2);
    let guest = world.guest(5);
    guest.write("a", "1").unwrap();
    guest.write("b", "1").unwrap();
    guest.rm("b").unwrap();
    let text = reply_to(world, "quota 5");
    assert!(text.starts_with("Domain 5:\nnodes            :        2 (max        3)\n"), "{text}");
    assert!(!text.contains("refused"), "{text}");
    world.admin.set_quota(Some(5), "nodes", 2);
    for _ in 0..3 {
        assert_eq!(world.guest(5).write("c", "1"), Err("ENOSPC".into()));
    }
    let text = reply_to(world, "quota 5");
    assert!(text.contains("nodes            :        2 (max        3) refused 3\n"), "{text}");
    let peaks = "Max. seen accounting values:\nnodes            :        3\n";
    assert!(reply_to(world, "quota max").starts_with(peaks));
    let reset = "Max. seen accounting values:\nnodes            :        0\n";
    assert!(reply_to(world, "quota max -r").starts_with(reset));
    assert!(reply_to(world, "quota max").starts_with(reset));
}

/// A global value is the default of new domains, as xenstore.txt specifies for SET_QUOTA.
#[test]
fn global_quota_applies_to_new_domains_only() {
    for control in [Control::Socket, Control::Ring] {
        let world = &mut World::new(control, 2);
        world.guest(7).watch("a", "t").unwrap();
        assert_eq!(reply_to(world, "quota set watches 1"), "OK");
        assert_eq!(reply_to(world, "quota set nodes 2"), "OK");
        assert_eq!(reply_to(world, "quota-soft set memory 1500"), "OK");
        for path in ["b", "c"] {
            assert!(world.guest(7).watch(path, "t").is_ok(), "domain 7 keeps its earlier quota");
            world.guest(7).write(path, &"v".repeat(1500)).unwrap();
        }
        world.guest(8).watch("a", "t").unwrap();
        assert_eq!(world.guest(8).watch("b", "t"), Err("ENOSPC".into()));
        world.guest(8).write("b", &"v".repeat(1500)).unwrap();
        assert_eq!(world.guest(8).write("c", ""), Err("ENOSPC".into()));
        // A later domain with the same domid has an account of its own.
        world.until_released(7);
        world.close("dom7");
        world.guest(7).watch("a", "t").unwrap();
        assert_eq!(world.guest(7).watch("b", "t"), Err("ENOSPC".into()));
        logged(world, "soft memory quota exceeded domid=8");
        assert!(!world.log().contains("soft memory quota exceeded domid=7"));
    }
}

#[test]
fn control_commands_switch_move_and_write_the_log() {
    let world = &mut World::new(Control::Socket, 2);
    let text = reply_to(world, "log");
    assert!(text.starts_with("Log switch settings:\nobj     : off\nio      : off\n"), "{text}");
    assert_eq!(reply_to(world, "log +conflict"), "OK");
    assert!(reply_to(world, "log").contains("conflict: on\n"));
    refused(world, "log conflict", "EINVAL");
    refused(world, "log +rhubarb", "EINVAL");
    assert_eq!(reply_to(world, "print here-begins-the-night"), "OK");
    logged(world, "control: here-begins-the-night");
    let file = world.daemon.path("moved");
    assert_eq!(reply_to(world, &format!("logfile {}", file.display())), "OK");
    assert_eq!(reply_to(world, "print there"), "OK");
    world.daemon.await_text("moved", "control: there");
    refused(world, "logfile /nonexistent/log", "ENOENT");
    assert_eq!(reply_to(world, "logfile relative"), "OK");
    assert_eq!(reply_to(world, "print here"), "OK");
    world.daemon.await_text("relative", "control: here");
    assert_eq!(reply_to(world, "log off"), "OK");
    assert_eq!(reply_to(world, "log on"), "OK");
}

#[test]
fn report_has_resource_counts_and_conflict_reasons() {
    let world = &mut World::new(Control::Socket, 2);
    world.guest(5).write("a", "1").unwrap();
    world.guest(5).watch("a", "token").unwrap();
    let admin = &mut world.admin;
    let open = admin.start().unwrap();
    let lost = admin.start().unwrap();
    let path = "/local/domain/5/a\0";
    admin.request(op::READ, lost, path).unwrap();
    admin.request(op::WRITE, lost, format!("{path}2")).unwrap();
    world.guest(5).write("a", "3").unwrap();
    assert_eq!(world.admin.commit(lost), Err("EAGAIN".into()));
    // A relative name is resolved in the directory of the daemon's run-time files.
    assert_eq!(reply_to(world, "memreport report"), "OK");
    let report = std::fs::read_to_string(world.daemon.path("report")).unwrap();
    for line in [
        "known domains: 2, died: 0",
        "domains with a ring: 2",
        "open transactions: 1",
        "transactions answered EAGAIN: 1",
        "  of domain 0: READ /local/domain/5/a, changed by domain 5",
    ] {
        assert!(report.lines().any(|other| other == line), "{line:?} is not in {report}");
    }
    assert!(report.lines().any(|line| line.starts_with("root_shard ")), "{report}");
    world.admin.commit(open).unwrap();
    assert_eq!(reply_to(world, "memreport"), "OK");
    logged(world, "open transactions: 0");
    refused(world, "memreport /nonexistent/report", "ENOENT");
}

#[test]
fn report_on_more_than_50_domains_names_the_largest() {
    let world = &mut World::new(Control::Socket, 2);
    for domid in 1..=51 {
        let home = format!("/local/domain/{domid}");
        world.create(domid);
        world.admin.write(&home, &"v".repeat(usize::from(domid))).unwrap();
        world.admin.set_perms(&home, &format!("n{domid}")).unwrap();
    }
    assert_eq!(reply_to(world, "memreport report"), "OK");
    let report = std::fs::read_to_string(world.daemon.path("report")).unwrap();
    let (_, table) = report.split_once("memory transactions\n").unwrap();
    assert_eq!(table.lines().count(), 51, "{table}");
    assert_eq!(table.lines().last(), Some("and 2 domains that use less memory"));
    // Domains with short domids use less memory: a node's path counts too.
    let has = |domid: &str| table.lines().any(|line| line.split(' ').next() == Some(domid));
    assert!(has("51") && has("3") && !has("1") && !has("2"), "{table}");
}

/// A command that blocked on a FIFO would keep `check` from running until the daemon is restarted.
#[test]
fn fifo_as_file_of_a_command_is_refused_without_blocking() {
    let world = &mut World::new(Control::Socket, 2);
    let fifo = world.daemon.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for command in ["memreport", "logfile"] {
        refused(world, &format!("{command} {}", fifo.display()), "EINVAL");
        logged(world, "neither a regular file nor a character device; name a file");
        assert_eq!(reply_to(world, "check"), "OK");
    }
}

/// One check runs at a time: of two that begin together one may be refused, but never both.
#[test]
fn second_concurrent_check_is_refused() {
    let world = &mut World::new(Control::Socket, 2);
    for n in 0..2000 {
        world.admin.write(&format!("/tool/n{n}"), "value").unwrap();
    }
    let mut others: Vec<_> = (0..4).map(|n| format!("dom0.{n}")).collect();
    for name in &others {
        world.client(name).send(op::CONTROL, 0, "check\0");
    }
    let replies: Vec<_> = others.drain(..).map(|name| world.client(&name).reply()).collect();
    assert!(replies.iter().any(|reply| reply.as_deref() == Ok(b"OK\0")));
    for reply in &replies {
        assert!(matches!(reply.as_deref(), Ok(b"OK\0")) || *reply == Err("EBUSY".into()));
    }
    assert_eq!(reply_to(world, "check"), "OK");
}

/// Makes a random request of the control domain or a guest.
fn step(world: &mut World, random: &mut Random, open: &mut Vec<u32>) {
    let domid = 1 + u16::try_from(random.below(4)).unwrap();
    let leaf = format!("n{}/m{}/x", random.below(3), random.below(3));
    let at = match random.below(4) {
        0 => format!("/local/domain/0/backend/vif/{domid}/{}", random.below(2)),
        1 => format!("/vm/uuid-{}/{leaf}", random.below(3)),
        _ => format!("/local/domain/{domid}/{leaf}"),
    };
    let above = at.rsplit_once('/').unwrap().0.to_owned();
    let tx = if random.chance(40) { *random.pick(&[&[0][..], open].concat()) } else { 0 };
    // Refused requests are part of the load.
    let _ = match random.below(10) {
        0..3 => world.admin.request(op::WRITE, tx, format!("{at}\0value")).map(drop),
        3 => world.admin.request(op::SET_PERMS, tx, format!("{above}\0n{domid}\0")).map(drop),
        4 => world.admin.request(op::RM, tx, format!("{above}\0")).map(drop),
        5 if open.len() < 4 => world.admin.start().map(|id| open.push(id)),
        6 if !open.is_empty() => world.admin.commit(open.remove(0)).map(drop),
        7 => world.guest(domid).write(&leaf, "guest").map(drop),
        8 => world.guest(domid).rm(&leaf[..2]).map(drop),
        _ => world.guest(domid).watch(&leaf, &format!("{}", random.below(99))).map(drop),
    };
}

#[test]
fn store_is_consistent_after_removals_deaths_and_transactions() {
    for seed in common::random::seeds(6) {
        println!("XENSTORED_SEED={seed}");
        let mut random = Random::new(seed);
        let world = &mut World::new(Control::Socket, [1, 2, 4][random.below(3)]);
        let mut open = Vec::new();
        for n in 0..600 {
            step(world, &mut random, &mut open);
            if random.chance(1) {
                let domid = 1 + u16::try_from(random.below(4)).unwrap();
                world.guest(domid);
                world.until_released(domid);
            }
            if n % 50 == 49 {
                assert_eq!(reply_to(world, "check"), "OK", "seed {seed}, step {n}");
            }
        }
    }
}

/// Debian's `xenstore-control` is in the package xen-utils-4.17, which may be missing.
#[test]
fn stock_client_shows_replies_and_failures() {
    let program = "/usr/lib/xen-4.17/bin/xenstore-control";
    if !std::path::Path::new(program).exists() {
        println!("{program} is not installed: nothing is tested");
        return;
    }
    let world = &mut World::new(Control::Socket, 2);
    let run = |words: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["20", program]).args(words);
        let output = command.env("XENSTORED_PATH", world.daemon.path("socket")).output().unwrap();
        let texts = [output.stdout, output.stderr].concat();
        (output.status.code(), show(&texts))
    };
    assert_eq!(run(&["check"]), (Some(0), "OK\n".into()));
    assert_eq!(run(&["quota", "set", "nodes", "2000"]), (Some(0), "OK\n".into()));
    assert!(run(&["quota"]).1.contains("nodes            :     2000 Nodes per domain\n"));
    let (code, text) = run(&["rhubarb"]);
    assert_eq!(code, Some(3));
    assert!(text.contains("Valid commands are:\ncheck "), "{text}");
    let (code, text) = run(&["live-update", "/bin/true"]);
    assert_eq!(code, Some(3));
    assert!(text.contains("--no-keeper"), "{text}");
}

/// Runs `xsctl control`; returns its exit code, standard output and standard error.
fn xsctl(world: &World, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xsctl"));
    command.arg("control").args(words).env("XENSTORED_PATH", world.daemon.path("socket"));
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn xsctl_sends_commands_and_prints_replies() {
    let world = &mut World::new(Control::Socket, 2);
    let said = |text: &str| (Some(0), text.to_owned(), String::new());
    assert_eq!(xsctl(world, &["check"]), said("OK\n"));
    assert_eq!(xsctl(world, &["quota", "set", "nodes", "2000"]), said("OK\n"));
    // Words that look like options belong to the daemon's command.
    assert_eq!(xsctl(world, &["log", "-io"]), said("OK\n"));
    let peaks = reply_to(world, "quota max -r");
    assert_eq!(xsctl(world, &["quota", "max", "-r"]), said(&peaks));
    assert_eq!(xsctl(world, &["print", "--socket", "a b"]).0, Some(8), "an argument with a space");
    assert_eq!(xsctl(world, &["print", "a  b"]), said("OK\n"));
    logged(world, "control: a  b");
    let help = reply_to(world, "help");
    let socket = world.daemon.path("socket");
    let elsewhere = ["--socket", socket.to_str().unwrap(), "help"];
    assert_eq!(xsctl(world, &elsewhere), said(&help));
}

#[test]
fn xsctl_exit_code_distinguishes_refusals_from_failures() {
    let world = &mut World::new(Control::Socket, 2);
    for (words, code, sentence) in [
        (&["rhubarb"][..], 8, "refuses rhubarb: EINVAL: unknown command or invalid arguments"),
        (&["quota", "77"], 8, "refuses quota: ENOENT"),
        (&["print", &"x".repeat(4096)], 8, "a command has at most 4096 bytes"),
        (&["--socket", "/nonexistent", "check"], 5, "/nonexistent: cannot connect"),
        (&[], 2, "required arguments were not provided"),
    ] {
        let (ended, out, error) = xsctl(world, words);
        assert_eq!((ended, out), (Some(code), String::new()), "{words:?}: {error}");
        assert!(error.contains(sentence), "{words:?}: {error}");
    }
    let (code, text, _) = xsctl(world, &["live-update", "-f", "/nonexistent"]);
    assert_eq!(code, Some(8));
    assert!(text.contains("/nonexistent: No such file"), "{text}");
}
