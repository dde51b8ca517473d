//! Messages as bytes: struct xsd_sockmsg of xs_wire.h, four little-endian words, then a payload. The tests do not use
//! the coder of the crate (protocol::client): it shares header and framing with the daemon, so an error in these would
//! be on both sides and no test would find it.

/// Bytes of a message's header.
pub const HEADER_BYTES: usize = 16;
/// Longest payload (xs_wire.h, `XENSTORE_PAYLOAD_MAX`).
pub const PAYLOAD_MAX: usize = 4096;

/// Message types (xs_wire.h, `enum xsd_sockmsg_type`).
pub mod op {
    pub const CONTROL: u32 = 0;
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const GET_PERMS: u32 = 3;
    pub const WATCH: u32 = 4;
    pub const UNWATCH: u32 = 5;
    pub const TRANSACTION_START: u32 = 6;
    pub const TRANSACTION_END: u32 = 7;
    pub const INTRODUCE: u32 = 8;
    pub const RELEASE: u32 = 9;
    pub const GET_DOMAIN_PATH: u32 = 10;
    pub const WRITE: u32 = 11;
    pub const MKDIR: u32 = 12;
    pub const RM: u32 = 13;
    pub const SET_PERMS: u32 = 14;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR: u32 = 16;
    pub const IS_DOMAIN_INTRODUCED: u32 = 17;
    pub const RESUME: u32 = 18;
    pub const SET_TARGET: u32 = 19;
    pub const RESET_WATCHES: u32 = 21;
    pub const DIRECTORY_PART: u32 = 22;
    pub const GET_FEATURE: u32 = 23;
    pub const SET_FEATURE: u32 = 24;
    pub const GET_QUOTA: u32 = 25;
    pub const SET_QUOTA: u32 = 26;
    // docs/PROTOCOL-EXTENSIONS.md
    pub const QUIESCE: u32 = 65536;
    pub const UNQUIESCE: u32 = 65537;
    pub const GET_DOMAIN_WATCHES: u32 = 65538;
    pub const ADD_DOMAIN_WATCHES: u32 = 65539;
    pub const START_DOMAIN_TRANSACTION: u32 = 65540;
    pub const GET_DOMAIN_WATCHES_DEPTH: u32 = 65541;
    pub const ADD_DOMAIN_WATCHES_DEPTH: u32 = 65542;
}

/// The operation names that tables use.
const NAMES: [(&str, u32); 34] = [
    ("CONTROL", op::CONTROL),
    ("DIRECTORY", op::DIRECTORY),
    ("READ", op::READ),
    ("GET_PERMS", op::GET_PERMS),
    ("WATCH", op::WATCH),
    ("UNWATCH", op::UNWATCH),
    ("START", op::TRANSACTION_START),
    ("END", op::TRANSACTION_END),
    ("INTRODUCE", op::INTRODUCE),
    ("RELEASE", op::RELEASE),
    ("GET_DOMAIN_PATH", op::GET_DOMAIN_PATH),
    ("WRITE", op::WRITE),
    ("MKDIR", op::MKDIR),
    ("RM", op::RM),
    ("SET_PERMS", op::SET_PERMS),
    ("WATCH_EVENT", op::WATCH_EVENT),
    ("ERROR", op::ERROR),
    ("IS_DOMAIN_INTRODUCED", op::IS_DOMAIN_INTRODUCED),
    ("RESUME", op::RESUME),
    ("SET_TARGET", op::SET_TARGET),
    ("RESTRICT", 20),
    ("RESET_WATCHES", op::RESET_WATCHES),
    ("DIRECTORY_PART", op::DIRECTORY_PART),
    ("GET_FEATURE", op::GET_FEATURE),
    ("SET_FEATURE", op::SET_FEATURE),
    ("GET_QUOTA", op::GET_QUOTA),
    ("SET_QUOTA", op::SET_QUOTA),
    ("QUIESCE", op::QUIESCE),
    ("UNQUIESCE", op::UNQUIESCE),
    ("GET_DOMAIN_WATCHES", op::GET_DOMAIN_WATCHES),
    ("ADD_DOMAIN_WATCHES", op::ADD_DOMAIN_WATCHES),
    ("START_DOMAIN_TRANSACTION", op::START_DOMAIN_TRANSACTION),
    ("GET_DOMAIN_WATCHES_DEPTH", op::GET_DOMAIN_WATCHES_DEPTH),
    ("ADD_DOMAIN_WATCHES_DEPTH", op::ADD_DOMAIN_WATCHES_DEPTH),
];

/// Returns the type with this name; `TYPE<n>` is type n.
pub fn type_named(name: &str) -> u32 {
    if let Some(number) = name.strip_prefix("TYPE") {
        return number.parse().expect("TYPE<n>");
    }
    let named = NAMES.iter().find(|(known, _)| *known == name);
    named.unwrap_or_else(|| panic!("unknown operation {name}")).1
}

/// The errors that clients understand (xs_wire.h, `xsd_errors`).
pub const ERRORS: [&str; 16] = [
    "EINVAL",
    "EACCES",
    "EEXIST",
    "EISDIR",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "EIO",
    "ENOTEMPTY",
    "ENOSYS",
    "EROFS",
    "EBUSY",
    "EAGAIN",
    "EISCONN",
    "E2BIG",
    "EPERM",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: u32,
    pub req: u32,
    pub tx: u32,
    pub payload: Vec<u8>,
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        let len = u32::try_from(self.payload.len()).unwrap();
        let mut bytes = header(self.kind, self.req, self.tx, len).to_vec();
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Removes the first message from `input` and returns it, if it is complete.
    pub fn take(input: &mut Vec<u8>) -> Option<Message> {
        let word = |i: usize| {
            let bytes = input.get(4 * i..4 * i + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().unwrap()))
        };
        let (kind, req, tx, len) = (word(0)?, word(1)?, word(2)?, word(3)?);
        let len = usize::try_from(len).unwrap();
        assert!(len <= PAYLOAD_MAX, "the daemon sent a payload of {len} bytes");
        if input.len() < HEADER_BYTES + len {
            return None;
        }
        let rest = input.split_off(HEADER_BYTES + len);
        let payload = std::mem::replace(input, rest).split_off(HEADER_BYTES);
        Some(Message { kind, req, tx, payload })
    }
}

/// Returns a header without a payload; its length may be a false one.
pub fn header(kind: u32, req: u32, tx: u32, len: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    for (at, word) in [kind, req, tx, len].into_iter().enumerate() {
        bytes[4 * at..4 * at + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Formats bytes for a reader, in the notation of xenstore.txt: `|` is a NUL.
pub fn show(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for &byte in bytes {
        match byte {
            0 => shown.push('|'),
            b' '..=b'~' | b'\n' => shown.push(char::from(byte)),
            _ => shown.push_str(&format!("\\x{byte:02x}")),
        }
    }
    if shown.len() > 300 { format!("{}... ({} bytes)", &shown[..300], bytes.len()) } else { shown }
}
