//! Features, quotas and the commands of CONTROL.

use super::*;

#[test]
fn features_are_read_and_set() {
    check(
        "
        dom0 GET_FEATURE -> 15|
        dom0 GET_FEATURE 0| -> 15|
        host create 7
        dom0 GET_FEATURE 7| -> 15|
        dom0 GET_FEATURE 77| -> ENOENT
        dom0 GET_FEATURE x| -> EINVAL
        dom0 GET_FEATURE 7|1| -> EINVAL
        dom0 SET_FEATURE 7|2| -> OK
        dom0 GET_FEATURE 7| -> 2|
        dom0 SET_FEATURE 7|16| -> EINVAL
        dom0 SET_FEATURE 7| -> EINVAL
        dom0 SET_FEATURE x|2| -> EINVAL
        dom0 SET_FEATURE 77|2| -> ENOENT
        host introduce 7
        dom0 SET_FEATURE 7|15| -> EBUSY
        dom0 SET_FEATURE 0|15| -> EBUSY
        dom7 GET_FEATURE -> 2|
        # Without the feature the depth is not known.
        dom7 WATCH w|t|1| -> EINVAL
        dom7 WATCH w|t| -> OK
        event dom7 w|t
        ",
    );
}

#[test]
fn get_quota_returns_what_set_quota_set() {
    check(
        "
        dom0 GET_QUOTA -> nodes watches outstanding memory soft-memory transactions transaction-nodes node-permissions path-max node-size|
        dom0 GET_QUOTA nodes| -> 1000|
        dom0 GET_QUOTA watches| -> 1024|
        dom0 GET_QUOTA outstanding| -> 20|
        dom0 GET_QUOTA memory| -> 2621440|
        dom0 GET_QUOTA soft-memory| -> 2097152|
        dom0 GET_QUOTA transactions| -> 256|
        dom0 GET_QUOTA transaction-nodes| -> 1024|
        dom0 GET_QUOTA node-permissions| -> 5|
        dom0 GET_QUOTA path-max| -> 2048|
        dom0 GET_QUOTA node-size| -> 2048|
        dom0 GET_QUOTA unknown| -> EINVAL
        dom0 GET_QUOTA soft-nodes| -> EINVAL
        dom0 GET_QUOTA 5|nodes| -> 1000|
        dom5 RESET_WATCHES | -> OK
        dom0 GET_QUOTA 77|nodes| -> ENOENT
        dom0 GET_QUOTA x|nodes| -> EINVAL
        dom0 GET_QUOTA 5|nodes|1| -> EINVAL
        dom0 SET_QUOTA 5|nodes|7| -> OK
        dom0 GET_QUOTA 5|nodes| -> 7|
        dom0 GET_QUOTA nodes| -> 1000|
        # A new global value is the default of domains that become known later.
        host create 7
        dom0 GET_QUOTA 7|nodes| -> 1000|
        dom0 SET_QUOTA nodes|8| -> OK
        dom0 SET_QUOTA soft-memory|9| -> OK
        dom0 GET_QUOTA nodes| -> 8|
        dom0 GET_QUOTA 5|nodes| -> 7|
        dom0 GET_QUOTA 0|nodes| -> 1000|
        dom0 GET_QUOTA 5|soft-memory| -> 2097152|
        dom0 GET_QUOTA 7|nodes| -> 1000|
        host introduce 7
        dom0 GET_QUOTA 7|nodes| -> 1000|
        host create 6
        host introduce 6
        dom0 GET_QUOTA 6|nodes| -> 8|
        dom0 GET_QUOTA 6|soft-memory| -> 9|
        dom0 SET_QUOTA nodes|1000| -> OK
        dom0 GET_QUOTA 6|nodes| -> 8|
        dom0 SET_QUOTA nodes| -> EINVAL
        dom0 SET_QUOTA 5|nodes|1|1| -> EINVAL
        dom0 SET_QUOTA unknown|1| -> EINVAL
        dom0 SET_QUOTA 77|nodes|1| -> ENOENT
        ",
    );
}

