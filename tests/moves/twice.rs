//! The same domains are moved by two tools at the same time.

use std::process::Stdio;

use super::*;

/// Each export takes the other's mark away, and who comes second finds the domain there: so at most one
/// of them releases it, and whom neither does is served where it was.
#[test]
fn two_tools_leave_each_domain_in_one_place() {
    for round in 0..5 {
        let (mut a, mut b) = worlds(1..=6);
        let (from, to) = (socket(&a), socket(&b));
        let tools = ["2", "3"].map(|batch| {
            let mut tool = command(&["move", "--socket", &from, "--to", &to, "--domains", "1-6"]);
            tool.args(["--batch", batch, "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
            tool.spawn().unwrap()
        });
        let runs = tools.map(|tool| Run::of(tool.wait_with_output().unwrap()));
        // Who came too late finds none of them.
        let said = runs.iter().filter(|run| !run.out.is_empty());
        let lines: Vec<Value> = said.flat_map(|run| run.json().0).collect();
        for domid in 1..=6 {
            let of_it = lines.iter().filter(|line| line["domid"] == domid);
            match of_it.filter(|line| line["done"] == true).count() {
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
