//! The state of a paused server, as a stream.

use std::io::{self, Write};

use super::{Live, SavedProcess};
use crate::migration::store::write_store;
use crate::migration::stream::fields::Order;
use crate::migration::stream::state::Client;
use crate::migration::stream::{Record, VERSION, Watch, Writer};
use crate::server::Paused;

/// Bytes of a `LIVE` record: a part of the state, in one piece or several.
const PIECE_BYTES: usize = 32 << 10;

/// The numbers of what a stream has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Nodes.
    pub nodes: u64,
    /// Clients: sockets and rings.
    pub clients: usize,
    /// Known domains, the control domain included.
    pub domains: usize,
    /// Open transactions.
    pub transactions: usize,
}

/// Writes the state of a paused server, which is unchanged. `reply` is the reply that the client that waits for the
/// update gets from the process that goes on, and
/// `process` what that one needs beside the server. Cost: all nodes, shared among the threads of the pool, and all clients'
/// watches, unsent bytes and transactions.
///
/// # Errors
/// Those of the output; `InvalidInput` for a value that the format cannot represent.
pub fn write<W: Write>(
    paused: &mut Paused,
    reply: Option<&[u8]>,
    process: Option<SavedProcess>,
    output: W,
) -> io::Result<(W, Written)> {
    let (clients, server) = paused.save(reply);
    let order = Order::Little;
    let mut writer = Writer::new(output, VERSION, order)?;
    // The descriptors of the listening sockets are arguments of the process, not part of the state.
    writer.write(&Record::Global { socket: -1, evtchn: -1 })?;
    for client in &clients {
        writer.write(&Record::Connection(client.connection.clone()))?;
    }
    let trees = paused.store().snapshot_all();
    let nodes = write_store(paused.store(), &trees, (VERSION, order), &mut writer)?;
    let transactions = clients.iter().map(|client| write_rest(client, &mut writer));
    let transactions = transactions.sum::<io::Result<usize>>()?;
    let written =
        Written { nodes, clients: clients.len(), domains: server.domains.len(), transactions };
    let live = Live { server, process };
    let live = rmp_serde::to_vec_named(&live).map_err(io::Error::other)?;
    for piece in live.chunks(PIECE_BYTES) {
        writer.write(&Record::Live(piece.to_vec()))?;
    }
    Ok((writer.end()?, written))
}

/// Writes a client's watches and transactions. Returns the number of transactions.
fn write_rest<W: Write>(client: &Client, writer: &mut Writer<W>) -> io::Result<usize> {
    let connection = client.connection.id;
    for watch in &client.watches {
        writer.write(&Record::Watch(Watch { connection, ..watch.clone() }))?;
    }
    for &tx_id in client.transactions.keys() {
        writer.write(&Record::Transaction { connection, tx_id })?;
    }
    Ok(client.transactions.len())
}
