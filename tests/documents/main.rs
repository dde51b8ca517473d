//! Tests of the documents: each of their code blocks is run, or has a reason why not.

mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod decisions;
mod names;
mod operations;
mod python;
mod session;

use std::fs;
use std::path::Path;

use blocks::Block;
use decisions::{DECISIONS, Decision};
use session::Session;

fn is_meant(block: &Block, file: &str, contains: &str) -> bool {
    block.file == file && block.text.contains(contains)
}

#[test]
fn every_code_block_is_run_or_has_a_reason_not_to_be() {
    let blocks = blocks::all();
    for block in &blocks {
        let decisions =
            DECISIONS.iter().filter(|(file, contains, _)| is_meant(block, file, contains)).count();
        assert_eq!(
            decisions, 1,
            "{}:{}: tests/documents/decisions.rs must decide whether this block is run:\n{}",
            block.file, block.line, block.text
        );
    }
    for (file, contains, decision) in DECISIONS {
        let count = blocks.iter().filter(|block| is_meant(block, file, contains)).count();
        assert_eq!(count, 1, "blocks of {file} with {contains:?}");
        match decision {
            Decision::Run(_) => {}
            Decision::By(test) => assert!(is_there(test), "{file}: no test is called {test}"),
            Decision::Not(reason) => println!("not run: {file}, {contains:?}: {reason}"),
        }
    }
}

/// Returns whether a function of that name exists.
fn is_there(test: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = ["src", "tests", "loadgen"].map(|name| root.join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs")
                && fs::read_to_string(&path).unwrap().contains(&format!("fn {test}()"))
            {
                return true;
            }
        }
    }
    false
}

/// Runs those blocks of a document that can be run, in order, with one daemon.
fn run(file: &str) {
    if !common::stock::present() {
        return;
    }
    let mut session = Session::start();
    let mut count = 0;
    for block in blocks::all().iter().filter(|block| block.file == file) {
        let meant = |&&(file, contains, _): &&(&str, &str, _)| is_meant(block, file, contains);
        if let Some((.., Decision::Run(run))) = DECISIONS.iter().find(meant) {
            run(&mut session, block);
            count += 1;
        }
    }
    assert!(count > 0, "nothing in {file} is run");
}

#[test]
fn blocks_of_the_readme_print_what_it_shows() {
    run("README.md");
}

#[test]
fn blocks_of_the_daemons_manual_print_what_it_shows() {
    run("docs/OPERATING.md");
    run("dist/man/xenstored.toml.5");
}

#[test]
fn blocks_of_the_simulated_hosts_manual_print_what_it_shows() {
    run("docs/SIM.md");
}

#[test]
fn blocks_of_the_protocols_extensions_print_what_they_show() {
    run("docs/PROTOCOL-EXTENSIONS.md");
}
