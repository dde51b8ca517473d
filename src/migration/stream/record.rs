//! The records of the stream, as defined in the sections of xenstore-migration.md.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::fields::{Body, Order, Sink, StreamError};
use super::kind;
use crate::types::{Access, Domid, Entry};

/// Value of CONNECTION_DATA's `conn-type`.
const TYPE_RING: u16 = 0;
const TYPE_SOCKET: u16 = 1;
/// Bit of CONNECTION_DATA's `fields`: a unique id follows the data.
const HAS_UNIQUE_ID: u16 = 1;
/// Value of WATCH_DATA_EXTENDED's `depth`: no limit.
const ANY_DEPTH: u16 = 0xffff;
/// Permission flag of NODE_DATA: the entry is shown, but never applied.
const STALE: u8 = 1;
/// Value of CONNECTION_DATA's `tdomid`: no target (xen.h, `DOMID_INVALID`).
const DOMID_INVALID: u16 = 0x7FF4;

/// A record. Strings exclude their NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// END.
    End,
    /// GLOBAL_DATA: descriptors kept across a live update.
    Global {
        /// The socket that accepts clients, or -1.
        socket: i32,
        /// The event channel device.
        evtchn: i32,
    },
    /// CONNECTION_DATA.
    Connection(Connection),
    /// WATCH_DATA, or WATCH_DATA_EXTENDED if it has a depth.
    Watch(Watch),
    /// TRANSACTION_DATA.
    Transaction {
        /// conn-id of the transaction's client.
        connection: u32,
        /// The transaction id given to the client.
        tx_id: u32,
    },
    /// NODE_DATA.
    Node(Node),
    /// GLOBAL_QUOTA_DATA: the default values of domains, then the daemon's global values.
    GlobalQuota(Vec<QuotaValue>, Vec<QuotaValue>),
    /// DOMAIN_DATA.
    Domain(Domain),
    /// DIGEST: of all bytes before the record.
    Digest(Digest),
    /// LIVE: a piece of the state that only this daemon has.
    Live(Vec<u8>),
    /// A record of unknown type; its body was skipped and is not written, as the specification requires.
    Unknown(u32),
}

/// A client: its transport, and the data in transit to and from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The conn-id in later records; not 0.
    pub id: u32,
    /// The transport of the connection.
    pub transport: Transport,
    /// Bytes read but not yet processed.
    pub input: Vec<u8>,
    /// Number of bytes at the start of `output` that complete a partly sent message.
    pub output_begun: u16,
    /// Bytes not yet sent.
    pub output: Vec<u8>,
    /// The host's number of the domain's incarnation.
    pub unique_id: Option<u64>,
}

/// The transport of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// A ring page: the domain, the domain whose rights it has (SET_TARGET), its event channel.
    Ring(Domid, Option<Domid>, u32),
    /// A socket's descriptor; live update only.
    Socket(u32),
}

/// A watch in the form in which its client set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// conn-id of the watch's client.
    pub connection: u32,
    /// The path, relative if the client wrote it so.
    pub path: Vec<u8>,
    /// The client's token.
    pub token: Vec<u8>,
    /// Number of levels below the path that are watched; `None` for all.
    pub depth: Option<u16>,
}

/// A node, committed or of an open transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The transaction that accessed the node: conn-id, id, and access mode of the node there (1 read, 2 written, 0
    /// removed). `None` for a committed node.
    pub pending: Option<(u32, u32, u16)>,
    /// The path, absolute or special.
    pub path: Vec<u8>,
    /// The value, any bytes.
    pub value: Vec<u8>,
    /// The permissions, the owner's first; empty if the node was removed in a transaction.
    pub perms: Vec<Entry>,
}

/// A quota by name.
pub type QuotaValue = (Vec<u8>, u32);

/// Features and quotas of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The domid.
    pub domid: Domid,
    /// The feature bits offered to the domain; version 2 and later.
    pub features: Option<u32>,
    /// The domain's own quota values.
    pub quotas: Vec<QuotaValue>,
}

