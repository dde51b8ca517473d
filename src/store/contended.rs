//! The partitions in which an END has lost its races, from which its reservation is made.

use crate::types::{Path, PathBuf};

/// The limit on the partitions that an END reserves; beyond it, it reserves all paths, which stops all writers. Every
/// write is compared with each while the reservation lasts.
const CONTENDED_MAX: usize = 4;

/// The partitions in which a transaction lost races, each but the first in a reservation of the others.
#[derive(Default)]
pub struct Contended(Vec<PathBuf>);

impl Contended {
    /// Records that a race was lost in a partition.
    pub fn note(&mut self, partition: PathBuf) {
        if self.0.len() == CONTENDED_MAX {
            self.0 = vec![Path::ROOT.to_buf()];
        } else if !self.0.contains(&partition) {
            self.0.push(partition);
        }
    }

    /// Returns the paths to reserve.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifth_contended_partition_reserves_all_paths() {
        let mut contended = Contended::default();
        for text in ["/a/1", "/a/2", "/a/2", "/a/3", "/a/4"] {
            contended.note(Path::parse(text.as_bytes()).unwrap().to_buf());
        }
        assert_eq!(contended.paths().len(), CONTENDED_MAX);
        contended.note(Path::parse(b"/a/5").unwrap().to_buf());
        assert_eq!(contended.paths(), [Path::ROOT.to_buf()]);
    }
}
