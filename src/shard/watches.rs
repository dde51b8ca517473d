//! The watches of one connection.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slab::Slab;

use crate::words::PathBuf;

/// A watch as the client set it.
pub struct Watch {
    /// What it watches.
    pub path: PathBuf,
    /// The client's own name for it, echoed in events.
    pub token: Box<[u8]>,
    /// How many bytes of a path are left out in its events: `/local/domain/<n>/` if the client
    /// wrote the path as a relative one.
    pub prefix_len: usize,
    /// See [`crate::watch::Entry::depth`].
    pub depth: Option<u16>,
    /// See [`crate::watch::Watcher::seq`].
    pub seq: u64,
}

impl Watch {
    /// A path as the client sees it.
    pub fn shown<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        path.get(self.prefix_len..).unwrap_or(path)
    }

    /// What it is charged with in the quota `memory`.
    pub fn charge_bytes(&self) -> u64 {
        (size_of::<Watch>() + self.path.as_path().bytes().len() + self.token.len()) as u64
    }
}

/// Watches by place, and by path and token; adding, finding and removing cost the same however
/// many there are.
#[derive(Default)]
pub struct Watches {
    slots: Slab<Watch>,
    by_name: HashMap<(PathBuf, Box<[u8]>), usize, RandomState>,
}

impl Watches {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether a watch with this path and token is set.
    pub fn contains(&self, path: &PathBuf, token: &[u8]) -> bool {
        self.by_name.contains_key(&(path.clone(), token.into()))
    }

    /// Adds a watch and answers its place.
    pub fn insert(&mut self, watch: Watch) -> usize {
        let name = (watch.path.clone(), watch.token.clone());
        let slot = self.slots.insert(watch);
        self.by_name.insert(name, slot);
        slot
    }

    /// Takes a watch out.
    pub fn remove(&mut self, path: PathBuf, token: &[u8]) -> Option<(usize, Watch)> {
        let slot = self.by_name.remove(&(path, token.into()))?;
        Some((slot, self.slots.remove(slot)))
    }

    /// The watch at a place, if it is still the one of this number.
    pub fn get(&self, slot: u32, seq: u64) -> Option<&Watch> {
        self.slots.get(slot as usize).filter(|watch| watch.seq == seq)
    }

    /// All watches with their places.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Watch)> {
        self.slots.iter()
    }

    /// Takes all watches out.
    pub fn take(&mut self) -> Watches {
        std::mem::take(self)
    }
}