impl Record {
    /// Reads the body of a record of type `kind` in a stream of `version`.
    ///
    /// Any rest of the body afterwards is padding or an error; the caller decides.
    ///
    /// # Errors
    /// The first error found in the body.
    pub fn read(kind: u32, version: u32, body: &mut Body<'_>) -> Result<Record, StreamError> {
        Ok(match kind {
            kind::END => Record::End,
            kind::GLOBAL_DATA => Record::Global {
                socket: body.u32("rw-socket-fd")?.cast_signed(),
                evtchn: body.u32("evtchn-fd")?.cast_signed(),
            },
            kind::CONNECTION_DATA => Record::Connection(Connection::read(body)?),
            kind::WATCH_DATA => Record::Watch(Watch::read(body, false)?),
            // Version 1 does not assign this type, so there it is skipped like any unknown one.
            kind::WATCH_DATA_EXTENDED if version >= 2 => Record::Watch(Watch::read_extended(body)?),
            kind::TRANSACTION_DATA => {
                Record::Transaction { connection: body.u32("conn-id")?, tx_id: body.u32("tx-id")? }
            }
            kind::NODE_DATA => Record::Node(Node::read(body)?),
            kind::GLOBAL_QUOTA_DATA => {
                let per_domain = body.u16("n-dom-quota")?;
                let global = body.u16("n-glob-quota")?;
                let mut all = quotas(body, usize::from(per_domain) + usize::from(global))?;
                let global = all.split_off(usize::from(per_domain));
                Record::GlobalQuota(all, global)
            }
            kind::DOMAIN_DATA => Record::Domain(Domain::read(body, version)?),
            kind::DIGEST => Record::Digest(Digest(body.array("digest")?)),
            kind::LIVE => Record::Live(body.take(body.left(), "body")?.to_vec()),
            _ => {
                body.take(body.left(), "body")?;
                Record::Unknown(kind)
            }
        })
    }

    /// Appends the body and returns the record's type. A watch's depth is lost in version 1.
    ///
    /// # Errors
    /// A field is too long for its length field.
    pub fn write(&self, version: u32, order: Order, out: &mut Vec<u8>) -> Result<u32, StreamError> {
        let mut sink = Sink::new(out, order);
        let kind = match self {
            Record::End => kind::END,
            Record::Global { socket, evtchn } => {
                sink.u32(socket.cast_unsigned()).u32(evtchn.cast_unsigned());
                kind::GLOBAL_DATA
            }
            Record::Connection(connection) => {
                connection.write(&mut sink)?;
                kind::CONNECTION_DATA
            }
            Record::Watch(watch) => watch.write(version, &mut sink)?,
            Record::Transaction { connection, tx_id } => {
                sink.u32(*connection).u32(*tx_id);
                kind::TRANSACTION_DATA
            }
            Record::Node(node) => {
                node.write(&mut sink)?;
                kind::NODE_DATA
            }
            Record::GlobalQuota(per_domain, global) => {
                sink.u16(short("n-dom-quota", per_domain.len())?);
                sink.u16(short("n-glob-quota", global.len())?);
                write_quotas(&[per_domain.as_slice(), global], &mut sink);
                kind::GLOBAL_QUOTA_DATA
            }
            Record::Domain(domain) => {
                domain.write(version, &mut sink)?;
                kind::DOMAIN_DATA
            }
            Record::Digest(Digest(bytes)) => {
                sink.bytes(bytes);
                kind::DIGEST
            }
            Record::Live(piece) => {
                sink.bytes(piece);
                kind::LIVE
            }
            Record::Unknown(kind) => *kind,
        };
        Ok(kind)
    }
}

