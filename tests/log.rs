//! The effect of `xsctl control log` and `logfile` on a process's log. There is only one test, as a process has one
//! log.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use xenstored::log::{self, Destination, Settings, SwitchChange, UnknownSwitch};

/// Logs one line of each kind; returns those that reached `file`, without the times.
fn logged(file: &Path) -> Vec<String> {
    log::flush(Duration::from_secs(30));
    let before = fs::read_to_string(file).unwrap_or_default().len();
    tracing::trace!(target: log::OBJ, "o");
    tracing::trace!(target: log::IO, "i");
    tracing::trace!(target: log::CONFLICT, "c");
    tracing::info!("text");
    tracing::debug!("detail");
    log::flush(Duration::from_secs(30));
    let text = fs::read_to_string(file).unwrap();
    let without_time = |line: &str| line.split_once(' ').unwrap().1.to_string();
    text[before..].lines().map(without_time).collect()
}

#[test]
fn log_is_switched_and_moved_at_run_time() {
    let place = tempfile::tempdir().unwrap();
    let (first, second) = (place.path().join("first"), place.path().join("second"));
    let switches = vec![SwitchChange::parse("+conflict").unwrap()];
    let destination = Destination::File(first.clone());
    log::init(&Settings { destination, level: LevelFilter::INFO, switches }).unwrap();
    let all = |on: [bool; 6]| {
        ["obj", "io", "wrl", "acc", "tdb", "conflict"].into_iter().zip(on).collect::<Vec<_>>()
    };
    assert_eq!(log::switches().to_vec(), all([false, false, false, false, false, true]));
    assert_eq!(logged(&first), ["conflict c", "info text"]);

    log::set_switch("+io").unwrap();
    log::set_switch("-conflict").unwrap();
    assert_eq!(log::set_switch("io"), Err(UnknownSwitch));
    assert_eq!(log::switches().to_vec(), all([false, true, false, false, false, false]));
    assert_eq!(logged(&first), ["io i", "info text"]);

    log::set_enabled(false);
    assert_eq!(logged(&first), ["info text"]);
    log::set_enabled(true);
    assert_eq!(logged(&first), ["io i", "info text"]);

    // A file that cannot be opened changes nothing.
    assert!(log::set_file(&place.path().join("missing/file")).is_err());
    assert_eq!(logged(&first), ["io i", "info text"]);

    // A file turns traces on, with C xenstored's switches if none is set.
    log::set_enabled(false);
    log::set_file(&second).unwrap();
    assert_eq!(logged(&second), ["io i", "info text"]);
    log::set_switch("-io").unwrap();
    log::set_file(&second).unwrap();
    assert_eq!(log::switches().to_vec(), all([true, true, false, false, false, false]));
    assert_eq!(logged(&second), ["obj o", "io i", "info text"]);
    fs::rename(&second, &first).unwrap();
    log::reopen();
    assert_eq!(logged(&second), ["obj o", "io i", "info text"]);
}
