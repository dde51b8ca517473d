//! The complete, consistent content of a stream.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use super::fields::StreamError;
use super::{Connection, Domain, Node, QuotaValue, ReadError, Reader, Record, Transport, Watch};
use crate::types::{ABS_PATH_MAX, Domid, Layout, Path, PathBuf, PathSpace};

/// Maximum memory of a state in bytes. A record of a few bytes can take up to 34 times its length in memory, so the
/// memory is counted (by `weight`), not the stream's length.
pub const STATE_BYTES_MAX: u64 = 1 << 30;

/// The content of a stream, read up to END and checked as far as possible without a store:
///
/// - objects referenced by a record precede it: its connection, its transaction, a node's parent. Only a partition root
///   (types/key.rs) may lack its parent, since the stream of a domain is a part of a store;
/// - no record occurs twice;
/// - paths are well-formed, nodes have an owner, ids are not 0.
///
/// A watch on `@` followed by something that is no path is left out: C xenstored lets every guest set such a watch, and
/// no event has such a name.
#[derive(Default)]
pub struct State {
    /// Committed nodes.
    pub nodes: BTreeMap<PathBuf, Node>,
    /// Clients by conn-id.
    pub clients: BTreeMap<u32, Client>,
    /// Features and quotas of domains.
    pub domains: BTreeMap<Domid, Domain>,
    /// Default quotas of domains, and global quotas of the daemon.
    pub global_quota: Option<(Vec<QuotaValue>, Vec<QuotaValue>)>,
    /// The state that only this daemon has, in its own encoding; empty in a stream of another daemon.
    pub live: Vec<u8>,
    /// Number of records of unknown types.
    pub unknown: u64,
    /// The conn-id of each domain's ring.
    rings: BTreeMap<Domid, u32>,
    /// The last parent found, a cache: most nodes follow one with the same parent.
    parent: Option<PathBuf>,
    /// Approximate memory use in bytes, counted by `weight`.
    bytes: u64,
}

/// A client with its watches and transactions.
pub struct Client {
    /// The connection's transport and pending data.
    pub connection: Connection,
    /// The client's watches in the order in which they were set.
    pub watches: Vec<Watch>,
    /// The client's open transactions, each with the nodes it accessed, if the stream has them.
    pub transactions: BTreeMap<u32, BTreeMap<PathBuf, Node>>,
}

impl Client {
    /// Creates a domain's ring without pending data, watches or transactions.
    pub fn new(domid: Domid) -> Client {
        let connection = Connection {
            id: u32::from(domid.0),
            transport: Transport::Ring(domid, None, 0),
            input: Vec::new(),
            output_begun: 0,
            output: Vec::new(),
            unique_id: None,
        };
        Client { connection, watches: Vec::new(), transactions: BTreeMap::new() }
    }

    /// Returns the domain to which the client's relative paths refer; for a socket the control domain.
    pub fn domid(&self) -> Domid {
        match self.connection.transport {
            Transport::Ring(domid, ..) => domid,
            Transport::Socket(_) => Domid::CONTROL,
        }
    }
}

impl State {
    /// Reads a stream to its end. Cost: linear in the stream's length; takes at most [`STATE_BYTES_MAX`] of memory.
    ///
    /// # Errors
    /// With the record's number and offset.
    pub fn read<R: Read>(reader: &mut Reader<R>) -> Result<State, ReadError> {
        State::read_at_most(reader, STATE_BYTES_MAX)
    }

    /// Like [`State::read`], but takes at most `max` bytes of memory.
    ///
    /// # Errors
    /// As [`State::read`].
    pub fn read_at_most<R: Read>(reader: &mut Reader<R>, max: u64) -> Result<State, ReadError> {
        let mut state = State::default();
        while let Some(record) = reader.next_record()? {
            state.bytes += weight(&record);
            if state.bytes > max {
                return Err(reader.error(StreamError::TooMuch(max)));
            }
            state.take(record).map_err(|fault| reader.error(fault))?;
        }
        Ok(state)
    }