impl Connection {
    fn read(body: &mut Body<'_>) -> Result<Connection, StreamError> {
        let id = body.u32("conn-id")?;
        if id == 0 {
            return Err(StreamError::Value("conn-id", 0));
        }
        let kind = body.u16("conn-type")?;
        let fields = body.u16("fields")?;
        let transport = match kind {
            TYPE_RING => {
                let (domid, tdomid) = (body.u16("domid")?, body.u16("tdomid")?);
                let target = (tdomid != DOMID_INVALID).then_some(Domid(tdomid));
                Transport::Ring(Domid(domid), target, body.u32("evtchn")?)
            }
            TYPE_SOCKET => {
                let socket = body.u32("socket-fd")?;
                body.u32("pad")?;
                Transport::Socket(socket)
            }
            _ => return Err(StreamError::Value("conn-type", kind.into())),
        };
        let input_len = body.u16("in-data-len")?;
        let output_begun = body.u16("out-resp-len")?;
        let output_len = body.u32("out-data-len")?;
        // The restored output takes `out-resp-len` for the part of `out-data` that completes a message.
        if u32::from(output_begun) > output_len {
            return Err(StreamError::Value("out-resp-len", output_begun.into()));
        }
        let input = body.take(usize::from(input_len), "in-data-len")?.to_vec();
        let output_len = usize::try_from(output_len).unwrap_or(usize::MAX);
        let output = body.take(output_len, "out-data-len")?.to_vec();
        let mut unique_id = None;
        if fields & HAS_UNIQUE_ID != 0 {
            body.align(8)?;
            unique_id = Some(body.u64("unique-id")?);
        }
        Ok(Connection { id, transport, input, output_begun, output, unique_id })
    }

    fn write(&self, sink: &mut Sink<'_>) -> Result<(), StreamError> {
        let fields = if self.unique_id.is_some() { HAS_UNIQUE_ID } else { 0 };
        sink.u32(self.id);
        match self.transport {
            Transport::Ring(domid, target, evtchn) => {
                let target = target.map_or(DOMID_INVALID, |target| target.0);
                sink.u16(TYPE_RING).u16(fields).u16(domid.0).u16(target).u32(evtchn);
            }
            Transport::Socket(socket) => {
                sink.u16(TYPE_SOCKET).u16(fields).u32(socket).u32(0);
            }
        }
        sink.u16(short("in-data-len", self.input.len())?).u16(self.output_begun);
        let output = u32::try_from(self.output.len());
        sink.u32(output.map_err(|_| too_long("out-data-len", self.output.len()))?);
        sink.bytes(&self.input).bytes(&self.output);
        if let Some(unique_id) = self.unique_id {
            sink.align(8).u64(unique_id);
        }
        Ok(())
    }
}

impl Watch {
    fn read(body: &mut Body<'_>, extended: bool) -> Result<Watch, StreamError> {
        let connection = body.u32("conn-id")?;
        let (path, token) = (body.u16("wpath-len")?, body.u16("token-len")?);
        let mut depth = None;
        if extended {
            depth = Some(body.u16("depth")?).filter(|&depth| depth != ANY_DEPTH);
            body.u16("pad")?;
        }
        let path = body.string(path.into(), "wpath")?.to_vec();
        let token = body.string(token.into(), "token")?.to_vec();
        Ok(Watch { connection, path, token, depth })
    }

    /// C xenstored (August 2026) omits depth and pad but includes them in the length. A body that cannot be read in
    /// the specified layout is therefore read without them, and the depth is lost.
    fn read_extended(body: &mut Body<'_>) -> Result<Watch, StreamError> {
        let mut as_written = body.clone();
        let watch = Watch::read(body, true);
        if watch.is_err()
            && let Ok(short) = Watch::read(&mut as_written, false)
        {
            *body = as_written;
            return Ok(short);
        }
        watch
    }

    fn write(&self, version: u32, sink: &mut Sink<'_>) -> Result<u32, StreamError> {
        sink.u32(self.connection);
        // Lengths of strings include their NUL.
        sink.u16(short("wpath", self.path.len() + 1)?).u16(short("token", self.token.len() + 1)?);
        let depth = self.depth.filter(|_| version >= 2);
        if let Some(depth) = depth {
            sink.u16(depth).u16(0);
        }
        sink.bytes(&self.path).bytes(&[0]).bytes(&self.token).bytes(&[0]);
        Ok(if depth.is_some() { kind::WATCH_DATA_EXTENDED } else { kind::WATCH_DATA })
    }
}

