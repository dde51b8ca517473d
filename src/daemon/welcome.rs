//! The introduction for a new user who starts the daemon on a machine without Xen.

use super::settings::Settings;

pub(super) fn text(settings: &Settings) -> String {
    // The program's full path is printed, because with `cargo run` the program is not on the search path.
    let program = std::env::current_exe().unwrap_or_else(|_| "xenstored".into());
    let program = program.display();
    let (socket, sim) = (settings.socket.display(), settings.sim_socket.display());
    format!(
        "
There is no Xen on this machine, so this xenstored simulates a host: guests are processes.
Everything is kept in memory and gone when it stops (Ctrl-C).

In another terminal, as the control domain (Debian's package xenstore-utils):

    export XENSTORED_PATH={socket}
    xenstore-write /tool/greeting hello
    xenstore-ls -f
    xenstore-watch /tool/greeting

As a guest:

    {program} sim guest --sim-socket {sim}

"
    )
}
