//! Start-up checks: whether xenstored can serve this machine and, if not, what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The reason why the daemon cannot serve this host.
#[derive(Debug, Error)]
pub enum StartError {
    /// No hypervisor runs below this kernel, or not Xen.
    #[error(
        "this machine does not run on Xen ({} does not say \"xen\"); boot it with Xen, or simulate \
         a host with --host sim", path.display()
    )]
    NotXen {
        /// The file that would name Xen.
        path: PathBuf,
    },
    /// This machine is a guest.
    #[error(
        "this is a guest of Xen, not its control domain ({} does not say \"control_d\"); guests \
         use the xenstored of domain 0; to simulate a host: --host sim", path.display()
    )]
    NotControl {
        /// The file that would name the control domain.
        path: PathBuf,
    },
    /// Xen's file system is not mounted.
    #[error("{} does not exist; mount Xen's file system: mount -t xenfs xenfs /proc/xen", path.display())]
    NoXenfs {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A kernel module is not loaded.
    #[error("{} does not exist; load its module: modprobe {module}", path.display())]
    NoDevice {
        /// The device.
        path: PathBuf,
        /// The module that creates the missing device.
        module: &'static str,
    },
    /// The process does not run as root, or it is restricted.
    #[error("permission denied: {}; run xenstored as root", path.display())]
    Permission {
        /// The file in question.
        path: PathBuf,
    },
    /// The VIRQ for domain changes is taken; only one process of a host can bind it.
    #[error(
        "another xenstored serves this Xen host: it has bound VIRQ_DOM_EXC; stop it first; to find \
         it: ps -C xenstored,oxenstored"
    )]
    Taken,
    /// Any other error, such as an unknown hypervisor interface.
    #[error("{0}")]
    Other(io::Error),
}

/// The devices used, with their modules.
const DEVICES: [(&str, &str); 4] = [
    ("dev/xen/privcmd", "xen-privcmd"),
    ("dev/xen/hypercall", "xen-privcmd"),
    ("dev/xen/evtchn", "xen-evtchn"),
    ("dev/xen/gntdev", "xen-gntdev"),
];

/// The files used in Xen's file system.
const FILES: [&str; 2] = ["proc/xen/xsd_kva", "proc/xen/xsd_port"];

/// Checks the files below `root`, which is `/` except in tests.
///
/// # Errors
/// The first difference from a Xen host's control domain.
pub fn check(root: &Path) -> Result<(), StartError> {
    let path = root.join("sys/hypervisor/type");
    if std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "xen") {
        check_control(root)?;
        return check_files(root);
    }
    Err(StartError::NotXen { path })
}

fn check_control(root: &Path) -> Result<(), StartError> {
    let path = root.join("proc/xen/capabilities");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.contains("control_d") => Ok(()),
        Ok(_) => Err(StartError::NotControl { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StartError::NoXenfs { path }),
        Err(error) => Err(of_file(path, error)),
    }
}

fn check_files(root: &Path) -> Result<(), StartError> {
    for (device, module) in DEVICES {
        let path = root.join(device);
        // Opened and not only looked up, as it may exist and refuse this process.
        match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StartError::NoDevice { path, module });
            }
            Err(error) => return Err(of_file(path, error)),
            Ok(()) => (),
        }
    }
    for file in FILES {
        let path = root.join(file);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StartError::NoXenfs { path });
            }
            Err(error) => return Err(of_file(path, error)),
            Ok(_) => (),
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<()> {
    std::fs::OpenOptions::new().read(true).write(true).open(path).map(drop)
}

fn of_file(path: PathBuf, error: io::Error) -> StartError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => StartError::Permission { path },
        _ => StartError::Other(super::within(&path.to_string_lossy(), error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Creates a directory like the root of a domain 0.
    fn domain_0() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in ["sys/hypervisor", "proc/xen", "dev/xen"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let empty = DEVICES.map(|(path, _)| path).into_iter().chain(FILES);
        for path in empty {
            fs::write(root.path().join(path), "").unwrap();
        }
        fs::write(root.path().join("sys/hypervisor/type"), "xen\n").unwrap();
        fs::write(root.path().join("proc/xen/capabilities"), "control_d\n").unwrap();
        root
    }

    fn refusal(root: &Path) -> String {
        let text = check(root).expect_err("refused").to_string();
        text.replace(&*root.to_string_lossy(), "")
    }

    #[test]
    fn start_in_domain_0_is_accepted() {
        check(domain_0().path()).unwrap();
    }

    #[test]
    fn start_without_xen_is_refused() {
        let root = domain_0();
        for other in ["kvm\n", ""] {
            fs::write(root.path().join("sys/hypervisor/type"), other).unwrap();
            assert!(refusal(root.path()).starts_with("this machine does not run on Xen"));
        }
        fs::remove_dir_all(root.path().join("sys/hypervisor")).unwrap();
        let text = refusal(root.path());
        assert!(text.contains("(/sys/hypervisor/type does not say \"xen\")"), "{text}");
        assert!(text.ends_with("--host sim"), "{text}");
    }

    #[test]
    fn start_in_a_guest_is_refused() {
        let root = domain_0();
        fs::write(root.path().join("proc/xen/capabilities"), "").unwrap();
        let text = refusal(root.path());
        assert!(text.contains("(/proc/xen/capabilities does not say \"control_d\")"), "{text}");
        assert!(text.contains("xenstored of domain 0"), "{text}");
    }

    #[test]
    fn missing_xenfs_is_refused_with_the_mount_command() {
        for missing in ["proc/xen/capabilities", "proc/xen/xsd_kva", "proc/xen/xsd_port"] {
            let root = domain_0();
            fs::remove_file(root.path().join(missing)).unwrap();
            let wanted = format!(
                "/{missing} does not exist; mount Xen's file system: mount -t xenfs xenfs /proc/xen"
            );
            assert_eq!(refusal(root.path()), wanted);
        }
    }

    #[test]
    fn missing_device_is_refused_with_the_modprobe_command() {
        for (missing, module) in DEVICES {
            let root = domain_0();
            fs::remove_file(root.path().join(missing)).unwrap();
            let wanted = format!("/{missing} does not exist; load its module: modprobe {module}");
            assert_eq!(refusal(root.path()), wanted);
        }
    }

    #[test]
    fn missing_permission_is_refused_with_a_hint() {
        // Root may open anything, so the test constructs the error of open(2).
        let error = of_file("/dev/xen/privcmd".into(), io::ErrorKind::PermissionDenied.into());
        assert_eq!(error.to_string(), "permission denied: /dev/xen/privcmd; run xenstored as root");
    }
}