impl Node {
    fn read(body: &mut Body<'_>) -> Result<Node, StreamError> {
        let (connection, tx_id) = (body.u32("conn-id")?, body.u32("tx-id")?);
        let (path, value) = (body.u16("path-len")?, body.u16("value-len")?);
        let (access, perms) = (body.u16("access")?, body.u16("perm-count")?);
        let perms = (0..perms).map(|_| read_entry(body)).collect::<Result<_, _>>()?;
        let path = body.string(path.into(), "path")?.to_vec();
        let value = body.take(value.into(), "value")?.to_vec();
        // No connection has the number 0.
        let pending = (connection != 0).then_some((connection, tx_id, access));
        Ok(Node { pending, path, value, perms })
    }

    fn write(&self, sink: &mut Sink<'_>) -> Result<(), StreamError> {
        let (connection, tx_id, access) = self.pending.unwrap_or_default();
        sink.u32(connection).u32(tx_id);
        sink.u16(short("path", self.path.len() + 1)?).u16(short("value", self.value.len())?);
        sink.u16(access).u16(short("perm-count", self.perms.len())?);
        for entry in &self.perms {
            let flags = if entry.ignored { STALE } else { 0 };
            sink.bytes(&[entry.access.letter(), flags]).u16(entry.domid.0);
        }
        sink.bytes(&self.path).bytes(&[0]).bytes(&self.value);
        Ok(())
    }
}

impl Domain {
    fn read(body: &mut Body<'_>, version: u32) -> Result<Domain, StreamError> {
        let (domid, count) = (Domid(body.u16("domain-id")?), body.u16("n-quota")?);
        let features = body.u32("features")?;
        let quotas = quotas(body, count.into())?;
        // In version 1 the field is 0.
        Ok(Domain { domid, features: (version >= 2).then_some(features), quotas })
    }

    fn write(&self, version: u32, sink: &mut Sink<'_>) -> Result<(), StreamError> {
        sink.u16(self.domid.0).u16(short("n-quota", self.quotas.len())?);
        sink.u32(self.features.filter(|_| version >= 2).unwrap_or(0));
        write_quotas(&[&self.quotas], sink);
        Ok(())
    }
}

/// Reads a permission of a NODE_DATA record: letter, flags, domid.
fn read_entry(body: &mut Body<'_>) -> Result<Entry, StreamError> {
    let (entry, flags) = read_perm(body)?;
    Ok(Entry { ignored: flags & STALE != 0, ..entry })
}

/// Reads the four bytes of a permission, here and in a libxl record. Returns the entry and the byte after the letter,
/// whose meaning depends on the format.
pub(super) fn read_perm(body: &mut Body<'_>) -> Result<(Entry, u8), StreamError> {
    let (letter, flags) = (body.u8("perm")?, body.u8("flags")?);
    let access = Access::from_letter(letter).ok_or(StreamError::Value("perm", letter.into()))?;
    Ok((Entry { domid: Domid(body.u16("domid")?), access, ignored: false }, flags))
}

fn quotas(body: &mut Body<'_>, count: usize) -> Result<Vec<QuotaValue>, StreamError> {
    // Fails if fewer than four bytes per value are there, before memory is allocated.
    let mut values = Body::new(body.take(count * 4, "quota-val")?, body.order());
    let value = |values: &mut Body<'_>| values.u32("quota-val");
    (0..count)
        .map(|_| Ok((body.string_to_nul("quota-names")?.to_vec(), value(&mut values)?)))
        .collect()
}

fn write_quotas(lists: &[&[QuotaValue]], sink: &mut Sink<'_>) {
    let all = lists.iter().copied().flatten();
    for (_, value) in all.clone() {
        sink.u32(*value);
    }
    for (name, _) in all {
        sink.bytes(name).bytes(&[0]);
    }
}

fn short(field: &'static str, len: usize) -> Result<u16, StreamError> {
    u16::try_from(len).map_err(|_| too_long(field, len))
}

fn too_long(field: &'static str, len: usize) -> StreamError {
    StreamError::Value(field, len as u64)
}
