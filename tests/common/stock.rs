//! Debian's clients (packages xenstore-utils and xen-utils-4.17).

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Returns whether the clients are installed; panics if they are not, unless `XENSTORED_WITHOUT_STOCK_CLIENTS` is set.
pub fn present() -> bool {
    let found = Command::new("xenstore-exists").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    match found {
        Ok(mut child) => {
            child.wait().unwrap();
            true
        }
        Err(error) => {
            let allowed = std::env::var_os("XENSTORED_WITHOUT_STOCK_CLIENTS").is_some();
            assert!(allowed, "xenstore-utils is not installed: {error}");
            false
        }
    }
}

/// Returns the path of a client. Debian's `xenstore-control` in the path is a wrapper that asks the hypervisor for its
/// version and runs that version's program; the versions' own programs (package xen-utils-4.17) need no hypervisor.
pub fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut own =
        versions.map(|version| version.path().join("bin").join(format!("xenstore-{name}")));
    own.find(|path| path.exists()).unwrap_or_else(|| format!("xenstore-{name}").into())
}
