//! From a stream to a server that goes on.

use std::io::Read;

use thiserror::Error;

use super::{Live, Written};
use crate::host::Channels;
use crate::migration::store::imported_nodes;
use crate::migration::stream::state::State;
use crate::migration::stream::{ReadError, Reader};
use crate::server::{Adopt, Parts, RestoreError, Restoring, Setup};
use crate::store::{Generations, ImportError, count_nodes, restore_nodes};

/// Maximum memory of a state in bytes. The state is this host's own, which a limit for streams of others must not keep
/// from being updated: a hundred million nodes.
const STATE_BYTES_MAX: u64 = 64 << 30;

/// A state that was read as a whole, and not used yet.
pub struct LiveState {
    state: State,
    /// What Xen's records do not have.
    pub live: Live,
}

/// Why a state cannot be used.
#[derive(Debug, Error)]
pub enum ReadStateError {
    /// The stream is damaged, or of an unknown version.
    #[error("the state cannot be read: {0}")]
    Stream(#[from] ReadError),
    /// The stream has no `LIVE` record, or one that this version does not understand.
    #[error("the state of this daemon cannot be read: {0}")]
    Live(#[from] rmp_serde::decode::Error),
    /// The nodes contradict each other.
    #[error("the nodes of the state cannot be restored: {0}")]
    Nodes(#[from] ImportError),
    /// The rest cannot be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// Reads a state to its end. Cost: linear in its length.
///
/// # Errors
/// See [`ReadStateError`].
pub fn read(input: impl Read) -> Result<LiveState, ReadStateError> {
    let state = State::read_at_most(&mut Reader::new(input)?, STATE_BYTES_MAX)?;
    let live = rmp_serde::from_slice(&state.live)?;
    Ok(LiveState { state, live })
}

impl LiveState {
    /// Restores the server, which then goes on once it is started. `channels` are the workers' event channel handles,
    /// and `adopt` returns the sockets of clients. The registry of `setup` knows the control domain
    /// only.
    ///
    /// # Errors
    /// See [`ReadStateError`].
    pub fn restore(
        self,
        setup: Setup,
        channels: Vec<Box<dyn Channels>>,
        adopt: &mut Adopt<'_>,
    ) -> Result<Parts, ReadStateError> {
        let restoring = self.restore_nodes(setup)?;
        let clients = self.state.clients.into_values().collect();
        Ok(restoring.finish(&self.live.server, clients, channels, adopt)?)
    }

    /// Restores domains and nodes of a state that is only checked. Returns the numbers of what was read.
    ///
    /// # Errors
    /// See [`ReadStateError`].
    pub fn check(self, setup: Setup) -> Result<Written, ReadStateError> {
        let restoring = self.restore_nodes(setup)?;
        // Counted in the store, as that is what was read.
        Ok(Written { nodes: count_nodes(restoring.store()) as u64, ..self.numbers() })
    }

    /// Returns the numbers of what the state has.
    pub fn numbers(&self) -> Written {
        let clients = self.state.clients.values();
        Written {
            nodes: self.state.nodes.len() as u64,
            clients: clients.len(),
            domains: self.live.server.domains.len(),
            transactions: clients.map(|client| client.transactions.len()).sum(),
        }
    }

    fn restore_nodes(&self, setup: Setup) -> Result<Restoring, ReadStateError> {
        let restoring = Restoring::new(setup, &self.live.server)?;
        let store = restoring.store();
        // Stamped with the present: entries apply to the domains that live now.
        let nodes = imported_nodes(&self.state.nodes, store.registry().now());
        restore_nodes(store, &nodes, &restoring.caller(), &mut Generations::default())?;
        Ok(restoring)
    }
}
