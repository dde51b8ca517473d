//! The requests for nodes, independent of the wire format.

use std::borrow::Cow;

use super::context::{Context, Effects};
use super::error::StoreError;
use super::forest::Forest;
use super::node::NodeArc;
use super::{read, remove, write};
use crate::types::{Errno, Path, PathBuf, Perms};

/// A request on one path.
#[derive(Clone)]
pub struct Op<'a> {
    /// The path: absolute, or special for GET_PERMS and SET_PERMS.
    pub path: Path<'a>,
    /// The operation and its arguments.
    pub verb: Verb<'a>,
}

impl Op<'_> {
    /// Returns whether the operation writes a value long enough for the log to share it with the node instead of
    /// copying it.
    pub fn has_long_value(&self) -> bool {
        matches!(&self.verb, Verb::Write(value) if value.len() >= SHARED_VALUE_BYTES)
    }

    /// Returns the memory that the operation takes in a log, in bytes.
    pub fn logged_bytes(&self) -> usize {
        let value = if let Verb::Write(value) = &self.verb { value.len() } else { 0 };
        size_of::<LoggedOp>() + self.path.bytes().len() + value
    }
}

/// An operation on a path (xenstore.txt, "Database read, write and permissions operations").
#[derive(Clone)]
pub enum Verb<'a> {
    /// Reads the value.
    Read,
    /// Lists the names of the children, each with a NUL.
    Directory,
    /// Returns the generation with a NUL, then the list of children from this byte on; an empty name marks its end.
    DirectoryPart(usize),
    /// Lists the permission entries, each with a NUL.
    GetPerms,
    /// Sets the value; creates the node and missing parents.
    Write(Cow<'a, [u8]>),
    /// Creates the node and missing parents; changes nothing if it exists.
    Mkdir,
    /// Removes the node and all nodes below it.
    Rm,
    /// Sets the permissions, whose stamp is the birth clock at the request. A replay keeps that stamp, so that an entry
    /// never extends to a domain born after the request.
    SetPerms(Perms),
}

impl Verb<'_> {
    /// Returns whether the operation may change the store.
    pub fn writes(&self) -> bool {
        matches!(self, Verb::Write(_) | Verb::Mkdir | Verb::Rm | Verb::SetPerms(_))
    }

    /// Returns the name in xenstore.txt.
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Read => "READ",
            Verb::Directory => "DIRECTORY",
            Verb::DirectoryPart(_) => "DIRECTORY_PART",
            Verb::GetPerms => "GET_PERMS",
            Verb::Write(_) => "WRITE",
            Verb::Mkdir => "MKDIR",
            Verb::Rm => "RM",
            Verb::SetPerms(_) => "SET_PERMS",
        }
    }

    /// Returns an owned copy, for a transaction's log.
    pub fn into_owned(self) -> Verb<'static> {
        match self {
            Verb::Read => Verb::Read,
            Verb::Directory => Verb::Directory,
            Verb::DirectoryPart(offset) => Verb::DirectoryPart(offset),
            Verb::GetPerms => Verb::GetPerms,
            Verb::Write(value) => Verb::Write(Cow::Owned(value.into_owned())),
            Verb::Mkdir => Verb::Mkdir,
            Verb::Rm => Verb::Rm,
            Verb::SetPerms(perms) => Verb::SetPerms(perms),
        }
    }
}

/// An [`Op`] in a transaction's log.
pub struct LoggedOp {
    /// The path.
    pub path: PathBuf,
    /// The operation; the value of a WRITE is empty if `written` holds it.
    pub verb: Verb<'static>,
    /// The transaction's node that holds the value of a long WRITE. The node is shared with the tree until the tree's
    /// node changes.
    written: Option<NodeArc>,
}

/// The length from which a written value is not copied for the log, in bytes.
const SHARED_VALUE_BYTES: usize = 128;

impl LoggedOp {
    /// Copies an operation, with `path` as its path. If `written` is the node that holds its value, the log shares
    /// that node instead of a copy of the value.
    pub fn of(op: &Op<'_>, path: PathBuf, written: Option<&NodeArc>) -> LoggedOp {
        let written = written.cloned();
        let verb = match &written {
            Some(_) => Verb::Write(Cow::Borrowed(&[])),
            None => op.verb.clone().into_owned(),
        };
        LoggedOp { path, verb, written }
    }

    /// Returns the number of the operation's bytes that are in a node of the transaction.
    pub fn shared_bytes(&self) -> usize {
        self.written.as_ref().map_or(0, |node| node.value().len())
    }

    /// Shares the value, after a replay, with the node to which the operation just wrote it, if the value was shared
    /// before. Returns the value's length in bytes.
    pub fn share_anew(&mut self, written: Option<&NodeArc>) -> usize {
        let (Some(node), Some(written)) = (&mut self.written, written) else { return 0 };
        *node = NodeArc::clone(written);
        self.shared_bytes()
    }

    /// Returns the operation for a replay.
    pub fn op(&self) -> Op<'_> {
        let verb = match (&self.verb, &self.written) {
            (_, Some(node)) => Verb::Write(Cow::Borrowed(node.value())),
            (Verb::Write(value), None) => Verb::Write(Cow::Borrowed(value)),
            (other, None) => other.clone(),
        };
        Op { path: self.path.as_path(), verb }
    }
}

/// Runs a request on the partitions of `forest`, appends its reply to `reply`, and notes its changes in `effects`.
///
/// # Errors
/// Those of the operation, which then has changed nothing; a lock of the forest that is needed.
pub(super) fn apply<F: Forest>(
    cx: &mut Context<'_>,
    forest: &mut F,
    op: &Op<'_>,
    reply: &mut Vec<u8>,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    let path = op.path;
    let of_special = matches!(op.verb, Verb::GetPerms | Verb::SetPerms(_));
    // Special paths are names for watches and not nodes, except that they have permissions (COMPATIBILITY.md,
    // o-special-nodes).
    if path.is_special() && !of_special {
        return Err(Errno::EINVAL.into());
    }
    match &op.verb {
        Verb::Read => read::read(cx, forest, path, reply),
        Verb::Directory => read::directory(cx, forest, path, reply),
        Verb::DirectoryPart(offset) => read::directory_part(cx, forest, path, *offset, reply),
        Verb::GetPerms => read::get_perms(cx, forest, path, reply),
        Verb::Write(value) => write::write(cx, forest, path, value, effects),
        Verb::Mkdir => write::mkdir(cx, forest, path, effects),
        Verb::Rm => remove::rm(cx, forest, path, effects),
        Verb::SetPerms(perms) => write::set_perms(cx, forest, path, perms, effects),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_write_is_charged_for_its_path_and_value() {
        let cost = |verb| Op { path: Path::parse(b"/a/b").expect("a path"), verb }.logged_bytes();
        let value = std::borrow::Cow::Borrowed(&[0; 1000][..]);
        assert_eq!(cost(Verb::Read), size_of::<LoggedOp>() + 4);
        assert_eq!(cost(Verb::Write(value)), cost(Verb::Read) + 1000);
    }
}
