//! Two processes of `xsctl` move the same domains at the same time.

use std::process::Stdio;

use super::common::HANG;
use super::hold::{Hold, Moment};
use super::*;

/// Each export invalidates the other's mark, and the later import is refused because the domain is already there. So at
/// most one tool releases each domain, and a domain that neither releases is served at the source.
#[test]
fn concurrent_moves_leave_each_domain_in_one_place() {
    for round in 0..5 {
        let (mut a, mut b) = worlds(1..=6);
        let (from, to) = (socket(&a), socket(&b));
        let tools = ["2", "3"].map(|batch| {
            let mut tool = command(&["move", "--socket", &from, "--to", &to, "--domains", "1-6"]);
            tool.args(["--batch", batch, "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
            tool.spawn().unwrap()
        });
        let runs = tools.map(|tool| Run::of(tool.wait_with_output().unwrap()));
        // A tool that starts too late finds none of the domains.
        let said = runs.iter().filter(|run| !run.out.is_empty());
        let lines: Vec<Value> = said.flat_map(|run| run.json().0).collect();
        for domid in 1..=6 {
            let of_it = lines.iter().filter(|line| line["domid"] == domid);
            match of_it.filter(|line| line["done"] == true && line["tries"] != 0).count() {
                0 => {
                    is_served(&mut a, domid);
                    is_absent(&mut b, domid);
                }
                1 => {
                    is_released(&mut a, domid);
                    is_served(&mut b, domid);
                }
                _ => panic!("{round}: domain {domid} was moved twice: {runs:?}"),
            }
        }
        for run in &runs {
            assert!([0, 6].contains(&run.code), "{round}: {run:?}");
        }
        a.check_store();
        b.check_store();
    }
}

/// The first tool waits for the reply to a request; the second neither discards nor finishes that domain, and the first
/// then completes it.
#[test]
fn domain_of_another_running_move_is_left_to_it() {
    for (kind, is_moved) in [(op::INTRODUCE, false), (op::UNQUIESCE, true)] {
        let (mut a, mut b) = worlds([1]);
        introduces_no_imports(&mut b);
        let (from, to) = (socket(&a), b.daemon.path("hold"));
        let hold = Hold::start(&to, b.daemon.path("socket"), kind, Moment::Before);
        let mut tool = command(&["move", "--socket", &from, "--to", &text(&to), "--domains", "1"]);
        let tool = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        hold.reached.recv_timeout(HANG).unwrap();
        let second = xsctl(&["move", "--socket", &from, "--to", &socket(&b), "--domains", "1-9"]);
        assert_eq!(second.code, 6, "{second:?}");
        assert!(second.err.contains("another xsctl move between these daemons is in progress"));
        drop(hold);
        let first = Run::of(tool.wait_with_output().unwrap());
        assert_eq!(first.code, if is_moved { 0 } else { 6 }, "{first:?}");
        if is_moved {
            is_released(&mut a, 1);
            is_served(&mut b, 1);
        } else {
            is_served(&mut a, 1);
            is_absent(&mut b, 1);
        }
    }
}
