//! Debian's two daemons of Xen 4.17, unmodified, on the simulated host: in place of Xen's libraries they load
//! `xenstored-shim` (loadgen/shim). `loadgen/install-peers.sh` installs and builds the requirements.
//! `XENSTORED_PEERS` in the environment names a folder with other builds of the two.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use super::{Options, Running, Target};

/// The directory of both daemons in Debian's package xen-utils-4.17.
const PROGRAMS: &str = "/usr/lib/xen-4.17/bin";
/// The environment variable that names another folder.
const FOLDER: &str = "XENSTORED_PEERS";

/// The libraries replaced by the shim. oxenstored calls nothing in the last one, but the real one would require the
/// whole of the real libxenctrl.
const LIBRARIES: [&str; 4] =
    ["libxenevtchn.so.1", "libxengnttab.so.1", "libxenctrl.so.4.17", "libxenguest.so.4.17"];

const SHIM: &str = "libxenstored_shim.so";

/// oxenstored's configuration: uses its own directory, otherwise Debian's defaults.
const CONFIG: &str = "persistent = false
xenstored-kva = /proc/xen/xsd_kva
xenstored-port = /proc/xen/xsd_port
";

/// Starts `peer`, which is [`Target::C`] or [`Target::OCaml`].
///
/// # Errors
/// `NotFound` if the peer or the shim is missing, and those of [`Running::spawn`].
pub fn start(peer: &Target, options: &Options) -> io::Result<Running> {
    let program = program(peer);
    let missing = |what| {
        let text = format!("{what}: run loadgen/install-peers.sh");
        io::Error::new(io::ErrorKind::NotFound, text)
    };
    if !program.exists() {
        return Err(missing(format!("{} does not exist", program.display())));
    }
    // A copy of this program elsewhere has no shim next to it.
    let shim =
        shim().ok_or_else(|| missing(format!("{SHIM} is not in the directory of this program")))?;
    let dir = Running::directory()?;
    let libraries = dir.path().join("lib");
    std::fs::create_dir(&libraries)?;
    for library in LIBRARIES {
        symlink(&shim, libraries.join(library))?;
    }
    let host = xenstored::host::sim::start(&dir.path().join("sim"), &host_program()?)?;
    let mut command = Command::new(program);
    command
        .env("LD_LIBRARY_PATH", &libraries)
        .env("XENSTORED_SIM_SOCKET", dir.path().join("sim"))
        .env("XENSTORED_RUNDIR", dir.path())
        .env_remove("XENSTORED_PATH");
    if *peer == Target::OCaml {
        let path = dir.path().join("conf");
        let own = dir.path().display();
        let files = format!("pid-file = {own}/pid\nxenstored-log-file = {own}/xenstored.log\n");
        std::fs::write(&path, files + CONFIG + &options.config)?;
        command.args(["--no-fork", "--no-access-log", "--config-file"]).arg(path);
    } else {
        command.arg("--no-fork");
    }
    command.args(&options.arguments);
    Ok(Running::spawn(command, dir, true)?.on_host(host).without_grace())
}

/// Returns the program that runs the simulated host: `loadgen`, which is this program except in tests.
fn host_program() -> io::Result<PathBuf> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the program loadgen is not built");
    let program = std::env::current_exe()?;
    let is_loadgen = program.file_name().is_some_and(|name| name == "loadgen");
    if is_loadgen { Ok(program) } else { newest("loadgen").ok_or_else(missing) }
}

fn shim() -> Option<PathBuf> {
    newest(SHIM)
}

/// Returns the most recently built file of this name in the folders above this program: a program is in
/// `target/<profile>`, a test one folder further down.
fn newest(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folders = program.ancestors().skip(1).take(3);
    let built = folders.flat_map(|folder| ["", "release", "debug"].map(|name| folder.join(name)));
    let found = built.map(|folder| folder.join(name)).filter_map(|path| {
        let changed = path.metadata().ok()?.modified().ok()?;
        Some((changed, path))
    });
    found.max().map(|(_, path)| path)
}

/// Returns the path of a peer's program.
pub fn program(peer: &Target) -> PathBuf {
    let name = if *peer == Target::OCaml { "oxenstored" } else { "xenstored" };
    std::env::var_os(FOLDER).map_or_else(|| PROGRAMS.into(), PathBuf::from).join(name)
}

/// Returns the package of a peer with its version, such as `xen-utils-4.17 4.17.7-1`, since the program itself cannot
/// print it. For a program unknown to dpkg it returns the path.
pub fn version(peer: &Target) -> String {
    let program = program(peer);
    let program = program.canonicalize().unwrap_or(program);
    let dpkg = |arguments: &[&OsStr]| {
        let output = Command::new("dpkg-query").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then_some(text)
    };
    let found = dpkg(&["-S".as_ref(), program.as_os_str()]).and_then(|line| {
        let (package, _) = line.split_once(':')?;
        dpkg(&["-W".as_ref(), "-f".as_ref(), "${Package} ${Version}".as_ref(), package.as_ref()])
    });
    found.unwrap_or_else(|| format!("{} (of no package)", program.display()))
}

/// Returns whether the peers can be started here.
pub fn are_installed() -> bool {
    shim().is_some() && program(&Target::OCaml).exists()
}