#[test]
fn control_commands_reply_or_fail_as_documented() {
    check(
        "
        dom0 CONTROL check| -> OK
        dom0 CONTROL check|x| -> EINVAL
        dom0 CONTROL unknown| -> EINVAL
        dom0 CONTROL help -> EINVAL
        dom0 CONTROL help|x| -> EINVAL
        dom0 CONTROL print|hello| -> OK
        dom0 CONTROL print| -> EINVAL
        dom0 CONTROL log|on| -> OK
        dom0 CONTROL log|off| -> OK
        dom0 CONTROL log|sideways| -> EINVAL
        dom0 CONTROL log|on|off| -> EINVAL
        dom0 CONTROL logfile| -> EINVAL
        dom0 CONTROL memreport|a|b| -> EINVAL
        dom0 CONTROL quota|set|nodes|2000| -> OK
        dom0 GET_QUOTA nodes| -> 2000|
        dom0 CONTROL quota|set|nodes| -> EINVAL
        dom0 CONTROL quota|set|nodes|0| -> EINVAL
        dom0 CONTROL quota|set|unknown|1| -> EINVAL
        dom0 CONTROL quota|77| -> ENOENT
        dom0 CONTROL quota|max|-x| -> EINVAL
        dom0 CONTROL quota-soft|set|memory|1000000| -> OK
        dom0 GET_QUOTA soft-memory| -> 1000000|
        dom0 CONTROL quota-soft|set|nodes|1| -> EINVAL
        dom0 CONTROL quota-soft|5| -> EINVAL
        ",
    );
}

#[test]
fn control_texts_have_the_format_of_c_xenstored() {
    for control in [Control::Socket, Control::Ring] {
        let mut world = World::new(control, 4);
        world.guest(5).write("x", "v").unwrap();
        let mut text = |words: &str| {
            let bytes = world.client("dom0").control(words).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            text.strip_suffix('\0').expect("a text ends in NUL").to_owned()
        };
        let help = text("help");
        for command in [
            "check",
            "log",
            "live-update",
            "logfile",
            "memreport",
            "print",
            "quota",
            "quota-soft",
            "help",
        ] {
            let listed = help.lines().any(|line| line.starts_with(&format!("{command:<15} ")));
            assert!(listed, "{command} in {help}");
        }
        assert!(text("log").starts_with("Log switch settings:\n"));
        let quota = text("quota");
        assert!(quota.starts_with("Quota settings:\n"), "{quota}");
        let line = format!("{:<17}: {:>8} {}\n", "watches", 1024, "Watches per domain");
        assert!(quota.contains(&line), "{quota}");
        let soft = text("quota-soft");
        let line =
            format!("{:<17}: {:>8} {}\n", "memory", 2_097_152, "Total Xenstore memory per domain");
        assert_eq!(soft, format!("Quota settings:\n{line}"));
        let of_domain = text("quota 5");
        assert!(of_domain.starts_with("Domain 5:\n"), "{of_domain}");
        let line = format!("{:<17}: {:>8} (max {:>8})\n", "nodes", 2, 2);
        assert!(of_domain.contains(&line), "{of_domain}");
        let max = text("quota max");
        assert!(max.starts_with("Max. seen accounting values:\n"), "{max}");
        assert!(max.contains(&format!("{:<17}: {:>8}\n", "nodes", 2)), "{max}");
        assert_eq!(text("quota max -r"), text("quota max"));
    }
}

#[test]
fn control_commands_write_their_files() {
    let mut world = World::new(Control::Socket, 1);
    let (log, report) = (world.daemon.path("other.log"), world.daemon.path("memory"));
    let words = format!("logfile {}", log.display());
    assert_eq!(world.admin.control(&words).as_deref(), Ok(&b"OK\0"[..]));
    world.admin.control("print greeting").unwrap();
    world.daemon.await_text("other.log", "greeting");
    let words = format!("memreport {}", report.display());
    assert_eq!(world.admin.control(&words).as_deref(), Ok(&b"OK\0"[..]));
    let text = std::fs::read_to_string(report).unwrap();
    assert!(text.lines().any(|line| line == "known domains: 1, died: 0"), "{text}");
}

#[test]
fn live_update_is_refused_clearly() {
    let mut world = World::new(Control::Socket, 1);
    // This daemon has no keeper.
    world.admin.control("live-update -f /bin/true").unwrap();
    for words in ["live-update -s -t 60", "live-update -s", "live-update -x", "live-update"] {
        let reply = world.admin.control(words);
        let refused = reply.as_ref().map_or(true, |text| text != b"OK\0" && text != b"BUSY\0");
        assert!(refused, "{words}: {reply:?}");
    }
    assert_eq!(world.admin.control("live-update -a").as_deref(), Ok(&b"OK\0"[..]));
    world.admin.read("/tool").unwrap();
}