    /// Returns the client that is a domain's ring.
    pub fn client_of(&self, domid: Domid) -> Option<&Client> {
        self.clients.get(self.rings.get(&domid)?)
    }

    /// Returns all domains with more records than nodes.
    pub fn domids(&self) -> BTreeSet<Domid> {
        self.rings.keys().chain(self.domains.keys()).copied().collect()
    }

    fn take(&mut self, record: Record) -> Result<(), StreamError> {
        match record {
            // The descriptors of a live update mean nothing to another process.
            Record::End | Record::Global { .. } | Record::Digest(_) => {}
            Record::Connection(connection) => self.take_connection(connection)?,
            Record::Watch(watch) => self.take_watch(watch)?,
            Record::Transaction { connection, tx_id } => {
                let client = self.client(connection)?;
                if tx_id == 0 {
                    return Err(StreamError::Value("tx-id", 0));
                }
                if client.transactions.insert(tx_id, BTreeMap::new()).is_some() {
                    return contradiction(format!(
                        "duplicate transaction {tx_id} of its connection"
                    ));
                }
            }
            Record::Node(node) => self.take_node(node)?,
            Record::GlobalQuota(per_domain, global) => {
                if self.global_quota.replace((per_domain, global)).is_some() {
                    return contradiction("duplicate quotas".into());
                }
            }
            Record::Domain(domain) => {
                let domid = domain.domid;
                if !domid.is_real() {
                    return Err(StreamError::Value("domain-id", domid.0.into()));
                }
                if self.domains.insert(domid, domain).is_some() {
                    return contradiction(format!("duplicate domain {domid}"));
                }
            }
            Record::Live(piece) => self.live.extend_from_slice(&piece),
            Record::Unknown(_) => self.unknown += 1,
        }
        Ok(())
    }

    fn take_connection(&mut self, connection: Connection) -> Result<(), StreamError> {
        let id = connection.id;
        if let Transport::Ring(domid, ..) = connection.transport {
            if !domid.is_real() {
                return Err(StreamError::Value("domid", domid.0.into()));
            }
            // Found after the insertion: an error discards the state as a whole.
            if self.rings.insert(domid, id).is_some() {
                return contradiction(format!("domain {domid} already has a ring"));
            }
        }
        let client = Client { connection, watches: Vec::new(), transactions: BTreeMap::new() };
        match self.clients.insert(id, client) {
            None => Ok(()),
            Some(_) => contradiction(format!("duplicate connection {id}")),
        }
    }

    fn take_watch(&mut self, watch: Watch) -> Result<(), StreamError> {
        let client = self.client(watch.connection)?;
        let mut space = PathSpace::new();
        match Path::resolve(&watch.path, client.domid(), ABS_PATH_MAX, &mut space) {
            Ok(_) => client.watches.push(watch),
            // C xenstored lets guests set such watches: an error would let one of them block an import.
            Err(_) if watch.path.starts_with(b"@") => {}
            Err(_) => return contradiction(format!("{:?} is not a valid path", show(&watch.path))),
        }
        Ok(())
    }

    fn take_node(&mut self, node: Node) -> Result<(), StreamError> {
        let Ok(path) = Path::parse(&node.path).map(Path::to_buf) else {
            return contradiction(format!("{:?} is not a valid path", show(&node.path)));
        };
        if let Some((connection, tx_id, _)) = node.pending {
            let client = self.client(connection)?;
            let Some(nodes) = client.transactions.get_mut(&tx_id) else {
                return contradiction(format!(
                    "no transaction {tx_id} of its connection precedes it"
                ));
            };
            return once(nodes, path, node);
        }
        // The owner is charged for it, so it must have one.
        if node.perms.is_empty() {
            return Err(StreamError::Value("perm-count", 0));
        }
        if let Some(parent) = path.as_path().parent()
            // Nodes come in order, so mostly the parent is that of the node before, and no look-up is needed.
            && self.parent.as_ref().is_none_or(|last| last.as_path() != parent)
            && !is_root_of_partition(path.as_path())
        {
            if !self.nodes.contains_key(parent.bytes()) {
                return contradiction(format!("no parent of {path:?} precedes it"));
            }
            self.parent = Some(parent.to_buf());
        }
        once(&mut self.nodes, path, node)
    }

