//! What another process needs to go on with a host and its event channel handles, whose descriptors it inherits.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use super::Port;

/// A host. Saving changes nothing: the host is usable afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedHost {
    /// The simulated host.
    Sim(SavedSim),
    /// Xen, whose devices each process opens for itself.
    Xen,
}

/// A daemon's connection to the simulated host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSim {
    /// The connection to the host's socket.
    pub client: RawFd,
    /// The memory file of the domains' states.
    pub states: RawFd,
    /// The eventfd signalled when a domain shuts down or dies.
    pub bell: RawFd,
    /// The domains whose last change was reported, with the word of that change.
    pub reported: Vec<(u16, u32)>,
    /// The number of guests that the host had when the first daemon connected.
    pub guests: usize,
    /// Whether the host was started by its daemon, with which it ends.
    pub is_new: bool,
}

/// An event channel handle. Saving changes nothing: the handle is usable afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedChannels {
    /// A handle of the simulated host.
    Sim {
        /// The epoll descriptor, in which the ports stay registered.
        epoll: RawFd,
        /// The ports, in ascending order.
        bindings: Vec<SavedBinding>,
    },
    /// A handle of Xen.
    Xen {
        /// The open file of `/dev/xen/evtchn`, in which the ports stay bound.
        device: RawFd,
        /// The ports, in ascending order.
        ports: Vec<Port>,
    },
}

/// A port of the simulated host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedBinding {
    /// The port of a domain.
    Guest {
        /// The local port.
        port: Port,
        /// The host's end of the channel.
        channel: RawFd,
        /// The channel's inode, which identifies it among all that are open.
        inode: u64,
        /// Whether the guest closed its end.
        hung_up: bool,
    },
    /// The port of [`super::Channels::bind_changes`], whose descriptor the host has.
    Changes {
        /// The local port.
        port: Port,
    },
}

impl SavedBinding {
    /// Returns the local port.
    pub fn port(&self) -> Port {
        match *self {
            SavedBinding::Guest { port, .. } | SavedBinding::Changes { port } => port,
        }
    }
}

impl SavedHost {
    /// Returns the numbers of all descriptors that the other process has to inherit.
    pub fn descriptors(&self) -> Vec<RawFd> {
        match self {
            SavedHost::Sim(sim) => vec![sim.client, sim.states, sim.bell],
            SavedHost::Xen => Vec::new(),
        }
    }
}

impl SavedChannels {
    /// Returns the numbers of all descriptors that the other process has to inherit.
    pub fn descriptors(&self) -> Vec<RawFd> {
        match self {
            SavedChannels::Sim { epoll, bindings } => {
                let channels = bindings.iter().filter_map(|binding| match binding {
                    SavedBinding::Guest { channel, .. } => Some(*channel),
                    SavedBinding::Changes { .. } => None,
                });
                [*epoll].into_iter().chain(channels).collect()
            }
            SavedChannels::Xen { device, .. } => vec![*device],
        }
    }
}
