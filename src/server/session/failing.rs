//! A connection's memory of failed transactions, from which its next reservation is made; see [`super::reservations`].
//! Without reservations one of 64 committers needed 1,582 tries.

use crate::types::{Path, PathBuf};

/// The limit on the paths of one reservation; beyond it, two are replaced by their common ancestor. Every write is
/// compared with each path while a reservation lasts.
const RESERVED_PATHS_MAX: usize = 8;

/// The memory of failed transactions.
#[derive(Default)]
pub struct Failing {
    /// The number of consecutive conflicts.
    pub conflicts: u32,
    /// The paths of the conflicts: at most [`RESERVED_PATHS_MAX`].
    pub paths: Vec<PathBuf>,
    /// Whether the connection got a reservation, which may have expired.
    pub in_reservation: bool,
    /// Whether the connection got a reservation, which may have expired, for the END in progress.
    pub end_in_reservation: bool,
}

impl Failing {
    /// Records a conflict at `path`. With `in_reservation`, the connection has a reservation that has not expired, so
    /// the path was reserved.
    pub fn note(&mut self, path: Path<'_>, in_reservation: bool) {
        self.conflicts = self.conflicts.saturating_add(1);
        let room = self.paths.len() < RESERVED_PATHS_MAX;
        let covers = |known: &&mut PathBuf| path.is_within(known.as_path());
        if let Some(known) = self.paths.iter_mut().find(covers) {
            // The reply to RM of a missing node depends on its parent, so reserving the path itself may not suffice:
            // reserve its parent instead.
            if in_reservation && let Some(above) = known.as_path().parent().filter(is_narrow) {
                *known = above.to_buf();
            }
        } else if is_narrow(&path) && room {
            self.paths.push(path.to_buf());
        } else {
            // A common ancestor reserves more than is needed, which costs other writers one reservation at most.
            let joined = |known: &PathBuf| Some(nearest_above(known.as_path(), path)?.to_buf());
            let above =
                self.paths.iter().enumerate().find_map(|(at, known)| Some((at, joined(known)?)));
            if let Some((at, above)) = above {
                self.paths[at] = above;
            }
        }
    }
}

/// Returns whether the path may be reserved: reserving a path above all domains' partitions would stop all writers.
fn is_narrow(path: &Path<'_>) -> bool {
    Path::parse(b"/local/domain").is_ok_and(|domains| !domains.is_within(*path))
}

/// Returns the nearest common ancestor, unless it is above all domains' partitions.
fn nearest_above<'p>(path: Path<'p>, other: Path<'_>) -> Option<Path<'p>> {
    let mut up = std::iter::successors(Some(path), |path| path.parent());
    up.find(|above| other.is_within(*above)).filter(is_narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path<'_> {
        Path::parse(text.as_bytes()).unwrap()
    }

    fn noted(failing: &Failing) -> Vec<String> {
        failing.paths.iter().map(|path| path.as_path().to_string()).collect()
    }

    #[test]
    fn conflicting_paths_are_deduplicated_and_joined_when_many() {
        let mut failing = Failing::default();
        for text in ["/a/1", "/a/1", "/a/1/x", "/", "/local", "/local/domain"] {
            failing.note(path(text), false);
        }
        assert_eq!(noted(&failing), ["/a/1"]);
        failing.note(path("/a/1"), true);
        assert_eq!(noted(&failing), ["/a"], "a reserved path that conflicted is widened");
        failing.note(path("/a"), true);
        assert_eq!(noted(&failing), ["/a"], "never widened to the root");
        for domid in 1..RESERVED_PATHS_MAX {
            failing.note(path(&format!("/local/domain/{domid}/x")), false);
        }
        failing.note(path("/local/domain/3/y"), false);
        failing.note(path("/elsewhere"), false);
        assert_eq!(failing.paths.len(), RESERVED_PATHS_MAX);
        assert_eq!(noted(&failing)[3], "/local/domain/3");
        assert_eq!(noted(&failing)[0], "/a");
    }
}