    fn client(&mut self, id: u32) -> Result<&mut Client, StreamError> {
        let client = self.clients.get_mut(&id);
        client.ok_or_else(|| StreamError::Contradicts(format!("no connection {id} precedes it")))
    }
}

/// Returns an upper bound of a record's memory use in a state: its variable-length data, map entries and allocator
/// overhead, as if the record were the only one in its map. Measured with a few hundred thousand records of each kind
/// (docs/MIGRATION.md).
fn weight(record: &Record) -> u64 {
    let of_quotas = |quotas: &[QuotaValue]| {
        let of_one = |(name, _): &QuotaValue| QUOTA_BYTES + name.len();
        quotas.iter().map(of_one).sum::<usize>()
    };
    let bytes = match record {
        Record::End | Record::Global { .. } | Record::Digest(_) | Record::Unknown(_) => 0,
        Record::Connection(connection) => {
            CONNECTION_BYTES + connection.input.len() + connection.output.len()
        }
        Record::Watch(watch) => WATCH_BYTES + watch.path.len() + watch.token.len(),
        Record::Transaction { .. } => TRANSACTION_BYTES,
        Record::Node(node) => {
            let alone = if node.pending.is_some() { PENDING_BYTES } else { NODE_BYTES };
            // The path twice: in the record and as the key of the map.
            alone + 2 * node.path.len() + node.value.len() + size_of_val(&*node.perms)
        }
        Record::GlobalQuota(per_domain, global) => of_quotas(per_domain) + of_quotas(global),
        Record::Live(piece) => piece.len(),
        Record::Domain(domain) => DOMAIN_BYTES + of_quotas(&domain.quotas),
    };
    bytes as u64
}

const CONNECTION_BYTES: usize = 600;
const WATCH_BYTES: usize = 500;
const TRANSACTION_BYTES: usize = 400;
const NODE_BYTES: usize = 560;
const PENDING_BYTES: usize = 1700;
const QUOTA_BYTES: usize = 80;
const DOMAIN_BYTES: usize = 160;

fn once(nodes: &mut BTreeMap<PathBuf, Node>, path: PathBuf, node: Node) -> Result<(), StreamError> {
    match nodes.entry(path) {
        Entry::Vacant(vacant) => {
            vacant.insert(node);
            Ok(())
        }
        Entry::Occupied(there) => contradiction(format!("duplicate node {:?}", there.key())),
    }
}

/// The partition of a path does not depend on the number of shards.
fn is_root_of_partition(path: Path<'_>) -> bool {
    Layout::new(1).partition(path).root == path
}

fn contradiction<T>(what: String) -> Result<T, StreamError> {
    Err(StreamError::Contradicts(what))
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::stream::fields::Order;
    use crate::migration::stream::{VERSION, Writer};

    #[test]
    fn stream_above_the_memory_limit_is_refused() {
        let mut writer = Writer::new(Vec::new(), VERSION, Order::Little).unwrap();
        writer.write(&Record::Connection(Client::new(Domid(5)).connection)).unwrap();
        for tx_id in 1..=100 {
            writer.write(&Record::Transaction { connection: 5, tx_id }).unwrap();
        }
        let stream = writer.end().unwrap();
        let needed = (CONNECTION_BYTES + 100 * TRANSACTION_BYTES) as u64;
        let read = |max| State::read_at_most(&mut Reader::new(&*stream).unwrap(), max);
        assert_eq!(read(needed).ok().map(|state| state.bytes), Some(needed));
        let error = read(needed - 1).err().unwrap().to_string();
        assert!(error.starts_with("record 101 at byte "), "{error}");
        assert!(error.ends_with(&format!("exceeds the limit of {} bytes in memory", needed - 1)));
    }
}
